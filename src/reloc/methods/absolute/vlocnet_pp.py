"""VLocNet++: as VLocNet, and the maps of the frame before are fused in, with learned weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.feedback import (
    FeedbackConfig,
    FeedbackNetwork,
    answer_frame_by_frame,
    objective,
)
from reloc.methods.absolute.sequences import SequenceDesign, steps_of
from reloc.nn.pose_losses import PoseLossConfig


@dataclass(frozen=True)
class VLocNetPlusPlusConfig(FeedbackConfig):
    """Settings of VLocNet++, without its stream of semantics: nothing here names what is seen."""

    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            norm="l2", position_log_variance=-3.0, rotation_log_variance=-3.0
        )
    )
    """Which loss."""


class VLocNetPlusPlus(FeedbackNetwork):
    """Feedback of the pose, and of the maps, by an adaptive weighted fusion."""

    def __init__(self, shape: Shape, config: VLocNetPlusPlusConfig) -> None:
        super().__init__(shape, config)
        channels = config.channels
        self.now_C11 = nn.Parameter(torch.ones(channels, 1, 1))
        self.before_C11 = nn.Parameter(torch.zeros(channels, 1, 1))
        self.fuse = nn.Conv2d(2 * channels, channels, 1)

    def fused(self, shared_BChw: Tensor, before_BChw: Tensor) -> Tensor:
        """Both maps, each channel weighted, and made as many channels as one had."""
        both = torch.cat([self.now_C11 * shared_BChw, self.before_C11 * before_BChw], dim=1)
        return shared_BChw + self.fuse(both)


build_map, localizer = steps_of(SequenceDesign(VLocNetPlusPlus, objective, answer_frame_by_frame))

METHOD = Method(
    name="vlocnet-pp",
    family="absolute",
    summary="VLocNet that also fuses the maps of the frame before, without semantics.",
    paper="Radwan, Valada and Burgard, VLocNet++: Deep Multitask Learning for Semantic Visual "
    "Localization and Odometry, RA-L 2018",
    config=VLocNetPlusPlusConfig,
    tiny=VLocNetPlusPlusConfig(**{**TINY, "batch_size": 16}),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
)
