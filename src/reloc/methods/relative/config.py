"""Settings of the relative family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from reloc.methods.relative.combine import Combination
from reloc.methods.relative.heads import HEADS, HeadName
from reloc.nn.weights import EncoderName


@dataclass(frozen=True)
class RelativeConfig:
    """Settings of a map of the relative family."""

    weights: str = "scene"
    """Where the networks learned: "scene", here, from pairs of its views; "shipped", on rendered
    rooms, so that nothing is trained and one view is enough; or the file that `reloc pretrain
    relative` wrote."""
    encoder: EncoderName = "base"
    """The shared encoder."""
    short_side_px: int = 240
    """Images are brought to this shorter side."""
    code: int = 48
    """Numbers of a cell's code that are kept."""
    num_images: int = 320
    """Mapping views that are kept, the most distinct; each is a reference, and learned from."""
    num_dimensions: int = 96
    """Of the vectors by which views are retrieved."""
    num_neighbours: int = 8
    """Mapping views that a query is related to."""
    num_candidates: int = 24
    """Most similar views that these are chosen from: those that show most of the same."""
    neighbours: Literal["retrieved", "random", "sequential"] = "retrieved"
    """Which: the most similar; any; or the most similar one and those filmed after it."""
    head: HeadName = "6d+t"
    """How the network says a relative pose."""
    consensus: bool = False
    """Hold matches less likely whose neighbours match elsewhere."""
    scene_codes: int = 16
    """Numbers of the query's codes that the network sees beside the matches: they tell depths in
    the place that it was trained in. 0 for a network that is to know none."""
    width: int = 64
    """Channels of the network."""
    pairs_per_view: int = 12
    """Pairs of each view to learn from."""
    steps: int = 1200
    """Steps of training."""
    batch_size: int = 48
    """Pairs of a step."""
    max_learning_rate: float = 3e-3
    """Peak of the one-cycle schedule."""
    combination: Combination = "average"
    """How the answers become one: their robust mean, a triangulation of their directions with the
    robust mean of their rotations, or the single one that the network is surest of."""
    max_angle_deg: float = 15.0
    """Up to which rotations, or directions, agree."""
    min_belief: float = 0.33
    """With less mean belief in the matches with its best view, a query is declined: it shows
    another place."""

    def __post_init__(self) -> None:
        for name in (
            "code",
            "num_images",
            "num_dimensions",
            "num_neighbours",
            "num_candidates",
            "pairs_per_view",
            "batch_size",
            "steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.short_side_px < 48:
            raise ValueError(f"short_side_px is {self.short_side_px}; it must be at least 48")
        if self.width < 8 or self.width % 2:
            raise ValueError(f"width is {self.width}; it must be even and at least 8")
        if not 0 <= self.scene_codes <= self.code:
            raise ValueError(f"scene_codes is {self.scene_codes}, not between 0 and {self.code}")
        if not 0 < self.max_angle_deg <= 180:
            raise ValueError(f"max_angle_deg is {self.max_angle_deg}; it must be in (0, 180]")
        if self.combination != "triangulate" and not HEADS[self.head].has_scale:
            raise ValueError(
                f"the head {self.head} says no length, and combination is {self.combination}: it "
                "must be triangulate"
            )
        if self.combination == "triangulate" and self.num_neighbours < 2:
            raise ValueError(
                "a camera is triangulated from several views: num_neighbours must be at least 2"
            )

    @property
    def trains(self) -> bool:
        """Whether networks learn from the scene's own views."""
        return self.weights == "scene"


ConfigT = TypeVar("ConfigT", bound=RelativeConfig)

_NO_PLACE = (
    "directions that are learned in seconds in the tests' sparse room are 50° off in the median: "
    "most fix no place, and the query is declined"
)
FEW_PLACES = {
    "beats_the_trivial_baseline": _NO_PLACE,
    "queries_without_intrinsics_are_answered": _NO_PLACE,
}
"""Laws of the conformance tests that rows which triangulate directions cannot keep."""

# What the tests' configs of all rows have in common: seconds on one core.
TINY: Any = {
    "short_side_px": 96,
    "code": 32,
    "num_dimensions": 24,
    "num_neighbours": 6,
    "num_candidates": 16,
    "width": 32,
    "pairs_per_view": 4,
    "steps": 40,
    "batch_size": 16,
    "min_belief": 0.25,
}
