"""Where things stand: walls with windows and a door, furniture along them and in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from reloc.scenes.synthetic import furniture
from reloc.scenes.synthetic.light import CHANNELS
from reloc.scenes.synthetic.style import Style
from reloc.scenes.synthetic.surfaces import Material, Pen

Box2 = tuple[float, float, float, float]
"""Least x, least y, largest x, largest y."""

KINDS = (
    "nothing",
    "wall",
    "floor",
    "ceiling",
    "door",
    "window",
    "on the wall",
    "storage",
    "table",
    "seat",
    "bed",
    "plant",
    "lamp",
)
"""Kinds of things, by number; what stands on a thing, or belongs to it, is of its kind."""

_DAYLIGHT = CHANNELS.index("daylight")
_RECESS_M = 0.14
# Walls overlap in the corners, so that no ray slips through.
_OVERLAP_M = 0.03


@dataclass(frozen=True)
class _Piece:
    """Furniture that stands against a wall: how to draw it, its sizes from ... to, how often."""

    kind: str
    draw: Callable[[Pen, Style, float, float, float], None]
    width: tuple[float, float]
    depth: tuple[float, float]
    height: tuple[float, float]
    weight: float
    # Room that it needs before it.
    before: float = 0.1


_PIECES = (
    _Piece("storage", furniture.bookcase, (0.7, 1.7), (0.26, 0.34), (1.5, 2.2), 3),
    _Piece("storage", furniture.bookcase, (0.8, 1.4), (0.28, 0.36), (0.8, 1.1), 1.5),
    _Piece("storage", furniture.wardrobe, (0.9, 1.6), (0.5, 0.6), (1.9, 2.15), 1),
    _Piece("storage", furniture.dresser, (0.8, 1.5), (0.4, 0.5), (0.72, 0.95), 2.5),
    _Piece("table", furniture.desk, (1.1, 1.6), (0.6, 0.75), (0.72, 0.76), 1.5, 0.75),
    _Piece("seat", furniture.sofa, (1.5, 2.1), (0.82, 0.95), (0.75, 0.9), 2),
    _Piece("seat", furniture.armchair, (0.78, 0.95), (0.78, 0.9), (0.75, 0.95), 1),
    _Piece("bed", furniture.bed, (1.0, 1.6), (2.0, 2.1), (0.9, 1.2), 0.6),
    _Piece("storage", furniture.television, (1.1, 1.7), (0.38, 0.45), (1.2, 1.2), 1),
    _Piece("storage", furniture.cartons, (0.4, 0.6), (0.4, 0.5), (0.6, 1.3), 1),
    _Piece("plant", furniture.house_plant, (0.4, 0.6), (0.4, 0.6), (0.8, 1.6), 1.5),
    _Piece("lamp", furniture.floor_lamp, (0.4, 0.45), (0.4, 0.45), (1.4, 1.7), 1.2),
)


@dataclass(frozen=True)
class _Opening:
    """A hole in a wall, in the wall's x and z."""

    x0: float
    x1: float
    z0: float
    z1: float


@dataclass
class _Wall:
    """A wall: its pen stands at its beginning, x along it and y into the room."""

    pen: Pen
    length: float
    material: Material
    openings: list[_Opening] = field(default_factory=list)
    # Parts that are covered, as boxes of x and z: nothing else hangs there.
    covered: list[Box2] = field(default_factory=list)


def furnish(pen: Pen, style: Style, size: tuple[float, float, float]) -> None:
    """Draw a room whose corner is the pen's origin.

    Args:
        pen: z up.
        style: its materials.
        size: along x, along y, and its height.
    """
    width, depth, height = size
    walls = _walls(pen, style, width, depth)
    standing: list[Box2] = []
    door = int(pen.rng.integers(4))
    with _drawn_as("door", pen):
        _place_door(walls[door], style, standing)
    with_windows = pen.rng.permutation(4)[: int(pen.rng.integers(1, 4))]
    with _drawn_as("window", pen):
        for number in with_windows:
            _place_window(walls[number], style, height, standing)
    with _drawn_as("wall", pen):
        for wall in walls:
            _draw_wall(wall, style, height)
    _floor_and_ceiling(pen, style, size)
    _furnish_walls(walls, style, standing)
    _furnish_middle(pen, style, width, depth, standing)
    with _drawn_as("on the wall", pen):
        for wall in walls:
            _hang_things(wall, style, height)


