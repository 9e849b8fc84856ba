"""Text files, line by line, such that every complaint can name the line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reloc.input_error import InputError

# Old C libraries write infinities and NaN as 1.#INF, -1.#IND, 1.#QNAN: 12-Scenes has them.
_NOT_FINITE = re.compile(r"[+-]?1\.#(INF|IND|QNAN|SNAN)\w*", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """A line of a text file that has something on it.

    Attributes:
        text: without the white space at its ends.
        where: file and line number, for messages.
    """

    text: str
    where: str

    def fields(self) -> list[str]:
        """What white space, or commas where there are any, separate."""
        if "," in self.text:
            return [field.strip() for field in self.text.split(",")]
        return self.text.split()

    def named_numbers(self, counts: Iterable[int]) -> tuple[str, list[float]]:
        """A name and the numbers behind it.

        Raises:
            InputError: their count is none of `counts`, or one is no number.
        """
        name, *rest = self.fields()
        if not name:
            raise InputError(f"{self.where}: the line begins with a comma, not with a name")
        counts = list(counts)
        if len(rest) not in counts:
            expected = " or ".join(map(str, counts))
            raise InputError(
                f"{self.where}: {len(rest)} numbers after {shortened(name)!r}, not {expected}"
            )
        return name, numbers(rest, self.where)


def shortened(text: str) -> str:
    """Text for a message, which stays one line."""
    return text if len(text) <= 60 else text[:57] + "..."


def numbers(fields: Sequence[str], where: str) -> list[float]:
    """Numbers, also those that are not finite.

    Raises:
        InputError: one is no number.
    """
    values = []
    for field in fields:
        try:
            values.append(math.nan if _NOT_FINITE.fullmatch(field) else float(field))
        except ValueError:
            raise InputError(f"{where}: {shortened(field)!r} is no number") from None
    return values


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        InputError: it is missing, or no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    # Of its bytes, or of a zero in its name.
    except ValueError:
        raise InputError(f"{path} is no text file") from None


def read_lines(path: Path, comments: bool = False) -> list[Line]:
    """Its lines but for empty ones, and but for those that begin with `#` unless `comments`.

    Raises:
        InputError: it is missing, or no text.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [
        Line(text.strip(), f"{path}:{number}")
        for number, text in lines
        if text.strip() and (comments or not text.lstrip().startswith("#"))
    ]
