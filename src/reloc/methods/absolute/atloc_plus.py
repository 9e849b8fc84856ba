"""AtLoc+: AtLoc, learned also by how its poses differ along a sequence, as MapNet is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.sequences import (
    SequenceConfig,
    SequenceDesign,
    answer_in_clips,
    steps_of,
    with_steps_objective,
)
from reloc.nn.pose_layers import ChannelAttention, ImageVector, PoseHead
from reloc.nn.pose_losses import PredictedPose, RelativeLoss
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class AtLocPlusConfig(SequenceConfig):
    """Settings of AtLoc+; `paper` has its widths and trains the trunk: slow on a processor."""

    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    clip_length: int = 3
    """Frames that are learned together."""
    max_skip: int = 10
    """Most mapping views from one frame of a clip to the next."""
    batch_size: int = 20
    """Clips of a step."""


class AtLocPlus(nn.Module):
    """Image vector, attention, position and rotation; a loss of the steps."""

    def __init__(self, shape: Shape, config: AtLocPlusConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width)
        self.attention = ChannelAttention(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = PoseHead(config.width, config.rotation)
        self.relative = RelativeLoss(config.loss, config.rotation, "difference")

    def forward(self, maps_BTChw: Tensor) -> PredictedPose:
        """Poses (B * T) of clips, each frame for itself."""
        vector = self.vector(maps_BTChw.flatten(0, 1))
        return self.head(self.dropout(self.attention(vector)))


build_map, localizer = steps_of(SequenceDesign(AtLocPlus, with_steps_objective, answer_in_clips))

METHOD = Method(
    name="atloc-plus",
    family="absolute",
    summary="AtLoc learned also by the differences of its poses along a sequence.",
    paper="Wang et al., AtLoc: Attention Guided Camera Localization, AAAI 2020",
    published="no figure that is known here",
    config=AtLocPlusConfig,
    tiny=AtLocPlusConfig(**{**TINY, "batch_size": 11}),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
    presets={"paper": AtLocPlusConfig(width=2048, train_trunk=True, short_side_px=256, pooling=1)},
)
