"""Scene coordinate regression forests: trees of depth-adaptive probes, for queries with depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.forests import family
from reloc.methods.forests.config import ForestConfig
from reloc.methods.forests.localizer import ForestLocalizer
from reloc.methods.forests.trees import GrowthConfig, grow_forest
from reloc.scenes.scene import View


@dataclass(frozen=True)
class ScorfConfig(ForestConfig):
    """Settings of a scene coordinate regression forest."""


def build_map(views: Sequence[View], config: ScorfConfig, run: Run) -> Tensors:
    """Grow trees on the mapping views that have depth, and fill their leaves."""
    grow = partial(grow_forest, config=config.growth, run=run)
    return family.build_map(views, config, grow, run, reads_depth=True)


def localizer(tensors: Tensors, config: ScorfConfig, run: Run) -> Localizer:
    """Answers queries that have depth, by the pose that most pixels agree on."""
    return ForestLocalizer(tensors, config, run, reads_depth=True)


METHOD = Method(
    name="scorf",
    family="forests",
    summary="RGB-D: trees of depth-adaptive probes guess scene points, preemptive RANSAC.",
    paper="Shotton et al., Scene Coordinate Regression Forests for Camera Relocalization in RGB-D "
    "Images, CVPR 2013",
    published="79 % within 5 cm, 5° (7-Scenes, with depth; unverified); not reproduced",
    config=ScorfConfig,
    tiny=ScorfConfig(
        growth=GrowthConfig(num_trees=3, num_probes=64, tried_probes=32, pixels_per_view=500),
        filling_pixels=1000,
        query_pixels=1000,
        num_matches=600,
    ),
    build_map=build_map,
    localizer=localizer,
    uses_depth=True,
    needs_depth=True,
)