@contextmanager
def _drawn_as(kind: str, pen: Pen) -> Iterator[None]:
    """What is drawn meanwhile, with any pen of the room, is of a kind."""
    first = len(pen.patches)
    yield
    number = KINDS.index(kind)
    pen.patches[first:] = [replace(patch, kind=number) for patch in pen.patches[first:]]


def _walls(pen: Pen, style: Style, width: float, depth: float) -> list[_Wall]:
    """Four walls; one or two of them have another material."""
    kinds = ["plaster", "plaster", "plaster", "wallpaper", "wallpaper", "brick", "planks"]
    common, accent = (
        style.material(str(pen.rng.choice(kinds[:5]))),
        style.material(str(pen.rng.choice(kinds[3:]))),
    )
    materials = [common] * 4
    for number in pen.rng.permutation(4)[: int(pen.rng.integers(1, 3))]:
        materials[number] = accent
    frames = [
        (pen.at(0, 0, 0, 0), width),
        (pen.at(width, 0, 0, 90), depth),
        (pen.at(width, depth, 0, 180), width),
        (pen.at(0, depth, 0, 270), depth),
    ]
    return [
        _Wall(frame, length, look) for (frame, length), look in zip(frames, materials, strict=True)
    ]


def _footprint(pen: Pen, width: float, depth: float) -> Box2:
    corners = pen.world([[0, 0, 0], [width, depth, 0]])
    low, high = corners.min(0), corners.max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _overlaps(box: Box2, others: list[Box2], gap: float = 0.0) -> bool:
    return any(
        box[0] < other[2] + gap
        and other[0] < box[2] + gap
        and box[1] < other[3] + gap
        and other[1] < box[3] + gap
        for other in others
    )


def _place_door(wall: _Wall, style: Style, standing: list[Box2]) -> None:
    """A closed door with its frame, and free floor before it."""
    pen, rng = wall.pen, wall.pen.rng
    wide, tall = rng.uniform(0.8, 0.92), 2.03
    x = rng.uniform(0.25, wall.length - wide - 0.25)
    leaf, frame = style.furniture(), style.white
    door = pen.at(x, 0)
    door.box((0, 0, 0.01), (wide, 0.02, tall), leaf, faces="Y")
    for low, high in ((-0.08, 0.0), (wide, wide + 0.08)):
        door.box((low, 0, 0), (high, 0.045, tall + 0.08), frame, faces="xXYZ")
    door.box((0, 0, tall), (wide, 0.045, tall + 0.08), frame, faces="YZz")
    rows = int(rng.integers(2, 4))
    for row in range(rows):
        low, high = 0.15 + row * (tall - 0.25) / rows, 0.05 + (row + 1) * (tall - 0.25) / rows
        for left, right in ((0.1, wide / 2 - 0.04), (wide / 2 + 0.04, wide - 0.1)):
            door.box((left, 0.02, low), (right, 0.032, high), leaf, faces="xXYZz")
    door.ball((0.07, 0.06, 1.02), 0.03, style.metal)
    door.box((-0.3, 0, 1.05), (-0.22, 0.012, 1.13), style.white, faces="xXYZz")
    wall.covered.append((x - 0.32, -1, x + wide + 0.1, tall + 0.1))
    standing.append(_footprint(door, wide, 0.9))


