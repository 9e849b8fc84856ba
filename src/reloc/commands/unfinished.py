"""Mapping that was stopped: what it had done is kept beside --out, and the same command goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reloc.input_error import InputError
from reloc.maps import Map
from reloc.steps import InterruptedMapError

_ASKED, _SECONDS, _MAP = "asked.json", "seconds.json", "map"


@dataclass(frozen=True)
class Work:
    """Work on a map that may have begun in an earlier run of the same command.

    Attributes:
        folder: for what is kept.
        seconds: that the earlier runs took, but for those that were killed.
    """

    folder: Path
    seconds: float

    def with_all_seconds(self, map_: Map) -> Map:
        """A map of this run that says what all runs took."""
        source = map_.provenance
        return replace(map_, provenance=replace(source, seconds=source.seconds + self.seconds))


@contextmanager
def unfinished_work(out: Path, asked: Mapping[str, Any]) -> Iterator[Work]:
    """The folder `OUT.unfinished`, with what an earlier run of the same command left in it.

    When the block ends well the folder vanishes. When it is interrupted, a map of what was learned
    is written into it, and the interrupt says so; where the method had nothing to keep, it
    vanishes, too.

    Args:
        out: of the map.
        asked: plain values that tell this command from others.

    Raises:
        InputError: the folder has something else, or the work of another command, or cannot be
            written.
        KeyboardInterrupt: with a message, where something was kept.
    """
    folder = out.with_name(f"{out.name}.unfinished")
    new_parents = [parent for parent in folder.parents if not parent.exists()]

    def take_away() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        # With the map in it, or somebody's file, a folder stays.
        with suppress(OSError):
            for parent in new_parents:
                parent.rmdir()

    try:
        _prepare(folder, asked)
        work = Work(folder, _seconds_before(folder))
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error
    started = time.monotonic()

    def keep_seconds() -> None:
        with suppress(OSError):
            _write(folder / _SECONDS, work.seconds + time.monotonic() - started)

    try:
        yield work
    except InterruptedMapError as interrupted:
        keep_seconds()
        shutil.rmtree(folder / _MAP, ignore_errors=True)
        work.with_all_seconds(interrupted.map_).save(folder / _MAP)
        raise KeyboardInterrupt(
            f"the same command goes on from here; {folder / _MAP} is a map of what was learned "
            "so far"
        ) from None
    except KeyboardInterrupt:
        if _is_empty(folder):
            take_away()
            raise
        keep_seconds()
        raise KeyboardInterrupt(
            f"the same command goes on from what {folder} keeps; no map was written"
        ) from None
    except BaseException:
        if _is_empty(folder):
            take_away()
        else:
            keep_seconds()
        raise
    take_away()


def _prepare(folder: Path, asked: Mapping[str, Any]) -> None:
    """Make the folder; hours of work in it are not removed because of a mistyped option."""
    note = folder / _ASKED
    before = _read(note)
    if folder.exists() and not isinstance(before, dict):
        raise InputError(f"{folder} is in the way: remove it, or choose another --out")
    if before and not _is_empty(folder):
        different = _first_difference(_flat(before), _flat(asked))
        if different is not None:
            raise InputError(
                f"{folder} has the work of a command that differs in {different}: repeat that "
                "command, remove the folder, or choose another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    _write(note, asked)


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The setting that two commands first differ in, as it would be typed; None where in none."""
    for key in (*now, *before):
        if (key in now) != (key in before) or now.get(key) != before.get(key):
            return key.rpartition(".")[2].replace("_", "-")
    return None


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    """Plain values of nested ones, by the path to each."""
    plain = json.loads(json.dumps(values))
    if not isinstance(plain, dict):
        return {path: plain}
    flat = {}
    for key, value in plain.items():
        flat |= _flat(value, f"{path}.{key}" if path else key)
    return flat


def _seconds_before(folder: Path) -> float:
    seconds = _read(folder / _SECONDS)
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _read(path: Path) -> Any:
    """What a file of ours says; None where there is none, or not a whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return None


def _write(path: Path, values: Any) -> None:
    """Write plain values, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(values), encoding="utf-8")
    partial.rename(path)


def _is_empty(folder: Path) -> bool:
    """Whether nothing but our own notes lies there."""
    ours = {_ASKED, _SECONDS, f".{_ASKED}", f".{_SECONDS}"}
    return {path.name for path in folder.iterdir()} <= ours
