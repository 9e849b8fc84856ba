"""Furniture and small things.

Each function draws one piece with a pen whose frame has x along the wall, y away from it and z up;
a piece of width w and depth d fills 0 ... w by 0 ... d. Metres.
"""

from __future__ import annotations

import numpy as np

from reloc.scenes.synthetic.light import CHANNELS
from reloc.scenes.synthetic.style import Style
from reloc.scenes.synthetic.surfaces import Material, Pen

_LAMPS = CHANNELS.index("lamps")
_CEILING = CHANNELS.index("ceiling")


# Small things, centred on the pen's origin, standing on z = 0


def book_pile(pen: Pen, style: Style) -> None:
    """Books on each other, askew."""
    z = 0.0
    for _ in range(int(pen.rng.integers(2, 6))):
        thick = pen.rng.uniform(0.015, 0.04)
        width, depth = pen.rng.uniform(0.15, 0.26), pen.rng.uniform(0.12, 0.19)
        turned = pen.at(0, 0, z, pen.rng.uniform(-25, 25))
        cover = style.label()
        turned.box((-width / 2, -depth / 2, 0), (width / 2, depth / 2, thick), cover)
        z += thick


def mug(pen: Pen, style: Style) -> None:
    """A cup."""
    radius, height = pen.rng.uniform(0.035, 0.05), pen.rng.uniform(0.08, 0.11)
    profile = [
        (0.8 * radius, 0.5 * height),
        (0.9 * radius, height),
        (radius, height),
        (radius, 0.0),
    ]
    pen.lathe((0, 0, 0), profile, style.small())


def vase(pen: Pen, style: Style) -> None:
    """A bulging vessel."""
    height, radius = pen.rng.uniform(0.15, 0.38), pen.rng.uniform(0.05, 0.11)
    t = np.linspace(1, 0, 9)
    swell = 0.45 + 0.55 * np.sin(np.pi * t ** pen.rng.uniform(0.6, 1.6)) + 0.15 * (t - 0.5)
    pen.lathe((0, 0, 0), list(zip(radius * swell, height * t, strict=True)), style.small())


def bottle(pen: Pen, style: Style) -> None:
    """A bottle with a label."""
    radius, height = pen.rng.uniform(0.03, 0.045), pen.rng.uniform(0.2, 0.32)
    neck = 0.35 * radius
    glass = style.small()
    shoulder = [(neck, height), (neck, 0.75 * height), (radius, 0.6 * height)]
    pen.lathe((0, 0, 0), shoulder, glass)
    pen.lathe((0, 0, 0), [(radius, 0.6 * height), (radius, 0.1 * height)], style.label())
    pen.lathe((0, 0, 0), [(radius, 0.1 * height), (radius, 0)], glass)


def packet(pen: Pen, style: Style) -> None:
    """A box with pictures on it."""
    width, depth, height = (
        pen.rng.uniform(0.08, 0.26),
        pen.rng.uniform(0.05, 0.2),
        pen.rng.uniform(0.06, 0.3),
    )
    turned = pen.at(0, 0, 0, pen.rng.uniform(-40, 40))
    turned.box((-width / 2, -depth / 2, 0), (width / 2, depth / 2, height), style.label())


def standing_picture(pen: Pen, style: Style) -> None:
    """A framed photo, leaning back."""
    width, height = pen.rng.uniform(0.12, 0.22), pen.rng.uniform(0.14, 0.26)
    turned = pen.at(0, 0, 0, pen.rng.uniform(-30, 30))
    lean = 0.2 * height
    for margin, material, forward in (
        (0.0, style.furniture(), 0.0),
        (0.015, style.picture(), 0.003),
    ):
        top = (width / 2 - margin, -lean + forward, height - margin)
        right = (-width + 2 * margin, 0, 0)
        turned.rect(top, right, (0, lean, -height + 2 * margin), material, thin=True)


def fruit_bowl(pen: Pen, style: Style) -> None:
    """A bowl of balls."""
    radius = pen.rng.uniform(0.1, 0.15)
    profile = [(0.0, 0.02), (0.85 * radius, 0.06), (radius, 0.08), (0.5 * radius, 0.0)]
    pen.lathe((0, 0, 0), profile, style.small())
    for _ in range(6):
        x, y = pen.rng.uniform(-0.5, 0.5, 2) * radius
        pen.ball((x, y, 0.08), pen.rng.uniform(0.025, 0.04), style.small())


