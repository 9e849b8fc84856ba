"""Figures as tables for people: on a terminal, and in Markdown for pages that are kept."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from reloc.evaluation.report import (
    RECALLS,
    RELATIVE_RECALLS,
    Threshold,
    average_of_scenes,
    median_of_seeds,
)

Row = Mapping[str, Any]
"""Of `Report.row`, or a line of a benchmark, which has its keys and more."""

_UNKNOWN, _INFINITE = "–", "∞"


@dataclass(frozen=True)
class Column:
    """One figure.

    Attributes:
        title: with its unit.
        key: of a row.
        digits: after the point; None: a text or a whole number.
        scale: from the unit of the row to the unit of the title.
        best: which end is the better one, to be set in bold.
        justify: of the cells.
        brief: whether a terminal has room for it; pages show all columns.
    """

    title: str
    key: str
    digits: int | None = None
    scale: float = 1.0
    best: Literal["lowest", "highest"] | None = None
    justify: Literal["left", "right"] = "right"
    brief: bool = True

    def text(self, row: Row) -> str:
        """The cell. A median is infinite where half of the queries or more were declined."""
        value = row.get(self.key)
        if value is None:
            infinite = self.key.startswith("median_") and row.get("n_queries")
            return _INFINITE if infinite else _UNKNOWN
        if isinstance(value, tuple):
            count, least, most = value
            return f"{count}: {self._number(least)} to {self._number(most)}"
        return str(value) if self.digits is None else self._number(value)

    def _number(self, value: float) -> str:
        return f"{self.scale * value:.{self.digits}f}" if math.isfinite(value) else _INFINITE

    def is_best(self, row: Row, rows: Sequence[Row]) -> bool:
        """Whether the cell, as it is printed, is the best of its scene, and another is worse."""
        rivals = [self.text(other) for other in rows if _place(other) == _place(row)]
        if self.best is None or len(set(rivals)) < 2 or row.get(self.key) is None:
            return False
        numbers = [float(text) for text in rivals if text not in {_UNKNOWN, _INFINITE}]
        return float(self.text(row)) == (min if self.best == "lowest" else max)(numbers)


def _place(row: Row) -> tuple[Any, Any]:
    return row.get("scene"), row.get("ground_truth")


def _recall_column(threshold: Threshold, *, brief: bool) -> Column:
    unit = "% extent" if threshold.relative else "cm"
    title = f"% in {100 * threshold.max_position:g} {unit}, {threshold.max_rotation_deg:g}°"
    return Column(title, threshold.key, 1, 100.0, "highest", brief=brief)


_BRIEF_RECALLS = (Threshold(0.02, 2), Threshold(0.05, 5), Threshold(0.25, 2))
_HEAD = (
    Column("method", "method", justify="left"),
    Column("scene", "scene", justify="left"),
    Column("truth", "ground_truth", justify="left"),
    Column("queries", "n_queries", brief=False),
    Column("declined", "declined", best="lowest"),
)
_METRIC = (
    Column("median cm", "median_m", 2, 100.0, "lowest"),
    Column("seeds: cm", "over_seeds", 2, 100.0),
    Column("median °", "median_deg", 3, best="lowest"),
    *(_recall_column(threshold, brief=threshold in _BRIEF_RECALLS) for threshold in RECALLS),
)
_RELATIVE = (
    Column("median units", "median_units", 4, best="lowest"),
    Column("median % extent", "median_extent_pct", 3, best="lowest"),
    Column("seeds: % extent", "over_seeds", 3),
    Column("median °", "median_deg", 3, best="lowest"),
    *(_recall_column(threshold, brief=True) for threshold in RELATIVE_RECALLS),
)
_COST = (
    Column("query ms", "query_ms_median", 0, best="lowest"),
    Column("map s", "map_seconds", 1, best="lowest"),
    Column("map MB", "map_mb", 1, best="lowest"),
    Column("peak MB", "peak_rss_mb", 0, brief=False),
    Column("seed", "seed", brief=False),
    Column("failed", "failed", justify="left"),
    Column("published", "published", justify="left", brief=False),
)
# Shown where a row has them.
_RARE = {column.key for column in _COST} | {"over_seeds"}


@dataclass(frozen=True)
class FigureTable:
    """Rows of one kind of scene, and what is shown of them. The best of a scene is in bold.

    Attributes:
        title: what the rows have in common.
        columns: from left to right.
        rows: from top to bottom.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def rich(self) -> Table:
        """For a terminal: the brief columns. Where it is narrow, names are folded, not numbers."""
        columns = [column for column in self.columns if column.brief]
        table = Table(
            caption=self.title,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=0,
            show_edge=False,
        )
        for column in columns:
            # What must stay in one piece: words of the title, and numbers.
            pieces = column.title.split()
            if column.justify == "right":
                pieces += [column.text(row) for row in self.rows]
            width = max(len(piece) for piece in pieces)
            table.add_column(column.title, justify=column.justify, overflow="fold", min_width=width)
        for row in self.rows:
            cells = self._cells(row, columns)
            # Text: a name in brackets is not markup.
            table.add_row(*(Text(text, "bold" if best else "") for text, best in cells))
        return table

    def markdown(self) -> str:
        """For a page: the title, an empty line, the table."""
        lines = [
            [column.title for column in self.columns],
            ["---" if column.justify == "left" else "---:" for column in self.columns],
        ]
        for row in self.rows:
            cells = [
                (text.replace("|", "\\|"), best) for text, best in self._cells(row, self.columns)
            ]
            lines.append([f"**{text}**" if best else text for text, best in cells])
        return f"{self.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def _cells(self, row: Row, columns: Sequence[Column]) -> list[tuple[str, bool]]:
        """Text, and whether it is the best of its scene."""
        return [(column.text(row), column.is_best(row, self.rows)) for column in columns]


