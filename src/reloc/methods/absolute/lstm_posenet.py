"""LSTM-Pose: the image vector is read as a grid, from four sides, before the pose is regressed."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, steps_of
from reloc.methods.absolute.features import Shape
from reloc.nn.pose_layers import FourWayLstm, ImageVector, PoseHead
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class LstmPoseNetConfig(AbsoluteConfig):
    """Settings of LSTM-Pose; `paper` has the sizes of the paper."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            norm="l2", distance="quaternion", weights="fixed", beta=120.0
        )
    )
    """Which loss."""
    dropout: float = 0.5
    """Share of the outputs that are left out in training."""
    grid_rows: int = 16
    """Rows of the grid that the vector is read as; width is a multiple of them."""
    hidden: int = 64
    """Numbers in the state of each of the four LSTMs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1 or self.grid_rows < 1 or self.width % self.grid_rows:
            raise ValueError(
                f"a vector of {self.width} numbers is no grid of {self.grid_rows} rows"
            )


class LstmPoseNet(nn.Module):
    """Image vector, four LSTMs over it, position and rotation."""

    def __init__(self, shape: Shape, config: LstmPoseNetConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width, config.dropout)
        columns = config.width // config.grid_rows
        self.scan = FourWayLstm(config.grid_rows, columns, config.hidden, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.head = PoseHead(self.scan.width, config.rotation)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps."""
        return self.head(self.dropout(self.scan(self.vector(map_BChw))))


build_map, localizer = steps_of(Design(LstmPoseNet))

METHOD = Method(
    name="lstm-posenet",
    family="absolute",
    summary="PoseNet with four LSTMs that scan the image vector before the pose.",
    paper="Walch et al., Image-Based Localization Using LSTMs for Structured Feature Correlation, "
    "ICCV 2017",
    published="0.31 m, 9.9° (7-Scenes, mean of medians); not reproduced",
    config=LstmPoseNetConfig,
    tiny=LstmPoseNetConfig(**TINY, hidden=32),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    presets={"paper": LstmPoseNetConfig(width=2048, grid_rows=32, hidden=256)},
)
