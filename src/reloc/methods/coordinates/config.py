"""Settings that every scene coordinate map has."""

from __future__ import annotations

from dataclasses import dataclass, field

from reloc.nn.weights import EncoderName
from reloc.training.augment import Augmentation


@dataclass(frozen=True)
class CoordinatesConfig:
    """Settings of a scene coordinate map."""

    encoder: EncoderName = "base"
    """The shared encoder; small takes a third of the time, and loses a little."""
    short_side_px: int = 480
    """Images are resized to this shorter side; errors in pixels are of the resized image."""
    width: int = 256
    """Channels of the head."""
    num_blocks: int = 1
    """Residual blocks of the head, of three layers each."""
    num_images: int = 400
    """Images encoded for the buffer: those views that differ most, or each in several looks where
    there are fewer."""
    cells_per_image: int = 1500
    """Most cells of an image that are kept in the buffer."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How far the look of a mapping image is changed."""
    batch_size: int = 1024
    """Cells of a step."""
    steps: int = 1800
    """Steps of training."""
    max_learning_rate: float = 3e-3
    """Peak of the one-cycle schedule."""
    warm_up: float = 0.05
    """Share of the steps in which the learning rate rises."""
    muon: float | None = 10.0
    """Rate of Muon's steps for the inner layers, times the learning rate; None: AdamW for all."""
    points_until: float = 0.6
    """Share of the training, from its beginning, in which cells whose point is known are drawn to
    it: from depth maps under --depth, else triangulated between the mapping views. 0: never."""
    loose_px: float = 300.0
    """Reprojection error at which the loss flattens, at the beginning..."""
    tight_px: float = 1.0
    """...and at the end."""
    depth: bool = False
    """Also learn from the depth maps of the mapping views that have one. They must belong to the
    same reconstruction as the poses: on 7-Scenes, use the d-slam ground truth."""
    max_error_px: float = 10.0
    """Reprojection error up to which a predicted point agrees with a pose."""
    min_inlier_ratio: float = 0.02
    """With a smaller share of its cells agreeing, a query is declined."""

    def __post_init__(self) -> None:
        for name in (
            "short_side_px",
            "width",
            "num_images",
            "cells_per_image",
            "batch_size",
            "steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warm_up", "points_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if not 0 < self.tight_px <= self.loose_px:
            raise ValueError(f"the loss cannot tighten from {self.loose_px} to {self.tight_px} px")
