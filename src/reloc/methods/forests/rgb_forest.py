"""A forest for queries without depth: what leaves are unsure of is asked last, and PnP decides.

The paper's second and third forest, which see what the one before said of the pixels around (auto-
context), and its object classes are left out. Of a leaf's mixture it keeps full covariances; here
they are round, and serve to choose the guesses that PnP sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.forests import family
from reloc.methods.forests.config import ForestConfig
from reloc.methods.forests.localizer import ForestLocalizer
from reloc.methods.forests.trees import GrowthConfig, grow_forest
from reloc.scenes.scene import View


@dataclass(frozen=True)
class RgbForestConfig(ForestConfig):
    """Settings of a forest that reads colours only. Depth is needed to map, and then no more."""

    growth: GrowthConfig = field(
        default_factory=lambda: GrowthConfig(nearest=0.01, farthest=0.12, depth_share=0.0)
    )
    """Of the trees."""
    query_depth: bool = False
    """Align the measured points of queries that have depth (Kabsch); others are for PnP still."""


def build_map(views: Sequence[View], config: RgbForestConfig, run: Run) -> Tensors:
    """Grow trees on the mapping views that have depth, and fill their leaves."""
    grow = partial(grow_forest, config=config.growth, run=run)
    return family.build_map(
        views, config, grow, run, reads_depth=False, aligns_depth=config.query_depth
    )


def localizer(tensors: Tensors, config: RgbForestConfig, run: Run) -> Localizer:
    """Answers queries by the pose that most of the surest guesses agree on."""
    return ForestLocalizer(tensors, config, run, reads_depth=False, aligns_depth=config.query_depth)


METHOD = Method(
    name="rgb-forest",
    family="forests",
    summary="RGB queries: trees guess scene points and how sure they are, then robust PnP.",
    paper="Brachmann et al., Uncertainty-Driven 6D Pose Estimation of Objects and Scenes from a "
    "Single RGB Image, CVPR 2016",
    published="55 % within 5 cm, 5° (7-Scenes; unverified); not reproduced",
    config=RgbForestConfig,
    tiny=RgbForestConfig(
        growth=GrowthConfig(
            num_trees=3,
            num_probes=64,
            tried_probes=32,
            nearest=0.01,
            farthest=0.12,
            depth_share=0.0,
            pixels_per_view=500,
        ),
        filling_pixels=1000,
        query_pixels=1000,
        num_matches=600,
    ),
    build_map=build_map,
    localizer=localizer,
    presets={"rgbd": RgbForestConfig(query_depth=True)},
    uses_depth=True,
)
