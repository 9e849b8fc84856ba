"""Words of a command line to values, with a complaint of one line where they make no sense."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import tyro

from reloc.commands.command import Command
from reloc.commands.options import Load, LoadOptions
from reloc.input_error import InputError

Value = TypeVar("Value")


def parse_command(name: str, command: Command[Any], words: Sequence[str]) -> Any:
    """The words after `reloc NAME` as the command's arguments. --help prints and ends the process.

    Raises:
        InputError: an option is unknown, missing or has no such value.
    """
    kind, program = command.arguments, f"reloc {name}"
    if command.refine and (refined := command.refine(words)):
        kind, program = refined
    examples = "\n".join(f"  {line}" for line in command.examples)
    description = f"{inspect.cleandoc(kind.__doc__ or '')}\n\nExamples:\n{examples}"
    return _parse(kind, words, program, description)


@dataclass(frozen=True)
class SceneWords:
    """A scene as it is typed: a folder, and how to read it."""

    scene: tyro.conf.Positional[Path]
    """Folder of the scene."""
    load: Load = field(default_factory=LoadOptions)


def parse_scene(words: Sequence[str]) -> SceneWords:
    """The words `FOLDER --its-options` of a scene.

    Raises:
        InputError: an option is unknown or has no such value.
    """
    return _parse(SceneWords, words, "reloc map METHOD", "")


def _parse(kind: type[Value], words: Sequence[str], program: str, description: str) -> Value:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=program,
                description=description,
                args=words,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except ValueError as error:
        raise InputError(f"{error}; `{program} --help` shows the options") from error
    except SystemExit as end:
        if not end.code:
            raise
        line = _box_to_line(complaint.getvalue())
        raise InputError(f"{line}; `{program} --help` shows the options") from None


def _box_to_line(box: str) -> str:
    """The message in the box that tyro draws round it: its parts up to the pointer to --help."""
    parts: list[str] = []
    for row in box.splitlines()[1:-1]:
        text = row.strip().strip("│").strip()
        if not text.strip("─"):
            parts.append(";")
        elif text.startswith("For full helptext"):
            break
        else:
            parts.append(text)
    return " ".join(parts).replace(" ;", ";").strip("; ")
