"""VidLoc: a recurrent layer, both ways, over the image vectors of a clip."""

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
from reloc.nn.pose_layers import ImageVector, PoseHead, open_forget_gates
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class VidLocConfig(SequenceConfig):
    """Settings of VidLoc. The paper's clips have up to 200 frames, and its answers positions."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            norm="l2", distance="quaternion", weights="fixed", beta=3.0
        )
    )
    """Which loss."""
    clip_length: int = 8
    """Frames that are learned, and asked, together."""
    batch_size: int = 10
    """Clips of a step."""
    hidden: int = 128
    """Numbers in the state, each way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ValueError(f"hidden is {self.hidden}; it must be at least 1")


class VidLoc(nn.Module):
    """Image vectors, an LSTM in both directions, position and rotation of each frame."""

    def __init__(self, shape: Shape, config: VidLocConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width, config.dropout)
        self.lstm = nn.LSTM(config.width, config.hidden, batch_first=True, bidirectional=True)
        open_forget_gates(self.lstm)
        self.head = PoseHead(2 * config.hidden, config.rotation)

    def forward(self, maps_BTChw: Tensor) -> PredictedPose:
        """Poses (B * T) of clips."""
        vectors = self.vector(maps_BTChw.flatten(0, 1)).unflatten(0, maps_BTChw.shape[:2])
        states, _ = self.lstm(vectors)
        return self.head(states.flatten(0, 1))


build_map, localizer = steps_of(SequenceDesign(VidLoc, plain_objective, answer_in_clips))

METHOD = Method(
    name="vidloc",
    family="absolute",
    summary="A bidirectional LSTM over the frames of a clip.",
    paper="Clark et al., VidLoc: A Deep Spatio-Temporal Model for 6-DoF Video-Clip "
    "Relocalization, CVPR 2017",
    published="0.25 m (7-Scenes, clips of 200 frames); not reproduced",
    config=VidLocConfig,
    tiny=VidLocConfig(**{**TINY, "batch_size": 6}, hidden=48),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
)
