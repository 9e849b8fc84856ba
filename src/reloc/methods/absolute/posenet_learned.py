"""PoseNet with learned weights: how much a metre and a turn cost is learned with the poses."""

from __future__ import annotations

from dataclasses import dataclass, field

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, steps_of
from reloc.nn.pose_losses import PoseLossConfig
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class PoseNetLearnedConfig(AbsoluteConfig):
    """Settings of PoseNet with learned weights."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(default_factory=lambda: PoseLossConfig(distance="quaternion"))
    """Which loss."""


build_map, localizer = steps_of(Design())

METHOD = Method(
    name="posenet-learned",
    family="absolute",
    summary="PoseNet whose loss learns the weights of position and rotation.",
    paper="Kendall and Cipolla, Geometric Loss Functions for Camera Pose Regression, CVPR 2017",
    published="0.24 m, 7.9° (7-Scenes, mean of medians; unverified); not reproduced",
    config=PoseNetLearnedConfig,
    tiny=PoseNetLearnedConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
)
