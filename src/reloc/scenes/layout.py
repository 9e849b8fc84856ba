"""A row of the table of layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reloc.scenes.options import LoadOptions
from reloc.scenes.scene import Scene


@dataclass(frozen=True, eq=False)
class Layout:
    """A way in which scenes lie on disk.

    Attributes:
        name: as in `scenes.LAYOUTS`.
        summary: the files it is made of, in a line.
        recognises: whether a folder looks like one; reads as little as possible, raises nothing.
        load: reads it; raises InputError where it cannot be used.
        options: fields of LoadOptions that only some layouts have a meaning for, and this one has.
    """

    name: str
    summary: str
    recognises: Callable[[Path], bool]
    load: Callable[[Path, LoadOptions], Scene]
    options: frozenset[str] = frozenset()