def figure_tables(rows: Sequence[Row]) -> list[FigureTable]:
    """A table of the metric scenes and one of those without a scale; an empty one is left out.

    A method's average over scenes follows the rows, where it has two scenes or more of one ground
    truth: averages over different ground truths mean nothing.
    """
    relative = [row for row in rows if row.get("unit") == "units"]
    metric = [row for row in rows if row.get("unit") != "units"]
    titles = (
        "Declined queries count as failed.",
        "Scenes without a metric scale: units are arbitrary. Declined queries count as failed.",
    )
    tables = []
    for title, figures, some in zip(titles, (_METRIC, _RELATIVE), (metric, relative), strict=True):
        columns = [
            column
            for column in (*_HEAD, *figures, *_COST)
            if column.key not in _RARE or any(row.get(column.key) is not None for row in some)
        ]
        if some:
            tables.append(FigureTable(title, tuple(columns), (*some, *_averages(some))))
    return tables


def told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows of folders of one name, `day/kitchen` and `night/kitchen`, by as much as differs."""
    folders: dict[str, set[Path]] = {}
    for row in rows:
        if row.get("scene_words"):
            folders.setdefault(row["scene"], set()).add(_folder(row))
    return [
        row
        if not row.get("scene_words") or len(folders[row["scene"]]) < 2
        else {**row, "scene": _shortest_name(_folder(row), folders[row["scene"]])}
        for row in rows
    ]


def _folder(row: Row) -> Path:
    return Path(os.path.normpath(shlex.split(row["scene_words"])[0]))


def _shortest_name(folder: Path, others: set[Path]) -> str:
    """The last parts of a path that no other has."""
    for count in range(1, len(folder.parts)):
        name = folder.parts[-count:]
        if sum(other.parts[-count:] == name for other in others) == 1:
            return "/".join(name)
    return str(folder)


def seeds_together(rows: Sequence[Row]) -> list[Row]:
    """Rows of one method on one scene that differ in their seeds become one, of medians."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row.get(name) for name in ("method", "scene", "scene_words", "ground_truth"))
        groups.setdefault(key, []).append(row)
    return [group[0] if len(group) == 1 else median_of_seeds(group) for group in groups.values()]


def _averages(rows: Sequence[Row]) -> list[Row]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if "failed" not in row:
            key = (row["method"], row["ground_truth"], row.get("seed"))
            groups.setdefault(key, []).append(row)
    return [average_of_scenes(group) for group in groups.values() if len(group) > 1]
