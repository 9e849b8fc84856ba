"""`reloc bench`: map, localize and evaluate for a table of methods and scenes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reloc.bench import Row, Task, run_bench, runs_folder
from reloc.commands import get_command
from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.fitting import Fitting
from reloc.commands.options import default_threads
from reloc.commands.parsing import parse_command, parse_scene
from reloc.contract import Precision
from reloc.evaluation.tables import figure_tables, seeds_together, told_apart
from reloc.input_error import InputError
from reloc.progress import Progress


@dataclass(frozen=True)
class BenchArguments(CommonArguments):
    """Map, localize and evaluate for every method on every scene: a row of figures each.

    Rows are appended as they are done. A row that fails is recorded with its reason, and the others
    go on; a bench that was stopped goes on where it stopped. Maps, estimates and logs are kept
    beside the rows, where `reloc report` finds them.
    """

    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METHOD...")]
    """Methods, METHOD:PRESET, or "METHOD --its-options" in quotes."""
    scenes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SCENE...")]
    """Folders, or "FOLDER --its-options" in quotes."""
    out: Annotated[Path, tyro.conf.arg(metavar="ROWS")]
    """File of rows, a JSON object a line. Rows that it has are not made again."""
    seeds: tuple[int, ...] = (0,)
    """A row for each; the table on the terminal has their medians, and how far they differ."""
    device: str = "cpu"
    """Of tensors: cpu, cuda, cuda:1."""
    precision: Precision = "auto"
    """Of heavy arithmetic."""
    threads: int | None = None
    """Processor threads; None: OMP_NUM_THREADS, else all cores."""
    retry_failed: bool = False
    """Make rows again that failed before."""


def _run(arguments: BenchArguments, progress: Progress) -> Answer:
    for name, given in (("--methods", arguments.methods), ("--scenes", arguments.scenes)):
        if not given or any(not entry.strip() for entry in given):
            raise InputError(f"{name} needs at least one")
    scenes = [_scene_words(scene) for scene in arguments.scenes]
    _check_words(arguments.methods, scenes)
    threads = arguments.threads or default_threads()
    machine = ("--device", arguments.device, "--precision", arguments.precision)
    tasks = [
        Task(method, scene, seed, (*machine, "--threads", str(threads)))
        for scene in scenes
        for method in arguments.methods
        for seed in arguments.seeds
    ]
    rows = run_bench(tasks, arguments.out, progress, arguments.retry_failed)
    rows = told_apart(rows)
    failed = [row for row in rows if "failed" in row]
    done = [{**row, "scene": _place(row)} for row in rows if "failed" not in row]
    tables = [Fitting(table) for table in figure_tables(seeds_together(done))]
    lines = [_failure(row, arguments.out) for row in failed]
    lines.append(f"the page: reloc report {shlex.quote(str(arguments.out))} --out report")
    shown = [*tables, *lines]
    return Answer(rows, shown, exit_code=1 if failed else 0)


def _scene_words(scene: str) -> str:
    """A scene as the words that rows keep, with the quotes of a shell.

    The shell that read them took the quotes of "my room" away: where a folder is called so, it is
    one word. From here on, also where the folder is gone, nobody has to ask that again.
    """
    if Path(scene).is_dir():
        return shlex.quote(scene)
    _split("--scenes", scene)
    return scene


def _split(option: str, text: str) -> list[str]:
    """The words of a text.

    Raises:
        InputError: a quote in it is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{option} {text}: {error}") from error


def _check_words(asked: Sequence[str], scenes: Sequence[str]) -> None:
    """Read all words once before the long work.

    Raises:
        InputError: a method, an option or a folder is unknown.
    """
    for scene in scenes:
        folder = parse_scene(shlex.split(scene)).scene
        if not folder.is_dir():
            raise InputError(f"--scenes: there is no folder {folder}")
    for method in asked:
        words = [*_split("--methods", method), *shlex.split(scenes[0]), "--out", "map"]
        parse_command("map", get_command("map"), words)


def _place(row: Row) -> str:
    """The scene with its options: one with two splits is two places."""
    return " ".join([row["scene"], *shlex.split(row["scene_words"])[1:]])


def _failure(row: Row, out: Path) -> str:
    return f"failed: {row['failed']} (log: {runs_folder(out) / row['files'] / 'log.txt'})"


COMMAND = Command(
    BenchArguments,
    _run,
    [
        "reloc bench --methods thumbnail sift --scenes data/kitchen data/fox --out rows.jsonl",
        'reloc bench --methods "sift --max-keypoints 1000" --scenes "data/kitchen --split hard" \\',
        "    --seeds 0 1 2 --threads 2 --out rows.jsonl",
        "reloc report rows.jsonl --out report",
    ],
    interrupted="the rows that were done are kept: the same command goes on from there",
)
