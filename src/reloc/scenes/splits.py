"""Which images map and which are asked.

Without a split, one is made of each sequence by itself: of every 50 frames, in order, the last 10
are asked, and 2 frames on each side of them are left out, so that no query has its neighbour in
time in the map. A sequence shorter than that is one block, with the same shares. Frames of a video
are never drawn at random: that would ask about images that are in the map but for a few
millimetres.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reloc.input_error import InputError
from reloc.scenes.names import NameIndex
from reloc.scenes.text import read_lines

_BLOCK, _QUERIES, _GUARD = 50, 10, 2


@dataclass(frozen=True)
class Split:
    """Names of images.

    Attributes:
        mapping: of which the map is built.
        queries: that are asked about.
        note: how the split came to be, where that needs saying.
    """

    mapping: tuple[str, ...]
    queries: tuple[str, ...]
    note: str | None = None


def choose_split(
    sequence_of: Mapping[str, str],
    folder: Path,
    wanted: str | None,
    own: Split | None = None,
    left_out: Collection[str] = (),
) -> Split:
    """The split that is wanted, else the layout's own, else the one in files, else a made one.

    Args:
        sequence_of: the images that have a pose, in order, and their sequences.
        folder: of the scene, where split files are looked for.
        wanted: as in `LoadOptions.split`.
        own: what the layout itself says.
        left_out: images without a usable pose, which lists may name.

    Raises:
        InputError: there is no such split, or it names images that are absent.
    """
    if wanted == "auto" or (wanted is None and own is None and not _files(folder, None)):
        return blocks(sequence_of)
    if wanted is None and own is not None:
        mapping = _found(own.mapping, sequence_of, left_out, "the split of the layout")
        queries = _found(own.queries, sequence_of, left_out, "the split of the layout")
        return Split(mapping, queries, own.note)
    files = _files(folder, wanted)
    if not files:
        for listed in (Path(str(wanted)), folder / str(wanted)):
            if listed.is_file():
                return _rest_maps(listed, sequence_of, left_out)
        raise InputError(f"there is no split {wanted!r} in {folder}: {_known_splits(folder)}")
    train, test = files
    if not train.is_file():
        return _rest_maps(test, sequence_of, left_out)
    return Split(
        _listed(train, sequence_of, left_out),
        _listed(test, sequence_of, left_out),
        f"split of {train.name} and {test.name}",
    )


def blocks(sequence_of: Mapping[str, str]) -> Split:
    """The split that is made where none is given; see the top of this page."""
    sequences: dict[str, list[str]] = {}
    for name, sequence in sequence_of.items():
        sequences.setdefault(sequence, []).append(name)
    mapping, queries = [], []
    for names in sequences.values():
        block = min(_BLOCK, len(names))
        num_queries = block * _QUERIES // _BLOCK
        guard = round(block * _GUARD / _BLOCK)
        for position, name in enumerate(names):
            number, place = divmod(position, block)
            if place >= block - num_queries:
                queries.append(name)
            elif place < block - num_queries - guard and (number == 0 or place >= guard):
                mapping.append(name)
    num_left = len(sequence_of) - len(mapping) - len(queries)
    note = (
        f"no split is given: of every {_BLOCK} frames of a sequence the last {_QUERIES} are asked; "
        f"{num_left} beside them are left out"
    )
    return Split(tuple(mapping), tuple(queries), note)


def _files(folder: Path, wanted: str | None) -> tuple[Path, Path] | None:
    """The list of mapping images, which may be absent, and that of queries, which is there."""
    middle = "" if wanted is None else f"{wanted}_"
    test = folder / f"split_{middle}test.txt"
    return (folder / f"split_{middle}train.txt", test) if test.is_file() else None


def _known_splits(folder: Path) -> str:
    names = [path.stem.split("_")[1:-1] for path in sorted(folder.glob("split_*_test.txt"))]
    known = ["auto", *("_".join(name) for name in names)]
    return f"it has {', '.join(known)}, or give a file that lists the queries"


def _rest_maps(path: Path, sequence_of: Mapping[str, str], left_out: Collection[str]) -> Split:
    queries = _listed(path, sequence_of, left_out)
    asked = set(queries)
    mapping = tuple(name for name in sequence_of if name not in asked)
    return Split(mapping, queries, f"{path.name} lists the queries, all other images map")


def _listed(
    path: Path, sequence_of: Mapping[str, str], left_out: Collection[str]
) -> tuple[str, ...]:
    names = [line.text for line in read_lines(path)]
    if not names:
        raise InputError(f"{path} lists no image")
    return _found(names, sequence_of, left_out, str(path))


def _found(
    spellings: Iterable[str],
    sequence_of: Mapping[str, str],
    left_out: Collection[str],
    source: str,
) -> tuple[str, ...]:
    """The images that are spelled so, without those that were left out.

    Raises:
        InputError: some are absent; the message has the first and their number.
    """
    index = NameIndex([*sequence_of, *left_out])
    found, absent = [], []
    for spelling in spellings:
        name = index.find(spelling)
        if name is None:
            absent.append(spelling)
        elif name in sequence_of:
            found.append(name)
    if absent:
        others = f" and {len(absent) - 1} others" if len(absent) > 1 else ""
        raise InputError(
            f"{source} names {absent[0]}{others}, of which there is no image with a pose: "
            "mend the list or add what is absent"
        )
    return tuple(found)
