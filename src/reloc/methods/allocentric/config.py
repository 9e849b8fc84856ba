"""Settings of a spatial memory."""

from __future__ import annotations

from dataclasses import dataclass

from reloc.methods.allocentric.memory import Update
from reloc.nn.encoder import STRIDE
from reloc.nn.weights import EncoderName


@dataclass(frozen=True)
class AllocentricConfig:
    """Settings of a spatial memory. Lengths are in the unit of the depth."""

    encoder: EncoderName = "base"
    """The shared encoder; it is not changed."""
    short_side_px: int = 240
    """Images are resized to this shorter side."""
    max_views: int = 400
    """Most mapping views that are written, evenly spaced where there are more."""
    cell: float = 0.2
    """Side of a cell of the ground; larger where the place has more than `max_cells` along it."""
    max_cells: int = 96
    """Most cells along either side of the memory."""
    max_range: float = 4.0
    """How far from a camera the ground is looked at."""
    num_headings: int = 72
    """Headings of a full turn that are told apart."""
    features: int = 16
    """Numbers of a cell's vector for each band of heights."""
    bands: int = 3
    """Bands of heights, told apart."""
    band_height: float = 1.0
    """From the middle of one band to that of the next; the middle one is at the cameras' height."""
    update: Update = "mean"
    """How a view is written: running means of the cells, or a gated recurrent unit ("gru")."""
    steps: int = 0
    """Steps of training of the vectors and the update; 0 for principal components, which "mean"
    can do with and "gru" cannot."""
    learning_rate: float = 2e-3
    """Largest of the training."""
    carry: bool = True
    """Whether the distribution of a frame is carried to the next one of its sequence."""
    move: float = 0.2
    """How far a camera moves from frame to frame: standard deviation along either axis."""
    turn_deg: float = 8.0
    """And how far it turns."""
    lost: float = 0.1
    """Probability that a frame has nothing to do with the one before."""
    min_confidence: float = 0.1
    """A query whose distribution has less than this share near its peak is declined."""

    def __post_init__(self) -> None:
        for name in ("max_views", "max_cells", "features", "bands"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("cell", "max_range", "band_height", "move", "turn_deg", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be positive")
        for name in ("lost", "min_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name):g}, not in [0, 1]")
        if self.short_side_px < 2 * STRIDE:
            raise ValueError(
                f"short_side_px is {self.short_side_px}; it must be at least {2 * STRIDE}"
            )
        if self.num_headings < 8:
            raise ValueError(f"num_headings is {self.num_headings}; it must be at least 8")
        if self.max_range < self.cell:
            raise ValueError("max_range must be at least a cell")
        if self.steps < 0 or (self.update == "gru" and self.steps == 0):
            raise ValueError(f"steps is {self.steps}; update gru needs some, and none is negative")
