"""Żurad's Spatial-LSTM: four small LSTMs over the image vector, with the loss of his Regressor."""

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
class ZuradSpatialLstmConfig(AbsoluteConfig):
    """Settings of the Spatial-LSTM; `paper` has the sizes of the thesis."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            distance="quaternion-error", rotation_log_variance=0.0
        )
    )
    """Which loss: QEH, with log-variances that begin at 0."""
    dropout: float = 0.0
    """Share of the outputs that are left out in training."""
    grid_rows: int = 32
    """Rows of the grid that the vector is read as; width is a multiple of them."""
    over_rows: int = 64
    """Numbers in the states of the two LSTMs that go over the rows..."""
    over_columns: int = 32
    """...and of those that go over the columns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.grid_rows, self.over_rows, self.over_columns) < 1:
            raise ValueError("grid_rows, over_rows and over_columns must be at least 1")
        if self.width % self.grid_rows:
            raise ValueError(
                f"a vector of {self.width} numbers is no grid of {self.grid_rows} rows"
            )


class ZuradSpatialLstm(nn.Module):
    """Image vector, four LSTMs over it, position and rotation."""

    def __init__(self, shape: Shape, config: ZuradSpatialLstmConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width, config.dropout)
        columns = config.width // config.grid_rows
        self.scan = FourWayLstm(config.grid_rows, columns, config.over_rows, config.over_columns)
        self.head = PoseHead(self.scan.width, config.rotation)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps."""
        return self.head(self.scan(self.vector(map_BChw)))


build_map, localizer = steps_of(Design(ZuradSpatialLstm))

METHOD = Method(
    name="zurad-spatial-lstm",
    family="absolute",
    summary="Small LSTMs scan the image vector; learned by the log of the quaternion error.",
    paper="Żurad, Deep Convolutional Neural Networks for Camera Relocalization, University of "
    "Luxembourg 2017",
    published="0.291 m, 7.0° (redkitchen); not reproduced",
    config=ZuradSpatialLstmConfig,
    tiny=ZuradSpatialLstmConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    presets={
        "nh": ZuradSpatialLstmConfig(loss=PoseLossConfig(rotation_log_variance=0.0)),
        "paper": ZuradSpatialLstmConfig(width=2048),
    },
)
