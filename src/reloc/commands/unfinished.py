"""Mapping that was stopped: what it had done is kept beside --out, and the same command goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reloc.input_error import InputError
from reloc.steps import InterruptedMapError

_ASKED, _MAP = "asked.json", "map"


@contextmanager
def unfinished_work(out: Path, asked: Mapping[str, Any]) -> Iterator[Path]:
    """The folder `OUT.unfinished`, with what an earlier run of the same command left in it.

    When the block ends well the folder vanishes. When it is interrupted, a map of what was learned
    is written into it, and the interrupt says so; where the method had nothing to keep, it
    vanishes, too. What another command left there is replaced.

    Args:
        out: of the map.
        asked: plain values that tell this command from others.

    Raises:
        InputError: the folder has something else, or cannot be written.
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
        _prepare(folder, json.dumps(asked, sort_keys=True))
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        yield folder
    except InterruptedMapError as interrupted:
        shutil.rmtree(folder / _MAP, ignore_errors=True)
        interrupted.map_.save(folder / _MAP)
        raise KeyboardInterrupt(
            f"the same command goes on from here; {folder / _MAP} is a map of what was learned "
            "so far"
        ) from None
    except KeyboardInterrupt:
        if _is_empty(folder):
            take_away()
            raise
        raise KeyboardInterrupt(
            f"the same command goes on from what {folder} keeps; no map was written"
        ) from None
    except BaseException:
        if _is_empty(folder):
            take_away()
        raise
    take_away()


def _prepare(folder: Path, asked: str) -> None:
    """Make the folder; empty it where it is of another command."""
    note = folder / _ASKED
    if folder.exists() and not note.is_file():
        raise InputError(f"{folder} is in the way: remove it, or choose another --out")
    if note.is_file() and note.read_text(encoding="utf-8") != asked:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(asked, encoding="utf-8")


def _is_empty(folder: Path) -> bool:
    """Whether nothing but our own note lies there."""
    return {path.name for path in folder.iterdir()} <= {_ASKED}