def _place_window(wall: _Wall, style: Style, height: float, standing: list[Box2]) -> None:
    """An opening with panes, a sill, curtains perhaps, and a radiator below."""
    pen, rng = wall.pen, wall.pen.rng
    wide, z0 = rng.uniform(0.9, min(1.9, wall.length - 1.2)), rng.uniform(0.8, 1.0)
    z1 = min(z0 + rng.uniform(1.0, 1.4), height - 0.2)
    x = rng.uniform(0.45, wall.length - wide - 0.45)
    if _overlaps((x - 0.45, z0, x + wide + 0.45, z1), wall.covered):
        return
    wall.openings.append(_Opening(x, x + wide, z0, z1))
    wall.covered.append((x - 0.35, z0 - 0.1, x + wide + 0.35, height))
    _draw_window(pen.at(x, 0, z0), style, wide, z1 - z0)
    if rng.random() < 0.65:
        cloth, long = style.material("fabric"), rng.uniform(0.1, z0 - 0.15)
        for left in (-0.25, wide - 0.1):
            _curtain(pen.at(x + left, 0.11), cloth, 0.35, long, z1 + 0.1)
        pen.box((x - 0.3, 0.1, z1 + 0.1), (x + wide + 0.3, 0.12, z1 + 0.12), style.black)
    radiator = pen.at(x + 0.1, 0)
    box = _footprint(radiator, wide - 0.2, 0.14)
    if rng.random() < 0.6 and not _overlaps(box, standing):
        furniture.radiator(radiator, style, wide - 0.2, 0.12, z0 - 0.15)
        standing.append(box)


def _draw_window(pen: Pen, style: Style, width: float, height: float) -> None:
    """From the lower left corner of the opening."""
    frame, back = style.white, -_RECESS_M
    view = replace(style.material("outside"), glow=2.2, tint=(0.95, 1.0, 1.06))
    pen.rect((width, back, height), (-width, 0, 0), (0, 0, -height), view)
    reveals = (
        ((0, back, height), (0, _RECESS_M, 0), (0, 0, -height)),
        ((width, 0, height), (0, -_RECESS_M, 0), (0, 0, -height)),
        ((0, 0, 0), (width, 0, 0), (0, -_RECESS_M, 0)),
        ((0, back, height), (width, 0, 0), (0, _RECESS_M, 0)),
    )
    for corner, right, down in reveals:
        # Each a little longer than the opening, so that they leave no gap to the panes behind.
        pen.rect(corner, right, down, frame)
    columns, rows = 1 + round(width / 0.7), int(pen.rng.integers(1, 3))
    bar = 0.035
    for x in np.linspace(0, width - bar, columns + 1):
        pen.box((x, back, 0), (x + bar, back + 0.05, height), frame, faces="xXY")
    for z in np.linspace(0, height - bar, rows + 1):
        pen.box((0, back, z), (width, back + 0.045, z + bar), frame, faces="YZz")
    pen.box((-0.06, 0, -0.03), (width + 0.06, 0.16, 0), style.white, faces="xXYZz")
    furniture.clutter(pen, style, width, 0.15, int(pen.rng.integers(0, 3)))
    sides = ((width, 0.0, 0.0), (0.0, 0.0, height))
    power = 1.3 * width * height
    pen.shine(_DAYLIGHT, (0, 0.0, 0), sides, power, normal=(0.0, 1.0, 0.0), samples=6)


def _curtain(pen: Pen, cloth: Material, width: float, low: float, high: float) -> None:
    """Cloth in folds, from z = `low` to `high`."""
    t = np.linspace(0, 1, 25)
    wave = 0.028 * np.sin(2 * np.pi * (5 * t + pen.rng.random())) + 0.01 * np.sin(31 * t)
    top = np.stack([width * (1 - t), 0.6 * wave, np.full(25, high)], axis=1)
    bottom = np.stack([width * (1 - t), 1.3 * wave, np.full(25, low)], axis=1)
    pen.sheet(np.stack([top, bottom]), cloth, thin=True)


