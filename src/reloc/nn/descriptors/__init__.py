"""Descriptors of whole images: vectors whose inner product says how alike two images are.

A kind of descriptor is fitted to the mapping views of a scene, and then describes any image:

    descriptor, vectors_ND = fit_descriptor("netvlad", views, run)
    state = descriptor.state()  # tensors, for a map
    descriptor = open_descriptor("netvlad", state)
    vector_D = descriptor.describe(image_3HW)
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from reloc.contract import Run
from reloc.nn.descriptors.descriptor import Descriptor, DescriptorKind
from reloc.scenes.scene import View

DescriptorName = Literal["densevlad", "netvlad", "gem", "bow", "gist"]
KINDS: Mapping[DescriptorName, str] = {
    "densevlad": "reloc.nn.descriptors.densevlad",
    "netvlad": "reloc.nn.descriptors.netvlad",
    "gem": "reloc.nn.descriptors.gem",
    "bow": "reloc.nn.descriptors.bow",
    "gist": "reloc.nn.descriptors.gist",
}


def get_kind(name: DescriptorName) -> DescriptorKind[Any]:
    """The kind of that name: its config, how it is fitted and how it is opened."""
    return importlib.import_module(KINDS[name]).KIND


def fit_descriptor(
    name: DescriptorName, views: Sequence[View], run: Run, config: Any = None
) -> tuple[Descriptor, Tensor]:
    """Fit a descriptor to mapping views, and describe them with it.

    Args:
        name: of the kind.
        views: their images, and where the kind learns from them, their poses.
        run: seed, progress.
        config: of the kind's config type; its defaults where it is None.

    Returns:
        The descriptor, and (N, D) float32: a row of norm 1 for each view, or of zeros where an
        image shows nothing.

    Raises:
        InputError: an image cannot be read, or none shows anything.
    """
    kind = get_kind(name)
    return kind.fit(views, kind.config() if config is None else config, run)


def open_descriptor(
    name: DescriptorName, state: Mapping[str, Tensor], config: Any = None
) -> Descriptor:
    """The descriptor whose `state` it was, with the config that it was fitted with.

    Raises:
        InputError: it needs shared weights that this installation lacks.
    """
    kind = get_kind(name)
    return kind.open(state, kind.config() if config is None else config)
