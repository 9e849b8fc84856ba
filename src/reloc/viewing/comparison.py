"""The tables of the page: numbers to text, and the best ones marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reloc.viewing.rows import Row

UNKNOWN = "–"
_MOST_DECIMALS = 5
_OF_MEDIANS = (2, _MOST_DECIMALS)


@dataclass(frozen=True)
class Cell:
    """A number in a table.

    Attributes:
        text: as it is printed.
        value: the same, exactly, for programs; None where it is not known.
        best: of its column.
    """

    text: str
    value: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        group: head over several columns.
        head: of this one.
        cells: a row each.
        starts: it is the first of its group.
    """

    group: str
    head: str
    cells: tuple[Cell, ...]
    starts: bool = False


@dataclass(frozen=True)
class Table:
    """Columns of numbers beside a column of names.

    Attributes:
        names: of the rows.
        columns: with a cell for each row.
    """

    names: tuple[str, ...]
    columns: tuple[Column, ...]

    @staticmethod
    def of(names: Sequence[str], columns: Sequence[Column]) -> Table:
        """Columns of one group stand together."""
        groups = ["", *(column.group for column in columns)]
        return Table(
            tuple(names),
            tuple(
                replace(column, starts=column.group != before)
                for column, before in zip(columns, groups, strict=False)
            ),
        )

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Heads over several columns, and how many columns each is over."""
        groups: list[tuple[str, int]] = []
        for column in self.columns:
            if groups and groups[-1][0] == column.group:
                groups[-1] = column.group, groups[-1][1] + 1
            else:
                groups.append((column.group, 1))
        return groups


def of_one_scene(rows: Sequence[Row]) -> Table:
    """A row for each method; columns of which nothing is known are left out."""
    positions = [row.median_position for row in rows]
    unit, scale = position_scale(positions, unit_of(rows))
    num_queries = max(row.n_queries or 1 for row in rows)
    # One query of many must not vanish: 99.98 % is not 100 %.
    of_percent = max(1, math.ceil(math.log10(num_queries)) - 2)
    labels = dict.fromkeys(recall.label for row in rows for recall in row.recalls)
    columns = [
        _column("median error", unit, positions, decimals=_OF_MEDIANS, factor=scale),
        _column("median error", "°", [row.median_deg for row in rows], decimals=_OF_MEDIANS),
        *(
            _column(
                "queries within (%)", label, _percents(rows, label), max, (of_percent, of_percent)
            )
            for label in labels
        ),
        _column("queries", "asked", [row.n_queries for row in rows], None),
        _column("queries", "declined", [row.declined for row in rows]),
        _column("map", "s", [row.map_seconds for row in rows]),
        _column("map", "MB", [row.map_mb for row in rows]),
        _column("query (ms)", "median", [row.query_ms_median for row in rows]),
        _column("query (ms)", "p95", [row.query_ms_p95 for row in rows]),
        _column("memory", "MB", [row.peak_rss_mb for row in rows]),
    ]
    known = [column for column in columns if any(cell.value is not None for cell in column.cells)]
    return Table.of([row.method for row in rows], known)


def of_scenes(rows: Sequence[Row]) -> Table:
    """Medians of each method (a row) on each scene (two columns)."""
    methods = list(dict.fromkeys(row.method for row in rows))
    columns: list[Column] = []
    for place in dict.fromkeys(row.place for row in rows):
        here = {row.method: row for row in rows if row.place == place}
        found = [here.get(method) for method in methods]
        positions = [row and row.median_position for row in found]
        unit, scale = position_scale(positions, unit_of(list(here.values())))
        columns += [
            _column(place, unit, positions, decimals=_OF_MEDIANS, factor=scale),
            _column(place, "°", [row and row.median_deg for row in found], decimals=_OF_MEDIANS),
        ]
    return Table.of(methods, columns)


def _column(
    group: str,
    head: str,
    values: Sequence[float | None],
    best: Callable[..., float] | None = min,
    decimals: tuple[int, int] = (0, _MOST_DECIMALS),
    factor: float = 1.0,
) -> Column:
    """A column of numbers with as many decimals as give its least one two digits.

    Args:
        group: head over several columns.
        head: of this one.
        values: None where unknown, inf where half of the queries or more declined.
        best: min or max; None where none is better. Where all print alike, none is marked.
        decimals: the fewest and the most of them.
        factor: from the value to what is printed.
    """
    known = [value for value in values if value is not None]
    scaled = [factor * value for value in known if 0 < value < math.inf]
    whole = all(isinstance(value, int) for value in known)
    needed = _decimals(min(scaled, default=1.0), digits=2)
    printed = 0 if whole else min(max(needed, decimals[0]), decimals[1])

    def text(value: float) -> str:
        return "∞" if math.isinf(value) else f"{factor * value:.{printed}f}"

    # What prints alike as the best is marked alike.
    winner = text(best(known)) if best and len({text(value) for value in known}) > 1 else None
    return Column(
        group,
        head,
        tuple(
            Cell(UNKNOWN) if value is None else Cell(text(value), value, text(value) == winner)
            for value in values
        ),
    )


def _percents(rows: Sequence[Row], label: str) -> list[float | None]:
    found = [{recall.label: recall.percent for recall in row.recalls} for row in rows]
    return [percents.get(label) for percents in found]


def unit_of(rows: Sequence[Row]) -> str:
    """Of the positions of one scene: a run that failed does not know it."""
    return next((row.unit for row in rows if not row.failed), "m")


def position_scale(values: Sequence[float | None], unit: str) -> tuple[str, float]:
    """The unit to print positions in, and the factor to it: cm where the least is below 1 m."""
    known = [value for value in values if value is not None]
    return ("cm", 100.0) if unit == "m" and (not known or min(known) < 1) else (unit, 1.0)


def quantity(value: float, unit: str) -> str:
    """One number with its unit, in three digits: "0.412 cm", "31.0 m", "12.0°", "∞"."""
    if unit == "m":
        unit, factor = position_scale([value], unit)
        value *= factor
    number = f"{value:.{_decimals(value, digits=3)}f}"
    if math.isinf(value):
        number = "∞"
    elif float(number) == 0:
        number = "0"
    return f"{number}{'' if unit == '°' else ' '}{unit}"


def _decimals(value: float, digits: int) -> int:
    """Decimals that print a value in so many digits."""
    if not 0 < value < math.inf:
        return 1
    return min(max(digits - 1 - math.floor(math.log10(value)), 0), _MOST_DECIMALS)
