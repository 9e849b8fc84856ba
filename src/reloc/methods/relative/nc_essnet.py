"""NC-EssNet: EssNet on matches that agree with those of their neighbours."""

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
class NcEssNetConfig(RelativeConfig):
    """Settings of NC-EssNet.

    The paper's consensus is a learned filter in four dimensions; here it is the sum over neighbours
    that move alike, and each row of the volume is then reduced to its peak.
    """

    consensus: bool = True
    """Hold matches less likely whose neighbours match elsewhere."""

    head: HeadName = "essential"
    """How the network says a relative pose: nine numbers, projected to an essential matrix."""
    combination: Combination = "triangulate"
    """How the answers become one."""
    max_angle_deg: float = 10.0
    """Up to which a direction agrees with a place, and a rotation with the mean."""


def build_map(views: Sequence[View], config: NcEssNetConfig, run: Run) -> Tensors:
    """Learn essential matrices of pairs of mapping views."""
    return family.build_map(views, config, run)


def localizer(tensors: Tensors, config: NcEssNetConfig, run: Run) -> Localizer:
    """Answers by triangulation of directions without a sign."""
    return family.localizer(tensors, config, run)


METHOD = Method(
    name="nc-essnet",
    family="relative",
    summary="EssNet on matches that agree with their neighbours' (neighbourhood consensus).",
    paper="Zhou, Sattler, Pollefeys and Leal-Taixé, To Learn or Not to Learn: Visual Localization "
    "from Essential Matrices, ICRA 2020",
    published="0.21 m, 7.5° (7-Scenes, mean of medians); not reproduced",
    config=NcEssNetConfig,
    tiny=NcEssNetConfig(
        **{**TINY, "short_side_px": 120, "num_neighbours": 4, "min_belief": 0.15},
        max_angle_deg=60.0,
    ),
    build_map=build_map,
    localizer=localizer,
    expected_failures=FEW_PLACES,
)
