"""A place: images whose poses are known, and images that are asked about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError


@dataclass(frozen=True, eq=False)
class Query:
    """All that a localizer may see of an image. It has no pose, so none can leak.

    Attributes:
        name: unique within its scene.
        image: (3, H, W) uint8 RGB.
        camera: its intrinsics; `has_prior_focal` False means that the focal length is to be
            estimated.
        depth: (H, W) float32 metres along the optical axis, registered to the image, 0 where
            unknown.
        sequence: name of the video it is a frame of; "" for a single photo.
        timestamp_s: seconds, on the clock of its sequence.
    """

    name: str
    image: Tensor
    camera: Camera
    depth: Tensor | None = None
    sequence: str = ""
    timestamp_s: float | None = None


@dataclass(frozen=True, eq=False)
class View:
    """An image whose pose is known. Pixels are read when they are asked for, not before.

    Attributes:
        name: unique within its scene.
        camera: intrinsics of the image as `read_image` returns it.
        cam_from_world: without batch axes, float64.
        image_reader: returns (3, H, W) uint8 RGB; raises InputError where the file is no image.
        depth_reader: returns (H, W) float32 metres, registered to the image, 0 where unknown; None
            where the view has no depth.
        sequence: name of the video it is a frame of; "" for a single photo.
        timestamp_s: seconds, on the clock of its sequence.
        label_reader: returns (H, W) uint8 numbers of the kinds of things that are seen, 0 where
            unknown; None where nobody has said.
    """

    name: str
    camera: Camera
    cam_from_world: Rigid3d
    image_reader: Callable[[], Tensor] = field(repr=False)
    depth_reader: Callable[[], Tensor] | None = field(default=None, repr=False)
    sequence: str = ""
    timestamp_s: float | None = None
    label_reader: Callable[[], Tensor] | None = field(default=None, repr=False)

    @property
    def center_world(self) -> Tensor:
        """The camera centre (3,) in the world."""
        return self.cam_from_world.inverse().translation

    def read_image(self) -> Tensor:
        """(3, H, W) uint8 RGB.

        Raises:
            InputError: the file is missing or no image, or its size is not the camera's.
        """
        image = self.image_reader()
        height, width = image.shape[-2:]
        if (width, height) != (self.camera.width, self.camera.height):
            raise InputError(
                f"image {self.name} is {width}x{height} pixels but its camera is for "
                f"{self.camera.width}x{self.camera.height}: pass --intrinsics-scale "
                f"{width / self.camera.width:.4g} if the intrinsics belong to another size"
            )
        return image

    def read_depth(self) -> Tensor | None:
        """(H, W) float32 metres, 0 where unknown; None where the view has no depth."""
        return None if self.depth_reader is None else self.depth_reader()

    def read_labels(self) -> Tensor | None:
        """(H, W) uint8 kinds of things, 0 where unknown; None where the view has no labels."""
        return None if self.label_reader is None else self.label_reader()

    def query(self, *, with_depth: bool = True) -> Query:
        """The view as a localizer sees it: without its pose."""
        return Query(
            name=self.name,
            image=self.read_image(),
            camera=self.camera,
            depth=self.read_depth() if with_depth else None,
            sequence=self.sequence,
            timestamp_s=self.timestamp_s,
        )


@dataclass(frozen=True, eq=False)
class Scene:
    """A place.

    Attributes:
        name: for tables and file names.
        mapping: the views that a map is built from.
        queries: the views that are asked about; their poses serve evaluation only.
        ground_truth: where the poses come from: "sfm", "d-slam", "mocap", "synthetic", "ins",
            "given".
        metric: False where lengths are in arbitrary units; they are then printed in "units".
        layout: the file layout that it was read from, as in `scenes.LAYOUTS`.
        notes: what the loader left out, repaired or assumed, a line each, for people.
        render: what a camera would see from a pose cam_from_world, (3, H, W) uint8 RGB; None where
            the scene is known from its images only.
    """

    name: str
    mapping: Sequence[View]
    queries: Sequence[View]
    ground_truth: str
    metric: bool = True
    layout: str = ""
    notes: Sequence[str] = ()
    render: Callable[[Camera, Rigid3d], Tensor] | None = None

    def __post_init__(self) -> None:
        counts = Counter(view.name for view in (*self.mapping, *self.queries))
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise InputError(
                f"scene {self.name}: {twice[0]} is listed {counts[twice[0]]} times"
                f"{f' (and {len(twice) - 1} others)' if len(twice) > 1 else ''}: "
                "a view may map or be asked, once; mend the split or pose file"
            )

    @property
    def extent(self) -> float:
        """Diagonal of the box round the mapping cameras' centres, in the scene's unit."""
        if not self.mapping:
            return 0.0
        centers_N3 = torch.stack([view.center_world for view in self.mapping])
        return float((centers_N3.amax(0) - centers_N3.amin(0)).norm())


def refuse_guessed_focals(views: Sequence[View], consequence: str) -> None:
    """Complain of mapping views whose focal length is only guessed.

    Args:
        views: that something is to be learned from.
        consequence: what comes of it, for the message.

    Raises:
        InputError: there are some.
    """
    guessed = [view.name for view in views if not view.camera.has_prior_focal]
    if guessed:
        raise InputError(
            f"{len(guessed)} of {len(views)} mapping views, the first is {guessed[0]}, have no "
            f"known focal length: {consequence}; pass --focal, or add intrinsics"
        )
