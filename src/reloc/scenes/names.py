"""Names of images: their order, and the spellings by which lists call them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from reloc.input_error import InputError
from reloc.scenes.text import shortened


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts frame_2 before frame_10."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)


def image_name(path: Path, folder: Path) -> str:
    """The path of an image below the folder of its scene: what a view is called."""
    return path.relative_to(folder).as_posix()


class NameIndex:
    """Finds names by what lists call them: with or without folders, with or without endings."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._by_spelling: dict[str, set[str]] = {}
        for name in names:
            self._names.add(name)
            for spelling in spellings(name):
                self._by_spelling.setdefault(spelling, set()).add(name)

    def find(self, spelling: str) -> str | None:
        """The name that is spelled so; None where there is none.

        Raises:
            InputError: several are.
        """
        if spelling in self._names:
            return spelling
        found = self._by_spelling.get(spelling.removeprefix("./"), set())
        if len(found) > 1:
            listed = " and ".join(sorted(found)[:2])
            raise InputError(f"{shortened(spelling)!r} could be {listed}: write the whole name")
        return next(iter(found), None)


def spellings(name: str) -> set[str]:
    """`a/b/c.color.jpg`: that, `a/b/c.color`, `a/b/c`, and each of them from b or from c on."""
    parts = name.split("/")
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    dots = [position for position, letter in enumerate(parts[-1]) if letter == "." and position]
    endings = [""] + [parts[-1][position:] for position in dots]
    return {tail.removesuffix(ending) for tail in tails for ending in endings}
