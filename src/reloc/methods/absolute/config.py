"""Settings that all methods of the family share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reloc.methods.absolute.looks import Turning
from reloc.nn.backbones import TrunkName
from reloc.nn.pose_losses import PoseLossConfig
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class AbsoluteConfig:
    """Settings of absolute pose regression."""

    trunk: TrunkName = "encoder"
    """What makes feature maps of images. All but encoder need their weights."""
    trunk_weights: str = ""
    """File of the trunk's weights, under torchvision's names; "" for the encoder's own."""
    train_trunk: bool = False
    """Train the trunk with the scene, as the papers do, and keep it in the map. Each step then runs
    the trunk forwards and backwards: some ten times as slow, and for an accelerator or patience."""
    trunk_rate: float = 0.1
    """The trunk's learning rate, as a ratio of that of the rest."""
    short_side_px: int = 160
    """Images are brought to this shorter side."""
    pooling: int = 2
    """Cells of the trunk's maps that are averaged, along each side. 2 is for cells of 8 pixels, as
    the encoder's; the published trunks' have 32, SqueezeNet's 16: with these, 1 cell and a shorter
    side of 256 pixels."""
    num_looks: int = 1450
    """Pictures that the trunk is shown: those of views that differ, or each in several
    directions where there are fewer."""
    turning: Turning = field(default_factory=Turning)
    """How far the mapping views are turned."""
    channels: int = 96
    """Of the convolutions that are trained."""
    width: int = 512
    """Of the fully connected layer behind them; the papers have 2048."""
    dropout: float = 0.5
    """Share of its outputs that are left out in training."""
    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(default_factory=PoseLossConfig)
    """Which loss."""
    steps: int = 600
    """Steps of training."""
    batch_size: int = 64
    """Pictures of a step."""
    max_learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""

    def __post_init__(self) -> None:
        for name in (
            "short_side_px", "pooling", "num_looks", "channels", "width", "steps", "batch_size"
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.channels % 8:
            raise ValueError(f"channels is {self.channels}; it must be a multiple of 8")
        if not self.trunk_rate > 0:
            raise ValueError(f"trunk_rate is {self.trunk_rate}; it must be greater than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        if self.rotation == "euler-bins" and self.loss.distance != "raw":
            raise ValueError("euler-bins are learned by --loss.distance raw alone")


TINY: dict[str, Any] = {
    "short_side_px": 80,
    "pooling": 1,
    "num_looks": 80,
    "channels": 32,
    "width": 128,
    "steps": 60,
    "batch_size": 24,
}
"""Settings of the tests: a second on one core."""

RARELY_BEATS_RETRIEVAL = {
    "beats_the_trivial_baseline": "absolute pose regression rarely beats retrieval "
    "(Sattler et al., CVPR 2019), least of all from forty views in a second of training"
}
"""The exemption of every row of the family."""
