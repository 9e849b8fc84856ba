"""What a sub-command is: options in, an answer out. Only `cli` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.console import RenderableType

from reloc.progress import Progress


@dataclass(frozen=True, kw_only=True)
class CommonArguments:
    """Options of every command."""

    json: bool = False
    """Print values for programs instead of tables for people."""
    debug: bool = False
    """Show the traceback of an error."""


ArgumentsT = TypeVar("ArgumentsT", bound=CommonArguments)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a command has to say.

    Attributes:
        values: plain values, printed as JSON under --json.
        shown: what people see instead: lines and tables.
        exit_code: of the process; 0 unless a part of the work failed.
    """

    values: Any
    shown: Sequence[RenderableType]
    exit_code: int = 0


@dataclass(frozen=True, eq=False)
class Command(Generic[ArgumentsT]):
    """A row of `commands.COMMANDS`.

    Attributes:
        arguments: a frozen dataclass: its docstring and those of its fields are the --help.
        run: does the work; raises InputError.
        examples: command lines to learn from.
        refine: from the words, the type to parse and what to call the program, where these depend
            on the words; None where they do not.
        interrupted: what Ctrl-C leaves behind, and how to go on.
    """

    arguments: type[ArgumentsT]
    run: Callable[[ArgumentsT, Progress], Answer]
    examples: Sequence[str]
    refine: Callable[[Sequence[str]], tuple[type[Any], str] | None] | None = None
    interrupted: str = "nothing was written"
