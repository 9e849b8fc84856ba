"""The pose of the mapping image that looks most alike when small and blurred: the floor.

Any other method has to beat it, or has learnt no more than which photo is the most similar one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.retrieval import family
from reloc.nn.descriptors.descriptor import describe_views
from reloc.nn.descriptors.thumbnail import describe_thumbnail
from reloc.scenes.scene import View


@dataclass(frozen=True)
class ThumbnailConfig:
    """Settings of the thumbnails, the paper's by default."""

    num_pixels: int = 1200
    """Pixels of a thumbnail; its aspect is that of the mapping images: 40 x 30 for 4:3."""

    blur_px: float = 2.5
    """Standard deviation of the Gaussian blur, in pixels of the thumbnail."""

    def __post_init__(self) -> None:
        if self.num_pixels < 16:
            raise ValueError(f"num_pixels is {self.num_pixels}; a thumbnail has at least 16")
        if not 0 <= self.blur_px <= 100:
            raise ValueError(f"blur_px is {self.blur_px:g}, not between 0 and 100")


def build_map(views: Sequence[View], config: ThumbnailConfig, run: Run) -> Tensors:
    """Thumbnails of the mapping images, and their poses."""
    aspect = median(view.camera.width / view.camera.height for view in views)
    size = _thumbnail_size(aspect, config.num_pixels)
    describe = partial(_describe, size=size, blur_px=config.blur_px)
    vectors_ND = describe_views(describe, views, run)
    return {**family.map_of_vectors(views, vectors_ND), "size": torch.tensor(size)}


def localizer(tensors: Tensors, config: ThumbnailConfig, run: Run) -> Localizer:
    """Answers by the most similar thumbnail."""
    del run
    width, height = tensors["size"].tolist()
    describe = partial(_describe, size=(width, height), blur_px=config.blur_px)
    return family.RetrievalLocalizer(tensors, describe)


def _describe(image: Tensor, size: tuple[int, int], blur_px: float) -> Tensor:
    found = describe_thumbnail(image, size, blur_px)
    return torch.zeros(size[0] * size[1]) if found is None else found


def _thumbnail_size(aspect: float, num_pixels: int) -> tuple[int, int]:
    """Width and height of an aspect and about so many pixels; neither is less than 4."""
    height = (num_pixels / aspect) ** 0.5
    return max(4, round(height * aspect)), max(4, round(height))


METHOD = Method(
    name="thumbnail",
    family="retrieval",
    summary="The pose of the most similar mapping image, compared small and blurred.",
    paper="Klein and Murray, Improving the Agility of Keyframe-Based SLAM, ECCV 2008",
    published="no figure to compare: tracking, recovered in rooms",
    config=ThumbnailConfig,
    tiny=ThumbnailConfig(num_pixels=192, blur_px=1.0),
    build_map=build_map,
    localizer=localizer,
)
