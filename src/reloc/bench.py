"""Map, localize and evaluate for a table of methods and scenes: a row each, appended when done.

Fresh processes that run the public commands make each row: its peak memory is its own, a crash
costs one row, and a person can type what made it. Beside `rows.jsonl` lies `rows.runs/`, with the
map, the estimates and the log of each row.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reloc.input_error import InputError
from reloc.methods import get_method
from reloc.progress import Progress

Row = Mapping[str, Any]
_LOG = "log.txt"
# Where `reloc map --out map` keeps what it needs to go on.
_UNFINISHED = "map.unfinished"
_ROW_START = '{"method": '
# For a child to take its temporary files away; then it is killed.
_TERMINATION_SECONDS = 20.0


@dataclass(frozen=True)
class Task:
    """One row to be.

    Attributes:
        method: as typed after `reloc map`: "sift", "sift:orb --max-keypoints 1000".
        scene: folder and options of the scene, as a shell reads them: "data/kitchen --split hard",
            "'my kitchen'".
        seed: of the run.
        machine: options of the machine: ("--device", "cpu", ...).
    """

    method: str
    scene: str
    seed: int
    machine: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command line that makes this row, but for --out; it tells rows apart."""
        words = ["reloc", "bench", "--methods", self.method, "--scenes", self.scene]
        return shlex.join([*words, "--seeds", str(self.seed), *self.machine])

    @property
    def folder_name(self) -> str:
        """Where its files lie: readable, and different for different commands."""
        scene = Path(shlex.split(self.scene)[0]).resolve().name
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.method.split()[0]}-{scene}-{self.seed}")
        return f"{readable}-{hashlib.sha256(self.command.encode()).hexdigest()[:8]}"


def run_bench(
    tasks: Sequence[Task], rows_path: Path, progress: Progress, retry_failed: bool = False
) -> list[Row]:
    """Do the tasks that `rows_path` has no row for, append theirs, and return the rows of all.

    A task that fails gives a row with "failed": its reason, and the others go on.

    Raises:
        InputError: the file has something else than rows, another bench writes it, or the disk
            refuses.
    """
    try:
        rows_path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(rows_path):
            done = {row["command"]: row for row in read_rows(rows_path)}
            _drop_cut_line(rows_path)
            for task in progress.track(tasks, "benchmark"):
                row = done.get(task.command)
                if row is None or (retry_failed and "failed" in row):
                    row = _make_row(task, runs_folder(rows_path), progress)
                    _append(rows_path, row)
                    done[task.command] = row
    except OSError as error:
        where = error.filename or rows_path
        raise InputError(f"{where} cannot be written: {error.strerror}") from error
    return [done[task.command] for task in tasks]


def runs_folder(rows_path: Path) -> Path:
    """The folder beside a file of rows that holds the map, the estimates and the log of each."""
    return rows_path.with_suffix(".runs")


def read_rows(rows_path: Path) -> list[Row]:
    """The rows of a file, the last one of each command; a last line that was cut short is left out.

    Raises:
        InputError: the file is missing, or a line of it is no row.
    """
    try:
        lines = rows_path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{rows_path} cannot be read as rows: {error}") from error
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n") and _may_be_cut(line):
            break
        try:
            row = json.loads(line)
            rows[row["command"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{rows_path}, line {number} is no row of `reloc bench`: {error}"
            ) from error
    return list(rows.values())


def _may_be_cut(line: str) -> bool:
    """Whether a line without its end can be what a crash left of a row."""
    return line.startswith(_ROW_START) or _ROW_START.startswith(line)


def _make_row(task: Task, runs: Path, progress: Progress) -> Row:
    """The row of one task, with its files in `runs`, whole or not at all."""
    target, partial = runs / task.folder_name, runs / f".{task.folder_name}"
    shutil.rmtree(target, ignore_errors=True)
    _remove_all_but_unfinished(partial)
    partial.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {"method": task.method, "scene": task.scene, "seed": task.seed}
    try:
        map_, estimates = partial / "map", partial / "estimates.jsonl"
        method, scene = shlex.split(task.method), shlex.split(task.scene)
        machine = ["--seed", str(task.seed), *task.machine]
        steps = [
            ["map", *method, *scene, "--out", str(map_), *machine],
            ["localize", str(map_), *scene, "--out", str(estimates), *machine],
            ["evaluate", str(estimates), *scene],
        ]
        mapped, localized, evaluated = (
            _run_step(step, partial / _LOG)
            for step in progress.track(steps, f"{task.method} on {task.scene}")
        )
        machine_facts = ("device", "threads", "seed", "commit", "hardware", "map_seconds", "map_mb")
        row = {**evaluated, **row, "scene": evaluated["scene"]}
        row |= {key: mapped[key] for key in machine_facts}
        row["published"] = get_method(method[0].partition(":")[0]).published
        row["map_log"] = mapped["log"]
        row["stage_ms"] = localized["stage_ms"]
        row["peak_rss_mb"] = max(mapped["peak_rss_mb"], localized["peak_rss_mb"])
    except _StepError as failure:
        row["failed"] = str(failure)
    except BaseException:
        _remove_all_but_unfinished(partial)
        raise
    partial.rename(target)
    return {**row, "scene_words": task.scene, "files": target.name, "command": task.command}


def _remove_all_but_unfinished(partial: Path) -> None:
    """Remove what an interrupted task left, but a training that the same command goes on with."""
    if not (partial / _UNFINISHED).is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        return
    for entry in partial.iterdir():
        if entry.name != _UNFINISHED:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


class _StepError(Exception):
    """A child process ended badly; the message is its reason in one line."""


def _run_step(words: Sequence[str], log_path: Path) -> Mapping[str, Any]:
    """Run `reloc WORDS --json` in a fresh process and return its values.

    Raises:
        _StepError: it ended with an error or a signal.
    """
    with log_path.open("ab") as log:
        # In a session of its own: Ctrl-C reaches this process only, which then ends the child.
        child = subprocess.Popen(
            _child_command(words), stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            output, _ = child.communicate()
        except BaseException:
            _terminate(child)
            raise
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        raise _StepError(f"reloc {words[0]}: ended by {name}{hint}")
    if child.returncode > 0:
        lines = log_path.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        raise _StepError(said[-1] if said else f"reloc {words[0]}: exit code {child.returncode}")
    try:
        return json.loads(output)
    except ValueError as error:
        raise _StepError(f"reloc {words[0]}: printed no values") from error


def _child_command(words: Sequence[str]) -> list[str]:
    # -P: a folder that happens to be called reloc must not be taken for this package.
    return [sys.executable, "-P", "-m", "reloc", *words, "--json"]


def _terminate(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_TERMINATION_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def _locked(rows_path: Path) -> Iterator[None]:
    """Hold the file of rows, so that no two benches write it at once."""
    with rows_path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{rows_path} is being written by another bench: wait, or choose another --out"
            ) from error
        yield


def _drop_cut_line(rows_path: Path) -> None:
    """Remove a last line that a crash cut short: it never was a row."""
    with rows_path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _append(rows_path: Path, row: Row) -> None:
    """Append one line and see it to the disk; a line that does not fit is taken back."""
    line = json.dumps(row).encode() + b"\n"
    with rows_path.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            # A disk that fills up takes the first part of a line, and says nothing.
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(rows_path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
