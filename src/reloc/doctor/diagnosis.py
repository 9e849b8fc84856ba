"""What `examine` finds: numbers and names, without presentation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from reloc.doctor.mistakes import Mistake

Severity = Literal["error", "warning", "note"]
Verdict = Literal["sound", "rough", "mistaken", "unexplained", "untested"]


@dataclass(frozen=True)
class Finding:
    """Something that a person should know.

    Attributes:
        severity: "error": results will be wrong. "warning": they may be. "note": good to know.
        what: one sentence.
        where: names of the views it is about; empty where it is about all.
        mending: the option that mends it, or what to do; "" where there is nothing to do.
    """

    severity: Severity
    what: str
    where: tuple[str, ...] = ()
    mending: str = ""


@dataclass(frozen=True)
class Resolution:
    """Views of one image size."""

    width: int
    height: int
    count: int


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some values."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Trajectory:
    """How the cameras move. Lengths are in metres where the scene is metric, else in its own units.

    Attributes:
        extent: of the box round all camera centres, along the axes of the world.
        step: median distance from a view to the next of its sequence.
        longest_step: the largest such distance.
        longest_step_between: the names of the two views.
        path: the sum of all steps.
    """

    extent: tuple[float, float, float]
    step: float
    longest_step: float
    longest_step_between: tuple[str, str]
    path: float


@dataclass(frozen=True)
class Survey:
    """What is there.

    Attributes:
        num_mapping: views.
        num_queries: views.
        num_sequences: of both.
        num_read: images that were read, of all or of an even sample.
        resolutions: of the images that were read, the most frequent first.
        focal_px: fx of the cameras.
        field_of_view_deg: horizontal, of the cameras without their distortion.
        num_guessed_focals: cameras whose focal length is a guess.
        num_with_depth: views.
        trajectory: None for a single view.
        sharpness: variance of the Laplacian of the grey images.
    """

    num_mapping: int
    num_queries: int
    num_sequences: int
    num_read: int
    resolutions: tuple[Resolution, ...]
    focal_px: Spread | None
    field_of_view_deg: Spread | None
    num_guessed_focals: int
    num_with_depth: int
    trajectory: Trajectory | None
    sharpness: Spread | None


@dataclass(frozen=True)
class Overlap:
    """How near the queries are to the mapping views, under the poses as given.

    Attributes:
        num_queries: that were looked at.
        distance: from a query to the nearest mapping camera, in the scene's unit.
        angle_deg: between the viewing directions of these two.
        depth: of what the cameras see, triangulated, in the scene's unit; None where unknown.
        seen_share: of a query's picture, were it all at that depth, that some mapping view shows.
        little_seen: queries of whose picture less than a third is.
    """

    num_queries: int
    distance: Spread
    angle_deg: Spread
    depth: float | None
    seen_share: Spread | None
    little_seen: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """The matches under the assumption of some mistakes.

    Attributes:
        mistakes: that were undone; empty for poses and cameras as given.
        error_px: median over the pairs of the median symmetric epipolar error.
        better_share: of the pairs, whose error fell below that as given divided by 1.4.
        chance: probability of so many better pairs if each got better or worse at random.
    """

    mistakes: tuple[Mistake, ...]
    error_px: float
    better_share: float
    chance: float


@dataclass(frozen=True)
class FocalEstimate:
    """The focal length that fits the poses and the matches best, as a multiple of the given one.

    Attributes:
        factor: the best.
        low: 5 % of resampled sets of pairs give less.
        high: 5 % give more.
        focal_px: `factor` times the given focal length; None where the cameras differ.
    """

    factor: float
    low: float
    high: float
    focal_px: float | None


@dataclass(frozen=True)
class EpipolarErrors:
    """Medians over pairs of views, each of the median of a pair's matches, in pixels.

    Attributes:
        given_px: under poses and cameras as given.
        attainable_px: from the best epipolar lines that each pair has by itself.
        unrelated_px: under the poses of other pairs.
        across_px: as given, of pairs of a mapping view and a query; None without such pairs.
    """

    given_px: float
    attainable_px: float
    unrelated_px: float
    across_px: float | None


@dataclass(frozen=True)
class ConventionTest:
    """Poses and cameras against the pixels.

    Attributes:
        verdict: "sound"; "rough": no usual mistake, but worse than the matches allow; "mistaken":
            see `likeliest`; "unexplained": the poses do not fit, and no usual mistake explains it;
            "untested": see `reason`.
        reason: why it could not be tested, or "".
        num_views: that were matched with one another.
        num_pairs: that share enough, and between which the picture moves.
        errors: None without such pairs.
        trials: each usual mistake by itself, the best fitting first.
        likeliest: the fewest mistakes that explain the matches; None where it is untested.
        focal: under the likeliest poses; None where it could not be tested.
        stray_views: that fit no neighbour though most others do.
        turned_views: of these, the ones that fit once they are turned, with the turn.
        depth: median of the matches, in the scene's unit, where the poses as given fit.
        depth_ratio: depth of the depth maps over that of the matches, median; None where either is
            not known.
    """

    verdict: Verdict
    reason: str = ""
    num_views: int = 0
    num_pairs: int = 0
    errors: EpipolarErrors | None = None
    trials: tuple[Trial, ...] = ()
    likeliest: Trial | None = None
    focal: FocalEstimate | None = None
    stray_views: tuple[str, ...] = ()
    turned_views: tuple[tuple[str, Mistake], ...] = ()
    depth: float | None = None
    depth_ratio: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Is this data sound?

    Attributes:
        scene: its name.
        layout: as it was recognised.
        ground_truth: where the poses come from.
        metric: whether lengths are in metres.
        survey: what is there.
        conventions: the test on the pixels.
        overlap: None without queries or without mapping views.
        findings: the gravest first.
    """

    scene: str
    layout: str
    ground_truth: str
    metric: bool
    survey: Survey
    conventions: ConventionTest
    overlap: Overlap | None
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found that makes results wrong."""
        return all(finding.severity != "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)
