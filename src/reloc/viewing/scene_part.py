"""The comparison of methods on one scene."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reloc.evaluation.report import Report
from reloc.viewing import comparison, figures
from reloc.viewing.comparison import Table, quantity
from reloc.viewing.figures import Style
from reloc.viewing.panel import Drawing, Panel, to_panels
from reloc.viewing.rows import Row
from reloc.viewing.section import Section


@dataclass(frozen=True, eq=False)
class ScenePart:
    """What the page says of one scene.

    Attributes:
        name: with the options that it was loaded with.
        about: a few sentences.
        table: a row for each method.
        panels: error curves, and accuracy against its cost.
    """

    name: str
    about: str
    table: Table
    panels: Sequence[Panel]


def scene_part(sections: Sequence[Section], styles: Mapping[str, Style], key: str) -> ScenePart:
    """Of sections of one scene; `key` is unique on the page."""
    rows = [section.row for section in sections]
    reports = [(styles[s.row.method], s.report) for s in sections if s.report is not None]
    drawings = [*_error_curves(reports), *_tradeoffs(rows, styles)]
    return ScenePart(
        rows[0].place, _about(sections), comparison.of_one_scene(rows), to_panels(drawings, key)
    )


def _about(sections: Sequence[Section]) -> str:
    rows = [section.row for section in sections]
    unit = comparison.unit_of(rows)
    ground_truths = dict.fromkeys(row.ground_truth for row in rows if row.ground_truth)
    sentences = [f"Ground truth: {', '.join(ground_truths) or 'not recorded'}."]
    scene = next((section.scene for section in sections if section.scene is not None), None)
    if scene is not None:
        sentences.append(
            f"{len(scene.mapping)} mapping views, {len(scene.queries)} queries; the box round the "
            f"mapping cameras measures {quantity(scene.extent, unit)} from corner to corner."
        )
    if unit != "m":
        sentences.append("The scene has no metric scale: lengths are in arbitrary units.")
    return " ".join(sentences)


def _error_curves(reports: Sequence[tuple[Style, Report]]) -> Iterator[Drawing]:
    if not reports:
        return
    unit, scale = comparison.position_scale(
        [float(report.position_error.min()) for _, report in reports], reports[0][1].unit
    )
    positions = [(style, scale * report.position_error) for style, report in reports]
    rotations_deg = [(style, report.rotation_error_deg) for style, report in reports]
    yield Drawing("Position error", figures.error_curves(positions, f"position error ({unit})"))
    yield Drawing("Rotation error", figures.error_curves(rotations_deg, "rotation error (°)"))


def _tradeoffs(rows: Sequence[Row], styles: Mapping[str, Style]) -> Iterator[Drawing]:
    unit, scale = comparison.position_scale(
        [row.median_position for row in rows], comparison.unit_of(rows)
    )
    for title, label, costs in (
        ("Accuracy and size", "map (MB)", [row.map_mb for row in rows]),
        ("Accuracy and speed", "one query (ms, median)", [row.query_ms_median for row in rows]),
    ):
        points = [
            (row.method, styles[row.method], cost, scale * row.median_position)
            for row, cost in zip(rows, costs, strict=True)
            if cost and row.median_position and math.isfinite(row.median_position)
        ]
        # One mark says no more than the table does.
        if len(points) > 1:
            yield Drawing(title, figures.tradeoff(points, label, f"median position error ({unit})"))
