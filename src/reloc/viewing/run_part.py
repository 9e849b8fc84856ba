"""One method on one scene, query by query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from reloc.contract import PoseEstimate
from reloc.evaluation.report import Report
from reloc.scenes.scene import Scene, View
from reloc.viewing import comparison, figures, gallery
from reloc.viewing.comparison import quantity
from reloc.viewing.figures import Array, Style
from reloc.viewing.gallery import Picture
from reloc.viewing.panel import Drawing, Panel, to_panels
from reloc.viewing.rows import Row
from reloc.viewing.section import Section
from reloc.viewing.trajectory import trajectory

_COVERAGES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, eq=False)
class Example:
    """A query worth looking at.

    Attributes:
        letter: that it goes by on the page.
        why: it is shown: "best", "worst", ...
        facts: its errors and what the method said of them.
        pictures: of the query, and of what a camera sees from where it was put.
    """

    letter: str
    why: str
    facts: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, eq=False)
class RunPart:
    """What the page says of one run.

    Attributes:
        key: unique on the page.
        row: its figures.
        style: of its method.
        summary: a few sentences.
        missing: what cannot be shown and why, a sentence each.
        seen_from_above: none or one.
        panels: errors against what the method said of them.
        examples: queries worth looking at.
        settings: of the method, name and value.
        notes: on the data.
    """

    key: str
    row: Row
    style: Style
    summary: str
    missing: Sequence[str]
    seen_from_above: Sequence[Panel]
    panels: Sequence[Panel]
    examples: Sequence[Example]
    settings: Sequence[tuple[str, str]]
    notes: Sequence[str]


def run_part(section: Section, style: Style, key: str) -> RunPart:
    """Of one section, as far as it goes; `key` is unique on the page."""
    row, report, scene, estimates = section.row, section.report, section.scene, section.estimates
    missing = list(section.missing)
    if row.failed:
        missing = [f"The run failed: {row.failed}"]
    elif not missing and (report is None or scene is None or estimates is None):
        missing.append("The estimates or the scene are not at hand: there are no pictures.")
    if report is not None:
        missing += _not_given(report)
    examples, above = [], []
    if report is not None and scene is not None and estimates is not None:
        chosen = gallery.choose(report.names, report.position_error)
        letters = {name: chr(ord("A") + index) for index, (_, name) in enumerate(chosen)}
        views = {view.name: view for view in scene.queries}
        examples = [
            Example(
                letters[name],
                why,
                _facts(name, estimates[name], report),
                _pictures(scene, views[name], estimates[name]),
            )
            for why, name in chosen
        ]
        cameras = trajectory(scene, estimates.by_name, letters)
        figure, num_outside = figures.cameras_from_above(cameras, style)
        above = [Drawing("Where the queries are", figure, _map_caption(cameras.level, num_outside))]
    return RunPart(
        key=key,
        row=row,
        style=style,
        summary=_summary(row),
        missing=missing,
        seen_from_above=to_panels(above, f"{key}-above"),
        panels=to_panels([] if report is None else _said_and_true(report, style), key),
        examples=examples,
        settings=[]
        if section.map_ is None
        else [(k, str(v)) for k, v in section.map_.config.items()],
        notes=[] if scene is None else list(scene.notes),
    )


def _summary(row: Row) -> str:
    sentences = []
    if row.n_queries is not None and row.declined is not None:
        sentences.append(
            f"{row.n_queries - row.declined} of {row.n_queries} queries were answered."
        )
    if row.median_position is not None and row.median_deg is not None:
        sentences.append(
            f"The median error is {quantity(row.median_position, row.unit)} and "
            f"{quantity(row.median_deg, '°')}."
        )
    return " ".join(sentences)


def _not_given(report: Report) -> list[str]:
    answered = report.answered
    if not answered.any():
        return ["Every query was declined: there are no errors to draw."]
    said = {
        "confidences": report.confidence,
        "numbers of inliers": report.num_inliers,
        "covariances": report.position_sigma,
    }
    absent = [what for what, values in said.items() if np.isnan(values[answered]).all()]
    return [f"The method gives no {_listed(absent, 'or')}."] if absent else []


def _said_and_true(report: Report, style: Style) -> Iterator[Drawing]:
    """Errors against what the method said of them, as far as it said anything."""
    answered = report.answered
    unit, scale = comparison.position_scale([float(report.position_error.min())], report.unit)
    position_error = scale * report.position_error
    for title, label, said, limit in (
        ("Error and confidence", "confidence", report.confidence, 1.0),
        ("Error and inliers", "inliers", report.num_inliers, None),
    ):
        drawn = answered & ~np.isnan(said)
        if drawn.any():
            x, error = said[drawn], position_error[drawn]
            high = limit or max(float(x.max()), 1.0)
            labels = label, f"position error ({unit})"
            yield Drawing(title, figures.error_against(x, high, error, style, *labels))
    on_line = "On the line, errors are as large as the covariances say; above it, larger."
    sigma = scale * report.position_sigma
    yield from _calibration("position", unit, sigma, position_error, style, on_line)
    sigma, error = report.rotation_sigma_deg, report.rotation_error_deg
    yield from _calibration("rotation", "°", sigma, error, style, _coverage(report))


def _calibration(
    what: str, unit: str, sigma: Array, error: Array, style: Style, caption: str
) -> Iterator[Drawing]:
    drawn = np.isfinite(error) & np.isfinite(sigma)
    if drawn.any():
        labels = f"expected {what} error ({unit})", f"{what} error ({unit})"
        figure = figures.calibration(sigma[drawn], error[drawn], style, *labels)
        yield Drawing(f"Expected and actual {what} error", figure, caption)


def _coverage(report: Report) -> str:
    squared_K = report.normalized_error_squared[~np.isnan(report.normalized_error_squared)]
    if not len(squared_K):
        return ""
    found = [float((squared_K <= stats.chi2.ppf(share, df=6)).mean()) for share in _COVERAGES]
    expected = _listed([f"{100 * share:g}" for share in _COVERAGES])
    actual = _listed([f"{100 * share:.0f}" for share in found])
    return f"The ellipsoids that should hold {expected} % of the true poses hold {actual} %."


def _listed(words: Sequence[str], conjunction: str = "and") -> str:
    *rest, last = words
    return f"{', '.join(rest)} {conjunction} {last}" if rest else last


def _map_caption(level: bool, num_outside: int) -> str:
    caption = "Seen from above."
    if not level:
        caption = (
            "In the plane of the two principal axes of the mapping cameras, which do not agree on "
            "where up is."
        )
    if num_outside:
        verb = "estimate lies" if num_outside == 1 else "estimates lie"
        caption += f" {num_outside} {verb} outside the picture, marked by squares at its edge."
    return f"{caption} Letters are those of the queries below."


def _facts(name: str, estimate: PoseEstimate, report: Report) -> str:
    index = report.names.index(name)
    facts = ["no answer"]
    if estimate.cam_from_world is not None:
        facts = [
            quantity(float(report.position_error[index]), report.unit),
            quantity(float(report.rotation_error_deg[index]), "°"),
        ]
    if estimate.num_inliers is not None:
        facts.append(f"{estimate.num_inliers} inliers")
    if estimate.confidence is not None:
        facts.append(f"confidence {estimate.confidence:.2f}")
    return ", ".join(facts)


def _pictures(scene: Scene, query: View, estimate: PoseEstimate) -> list[Picture]:
    """The query, and what is seen from the estimate: rendered, or else from a view near it."""
    pictures = [gallery.picture_of(query, f"query {query.name}")]
    pose = estimate.cam_from_world
    if pose is not None and scene.render is not None:
        rendered = scene.render(query.camera, pose)
        return [*pictures, gallery.encode(rendered, "rendered at the estimate")]
    near = gallery.nearest_view(scene, pose or query.cam_from_world)
    if near is not None:
        unit = "m" if scene.metric else "units"
        of_what = "the true pose, as there is no estimate" if pose is None else "the estimate"
        caption = (
            f"mapping view {near.view.name}, {quantity(near.distance, unit)} and "
            f"{quantity(near.angle_deg, '°')} from {of_what}"
        )
        pictures.append(gallery.picture_of(near.view, caption))
    return pictures
