"""DenseVLAD+Inter: a pose between those of the most similar views, as its vector is between theirs.

Source: Sattler, Zhou, Pollefeys and Leal-Taixé, "Understanding the limitations of CNN-based
absolute camera pose regression", CVPR 2019, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import roma
import torch
from torch import Tensor

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.retrieval import family
from reloc.nn.descriptors.densevlad import DenseVladConfig
from reloc.scenes.scene import View


@dataclass(frozen=True)
class DenseVladInterConfig:
    """Settings of DenseVLAD+Inter."""

    descriptor: DenseVladConfig = field(default_factory=DenseVladConfig)
    """The descriptor."""
    min_confidence: float = 0.2
    """A query whose answer is less sure is declined: most photos of other places are below."""
    num_views: int = 20
    """Most similar views that an answer is made of."""
    ridge: float = 0.1
    """Weight of the weights' own squares: neighbours that are almost alike get almost the same."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; it must be in [0, 1]")
        if self.num_views < 1 or self.ridge <= 0:
            raise ValueError("num_views must be at least 1, and ridge positive")


def build_map(views: Sequence[View], config: DenseVladInterConfig, run: Run) -> Tensors:
    """Vocabulary, whitening and vectors of the mapping images, and their poses."""
    return family.fit_and_build_map("densevlad", views, config.descriptor, run)


def localizer(tensors: Tensors, config: DenseVladInterConfig, run: Run) -> Localizer:
    """Answers by the views whose vectors rebuild that of the query."""
    del run
    return family.localizer(
        tensors,
        "densevlad",
        config.descriptor,
        config.min_confidence,
        config.num_views,
        partial(interpolate, ridge=config.ridge),
    )


def rebuilding_weights(vectors_KD: Tensor, vector_D: Tensor, ridge: float) -> Tensor:
    """Weights (K,) float64 with sum 1 that make least |Σ w d - q|² + ridge |w|².

    A weight can be negative: the query lies beyond the views.
    """
    differences_KD = (vectors_KD - vector_D).double()
    # With sum 1, Σ w d - q is Σ w (d - q), and the multiplier of the constraint only scales.
    gram_KK = differences_KD @ differences_KD.T
    gram_KK.diagonal().add_(ridge)
    weights_K = torch.linalg.solve(gram_KK, torch.ones(len(gram_KK), dtype=torch.float64))
    return weights_K / weights_K.sum()


def interpolate(
    cam_from_world: Rigid3d, vectors_KD: Tensor, vector_D: Tensor, ridge: float
) -> Rigid3d:
    """The pose whose centre is the weighted mean of the views', as its rotation is.

    The mean rotation has the least weighted sum of squared chordal distances (Hartley et al.,
    "Rotation averaging", IJCV 2013): signs of quaternions play no part, nor does the world's frame.

    Args:
        cam_from_world: batch (K,).
        vectors_KD: of the views.
        vector_D: of the query.
        ridge: of `rebuilding_weights`.
    """
    weights_K = rebuilding_weights(vectors_KD, vector_D, ridge)
    center_3 = weights_K @ cam_from_world.inverse().translation
    mean_33 = (weights_K[:, None, None] * cam_from_world.rotation).sum(0)
    rotation = cast(Tensor, roma.special_procrustes(mean_33))
    return Rigid3d(rotation, -rotation @ center_3)


METHOD = Method(
    name="densevlad-inter",
    family="retrieval",
    summary="A pose between those of similar images, weighted to rebuild the query's DenseVLAD.",
    paper="Sattler, Zhou, Pollefeys and Leal-Taixé, Understanding the Limitations of CNN-based "
    "Absolute Camera Pose Regression, CVPR 2019",
    published="0.24 m, 11.7° (7-Scenes, mean of medians); not reproduced",
    config=DenseVladInterConfig,
    tiny=DenseVladInterConfig(
        DenseVladConfig(max_side_px=120, bins_px=(4, 6), num_words=32, num_dimensions=64),
        num_views=4,
    ),
    build_map=build_map,
    localizer=localizer,
)
