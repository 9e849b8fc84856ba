"""BranchNet: position and rotation part early, and rotations are sines and cosines of angles."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, steps_of
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.looks import Turning
from reloc.nn.pose_layers import ConvStage, ImageVector, PoseHead
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class BranchNetConfig(AbsoluteConfig):
    """Settings of BranchNet."""

    rotation: RotationName = "euler6"
    """How rotations are written: sines and cosines of three angles."""
    turning: Turning = field(default_factory=lambda: Turning(max_roll_deg=20.0, max_pan_deg=0.0))
    """How far the mapping views are turned: in the image plane alone, as in the paper."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(norm="l2", weights="fixed", beta=1.0)
    )
    """Which loss."""
    dropout: float = 0.5
    """Share of the vectors that are left out in training."""


class BranchNet(nn.Module):
    """One shared stage, then a branch of its own for each of the two."""

    def __init__(self, shape: Shape, config: BranchNetConfig) -> None:
        super().__init__()
        channels = config.channels
        self.shared = ConvStage(shape[0], channels, stride=1)
        inner = (channels, shape[1], shape[2])
        self.position = ImageVector(inner, channels, config.width, config.dropout)
        self.rotation = ImageVector(inner, channels, config.width, config.dropout)
        self.head = PoseHead(config.width, config.rotation)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps."""
        shared = self.shared(map_BChw)
        return self.head(self.position(shared), self.rotation(shared))


build_map, localizer = steps_of(Design(BranchNet))

METHOD = Method(
    name="branchnet",
    family="absolute",
    summary="Separate branches for position and rotation; sines and cosines of Euler angles.",
    paper="Wu, Ma and Hu, Delving Deeper into Convolutional Neural Networks for Camera "
    "Relocalization, ICRA 2017",
    published="0.29 m, 8.3° (7-Scenes, mean of medians); not reproduced",
    config=BranchNetConfig,
    tiny=BranchNetConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
)