def _draw_wall(wall: _Wall, style: Style, height: float) -> None:
    """Its face round the openings, a skirting, perhaps a panel along the lower part."""
    rng, low = wall.pen.rng, 0.0
    if rng.random() < 0.25:
        low = rng.uniform(0.75, 0.95)
        panel = style.material(str(rng.choice(["wood", "tiles", "white"])))
        _draw_face(wall, panel, 0, low)
        edge = min([low, *(opening.z0 for opening in wall.openings)])
        if edge == low:
            wall.pen.box((0, 0, low), (wall.length, 0.02, low + 0.04), style.white, faces="YZz")
    _draw_face(wall, wall.material, low, height)
    wall.pen.box((0, 0, 0), (wall.length, 0.014, 0.09), style.white, faces="YZ")
    if rng.random() < 0.5:
        wall.pen.box((0, 0, height - 0.06), (wall.length, 0.05, height), style.white, faces="Yz")


def _draw_face(wall: _Wall, material: Material, low: float, high: float) -> None:
    """Rectangles from z = `low` to `high`, and round the openings."""
    x = -_OVERLAP_M
    for opening in sorted(wall.openings, key=lambda opening: opening.x0):
        _draw_part(wall, material, x, opening.x0, low, high)
        _draw_part(wall, material, opening.x0, opening.x1, low, min(opening.z0, high))
        _draw_part(wall, material, opening.x0, opening.x1, max(opening.z1, low), high)
        x = opening.x1
    _draw_part(wall, material, x, wall.length + _OVERLAP_M, low, high)


def _draw_part(wall: _Wall, material: Material, x0: float, x1: float, z0: float, z1: float) -> None:
    if x1 > x0 and z1 > z0:
        # The texture goes on from part to part.
        start_m = (wall.length - x1, 10 - z1)
        plain = replace(material, grain=False, gloss=0.0)
        wall.pen.rect((x1, 0, z1), (x0 - x1, 0, 0), (0, 0, z0 - z1), plain, start_m=start_m)


def _floor_and_ceiling(pen: Pen, style: Style, size: tuple[float, float, float]) -> None:
    width, depth, height = size
    edge = _OVERLAP_M
    kinds = ["planks", "planks", "parquet", "carpet", "tiles", "stone"]
    floor = style.material(str(pen.rng.choice(kinds)))
    across = (width + 2 * edge, 0, 0)
    with _drawn_as("floor", pen):
        pen.rect((-edge, depth + edge, 0), across, (0, -depth - 2 * edge, 0), floor)
    ceiling = style.material("ceiling" if pen.rng.random() < 0.85 else "planks")
    with _drawn_as("ceiling", pen):
        pen.rect((-edge, -edge, height), across, (0, depth + 2 * edge, 0), ceiling)
        if pen.rng.random() < 0.3:
            for x in np.arange(0.4, width, pen.rng.uniform(0.8, 1.3)):
                pen.box((x, 0, height - 0.16), (x + 0.12, depth, height), style.wood, faces="xXz")
    places = [0.5] if max(width, depth) < 4.8 else [0.3, 0.7]
    as_panel, drop = pen.rng.random() < 0.45, pen.rng.uniform(0.25, 0.6)
    for place in places:
        x, y = (place * width, 0.5 * depth) if width > depth else (0.5 * width, place * depth)
        with _drawn_as("lamp", pen):
            if as_panel:
                furniture.ceiling_panel(pen.at(x, y, height), style)
            else:
                furniture.pendant(pen.at(x, y, height), style, drop)


