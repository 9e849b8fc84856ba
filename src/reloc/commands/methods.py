"""`reloc methods`: the table of methods."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from reloc.commands.command import Answer, Command, CommonArguments
from reloc.methods import METHODS, get_method
from reloc.progress import Progress


@dataclass(frozen=True)
class MethodsArguments(CommonArguments):
    """List the methods, their families and their presets (used as METHOD:PRESET)."""


def _run(arguments: MethodsArguments, progress: Progress) -> Answer:
    del arguments, progress
    rows = [get_method(name) for name in METHODS]
    table = Table("method", "family", "presets", "what it does", "paper")
    for row in rows:
        table.add_row(row.name, row.family, " ".join(row.presets), row.summary, row.paper)
    values = [
        {
            "method": row.name,
            "family": row.family,
            "presets": list(row.presets),
            "summary": row.summary,
            "paper": row.paper,
            "published": row.published,
            "context": row.context,
            "maps_depth": row.maps_depth or row.uses_depth,
            "uses_depth": row.uses_depth,
        }
        for row in rows
    ]
    return Answer(values, [table])


COMMAND = Command(
    MethodsArguments,
    _run,
    ["reloc methods", "reloc methods --json", "reloc map sift --help    # the settings of one"],
)
