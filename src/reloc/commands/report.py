"""`reloc report`: the page of a bench."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reloc import bench, steps
from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.parsing import parse_scene
from reloc.evaluation.tables import told_apart
from reloc.input_error import InputError
from reloc.maps import refuse_existing
from reloc.progress import Progress
from reloc.scenes.scene import Scene
from reloc.viewing.page import Section, write_page
from reloc.viewing.rows import Row


@dataclass(frozen=True)
class ReportArguments(CommonArguments):
    """Write a page with tables, error curves and pictures of the rows of a bench.

    The page is one file that needs no other. Pictures need the scenes where they were, and the
    folder that `reloc bench` wrote beside the rows; without them the page has tables, and says so.
    """

    rows: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROWS")]
    """File that `reloc bench` wrote."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder to write; it must not exist."""


def _run(arguments: ReportArguments, progress: Progress) -> Answer:
    refuse_existing(arguments.out)
    rows = told_apart(bench.read_rows(arguments.rows))
    if not rows:
        raise InputError(f"{arguments.rows} has no rows yet: `reloc bench` makes them")
    runs = bench.runs_folder(arguments.rows)
    sections = [_section(row, runs) for row in progress.track(rows, "reading the runs")]
    page = write_page(sections, arguments.out)
    missing = [line for section in sections for line in section.missing]
    values = {"page": str(page), "rows": len(rows), "missing": missing}
    return Answer(values, [*(f"note: {line}" for line in missing), f"the page: {page}"])


def _section(row: bench.Row, runs: Path) -> Section:
    """All that is still at hand of a row: at least its figures."""

    def load_scene() -> Scene:
        words = parse_scene(shlex.split(row["scene_words"]))
        return steps.load_scene(words.scene, words.load)

    return Section.found_again(Row.from_json(row), runs / row["files"], load_scene)


COMMAND = Command(ReportArguments, _run, ["reloc report rows.jsonl --out report"])