def table_lamp(pen: Pen, style: Style) -> None:
    """A foot and a shade that glows."""
    height, radius = pen.rng.uniform(0.3, 0.5), pen.rng.uniform(0.1, 0.16)
    stem = [(0.015, height), (0.015, 0.1), (0.06, 0.02), (0.06, 0.0)]
    pen.lathe((0, 0, 0), stem, style.small())
    _glowing_shade(pen, style, height - 0.06, radius, 1.3 * radius, power=0.55)


def _glowing_shade(
    pen: Pen, style: Style, z: float, radius: float, height: float, power: float
) -> None:
    pen.lathe((0, 0, z), [(0.65 * radius, height), (radius, 0)], style.shade, sides=20)
    middle = (0.0, 0.0, z + height / 2)
    clearance_m = 1.25 * float(np.hypot(radius, height / 2))
    pen.shine(
        _LAMPS, middle, ((0.05, 0, 0), (0, 0.05, 0)), power, clearance_m=clearance_m, samples=3
    )


def small_plant(pen: Pen, style: Style) -> None:
    """A pot with leaves."""
    plant(pen, style, radius=pen.rng.uniform(0.05, 0.08), height=pen.rng.uniform(0.2, 0.35))


def paper(pen: Pen, style: Style) -> None:
    """Printed sheets, on each other."""
    for number in range(int(pen.rng.integers(1, 4))):
        turned = pen.at(0, 0, 0.002 * (number + 1), pen.rng.uniform(0, 360))
        x, y = pen.rng.uniform(-0.05, 0.05, 2)
        turned.rect(
            (x - 0.1, y + 0.14, 0), (0.2, 0, 0), (0, -0.28, 0), style.material("page"), thin=True
        )


def ball(pen: Pen, style: Style) -> None:
    """A toy ball."""
    radius = pen.rng.uniform(0.04, 0.12)
    pen.ball((0, 0, radius), radius, style.label() if pen.rng.random() < 0.5 else style.small())


_SMALL_THINGS = (
    (book_pile, 3),
    (mug, 2),
    (vase, 3),
    (bottle, 2),
    (packet, 4),
    (standing_picture, 3),
    (fruit_bowl, 1),
    (small_plant, 2),
    (paper, 3),
    (ball, 1),
)


def clutter(
    pen: Pen, style: Style, width: float, depth: float, count: int, *, tall: bool = True
) -> None:
    """Small things on a surface at z = 0, apart from each other."""
    things = [
        thing for thing, _ in _SMALL_THINGS if tall or thing not in (vase, bottle, small_plant)
    ]
    weights = np.array([weight for thing, weight in _SMALL_THINGS if thing in things], float)
    taken: list[tuple[float, float]] = []
    for _ in range(4 * count):
        margin = min(0.13, 0.4 * depth)
        x, y = (
            pen.rng.uniform(0.13, max(width - 0.13, 0.14)),
            pen.rng.uniform(margin, depth - margin),
        )
        if len(taken) < count and all(np.hypot(x - a, y - b) > 0.24 for a, b in taken):
            taken.append((x, y))
            thing = things[int(pen.rng.choice(len(things), p=weights / weights.sum()))]
            thing(pen.at(x, y), style)


# Against a wall


