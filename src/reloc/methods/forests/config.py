"""Settings that all forests share."""

from __future__ import annotations

from dataclasses import dataclass, field

from reloc.methods.forests.trees import GrowthConfig


@dataclass(frozen=True)
class ForestConfig:
    """Settings of a forest and of what is asked of it."""

    growth: GrowthConfig = field(default_factory=GrowthConfig)
    """Of the trees."""
    short_side_px: int = 240
    """Larger images are reduced to this shorter side."""
    max_views: int = 400
    """Most mapping views with depth that are used; of more, evenly spaced ones."""
    filling_pixels: int = 4000
    """Pixels of a view that fill the leaves."""
    num_modes: int = 3
    """Most modes of a leaf."""
    mode_radius: float = 0.1
    """How far, in the scene's unit, points may be from each other and be of one mode; also how far
    a guess may be from a pose that it agrees with, where the trees read depth."""
    query_pixels: int = 3000
    """Pixels of a query that are asked."""
    num_guesses: int = 5
    """Guesses of a pixel that are kept when those of all trees are fused."""
    max_error_px: float = 5.0
    """Reprojection error, in pixels of the reduced image, up to which a guess agrees with a pose
    where the trees read no depth."""
    num_matches: int = 2000
    """Guesses that are tried by reprojection: those that the trees are surest of."""
    min_inlier_ratio: float = 0.05
    """With a smaller share of them agreeing, a query is declined."""

    def __post_init__(self) -> None:
        for name in (
            "short_side_px",
            "max_views",
            "filling_pixels",
            "num_modes",
            "query_pixels",
            "num_guesses",
            "num_matches",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.mode_radius > 0:
            raise ValueError(f"mode_radius is {self.mode_radius}; it must be positive")
