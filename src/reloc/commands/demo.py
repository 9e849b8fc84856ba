"""`reloc demo`: the whole run on a rendered room."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.fitting import Fitting
from reloc.commands.options import Machine, MachineOptions, start_run
from reloc.demo import run_demo
from reloc.evaluation.tables import figure_tables
from reloc.input_error import InputError
from reloc.maps import refuse_existing
from reloc.progress import Progress
from reloc.viewing.page import PAGE, Section


@dataclass(frozen=True)
class DemoArguments(CommonArguments):
    """Render a furnished room, map it on one walk, localize a second walk, and write the page.

    Nothing is downloaded; it takes about three minutes on two cores.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("demo")
    """Folder of the page; it must not exist."""
    mapping: int = 60
    """Views of the first walk."""
    queries: int = 30
    """Views of the second walk."""
    machine: Machine = field(default_factory=MachineOptions)


def _run(arguments: DemoArguments, progress: Progress) -> Answer:
    refuse_existing(arguments.out)
    if arguments.mapping < 2 or arguments.queries < 1:
        raise InputError("the demo needs 2 --mapping views and 1 of --queries at least")
    run = start_run(arguments.machine, progress)
    sections = run_demo(arguments.out, arguments.mapping, arguments.queries, run)
    rows = [_row(section) for section in sections]
    page = arguments.out / PAGE
    tables = [Fitting(table) for table in figure_tables(rows)]
    return Answer({"page": str(page), "rows": rows}, [*tables, f"the page: {page}"])


def _row(section: Section) -> dict[str, Any]:
    """The figures of one method, and where they come from, as a bench has them."""
    row = {} if section.report is None else section.report.row()
    if section.map_ is not None:
        source = section.map_.provenance
        row |= {"map_seconds": source.seconds, "map_mb": section.map_.megabytes}
        row |= {key: getattr(source, key) for key in ("device", "threads", "seed", "hardware")}
        row["commit"] = source.commit
    return row


COMMAND = Command(
    DemoArguments,
    _run,
    ["reloc demo", "reloc demo --out room --mapping 300 --queries 100 --seed 3"],
)