def bookcase(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """Shelves of books and things, open to the front."""
    wood, board = style.furniture(), 0.022
    pen.box((0, 0, 0), (board, depth, height), wood)
    pen.box((width - board, 0, 0), (width, depth, height), wood)
    pen.rect((width, 0.012, height), (-width, 0, 0), (0, 0, -height), wood)
    pen.box((board, 0, 0), (width - board, depth, 0.07), wood, faces="YZ")
    shelves = int(np.clip(round(height / pen.rng.uniform(0.3, 0.4)), 2, 6))
    pitch = (height - 0.07) / shelves
    for shelf in range(1, shelves + 1):
        z = 0.07 + shelf * pitch
        pen.box((board, 0, z - board), (width - board, depth, z), wood, faces="YZz")
    for shelf in range(shelves):
        at_shelf = pen.at(board, 0.02, 0.07 + shelf * pitch)
        _fill_shelf(at_shelf, style, width - 2 * board, depth - 0.03, pitch - board)
    if height < 2.0:
        clutter(pen.at(0, 0, height), style, width, depth, 2)


def _fill_shelf(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """A row of books, with things between."""
    x = 0.01
    while x < width - 0.05:
        if pen.rng.random() < 0.3:
            gap = min(pen.rng.uniform(0.15, 0.4), width - x)
            if gap > 0.2:
                clutter(pen.at(x, 0), style, gap, depth, 1 + int(gap > 0.3), tall=height > 0.36)
            x += gap
            continue
        size = pen.rng.uniform(0.65, 0.9) * height
        for _ in range(int(pen.rng.integers(4, 14))):
            thick = pen.rng.uniform(0.016, 0.05)
            if x + thick > width:
                break
            tall, out = size * pen.rng.uniform(0.85, 1.05), depth * pen.rng.uniform(0.72, 0.85)
            book = style.spine()
            top = (x + thick - 0.001, out, min(tall, height - 0.01))
            pen.box((x, 0.01, 0), top, book, faces="xXYZ")
            x += thick


def _fronts(
    pen: Pen, style: Style, face: Material, width: float, height: float, columns: int, rows: int
) -> None:
    """Doors or drawers with handles, that fill 0 ... width by z = 0 ... height before y = 0."""
    step_x, step_z = width / columns, height / rows
    handle = style.metal if pen.rng.random() < 0.6 else style.black
    knob, is_door = pen.rng.random() < 0.4, step_z > step_x
    half_x, half_z = (0.008, 0.07) if is_door else (0.07, 0.008)
    for column in range(columns):
        # Doors open from the middle.
        side = 0.86 if column % 2 == 0 else 0.14
        grip_x, grip_z = (side * step_x, 0.55 * step_z) if is_door else (step_x / 2, 0.6 * step_z)
        for row in range(rows):
            front = pen.at(column * step_x, 0, row * step_z)
            front.box((0.006, 0, 0.006), (step_x - 0.006, 0.018, step_z - 0.006), face)
            grip = front.at(grip_x, 0.018, grip_z)
            if knob:
                grip.ball((0, 0.017, 0), 0.018, handle)
            else:
                grip.box((-half_x, 0, -half_z), (half_x, 0.027, half_z), handle, faces="xXYZz")


def wardrobe(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """Doors from bottom to top, and boxes on it."""
    body, face = style.furniture(), style.furniture()
    pen.box((0, 0, 0), (width, depth - 0.02, height), body)
    columns = max(1, round(width / 0.5))
    split = 0.3 * height if pen.rng.random() < 0.5 else 0.08
    front = depth - 0.02
    _fronts(pen.at(0, front, split), style, face, width, height - 0.03 - split, columns, 1)
    if split > 0.1:
        _fronts(pen.at(0, front, 0.08), style, face, width, split - 0.08, columns, 1)
    for x in np.arange(0.05, width - 0.4, 0.45):
        if pen.rng.random() < 0.6 and height < 2.1:
            carton(pen.at(x, 0.05, height), style, 0.38, 0.35, pen.rng.uniform(0.15, 0.25))


def dresser(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """Drawers or doors, with things on top."""
    body, face = style.furniture(), style.furniture()
    pen.box((0, 0, 0.08), (width, depth - 0.03, height - 0.025), body, faces="xXYz")
    pen.box((-0.01, 0, height - 0.025), (width + 0.01, depth, height), body, faces="xXYZz")
    for x in (0.03, width - 0.07):
        for y in (0.03, depth - 0.1):
            pen.box((x, y, 0), (x + 0.04, y + 0.04, 0.08), style.black, faces="xXyY")
    doors = pen.rng.random() < 0.4
    columns, rows = (round(width / 0.45), 1) if doors else (2, round(height / 0.25))
    front = pen.at(0.01, depth - 0.03, 0.09)
    _fronts(front, style, face, width - 0.02, height - 0.12, columns, rows)
    top = pen.at(0, 0, height)
    clutter(top, style, width, depth, round(width / 0.25))
    if pen.rng.random() < 0.5:
        table_lamp(top.at(0.16 if pen.rng.random() < 0.5 else width - 0.16, 0.16), style)


def desk(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """A desk with a screen, a keyboard, papers, and a chair before it."""
    _table(pen, style, style.furniture(), width, depth, height)
    top = pen.at(0, 0, height)
    middle = width * pen.rng.uniform(0.4, 0.6)
    screen = top.at(middle, 0.2, 0, pen.rng.uniform(-15, 15))
    half = pen.rng.uniform(0.24, 0.32)
    screen.box((-half, -0.02, 0.1), (half, 0.02, 0.12 + 1.15 * half), style.black, faces="xXyYZz")
    picture = style.material("screen")
    lit = Material(picture.layer, gloss=0.03, glow=0.9, wear=0.0)
    corner = (half - 0.015, 0.021, 0.105 + 1.15 * half)
    screen.rect(corner, (-2 * half + 0.03, 0, 0), (0, 0, -1.15 * half + 0.01), lit)
    screen.box((-0.03, -0.03, 0), (0.03, 0.01, 0.12), style.black)
    screen.box((-0.11, -0.09, 0), (0.11, 0.09, 0.012), style.black)
    keyboard = top.at(middle, 0.46)
    keyboard.box((-0.21, -0.07, 0), (0.21, 0.07, 0.02), style.black)
    for row in range(4):
        for column in range(13):
            x, y = -0.2 + 0.031 * column, -0.06 + 0.031 * row
            keyboard.rect((x, y + 0.026, 0.024), (0.026, 0, 0), (0, -0.026, 0), style.metal)
    clutter(top, style, middle - half, depth, 3)
    clutter(top.at(middle + half, 0), style, width - middle - half, depth, 3)
    if pen.rng.random() < 0.6:
        table_lamp(top.at(0.15, 0.15), style)
    chair(pen.at(middle + 0.22, depth + 0.38, 0, 180 + pen.rng.uniform(-25, 25)), style)


def sofa(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """Seat, back, arms and cushions."""
    cloth, seat = style.material("fabric"), 0.42
    arm = 0.16
    pen.box((0, 0, 0.05), (width, 0.22, height), cloth)
    for x in (0, width - arm):
        pen.box((x, 0.0, 0.05), (x + arm, depth, 0.6), cloth)
    count = max(1, round((width - 2 * arm) / 0.65))
    step = (width - 2 * arm) / count
    pen.box((arm, 0.2, 0.05), (width - arm, depth - 0.02, seat - 0.14), cloth)
    for number in range(count):
        x = arm + number * step
        _cushion(
            pen.at(x + step / 2, 0.2 + (depth - 0.2) / 2, seat - 0.07),
            cloth,
            step,
            depth - 0.2,
            0.15,
        )
        pillow = pen.at(x + step / 2 + pen.rng.uniform(-0.1, 0.1), 0.3, seat + 0.2)
        _standing_cushion(pillow, style.material("fabric"), pen.rng.uniform(0.36, 0.48))
    if pen.rng.random() < 0.5:
        # A blanket over the back.
        x, long = width * pen.rng.uniform(0.2, 0.6), pen.rng.uniform(0.3, 0.6)
        y = np.array([0.25, 0.235, 0.2, 0.0])
        z = np.array([0.47, height - 0.02, height + 0.012, height + 0.012])
        ends = [np.stack([np.full(4, end), y, z], axis=1)[::-1] for end in (x + long, x)]
        pen.sheet(np.stack(ends, axis=1), style.material("fabric"), thin=True)


def _cushion(pen: Pen, cloth: Material, width: float, depth: float, height: float) -> None:
    """A soft box about the origin: a flattened dome on each side."""
    axis = np.linspace(-1, 1, 9)
    x, y = np.meshgrid(axis, axis[::-1])
    dome = 0.5 * height * (1 - np.abs(x) ** 6) ** 0.5 * (1 - np.abs(y) ** 6) ** 0.5
    x, y = x * width / 2 * 0.99, y * depth / 2 * 0.99
    pen.sheet(np.stack([x, y, dome], axis=2), cloth)
    pen.sheet(np.stack([x, -y, -dome], axis=2), cloth)


def _standing_cushion(pen: Pen, cloth: Material, size: float) -> None:
    """A pillow leaning against what is behind it (towards y = 0)."""
    axis = np.linspace(-1, 1, 9)
    x, z = np.meshgrid(axis[::-1], axis[::-1])
    bulge = 0.07 * (1 - x**2) ** 0.5 * (1 - z**2) ** 0.5
    turned = pen.at(0, 0, 0, pen.rng.uniform(-15, 15))
    points = np.stack([x * size / 2, bulge - 0.25 * z * size / 2, z * size / 2], axis=2)
    turned.sheet(points, cloth, thin=True)


def bed(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """Head at the wall, a blanket and pillows."""
    wood = style.furniture()
    pen.box((0, 0, 0), (width, 0.06, height), wood)
    pen.box((0, 0.06, 0.12), (width, depth, 0.34), wood)
    _cushion(
        pen.at(width / 2, 0.06 + (depth - 0.06) / 2, 0.42),
        style.white,
        width - 0.04,
        depth - 0.08,
        0.3,
    )
    start = depth * pen.rng.uniform(0.3, 0.5)
    cover = pen.at(width / 2, start + (depth - start) / 2, 0.44)
    _cushion(cover, style.material("fabric"), width + 0.03, depth - start + 0.04, 0.33)
    for x in np.arange(0.4, width, 0.75):
        pillow = pen.at(x, 0.3, 0.6)
        _cushion(pillow, style.material("fabric"), 0.6, 0.38, 0.16)


def television(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """A low board with a black mirror on it."""
    board_height = 0.45
    body = style.furniture()
    pen.box((0, 0, 0), (width, depth, board_height), body)
    _fronts(pen.at(0, depth, 0.05), style, body, width, board_height - 0.08, 3, 1)
    set_width = width * 0.8
    left, z = (width - set_width) / 2, board_height + 0.06
    pen.box(
        (left, 0.15, z), (left + set_width, 0.2, z + 0.56 * set_width), style.black, faces="xXyYZz"
    )
    glass = Material(style.black.layer, metres=1, tint=(0.02, 0.02, 0.025), gloss=0.1, wear=0.2)
    corner = (left + set_width - 0.015, 0.201, z + 0.56 * set_width - 0.015)
    pen.rect(corner, (-set_width + 0.03, 0, 0), (0, 0, -0.56 * set_width + 0.03), glass)
    pen.box((width / 2 - 0.2, 0.1, board_height), (width / 2 + 0.2, 0.3, z), style.black)
    clutter(pen.at(0, 0, board_height), style, left, depth, 1)
    clutter(pen.at(left + set_width, 0, board_height), style, left, depth, 1)


def cartons(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """Moving boxes, on and beside each other."""
    z = 0.0
    shrink = 1.0
    while z + 0.2 < height and shrink > 0.5:
        tall = pen.rng.uniform(0.22, 0.36)
        size_x, size_y = width * shrink, depth * shrink
        x, y = (width - size_x) * pen.rng.random(), (depth - size_y) * pen.rng.random()
        carton(pen.at(x, y, z), style, size_x, size_y, tall)
        z, shrink = z + tall, shrink * pen.rng.uniform(0.72, 0.95)
    if z < 1.0:
        clutter(pen.at(0, 0, z), style, width * 0.8, depth * 0.8, 2)


def carton(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """One box of cardboard."""
    pen.box((0, 0, 0), (width, depth, height), style.material("cardboard"))


def house_plant(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """A big plant in a pot."""
    plant(pen.at(width / 2, depth / 2), style, radius=0.3 * width, height=height)


def plant(pen: Pen, style: Style, radius: float, height: float) -> None:
    """A pot, and leaves that bend over."""
    pot = pen.rng.uniform(0.22, 0.35) * height
    profile = [(0.0, 0.9 * pot), (0.9 * radius, 0.92 * pot), (radius, pot), (0.7 * radius, 0.0)]
    pen.lathe((0, 0, 0), profile, style.small())
    leaf, t = style.material("foliage"), np.linspace(0, 1, 5)
    reach, blade = pen.rng.uniform(0.8, 1.6) * radius, pen.rng.uniform(0.15, 0.4) * radius
    for number in range(int(pen.rng.integers(12, 22))):
        stalk = pen.at(0, 0, 0.9 * pot, 137.5 * number + pen.rng.uniform(-15, 15))
        rise = (height - pot) * pen.rng.uniform(0.5, 1.0)
        out = reach * pen.rng.uniform(0.5, 1.0)
        x = out * t
        z = rise * (1.7 * t - 0.9 * t * t)
        half = blade * np.sin(np.pi * np.clip(0.08 + 0.92 * t, 0, 1)) ** 0.8
        edges = [np.stack([x, sign * half, z + 0.15 * half], axis=1) for sign in (1, 0, -1)]
        stalk.sheet(np.stack(edges), leaf, thin=True)


def floor_lamp(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """A stand with a shade."""
    middle = pen.at(width / 2, depth / 2)
    middle.lathe(
        (0, 0, 0), [(0.012, height - 0.1), (0.012, 0.03), (0.14, 0.02), (0.15, 0)], style.metal
    )
    _glowing_shade(middle, style, height - 0.3, 0.2, 0.26, power=1.0)


def radiator(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """Ribs, all alike."""
    ribs = round(width / 0.07)
    for rib in range(ribs):
        x = rib * width / ribs
        pen.box((x + 0.008, 0.03, 0.1), (x + width / ribs - 0.008, depth, height), style.white)
    pen.box((0, 0.05, 0.14), (width, depth - 0.03, height - 0.05), style.white, faces="Y")


# Free-standing


def _table(
    pen: Pen, style: Style, wood: Material, width: float, depth: float, height: float
) -> None:
    pen.box((0, 0, height - 0.03), (width, depth, height), wood, faces="xXyYZz")
    leg, inset = pen.rng.uniform(0.03, 0.07), 0.03
    legs = wood if pen.rng.random() < 0.7 else style.black
    for x in (inset, width - inset - leg):
        for y in (inset, depth - inset - leg):
            pen.box((x, y, 0), (x + leg, y + leg, height - 0.03), legs, faces="xXyY")
    pen.box(
        (0.06, 0.06, height - 0.1), (width - 0.06, depth - 0.06, height - 0.03), wood, faces="xXyY"
    )


def dining_table(pen: Pen, style: Style, width: float, depth: float) -> None:
    """A table with chairs round it, within width × depth."""
    margin = 0.38
    size_x, size_y = width - 0.2, depth - 2 * margin
    _table(pen.at(0.1, margin), style, style.furniture(), size_x, size_y, 0.75)
    top = pen.at(0.1, margin, 0.75)
    if pen.rng.random() < 0.5:
        runner, half = style.material("fabric"), size_x * 0.4
        corner = (size_x / 2 - half, size_y / 2 + 0.18, 0.003)
        top.rect(corner, (2 * half, 0, 0), (0, -0.36, 0), runner)
    clutter(top, style, size_x, size_y, round(5 * size_x * size_y) + 2)
    for x in np.arange(0.3, size_x - 0.2, 0.62):
        near = pen.at(0.1 + x + 0.2, margin + 0.12, 0, 180 + pen.rng.uniform(-12, 12))
        far = pen.at(0.1 + x - 0.2, depth - margin - 0.12, 0, pen.rng.uniform(-12, 12))
        for place in (near, far):
            if pen.rng.random() < 0.8:
                chair(place, style)


def coffee_table(pen: Pen, style: Style, width: float, depth: float) -> None:
    """A low table with a shelf of things."""
    _table(pen, style, style.furniture(), width, depth, 0.42)
    clutter(pen.at(0, 0, 0.42), style, width, depth, round(7 * width * depth) + 3)


def chair(pen: Pen, style: Style) -> None:
    """Its seat fills 0 ... 0.42 each way; the back stands at y = 0.42."""
    wood, seat = style.wood, 0.45
    cover = style.material("fabric")
    pen.box((0, 0, seat - 0.04), (0.42, 0.42, seat), cover, faces="xXyYZz")
    for x in (0.01, 0.375):
        pen.box((x, 0.01, 0), (x + 0.035, 0.045, seat - 0.04), wood, faces="xXyY")
        pen.box((x, 0.38, 0), (x + 0.035, 0.415, 0.9), wood)
    for z in (0.6, 0.7, 0.8):
        pen.box((0.045, 0.385, z), (0.375, 0.405, z + 0.06), wood, faces="yYZz")


def armchair(pen: Pen, style: Style, width: float, depth: float, height: float) -> None:
    """A sofa for one."""
    sofa(pen, style, width, depth, height)


# On walls and ceilings


def hung_picture(pen: Pen, style: Style, width: float, height: float) -> None:
    """A picture with its lower edge at z = 0; framed or a bare poster."""
    framed, rim = pen.rng.random() < 0.65, pen.rng.uniform(0.015, 0.04)
    picture = style.picture()
    if not framed:
        pen.rect((width, 0.004, height), (-width, 0, 0), (0, 0, -height), picture)
        return
    pen.box((0, 0, 0), (width, 0.022, height), style.furniture(), faces="xXYZz")
    mat = rim + (pen.rng.uniform(0.02, 0.06) if pen.rng.random() < 0.5 else 0)
    for inset, y, material in ((rim, 0.023, style.white), (mat, 0.024, picture)):
        corner = (width - inset, y, height - inset)
        pen.rect(corner, (-width + 2 * inset, 0, 0), (0, 0, -height + 2 * inset), material)


def wall_shelf(pen: Pen, style: Style, width: float) -> None:
    """A board with books and things; its top at z = 0."""
    pen.box((0, 0, -0.025), (width, 0.22, 0), style.furniture(), faces="xXYZz")
    _fill_shelf(pen, style, width, 0.21, 0.3)


def clock(pen: Pen, style: Style, radius: float) -> None:
    """A round clock about the origin."""
    angle = np.linspace(0, 2 * np.pi, 25)
    for scale, y, material in ((1.0, 0.03, style.black), (0.9, 0.031, style.label())):
        rim = np.stack(
            [-scale * radius * np.sin(angle), np.full(25, y), scale * radius * np.cos(angle)], 1
        )
        middle = np.broadcast_to([0, y, 0], rim.shape)
        # The texture's lower edge is the clock's middle: a pattern of sectors.
        pen.sheet(np.stack([rim, middle]), material, thin=True)


def mirror(pen: Pen, style: Style, width: float, height: float) -> None:
    """A framed mirror with its lower edge at z = 0."""
    pen.box((0, 0, 0), (width, 0.02, height), style.furniture(), faces="xXYZz")
    glass = Material(style.metal.layer, metres=1, tint=(0.1, 0.1, 0.1), gloss=0.85, wear=0.2)
    corner = (width - 0.03, 0.021, height - 0.03)
    pen.rect(corner, (-width + 0.06, 0, 0), (0, 0, -height + 0.06), glass)


def pendant(pen: Pen, style: Style, drop: float) -> None:
    """A lamp that hangs `drop` below the ceiling, which is z = 0."""
    radius = pen.rng.uniform(0.16, 0.28)
    pen.box((-0.004, -0.004, -drop), (0.004, 0.004, 0), style.black, faces="xXyY")
    profile = [(0.05, 0.14), (radius, 0.0), (0.0, 0.0)]
    glowing = Material(style.shade.layer, metres=0.7, tint=(1.0, 0.92, 0.8), glow=2.2)
    pen.lathe((0, 0, -drop - 0.1), profile, glowing, sides=20)
    corner = (-radius / 2, -radius / 2, -drop - 0.12)
    sides = ((radius, 0.0, 0.0), (0.0, radius, 0.0))
    pen.shine(_CEILING, corner, sides, 2.6, clearance_m=0.05, samples=5)


def ceiling_panel(pen: Pen, style: Style) -> None:
    """A flat square light under the ceiling, which is z = 0."""
    half = 0.3
    pen.box((-half, -half, -0.05), (half, half, 0), style.white, faces="xXyY")
    glowing = Material(style.white.layer, metres=1, tint=(1.0, 1.0, 1.0), glow=4.0, wear=0)
    pen.rect((-half, -half, -0.05), (2 * half, 0, 0), (0, 2 * half, 0), glowing)
    sides = ((2 * half, 0.0, 0.0), (0.0, 2 * half, 0.0))
    pen.shine(_CEILING, (-half, -half, -0.06), sides, 2.4, normal=(0.0, 0.0, -1.0), samples=5)
