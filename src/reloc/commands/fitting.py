"""Tables of figures that are never cut: turned on their side where the terminal is too narrow."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from reloc.evaluation.tables import FigureTable


@dataclass(frozen=True, eq=False)
class Fitting:
    """A table with a row for each run, or, where that is too wide, a column for each."""

    table: FigureTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich asks a thing that it is to draw."""

        def fits(candidate: Table) -> bool:
            natural = Measurement.get(console, options.update(max_width=10_000), candidate)
            return natural.maximum <= options.max_width

        upright = self.table.rich()
        if fits(upright):
            yield upright
            return
        count = len(self.table.rows)
        while count > 1 and not fits(self._turned(0, count)):
            count -= 1
        for start in range(0, len(self.table.rows), count):
            yield self._turned(start, start + count)

    def _turned(self, start: int, stop: int) -> Table:
        """A line for each figure, a column for each of these rows."""
        rows = self.table.rows[start:stop]
        turned = Table(title=self.table.title, title_justify="left", show_header=False)
        turned.add_column()
        for _ in rows:
            turned.add_column(justify="right")
        for column in self.table.columns:
            styles = ["bold" if column.is_best(row, self.table.rows) else "" for row in rows]
            cells = zip(rows, styles, strict=True)
            turned.add_row(column.title, *(Text(column.text(row), style) for row, style in cells))
        return turned