def _furnish_walls(walls: list[_Wall], style: Style, standing: list[Box2]) -> None:
    """Try pieces at random places until the walls are about full."""
    rng = walls[0].pen.rng
    weights = np.array([piece.weight for piece in _PIECES])
    for _ in range(140):
        piece = _PIECES[int(rng.choice(len(_PIECES), p=weights / weights.sum()))]
        wall = walls[int(rng.integers(4))]
        width, depth, height = (
            float(rng.uniform(*span)) for span in (piece.width, piece.depth, piece.height)
        )
        if width > wall.length - 0.1:
            continue
        x = float(rng.uniform(0.03, wall.length - width - 0.03))
        place = wall.pen.at(x, 0.025)
        box = _footprint(place, width, depth + piece.before)
        silhouette = (x, 0.0, x + width, height)
        if _overlaps(box, standing, gap=0.04) or _overlaps(silhouette, wall.covered):
            continue
        with _drawn_as(piece.kind, place):
            piece.draw(place, style, width, depth, height)
        standing.append(box)
        wall.covered.append((x, 0.0, x + width, height + 0.25))


def _furnish_middle(
    pen: Pen, style: Style, width: float, depth: float, standing: list[Box2]
) -> None:
    """A rug, and a table where people can still walk round it."""
    aisle = 0.75
    for _ in range(40):
        dining = pen.rng.random() < 0.5
        long = pen.rng.uniform(1.3, 2.0) if dining else pen.rng.uniform(0.8, 1.2)
        wide = pen.rng.uniform(1.45, 1.7) if dining else pen.rng.uniform(0.5, 0.7)
        turned = bool(pen.rng.random() < 0.5)
        size_x, size_y = (wide, long) if turned else (long, wide)
        if size_x + 1.6 > width or size_y + 1.6 > depth:
            continue
        x, y = (
            pen.rng.uniform(0.8, width - 0.8 - size_x),
            pen.rng.uniform(0.8, depth - 0.8 - size_y),
        )
        place = pen.at(x + size_x, y, 0, 90) if turned else pen.at(x, y)
        box = _footprint(place, long, wide)
        if _overlaps(box, standing, gap=aisle):
            continue
        with _drawn_as("table", place):
            if dining:
                furniture.dining_table(place, style, long, wide)
            else:
                furniture.coffee_table(place, style, long, wide)
        standing.append(box)
        break
    long, wide = pen.rng.uniform(0.4, 0.6) * width, pen.rng.uniform(0.4, 0.6) * depth
    x, y = pen.rng.uniform(0.2, 0.8) * (width - long), pen.rng.uniform(0.2, 0.8) * (depth - wide)
    rug = pen.at(x, y, 0.006)
    with _drawn_as("floor", rug):
        rug.rect((0, wide, 0), (long, 0, 0), (0, -wide, 0), style.material("rug"))


def _hang_things(wall: _Wall, style: Style, height: float) -> None:
    """Pictures, shelves, a clock, a mirror, where the wall is bare."""
    pen, rng = wall.pen, wall.pen.rng
    for _ in range(int(rng.integers(20, 60))):
        draw = rng.random()
        wide, tall = rng.uniform(0.25, 0.95), rng.uniform(0.25, 0.95)
        if draw < 0.12:
            wide, tall = rng.uniform(0.6, 1.2), 0.36
        elif draw < 0.2:
            wide = tall = rng.uniform(0.25, 0.36)
        x, z = (
            rng.uniform(0.1, wall.length - wide - 0.1),
            rng.uniform(0.9, max(height - tall - 0.15, 0.95)),
        )
        if x < 0.1 or z + tall > height - 0.1:
            continue
        box = (x, z, x + wide, z + tall)
        if _overlaps(box, wall.covered, gap=0.05):
            continue
        wall.covered.append(box)
        if draw < 0.12:
            furniture.wall_shelf(pen.at(x, 0, z), style, wide)
        elif draw < 0.2:
            furniture.clock(pen.at(x + wide / 2, 0, z + wide / 2), style, wide / 2)
        elif draw < 0.24:
            furniture.mirror(pen.at(x, 0, z), style, wide, tall)
        else:
            furniture.hung_picture(pen.at(x, 0, z), style, wide, tall)
