"""What a descriptor of whole images is, and what all kinds of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.scenes.scene import View

ConfigT = TypeVar("ConfigT")


class Descriptor(Protocol):
    """Describes images by vectors."""

    def describe(self, image_3HW: Tensor) -> Tensor:
        """(D,) float32 of norm 1, of an image (3, H, W) uint8 RGB; zeros where it shows nothing."""
        ...

    def describe_known(self, image_3HW: Tensor) -> Tensor:
        """`describe` times a number in [0, 1]: how much of the image is like mapping images at all.

        Its inner products with vectors of mapping images say whether an image is of their place;
        among them they rank as those of `describe` do.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """What was fitted, for a map: `open_descriptor` makes the same descriptor of it."""
        ...


@dataclass(frozen=True, eq=False)
class DescriptorKind(Generic[ConfigT]):
    """A kind of descriptor: a value, not a base class.

    Attributes:
        config: a frozen dataclass.
        fit: to mapping views; also gives their vectors (N, D).
        open: from what `Descriptor.state` gave.
    """

    config: type[ConfigT]
    fit: Callable[[Sequence[View], ConfigT, Run], tuple[Descriptor, Tensor]]
    open: Callable[[Mapping[str, Tensor], ConfigT], Descriptor]


def describe_views(describe: Callable[[Tensor], Tensor], views: Sequence[View], run: Run) -> Tensor:
    """The vectors (N, D) float32 of views, in order.

    Args:
        describe: an image (3, H, W) to its vector; called from several threads.
        views: at least one.
        run: its progress.

    Raises:
        InputError: an image cannot be read, or none shows anything: all vectors are zero.
    """

    def work(view: View) -> Tensor:
        return describe(view.read_image())

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        try:
            done = run.progress.track(pool.map(work, views), "describing images", total=len(views))
            vectors_ND = torch.stack(list(done))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not bool(vectors_ND.any()):
        raise InputError(
            f"none of the {len(views)} mapping images (from {views[0].name} on) has any contrast: "
            "look at them, are they black?"
        )
    return vectors_ND


def spread_over(count: int, wanted: int) -> range:
    """At most `wanted` indices below `count`, evenly spaced."""
    return range(0, count, max(1, -(-count // wanted)))
