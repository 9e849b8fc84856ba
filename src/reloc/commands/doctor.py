"""`reloc doctor`: is this data sound?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from reloc import steps
from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.options import Load, LoadOptions, Machine, MachineOptions, start_run
from reloc.doctor import examine
from reloc.doctor.diagnosis import ConventionTest, Diagnosis, Finding, Overlap, Spread, Survey
from reloc.progress import Progress

# Enough of the mistakes that were tried to see how clear the answer is.
_NUM_TRIALS = 5
_NUM_NAMES = 5


@dataclass(frozen=True)
class DoctorArguments(CommonArguments):
    """Say what a scene holds, and test its poses and intrinsics on the pixels.

    Features of overlapping views are matched, and the epipolar error is measured under the poses as
    given and under the usual mistakes: inverse poses, OpenGL axes, another focal length or
    resolution, another order of the quaternion, images turned by 180 degrees, a time offset. The
    likeliest mistake is named, with the option that mends it. Exit code 1 where results would be
    wrong.
    """

    scene: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCENE")]
    """Folder of a scene: its layout is recognised."""
    machine: Machine = field(default_factory=MachineOptions)
    load: Load = field(default_factory=LoadOptions)


def _run(arguments: DoctorArguments, progress: Progress) -> Answer:
    run = start_run(arguments.machine, progress)
    scene = steps.load_scene(arguments.scene, arguments.load)
    diagnosis = examine(scene, run)
    values = {**diagnosis.as_json(), "is_sound": diagnosis.is_sound}
    return Answer(values, _lines(diagnosis), exit_code=0 if diagnosis.is_sound else 1)


def _lines(diagnosis: Diagnosis) -> list[Table | str]:
    unit = "m" if diagnosis.metric else "units"
    title = f"{diagnosis.scene}: layout {diagnosis.layout}, truth {diagnosis.ground_truth}"
    facts = Table(title=title, title_justify="left", show_header=False)
    rows = [*_survey(diagnosis.survey, unit), *_overlap(diagnosis.overlap, unit)]
    for name, value in [*rows, *_conventions(diagnosis.conventions, unit)]:
        facts.add_row(name, value)
    lines: list[Table | str] = [facts]
    if diagnosis.conventions.trials:
        lines.append(_trials(diagnosis.conventions))
    lines += [_finding(finding) for finding in diagnosis.findings]
    if not diagnosis.findings:
        lines.append("nothing to mend was found")
    return lines


def _survey(survey: Survey, unit: str) -> list[tuple[str, str]]:
    sizes = ", ".join(f"{size.count} of {size.width}x{size.height}" for size in survey.resolutions)
    guessed = f" ({survey.num_guessed_focals} guessed)" if survey.num_guessed_focals else ""
    rows = [
        ("mapping views", str(survey.num_mapping)),
        ("queries", str(survey.num_queries)),
        ("sequences", str(survey.num_sequences)),
        ("with depth", str(survey.num_with_depth)),
        ("images read", f"{survey.num_read}: {sizes}"),
        ("focal length", _spread(survey.focal_px, " px") + guessed),
        ("field of view", _spread(survey.field_of_view_deg, "°")),
        ("sharpness", _spread(survey.sharpness, "")),
    ]
    path = survey.trajectory
    if path is not None:
        extent = " x ".join(f"{length:.3g}" for length in path.extent)
        longest = " and ".join(path.longest_step_between)
        rows += [
            ("extent", f"{extent} {unit}"),
            ("path", f"{path.path:.3g} {unit}, step {path.step:.2g} {unit} (median)"),
            ("longest step", f"{path.longest_step:.2g} {unit}, between {longest}"),
        ]
    return rows


def _overlap(overlap: Overlap | None, unit: str) -> list[tuple[str, str]]:
    if overlap is None:
        return []
    seen = overlap.seen_share
    shown = seen and Spread(100 * seen.low, 100 * seen.median, 100 * seen.high)
    return [
        ("query to nearest view", f"{_spread(overlap.distance, f' {unit}')}"),
        ("turned by", _spread(overlap.angle_deg, "°")),
        ("share of a query seen", _spread(shown, " %")),
    ]


def _conventions(test: ConventionTest, unit: str) -> list[tuple[str, str]]:
    rows = [("poses on the pixels", f"{test.verdict}{f': {test.reason}' if test.reason else ''}")]
    errors = test.errors
    if errors is not None:
        rows += [
            ("epipolar error as given", _pixels(errors.given_px)),
            ("attainable", _pixels(errors.attainable_px)),
            ("of unrelated poses", _pixels(errors.unrelated_px)),
            ("between map and queries", _pixels(errors.across_px)),
            ("pairs of views", f"{test.num_pairs} among {test.num_views}"),
        ]
    if test.focal is not None:
        focal = test.focal
        pixels = "" if focal.focal_px is None else f", {focal.focal_px:.1f} px"
        rows.append(
            (
                "focal length that fits",
                f"{focal.factor:.3f} x ({focal.low:.3f} to {focal.high:.3f}){pixels}",
            )
        )
    if test.depth is not None:
        rows.append(("depth of what is seen", f"{test.depth:.3g} {unit} (median)"))
    if test.depth_ratio is not None:
        rows.append(("depth maps over matches", f"{test.depth_ratio:.3f} (median)"))
    return rows


def _trials(test: ConventionTest) -> Table:
    table = Table("if this were the mistake", "epipolar error", "pairs that fit better")
    for trial in test.trials[:_NUM_TRIALS]:
        names = ", ".join(mistake.name for mistake in trial.mistakes) or "none"
        table.add_row(names, _pixels(trial.error_px), f"{100 * trial.better_share:.0f} %")
    return table


def _finding(finding: Finding) -> str:
    where = list(finding.where[:_NUM_NAMES])
    if len(finding.where) > _NUM_NAMES:
        where.append(f"{len(finding.where) - _NUM_NAMES} more")
    named = f" ({', '.join(where)})" if where else ""
    mending = f": {finding.mending}" if finding.mending else ""
    return f"{finding.severity}: {finding.what}{named}{mending}"


def _pixels(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f} px"


def _spread(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return "?"
    if spread.low == spread.high:
        return f"{spread.median:.4g}{unit}"
    return f"{spread.median:.4g}{unit} (median; {spread.low:.4g} to {spread.high:.4g})"


COMMAND = Command(
    DoctorArguments,
    _run,
    [
        "reloc doctor data/kitchen",
        "reloc doctor my_photos --poses world_from_cam --axes opengl",
        "reloc doctor data/kitchen --json",
    ],
)
