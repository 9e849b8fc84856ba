"""NN-Net: directions from similar views to the query, where they meet, and their mean rotation."""

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
class NnNetConfig(RelativeConfig):
    """Settings of NN-Net.

    The paper's network says where the query is from a view in the axes of the world, which only
    the place of its training has; here it says it in those of the query, as true relative poses
    are, and the direction alone, as there.
    """

    head: HeadName = "quat+direction"
    """How the network says a relative pose: rotation, and direction without a length."""
    combination: Combination = "triangulate"
    """How the answers become one."""
    max_angle_deg: float = 10.0
    """Up to which a direction agrees with a place, and a rotation with the mean."""


def build_map(views: Sequence[View], config: NnNetConfig, run: Run) -> Tensors:
    """Learn rotations and directions of pairs of mapping views."""
    return family.build_map(views, config, run)


def localizer(tensors: Tensors, config: NnNetConfig, run: Run) -> Localizer:
    """Answers by triangulation."""
    return family.localizer(tensors, config, run)


METHOD = Method(
    name="nn-net",
    family="relative",
    summary="Directions from similar views to the query, triangulated; their mean rotation.",
    paper="Laskar, Melekhov, Kalia and Kannala, Camera Relocalization by Computing Pairwise "
    "Relative Poses Using Convolutional Neural Network, ICCV Workshops 2017",
    published="0.21 m, 9.3° (7-Scenes, mean of medians); not reproduced",
    config=NnNetConfig,
    # In a sparse room directions are rough: more pixels, the surest views, and a wide limit.
    tiny=NnNetConfig(
        **{**TINY, "short_side_px": 120, "num_neighbours": 4, "min_belief": 0.15},
        max_angle_deg=60.0,
    ),
    build_map=build_map,
    localizer=localizer,
    expected_failures=FEW_PLACES,
    presets={
        # Lengths are predicted, too, and the poses averaged.
        "average": NnNetConfig(head="quat+t", combination="average", max_angle_deg=15.0),
    },
)
