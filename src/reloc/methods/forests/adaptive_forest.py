"""A forest that serves a new place at once: its trees stay, its leaves are filled as frames arrive.

Draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.forests import family
from reloc.methods.forests.family import ForestConfig
from reloc.methods.forests.features import Looks
from reloc.methods.forests.trees import Forest, GrowthConfig, grow_forest
from reloc.scenes.scene import View


@dataclass(frozen=True)
class AdaptiveForestConfig(ForestConfig):
    """Settings of a forest whose leaves are filled with a new scene."""

    growing_views: int = 30
    """First views, which the trees grow on."""


def build_map(views: Sequence[View], config: AdaptiveForestConfig, run: Run) -> Tensors:
    """Grow trees on the first views, and fill their leaves with all."""

    def grow(looks: Sequence[Looks], points: Sequence[Tensor]) -> Forest:
        first = slice(config.growing_views)
        return grow_forest(looks[first], points[first], config.growth, run)

    return family.build_map(views, config, grow, run, reads_depth=True)


def localizer(tensors: Tensors, config: AdaptiveForestConfig, run: Run) -> Localizer:
    """Answers queries that have depth, by the pose that most pixels agree on."""
    return family.ForestLocalizer(tensors, config, run, reads_depth=True)


METHOD = Method(
    name="adaptive-forest",
    family="forests",
    summary="RGB-D: a grown forest's leaves are refilled with a new scene as its frames arrive.",
    paper="Cavallari et al., On-the-Fly Adaptation of Regression Forests for Online Camera "
    "Relocalisation, CVPR 2017",
    config=AdaptiveForestConfig,
    tiny=AdaptiveForestConfig(
        growth=GrowthConfig(num_trees=3, num_probes=64, tried_probes=32, pixels_per_view=500),
        filling_pixels=1000,
        query_pixels=1000,
        num_matches=600,
        growing_views=10,
    ),
    build_map=build_map,
    localizer=localizer,
    uses_depth=True,
)
