"""The command `reloc`: words in, lines out. The one place that prints and that ends the process."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from rich.console import Console

from reloc.commands import COMMANDS, GUIDE, get_command
from reloc.commands.command import Answer
from reloc.input_error import InputError
from reloc.progress import Bars, Silent

# Exit codes: 2 bad input, 1 a failure of ours, 128 + signal as shells have it.
_OK, _UNEXPECTED, _BAD_INPUT, _INTERRUPTED, _BROKEN_PIPE = 0, 1, 2, 130, 141
# Tables in files and pipes are not cut to a terminal's width.
_PIPE_COLUMNS = 200


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if words is None else words)
    previous = signal.getsignal(signal.SIGTERM)
    try:
        return _run(words)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(words: Sequence[str]) -> int:
    complain = _Complaint(words[0] if words and words[0] in COMMANDS else "", "--debug" in words)
    interrupted = "nothing was written"
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(GUIDE, flush=True)
            return _OK
        command = get_command(words[0])
        interrupted = command.interrupted
        _take_charge()
        # Imported here: it loads torch, and a wrong name or the guide should not wait for that.
        from reloc.commands.parsing import parse_command

        arguments = parse_command(words[0], command, words[1:])
        quiet = arguments.json and not sys.stderr.isatty()
        answer = command.run(arguments, Silent() if quiet else Bars())
        _show(answer, as_json=arguments.json)
        return answer.exit_code
    except SystemExit as end:  # --help was shown
        return int(end.code or 0)
    except KeyboardInterrupt as error:
        return complain(error, f"interrupted: {str(error) or interrupted}", _INTERRUPTED)
    except InputError as error:
        return complain(error, str(error), _BAD_INPUT)
    except BrokenPipeError:
        _abandon_stdout()
        return _BROKEN_PIPE
    except OSError as error:
        return complain(error, _os_error_line(error), _BAD_INPUT)
    except Exception as error:
        line = f"unexpected: {type(error).__name__}: {error}; rerun with --debug"
        return complain(error, line, _UNEXPECTED)


def _take_charge() -> None:
    """End a terminated process as an interrupted one; let no library write between the bars."""
    # Loaded first: it sets a handler of its own, which dumps its stack and dies.
    import pycolmap

    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _show(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.values, indent=1, allow_nan=False))
    else:
        console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
        for item in answer.shown:
            console.print(item, markup=False, highlight=False, soft_wrap=isinstance(item, str))
    sys.stdout.flush()


@dataclass(frozen=True)
class _Complaint:
    """Says what went wrong in one line, with a traceback only where one was asked for."""

    command: str
    debug: bool

    def __call__(self, error: BaseException, message: str, exit_code: int) -> int:
        _release_frames(error)
        if self.debug:
            traceback.print_exception(error)
        program = f"reloc {self.command}".strip()
        with contextlib.suppress(OSError):
            print(f"{program}: {' '.join(message.split())}", file=sys.stderr, flush=True)
        return exit_code


def _release_frames(error: BaseException | None) -> None:
    """Let go of what the failed calls hold: a bar among it would draw over the message."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _os_error_line(error: OSError) -> str:
    """What the system refused, and where."""
    if error.filename is None:
        _abandon_stdout()
    where = error.filename or "the output"
    hint = ": free some space, then run it again" if error.errno == errno.ENOSPC else ""
    return f"{where}: {error.strerror or error}{hint}"


def _abandon_stdout() -> None:
    """Keep the interpreter from trying once more, at its end, to write what nobody can take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
