"""PoseNet: the first of its kind. A fixed weight of the rotation, and heads at inner layers."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, steps_of
from reloc.methods.absolute.features import Shape
from reloc.nn.pose_layers import ImageVector, PoseHead
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose
from reloc.nn.rotations import RotationName

# Cells that an auxiliary head sees, along each side, and its dropout.
_AUXILIARY_CELLS, _AUXILIARY_DROPOUT = 3, 0.7


@dataclass(frozen=True)
class PoseNetConfig(AbsoluteConfig):
    """Settings of PoseNet. beta is for positions in the map's unit, the spread of its cameras."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            norm="l2", distance="quaternion", weights="fixed", beta=120.0
        )
    )
    """Which loss; the published weights of the rotation are 120 to 750 in rooms, in metres."""
    dropout: float = 0.5
    """Share of the vector that is left out in training."""


class PoseNet(nn.Module):
    """Image vector to position and rotation, and the same from both stages before it."""

    def __init__(self, shape: Shape, config: AbsoluteConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width, config.dropout)
        self.head = PoseHead(config.width, config.rotation)
        self.auxiliary = nn.ModuleList(_Auxiliary(config) for _ in range(2))

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps; in training, those of the auxiliary heads too."""
        first = self.vector.first(map_BChw)
        second = self.vector.second(first)
        predicted = self.head(self.vector.vector(second))
        if not self.training:
            return predicted
        maps = (first, second)
        auxiliary = [head(inner) for head, inner in zip(self.auxiliary, maps, strict=True)]
        return PredictedPose(predicted.position_B3, predicted.rotation_BK, tuple(auxiliary))


class _Auxiliary(nn.Module):
    """A pose from an inner map, for gradients to begin deep inside."""

    def __init__(self, config: AbsoluteConfig) -> None:
        super().__init__()
        width = config.width // 2
        self.connect = nn.Linear(config.channels * _AUXILIARY_CELLS**2, width)
        self.head = PoseHead(width, config.rotation)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        cells = functional.adaptive_avg_pool2d(map_BChw, _AUXILIARY_CELLS).flatten(1)
        hidden = functional.relu(self.connect(cells))
        return self.head(functional.dropout(hidden, _AUXILIARY_DROPOUT, self.training))


build_map, localizer = steps_of(Design(PoseNet))

METHOD = Method(
    name="posenet",
    family="absolute",
    summary="Image to pose by one network, rotation weighted by hand; auxiliary heads.",
    paper="Kendall, Grimes and Cipolla, PoseNet: Real-Time 6-DOF Relocalization, ICCV 2015",
    published="0.45 m, 9.9° (7-Scenes, mean of medians); not reproduced",
    config=PoseNetConfig,
    tiny=PoseNetConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    presets={
        # Released for King's College is 500 for positions in metres. Here they are in the spread of
        # the cameras, 30 to 100 m there: of 50 m it is a fiftieth.
        "outdoor": PoseNetConfig(
            loss=PoseLossConfig("l2", distance="quaternion", weights="fixed", beta=10.0)
        )
    },
)
