"""AtLoc: the numbers of the image vector attend to one another before the pose is regressed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, steps_of
from reloc.methods.absolute.features import Shape
from reloc.nn.pose_layers import ChannelAttention, ImageVector, PoseHead
from reloc.nn.pose_losses import PredictedPose
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class AtLocConfig(AbsoluteConfig):
    """Settings of AtLoc; `paper` has its widths and trains the trunk: slow on a processor."""

    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    dropout: float = 0.5
    """Share of the attended vector that is left out in training."""


class AtLoc(nn.Module):
    """Image vector, attention, position and rotation."""

    def __init__(self, shape: Shape, config: AtLocConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width)
        self.attention = ChannelAttention(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = PoseHead(config.width, config.rotation)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps."""
        return self.head(self.dropout(self.attention(self.vector(map_BChw))))


build_map, localizer = steps_of(Design(AtLoc))

METHOD = Method(
    name="atloc",
    family="absolute",
    summary="Self-attention over the image vector; learned weights, log-quaternions.",
    paper="Wang et al., AtLoc: Attention Guided Camera Localization, AAAI 2020",
    published="0.20 m, 7.6° (7-Scenes, mean of medians); not reproduced",
    config=AtLocConfig,
    tiny=AtLocConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    presets={"paper": AtLocConfig(width=2048, train_trunk=True, short_side_px=256, pooling=1)},
)
