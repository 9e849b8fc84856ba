"""VLocNet: the pose before is fed back, and a second stream learns the motion between frames."""

from __future__ import annotations

from dataclasses import dataclass, field

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY
from reloc.methods.absolute.feedback import (
    FeedbackConfig,
    FeedbackNetwork,
    answer_frame_by_frame,
    objective,
)
from reloc.methods.absolute.sequences import SequenceDesign, steps_of
from reloc.nn.pose_losses import PoseLossConfig


@dataclass(frozen=True)
class VLocNetConfig(FeedbackConfig):
    """Settings of VLocNet."""

    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            norm="l2",
            distance="quaternion",
            position_log_variance=-3.0,
            rotation_log_variance=-3.0,
        )
    )
    """Which loss."""


build_map, localizer = steps_of(SequenceDesign(FeedbackNetwork, objective, answer_frame_by_frame))

METHOD = Method(
    name="vlocnet",
    family="absolute",
    summary="The previous predicted pose is fed back; a second stream learns the motion.",
    paper="Valada, Radwan and Burgard, Deep Auxiliary Learning for Visual Localization and "
    "Odometry, ICRA 2018",
    published="0.048 m, 3.8° (7-Scenes, mean of medians; unverified; others who tried it reach "
    "MapNet's); not reproduced",
    config=VLocNetConfig,
    tiny=VLocNetConfig(**{**TINY, "batch_size": 16}),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
)
