"""Hourglass-Pose: maps are made coarse and fine again, with skips, before the pose is regressed."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, steps_of
from reloc.methods.absolute.features import Shape
from reloc.nn.pose_layers import ConvStage, PoseHead, halved
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class HourglassConfig(AbsoluteConfig):
    """Settings of Hourglass-Pose. beta is for positions in the map's unit."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            norm="l2", distance="quaternion", weights="fixed", beta=10.0
        )
    )
    """Which loss; the published weight of the rotation is 10 in rooms."""
    dropout: float = 0.5
    """Share of the vector that is left out in training."""


class Hourglass(nn.Module):
    """Three stages down, two up; what is made coarse is added to what was finer."""

    def __init__(self, shape: Shape, config: HourglassConfig) -> None:
        super().__init__()
        channels = config.channels
        self.enter = ConvStage(shape[0], channels)
        self.down = nn.ModuleList(ConvStage(channels, channels) for _ in range(2))
        self.up = nn.ModuleList(ConvStage(channels, channels, stride=1) for _ in range(2))
        # Back at the resolution of `enter`; the last stage makes a grid that a layer can see whole.
        self.leave = ConvStage(channels, channels)
        height, width = (halved(halved(side)) for side in shape[1:])
        self.connect = nn.Linear(channels * height * width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = PoseHead(config.width, config.rotation)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps."""
        hidden = self.enter(map_BChw)
        finer = []
        for stage in self.down:
            finer.append(hidden)
            hidden = stage(hidden)
        for stage, skipped in zip(self.up, reversed(finer), strict=True):
            larger = functional.interpolate(hidden, size=skipped.shape[-2:], mode="nearest")
            hidden = stage(larger) + skipped
        vector = functional.relu(self.connect(self.leave(hidden).flatten(1)))
        return self.head(self.dropout(vector))


build_map, localizer = steps_of(Design(Hourglass))

METHOD = Method(
    name="hourglass-pose",
    family="absolute",
    summary="Encoder and decoder with skips between the trunk and the pose.",
    paper="Melekhov et al., Image-Based Localization Using Hourglass Networks, ICCV Workshops 2017",
    published="0.23 m, 9.5° (7-Scenes, mean of medians); not reproduced",
    config=HourglassConfig,
    tiny=HourglassConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
)
