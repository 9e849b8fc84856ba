"""A diagnosis as lines of text, for people."""

from __future__ import annotations

from reloc.doctor.diagnosis import ConventionTest, Diagnosis, Finding, Overlap, Spread, Survey
from reloc.doctor.mistakes import Mistake

_MAX_NAMES = 5
_VERDICTS = {
    "sound": "poses and cameras fit the images",
    "rough": "poses and cameras fit the images roughly",
    "mistaken": "a usual mistake was made",
    "unexplained": "the poses do not fit the images, and no usual mistake explains it",
    "untested": "cannot be tested",
}


def diagnosis_lines(diagnosis: Diagnosis) -> list[str]:
    """What is there, what was measured, and what was found, the gravest last: it is read first."""
    unit = "m" if diagnosis.metric else "units"
    lengths = "metres" if diagnosis.metric else "arbitrary units"
    lines = [
        f"scene {diagnosis.scene}: layout {diagnosis.layout or 'unknown'}, "
        f"ground truth {diagnosis.ground_truth}, lengths in {lengths}",
        *_survey_lines(diagnosis.survey, unit),
        *_overlap_lines(diagnosis.overlap, unit),
        *_test_lines(diagnosis.conventions, unit),
    ]
    for finding in reversed(diagnosis.findings):
        lines += _finding_lines(finding)
    return lines


def _survey_lines(survey: Survey, unit: str) -> list[str]:
    num_views = survey.num_mapping + survey.num_queries
    sizes = ", ".join(f"{size.width}x{size.height} ({size.count})" for size in survey.resolutions)
    lines = [
        f"views: {survey.num_mapping} map, {survey.num_queries} are asked, in "
        f"{survey.num_sequences} sequence{'s' if survey.num_sequences != 1 else ''}; "
        f"{survey.num_with_depth} have depth",
        f"images: {survey.num_read} of {num_views} read, {sizes or 'none'} pixels",
    ]
    if survey.focal_px is not None and survey.field_of_view_deg is not None:
        lines.append(
            f"focal length: {_spread(survey.focal_px, '.1f')} px, horizontal field of view "
            f"{_spread(survey.field_of_view_deg, '.1f')} deg"
        )
    if survey.trajectory is not None:
        way = survey.trajectory
        extent = " x ".join(f"{length:.3g}" for length in way.extent)
        lines.append(
            f"trajectory: extent {extent} {unit}, path {way.path:.3g} {unit}, "
            f"step {way.step:.3g} {unit} (median), at most {way.longest_step:.3g} {unit}"
        )
    if survey.sharpness is not None:
        lines.append(f"sharpness: {_spread(survey.sharpness, '.0f')} (variance of the Laplacian)")
    return lines


def _overlap_lines(overlap: Overlap | None, unit: str) -> list[str]:
    if overlap is None:
        return []
    line = (
        f"nearest mapping view of a query: {_spread(overlap.distance, '.3g')} {unit}, "
        f"{_spread(overlap.angle_deg, '.1f')} deg"
    )
    if overlap.seen_share is None or overlap.depth is None:
        return [line]
    return [
        line,
        f"share of a query that one mapping view shows, at a depth of {overlap.depth:.3g} {unit}: "
        f"{_spread(overlap.seen_share, '.0%')}",
    ]


def _test_lines(test: ConventionTest, unit: str) -> list[str]:
    lines = [f"on the pixels: {_VERDICTS[test.verdict]}{f': {test.reason}' if test.reason else ''}"]
    errors = test.errors
    if errors is None:
        return lines
    lines.append(
        f"  {test.num_pairs} pairs of {test.num_views} views: median epipolar error "
        f"{errors.given_px:.2f} px as given; the matches allow {errors.attainable_px:.2f} px, "
        f"poses of other images give {errors.unrelated_px:.1f} px"
    )
    if test.trials:
        lines.append("  with one usual mistake undone:")
    lines += [
        f"  {trial.error_px:8.2f} px, {trial.better_share:4.0%} of the pairs better: "
        f"{' and '.join(map(_name, trial.mistakes))}"
        for trial in test.trials
    ]
    focal = test.focal
    if focal is not None and focal.focal_px is not None:
        px = focal.focal_px / focal.factor
        lines.append(
            f"  the focal length that fits best is {focal.focal_px:.1f} px "
            f"({focal.low * px:.1f} to {focal.high * px:.1f})"
        )
    elif focal is not None:
        lines.append(
            f"  the focal lengths that fit best are {focal.factor:.3f} times those given "
            f"({focal.low:.3f} to {focal.high:.3f})"
        )
    if test.depth is not None:
        lines.append(f"  what the images show is {test.depth:.3g} {unit} away (median)")
    return lines


def _name(mistake: Mistake) -> str:
    return f"{mistake.name} ({mistake.amount})" if mistake.amount else mistake.name


def _finding_lines(finding: Finding) -> list[str]:
    lines = [f"{finding.severity}: {finding.what}"]
    if finding.where:
        others = len(finding.where) - _MAX_NAMES
        named = ", ".join(finding.where[:_MAX_NAMES])
        lines.append(f"  {named}{f' and {others} others' if others > 0 else ''}")
    if finding.mending:
        lines.append(f"  -> {finding.mending}")
    return lines


def _spread(values: Spread, form: str) -> str:
    low, median, high = (format(value, form) for value in (values.low, values.median, values.high))
    return median if low == high else f"{median} (median; {low} to {high})"
