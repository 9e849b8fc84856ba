"""EssNet: essential matrices to similar views, and RANSAC over pairs of these for the place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.relative import family
from reloc.methods.relative.combine import Combination
from reloc.methods.relative.config import FEW_PLACES, TINY, RelativeConfig
from reloc.methods.relative.heads import HeadName
from reloc.scenes.scene import View


@dataclass(frozen=True)
class EssNetConfig(RelativeConfig):
    """Settings of EssNet.

    The paper reads the whole correlation volume; here each of its rows is reduced to its peak, from
    which the network learns the same in a minute.
    """

    head: HeadName = "essential"
    """How the network says a relative pose: nine numbers, projected to an essential matrix."""
    combination: Combination = "triangulate"
    """How the answers become one."""
    max_angle_deg: float = 10.0
    """Up to which a direction agrees with a place, and a rotation with the mean."""


def build_map(views: Sequence[View], config: EssNetConfig, run: Run) -> Tensors:
    """Learn essential matrices of pairs of mapping views."""
    return family.build_map(views, config, run)


def localizer(tensors: Tensors, config: EssNetConfig, run: Run) -> Localizer:
    """Answers by triangulation of directions without a sign."""
    return family.localizer(tensors, config, run)


METHOD = Method(
    name="essnet",
    family="relative",
    summary="Essential matrices to similar views, taken apart; their directions triangulated.",
    paper="Zhou, Sattler, Pollefeys and Leal-Taixé, To Learn or Not to Learn: Visual Localization "
    "from Essential Matrices, ICRA 2020",
    published="0.22 m, 8.0° (7-Scenes, mean of medians); not reproduced",
    config=EssNetConfig,
    tiny=EssNetConfig(
        **{**TINY, "short_side_px": 120, "num_neighbours": 4, "min_belief": 0.15},
        max_angle_deg=30.0,
    ),
    build_map=build_map,
    localizer=localizer,
    expected_failures=FEW_PLACES,
)
