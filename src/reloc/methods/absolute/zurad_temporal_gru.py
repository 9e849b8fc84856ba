"""Żurad's Temporal-GRU: gated recurrent units, both ways, over the frames of a clip."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.sequences import (
    SequenceConfig,
    SequenceDesign,
    answer_in_clips,
    plain_objective,
    steps_of,
)
from reloc.nn.pose_layers import ImageVector, PoseHead
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class ZuradTemporalGruConfig(SequenceConfig):
    """Settings of the Temporal-GRU; `paper` has the sizes of the thesis."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            distance="quaternion-error", rotation_log_variance=0.0
        )
    )
    """Which loss: QEH, with log-variances that begin at 0."""
    hidden: int = 128
    """Numbers in the state, each way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ValueError(f"hidden is {self.hidden}; it must be at least 1")


class ZuradTemporalGru(nn.Module):
    """Image vectors, a GRU in both directions, dropout, position and rotation of each frame."""

    def __init__(self, shape: Shape, config: ZuradTemporalGruConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width)
        self.gru = nn.GRU(config.width, config.hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.dropout)
        self.head = PoseHead(2 * config.hidden, config.rotation)

    def forward(self, maps_BTChw: Tensor) -> PredictedPose:
        """Poses (B * T) of clips."""
        vectors = self.vector(maps_BTChw.flatten(0, 1)).unflatten(0, maps_BTChw.shape[:2])
        states, _ = self.gru(vectors)
        return self.head(self.dropout(states).flatten(0, 1))


build_map, localizer = steps_of(SequenceDesign(ZuradTemporalGru, plain_objective, answer_in_clips))

METHOD = Method(
    name="zurad-temporal-gru",
    family="absolute",
    summary="A bidirectional GRU over the frames of a clip; log of the quaternion error.",
    paper="Żurad, Deep Convolutional Neural Networks for Camera Relocalization, University of "
    "Luxembourg 2017",
    published="0.247 m, 7.7° (data that is not public); not reproduced",
    config=ZuradTemporalGruConfig,
    tiny=ZuradTemporalGruConfig(**{**TINY, "batch_size": 10}, hidden=48),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
    presets={"paper": ZuradTemporalGruConfig(width=1024, hidden=512)},
)
