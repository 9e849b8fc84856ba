"""Progress of long work: a bar with the time left, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """What long work reports to."""

    def track(
        self, items: Iterable[Item], description: str, total: int | None = None
    ) -> Iterator[Item]:
        """Yield the items, showing how many are done and how long the rest will take.

        `total` is needed where `items` has no length.
        """
        ...


class Silent:
    """Shows nothing: the default of the library."""

    def track(
        self, items: Iterable[Item], description: str, total: int | None = None
    ) -> Iterator[Item]:
        """Yield the items."""
        del description, total
        yield from items


class Bars:
    """Bars on standard error: the default of the command."""

    def track(
        self, items: Iterable[Item], description: str, total: int | None = None
    ) -> Iterator[Item]:
        """Yield the items behind a bar with count, elapsed time and time left."""
        # Imported here: the library does not need a terminal.
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True)) as bars:
            yield from bars.track(items, total=total, description=description)
