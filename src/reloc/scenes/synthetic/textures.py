"""Procedural pictures of materials: square, mostly seamless, different for every room."""

from __future__ import annotations

import colorsys
import os
import string
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

Image = MatLike
"""(SIZE, SIZE, 3) uint8 RGB reflectances, square root of linear."""
Field = NDArray[np.floating]
"""(SIZE, SIZE), about -1 to 1."""
Color = tuple[float, float, float]
"""RGB, 0 to 255."""
_Option = TypeVar("_Option")

SIZE = 512
NUM_SPINES = 32
"""Books on one layer of kind "spines", side by side."""
NUM_LABELS = 16
"""Pictures on one layer of kind "labels", four by four."""
_INK: Color = (30, 30, 34)


@dataclass(frozen=True, eq=False)
class Layers:
    """The textures of one room.

    Attributes:
        pixels_TSS3: (T, SIZE, SIZE, 3) uint8.
        kinds: what each layer shows.
    """

    pixels_TSS3: NDArray[np.uint8]
    kinds: Sequence[str]

    def of(self, kind: str) -> list[int]:
        """The numbers of the layers of `kind`."""
        return [number for number, name in enumerate(self.kinds) if name == kind]


def make_layers(seed: int, photos: Sequence[NDArray[np.uint8]] = ()) -> Layers:
    """Paint the textures of one room.

    Args:
        seed: what they depend on.
        photos: (H, W, 3) RGB pictures that are hung up and laid out instead of painted ones.
    """
    kinds = [kind for kind, (_, count) in _PAINTERS.items() for _ in range(count)]
    bank = _NoiseBank(seed)

    def paint(number: int) -> Image:
        kind = kinds[number]
        brush = _Brush(np.random.default_rng([seed, number]), bank)
        if photos and kind in _PHOTO_KINDS:
            photo = photos[int(brush.rng.integers(len(photos)))]
            return cv2.resize(photo, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return _PAINTERS[kind][0](brush)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels_TSS3 = np.stack(list(pool.map(paint, range(len(kinds))))).astype(
            np.uint8, copy=False
        )
    return Layers(pixels_TSS3, kinds)


class _NoiseBank:
    """Seamless noise of one room, made when it is first asked for."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._fields: dict[tuple[int, ...], Field] = {}

    def noise(self, cells_x: int, cells_y: int) -> Field:
        """As `_Brush.noise`; the same one every time."""
        key = (cells_x, cells_y)
        if key not in self._fields:
            rng = np.random.default_rng([self._seed, *key])
            grid = np.pad(rng.standard_normal((cells_y, cells_x), np.float32), 2, mode="wrap")
            step_x, step_y = SIZE // cells_x, SIZE // cells_y
            size = (grid.shape[1] * step_x, grid.shape[0] * step_y)
            smooth = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
            inner = smooth[2 * step_y : 2 * step_y + SIZE, 2 * step_x : 2 * step_x + SIZE]
            self._fields[key] = np.ascontiguousarray(inner, np.float32)
        return self._fields[key]

    def cloud(self, cells: int, octaves: int) -> Field:
        """As `_Brush.cloud`; the same one every time."""
        key = (cells, octaves, octaves)
        if key not in self._fields:
            total = np.zeros((SIZE, SIZE), np.float32)
            for octave in range(octaves):
                total += self.noise(cells << octave, cells << octave) * np.float32(0.5**octave)
            self._fields[key] = total
        return self._fields[key]


class _Brush:
    """What a painter works with: random numbers, and noise that is cheap to get.

    Args:
        rng: of one texture.
        bank: the noise of the room; a texture takes it moved at random, so that no two look alike.
    """

    def __init__(self, rng: np.random.Generator, bank: _NoiseBank) -> None:
        self.rng = rng
        self._bank = bank

    def noise(self, cells_x: int, cells_y: int | None = None) -> Field:
        """Smooth seamless noise with `cells` bumps from side to side; powers of two."""
        return self._moved(self._bank.noise(cells_x, cells_y or cells_x))

    def cloud(self, cells: int, octaves: int) -> Field:
        """Noise over `octaves` scales, each half as strong."""
        return self._moved(self._bank.cloud(cells, octaves))

    def _moved(self, field: Field) -> Field:
        shift_y, shift_x = self.rng.integers(SIZE, size=2).tolist()
        return np.roll(field, (shift_y, shift_x), (0, 1))

    def integer(self, low: int, high: int) -> int:
        """Uniform in low ... high - 1."""
        return int(self.rng.integers(low, high))

    def point(self, low: int = 0, high: int = SIZE) -> tuple[int, int]:
        """Two integers of low ... high - 1."""
        return self.integer(low, high), self.integer(low, high)

    def one_of(self, *options: _Option) -> _Option:
        """One of some things."""
        return options[self.integer(0, len(options))]

    def chance(self, probability: float) -> bool:
        """True with `probability`."""
        return bool(self.rng.random() < probability)

    def color(
        self,
        saturation: tuple[float, float],
        value: tuple[float, float],
        hue: tuple[float, float] | None = None,
    ) -> Color:
        """A random colour. Of hues, as in most rooms: half warm, a quarter blue, the rest any."""
        if hue is None:
            draw = self.rng.random()
            hue = (0.0, 0.15) if draw < 0.5 else (0.5, 0.66) if draw < 0.75 else (0.0, 1.0)
        return _hsv(self.rng.uniform(*hue), self.rng.uniform(*saturation), self.rng.uniform(*value))

    def wood_color(self) -> Color:
        """From pale birch to dark oak."""
        hue, saturation = self.rng.uniform(0.05, 0.1), self.rng.uniform(0.3, 0.65)
        return _hsv(hue, saturation, self.rng.uniform(0.35, 0.85))

    def write(
        self, canvas: Image, place: tuple[int, int], height_px: float, letters: int, ink: Color
    ) -> None:
        """Print a random word whose baseline begins at `place`, x and y."""
        word = "".join(self.rng.choice(list(string.ascii_uppercase), letters))
        font = self.one_of(cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
        weight = max(1, round(height_px / 12))
        cv2.putText(canvas, word, place, font, height_px / 22, ink, weight, cv2.LINE_AA)


# Colours and fields to images


def _hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def _scaled(color: Color, factor: float) -> Color:
    red, green, blue = (min(255.0, part * factor) for part in color)
    return red, green, blue


def _filled(color: Color, height: int = SIZE, width: int = SIZE) -> Image:
    image = np.empty((height, width, 3), np.uint8)
    return cv2.rectangle(image, (0, 0), (width, height), color, cv2.FILLED)


def _tinted(color: Color, shade: Field) -> Image:
    """`color`, made lighter or darker by a field round 0."""
    return cv2.merge([cv2.convertScaleAbs(shade, alpha=part, beta=part) for part in color])


def _shaded(image: Image, shade: Field) -> Image:
    """An image, made lighter or darker by a field round 0."""
    factor = 1 + shade
    return cv2.multiply(image, cv2.merge([factor, factor, factor]), dtype=cv2.CV_8U)


def _mixed(first: Image, second: Image, weight: NDArray[np.floating | np.bool_]) -> Image:
    """`second` where `weight` is 1, `first` where it is 0."""
    weight = np.clip(weight, 0, 1).astype(np.float32)
    return cv2.blendLinear(first, second, 1 - weight, weight)


def _grid() -> tuple[Field, Field]:
    """Pixel centres, x and y, in [0, 1)."""
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
    return np.broadcast_to(axis, (SIZE, SIZE)), np.broadcast_to(axis[:, None], (SIZE, SIZE))


def _tiled(cell: NDArray, count: int) -> NDArray:
    return np.tile(cell, (count, count))


# Walls and floors


def _plaster(brush: _Brush) -> Image:
    color = brush.color((0.02, 0.25), (0.75, 0.95))
    return _tinted(
        color, 0.008 * brush.cloud(8, 6) + 0.014 * brush.noise(256) + 0.01 * brush.noise(128)
    )


def _ceiling(brush: _Brush) -> Image:
    return _tinted(brush.color((0.0, 0.05), (0.88, 0.96)), 0.01 * brush.cloud(8, 6))


def _motif(brush: _Brush, size: int) -> Field:
    """An ornament (size, size) in [0, 1], alike left and right."""
    canvas = np.zeros((size, size), np.uint8)
    for _ in range(brush.integer(5, 10)):
        center = (brush.integer(0, size // 2), brush.integer(0, size))
        axes = (brush.integer(2, size // 5), brush.integer(2, size // 3))
        tone, turn = brush.integer(100, 256), brush.integer(0, 180)
        cv2.ellipse(canvas, center, axes, turn, 0, 360, tone, brush.one_of(-1, 1, 2), cv2.LINE_AA)
    return np.maximum(canvas, canvas[:, ::-1]).astype(np.float32) / 255


def _wallpaper(brush: _Brush) -> Image:
    ground = brush.color((0.1, 0.5), (0.5, 0.9))
    ink = _scaled(ground, brush.one_of(5, 7, 12, 14) / 10)
    count = brush.one_of(2, 4)
    cell = SIZE // count
    pattern = _tiled(_motif(brush, cell), count)
    # Every second column hangs half a motif lower.
    columns = pattern.reshape(SIZE, count, cell)
    columns[:, 1::2] = np.roll(columns[:, 1::2], cell // 2, axis=0)
    if brush.chance(0.4):
        stripes = np.sin(2 * np.pi * brush.one_of(4, 8, 16) * _grid()[0])
        pattern = np.maximum(pattern, np.where(stripes > 0.3, np.float32(0.6), np.float32(0)))
    paper = _mixed(_filled(ground), _filled(ink), 0.8 * pattern)
    return _shaded(paper, 0.03 * brush.cloud(16, 5))


def _cells(rows: int, columns: int, shift: float) -> tuple[NDArray[np.int64], Field]:
    """A wall of rows × columns blocks, every second row shifted by a part of a block.

    Returns:
        The number of the block, and the distance to its border in units of a row's height.
    """
    x, y = _grid()
    row = np.floor(y * rows).astype(np.int64)
    along = x * columns + shift * (row % 2)
    column = np.floor(along).astype(np.int64) % columns
    to_side = (0.5 - np.abs(along % 1 - 0.5)) * (rows / columns)
    to_top = 0.5 - np.abs((y * rows) % 1 - 0.5)
    return row * columns + column, np.minimum(to_side, to_top).astype(np.float32)


def _brick(brush: _Brush) -> Image:
    rows = brush.one_of(16, 20)
    block, border = _cells(rows, rows // 4, 0.5)
    rough = brush.cloud(32, 5)
    painted = brush.chance(0.25)
    color = _hsv(brush.rng.uniform(0, 0.07), 0.1 if painted else 0.55, 0.8)
    tone = brush.rng.uniform(-0.35, 0.15, rows * rows).astype(np.float32)[block]
    face = _tinted(color, (0.3 if painted else 1) * tone + 0.09 * rough)
    gray = brush.integer(130, 205)
    mortar = _tinted((gray, gray, gray), 0.08 * rough)
    return _mixed(mortar, face, (border + 0.03 * rough - 0.05) / 0.06)


def _tiles(brush: _Brush) -> Image:
    count = brush.one_of(4, 8)
    block, border = _cells(count, count, 0)
    color = brush.color((0.05, 0.35), (0.6, 0.95))
    tone = brush.rng.uniform(-0.06, 0.06, count * count).astype(np.float32)[block]
    face = _tinted(color, tone + 0.04 * brush.cloud(8, 6))
    if brush.chance(0.6):
        motif = _motif(brush, SIZE // count)
        pattern = _tiled(np.maximum(motif, motif[::-1]), count)
        decorated = brush.rng.random(count * count)[block] < brush.rng.uniform(0.2, 1)
        inked = _filled(brush.color((0.3, 0.8), (0.2, 0.7)))
        face = _mixed(face, inked, 0.85 * pattern * decorated)
    gray = brush.integer(90, 180)
    grout = _tinted((gray, gray, gray), 0.08 * brush.cloud(64, 3))
    return _mixed(grout, face, (border - 0.012) / 0.015)


def _grain(brush: _Brush) -> Field:
    """The figure of wood, along x."""
    wave = 0.5 * brush.noise(1, 4) + 0.3 * brush.noise(2, 8) + 0.05 * brush.noise(4, 64)
    rings = np.sin(2 * np.pi * (brush.integer(8, 20) * _grid()[1] + wave))
    pores = brush.noise(16, 256) + 0.8 * brush.noise(4, 256) + 0.5 * brush.noise(2, 128)
    return 0.5 * rings * (0.6 + 0.3 * brush.noise(2, 16)) + 0.5 * pores


def _wood(brush: _Brush) -> Image:
    return _tinted(brush.wood_color(), 0.13 * _grain(brush) + 0.05 * brush.noise(2, 8))


def _planks(brush: _Brush) -> Image:
    """Eight rows of two boards each."""
    grain, color = _grain(brush), brush.wood_color()
    shade, seam = np.empty_like(grain), np.zeros_like(grain)
    height = SIZE // 8
    for row in range(8):
        band = slice(row * height, (row + 1) * height)
        seam[row * height : row * height + 2] = 1
        first = brush.integer(0, SIZE)
        second = first + brush.integer(SIZE // 3, 2 * SIZE // 3)
        for begin, end in ((first, second), (second, first + SIZE)):
            columns = np.arange(begin, end) % SIZE
            top = brush.integer(0, SIZE - height)
            moved = grain[top : top + height, (columns + brush.integer(0, SIZE)) % SIZE]
            shade[band, columns] = 0.11 * moved + brush.rng.uniform(-0.2, 0.12)
            seam[band, columns[:2]] = 1
    return _mixed(_tinted(color, shade), _filled(_scaled(color, 0.25)), 0.8 * seam)


def _parquet(brush: _Brush) -> Image:
    """Squares of five staves, by turns along and across."""
    grain, color, cell = _grain(brush), brush.wood_color(), SIZE // 4
    shade = np.empty_like(grain)
    stave = np.repeat(np.arange(5), [26, 26, 25, 26, 25])
    seam = np.r_[0, np.flatnonzero(np.diff(stave)) + 1]
    for row in range(4):
        for column in range(4):
            y, x = brush.point(0, SIZE - cell)
            tone = brush.rng.uniform(-0.22, 0.15, 5).astype(np.float32)[stave]
            block = 0.12 * grain[y : y + cell, x : x + cell] + tone[:, None]
            block[seam] -= 0.5
            where = np.s_[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            shade[where] = block.T if (row + column) % 2 else block
    return _tinted(color, shade)


def _stone(brush: _Brush) -> Image:
    """Marble or concrete."""
    color = brush.color((0.0, 0.15), (0.5, 0.9))
    stone = _tinted(color, 0.08 * brush.cloud(4, 7) + 0.04 * brush.noise(256))
    if brush.chance(0.5):
        return stone
    veins = 0.5 * np.exp(-12 * np.abs(brush.cloud(4, 5)))
    return _mixed(stone, _filled(_scaled(color, 0.5)), veins)


# Cloth


def _fabric(brush: _Brush) -> Image:
    colors = [brush.color((0.1, 0.7), (0.25, 0.9)) for _ in range(3)]
    image, second, third = (_filled(color) for color in colors)
    x, y = _grid()
    kind = brush.integer(0, 4)
    if kind == 0:
        bands = brush.one_of(4, 8)
        for axis in (x, y):
            place = (axis * bands) % 1
            image = _mixed(image, second, 0.45 * (np.abs(place - 0.3) < 0.16))
            image = _mixed(image, third, 0.6 * (np.abs(place - 0.75) < 0.03))
    elif kind == 1:
        count = brush.one_of(4, 8)
        image = _mixed(image, second, _tiled(_motif(brush, SIZE // count), count))
    elif kind == 2:
        stripes = np.broadcast_to(brush.rng.random(64).repeat(SIZE // 64), (SIZE, SIZE))
        image = _mixed(_mixed(image, second, stripes > 0.6), third, stripes > 0.9)
    else:
        image = _tinted(colors[0], 0.1 * brush.noise(128, 8) * brush.noise(8, 128))
    threads = np.sin(2 * np.pi * 128 * x[:1]) * np.sin(2 * np.pi * 128 * y[:, :1])
    return _shaded(image, 0.05 * threads + 0.05 * brush.noise(256) + 0.02 * brush.cloud(8, 4))


def _rug(brush: _Brush) -> Image:
    """A knotted rug: borders within borders, and a field alike in its four quarters."""
    colors = [brush.color((0.35, 0.8), (0.2, 0.8)) for _ in range(5)]
    half = SIZE // 2
    quarter = _filled(colors[0], half, half)
    for _ in range(60):
        center, axes = brush.point(0, half), brush.point(3, 28)
        tone = _scaled(colors[brush.integer(1, 5)], brush.rng.uniform(0.8, 1.2))
        width, turn = brush.one_of(-1, -1, 2, 3), brush.one_of(0, 45, 90)
        cv2.ellipse(quarter, center, axes, turn, 0, 360, tone, width, cv2.LINE_AA)
    inset, axis = 0, np.arange(half)
    to_edge = np.minimum(axis[:, None], axis[None])
    for width in brush.rng.integers(5, 22, size=5).tolist():
        ring = (to_edge >= inset) & (to_edge < inset + width)
        beads = (axis[:, None] + axis[None]) // max(width // 2, 3) % 2 == 0
        first, second = brush.rng.choice(5, 2, replace=False).tolist()
        quarter[ring & beads], quarter[ring & ~beads] = colors[first], colors[second]
        inset += width
    top = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    whole = np.concatenate([top, top[::-1]], axis=0)
    return _shaded(whole, 0.1 * brush.noise(256) + 0.05 * brush.cloud(8, 5))


def _carpet(brush: _Brush) -> Image:
    pile = 0.13 * brush.noise(256) + 0.1 * brush.noise(128) + 0.04 * brush.cloud(4, 4)
    return _tinted(brush.color((0.05, 0.45), (0.3, 0.75)), pile)


# Pictures


def _landscape(brush: _Brush) -> Image:
    """Hills behind hills under a sky, with trees."""
    zenith = _filled(brush.color((0.2, 0.6), (0.6, 0.95), (0.5, 0.65)))
    horizon = _filled(brush.color((0.1, 0.45), (0.85, 1), brush.one_of((0.03, 0.14), (0.5, 0.6))))
    image = _mixed(zenith, horizon, 1.6 * _grid()[1])
    image = _shaded(image, np.maximum(0.25 * brush.cloud(4, 6), 0))
    sun = (brush.integer(0, SIZE), brush.integer(0, SIZE // 3))
    cv2.circle(image, sun, brush.integer(12, 40), (255, 235, 160), -1, cv2.LINE_AA)
    columns = np.arange(SIZE)
    for depth in range(4):
        height = 0.35 + 0.15 * depth + 0.06 * (brush.noise(4)[0] + 0.4 * brush.noise(16)[0])
        ridge = (height * SIZE).astype(np.int32)
        color = brush.color(
            (0.25, 0.6), (0.25, 0.7), brush.one_of((0.2, 0.42), (0.06, 0.2), (0.5, 0.65))
        )
        outline = np.stack([columns, ridge], axis=1)
        corners = np.array([[SIZE, SIZE], [0, SIZE]])
        cv2.fillPoly(image, [np.concatenate([outline, corners]).astype(np.int32)], color)
        for _ in range(brush.integer(3, 12)):
            column, tall = brush.integer(0, SIZE), brush.integer(10, 25 + 25 * depth)
            tree = np.array([[-tall // 4, 0], [0, -tall], [tall // 4, 0]]) + outline[column]
            tone = _scaled(color, brush.rng.uniform(0.3, 0.7))
            cv2.fillPoly(image, [tree.astype(np.int32)], tone, cv2.LINE_AA)
    return _shaded(image, 0.12 * brush.cloud(16, 5))


def _abstract(brush: _Brush) -> Image:
    """Shapes of few colours, over and over."""
    colors = [brush.color((0.2, 0.95), (0.2, 1)) for _ in range(6)]
    image = _filled(brush.color((0.0, 0.3), (0.75, 0.98)))
    for number in range(brush.integer(15, 45)):
        tone, place = colors[brush.integer(0, 6)], brush.point()
        radius, width = brush.integer(6, max(12, 130 - 3 * number)), brush.one_of(-1, -1, 3)
        shape = brush.integer(0, 4)
        if shape == 0:
            cv2.circle(image, place, radius, tone, width, cv2.LINE_AA)
        elif shape == 1:
            across, down = brush.point(10, 160)
            corner = (place[0] + across, place[1] + down)
            cv2.rectangle(image, place, corner, tone, width, cv2.LINE_AA)
        elif shape == 2:
            cv2.line(image, place, brush.point(), tone, brush.integer(1, 9), cv2.LINE_AA)
        else:
            corners = brush.rng.integers(-radius, radius, size=(brush.integer(3, 7), 2)) + place
            cv2.fillPoly(image, [corners.astype(np.int32)], tone, cv2.LINE_AA)
    return _shaded(image, 0.05 * brush.cloud(32, 4))


def _painting(brush: _Brush) -> Image:
    """A canvas: brushed, so that edges waver."""
    image = _landscape(brush) if brush.chance(0.55) else _abstract(brush)
    axis = np.arange(SIZE, dtype=np.float32)
    strength = float(brush.rng.uniform(1, 4))
    x = axis[None] + strength * brush.cloud(16, 4)
    y = axis[:, None] + strength * brush.cloud(16, 4)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _poster(brush: _Brush) -> Image:
    """A picture above a title and small print."""
    image = _abstract(brush) if brush.chance(0.6) else _landscape(brush)
    band = brush.integer(60, 150)
    paper, ink = brush.color((0, 0.6), (0.7, 1)), brush.color((0.2, 1), (0.05, 0.4))
    image[SIZE - band :] = paper
    title_px = brush.integer(30, 60)
    brush.write(image, (20, SIZE - band + title_px), title_px, brush.integer(5, 9), ink)
    for line in range(SIZE - band + title_px + 16, SIZE - 6, 14):
        brush.write(image, (22, line), 9, brush.integer(20, 50), ink)
    if brush.chance(0.5):
        brush.write(image, (30, 80), brush.integer(40, 70), 5, paper)
    return image


def _page(brush: _Brush) -> Image:
    """A printed sheet: a heading, columns of text, pictures."""
    gray = brush.integer(218, 248)
    image = _filled((gray, gray, gray))
    picture = _abstract(brush)
    brush.write(image, (20, 52), 34, brush.integer(8, 14), _INK)
    columns = brush.one_of(2, 3)
    width = (SIZE - 40) // columns
    for column in range(columns):
        line, left = 78, 20 + column * width
        while line < SIZE - 14:
            if brush.chance(0.06) and line < SIZE - 120:
                height = brush.integer(50, 100)
                image[line : line + height, left : left + width - 12] = cv2.resize(
                    picture, (width - 12, height), interpolation=cv2.INTER_AREA
                )
                line += height + 14
            brush.write(image, (left, line), 9, brush.integer(width // 11, width // 9), _INK)
            line += 13
    return image


def _board(brush: _Brush) -> Image:
    """A cork board under notes."""
    image = _tinted((173, 128, 82), 0.15 * brush.cloud(64, 4))
    sources = [_page(brush), _abstract(brush), _landscape(brush)]
    for _ in range(brush.integer(14, 26)):
        width, height = brush.point(45, 130)
        x, y = brush.integer(0, SIZE - width), brush.integer(0, SIZE - height)
        top, left = brush.point(0, SIZE // 3)
        part = sources[brush.integer(0, 3)][top : top + 2 * height, left : left + 2 * width]
        shadow = image[y + 2 : y + height + 3, x + 2 : x + width + 3]
        shadow[:] = shadow // 2
        image[y : y + height, x : x + width] = cv2.resize(
            part, (width, height), interpolation=cv2.INTER_AREA
        )
        pin = brush.color((0.7, 1), (0.5, 1))
        cv2.circle(image, (x + width // 2, y + 5), 4, pin, -1, cv2.LINE_AA)
    return image


def _outside(brush: _Brush) -> Image:
    """What is seen through a window: out of focus."""
    image = _landscape(brush)
    for _ in range(brush.integer(0, 4)):
        width, height = brush.point(60, 160)
        x, y = brush.integer(0, SIZE - width), SIZE - height - brush.integer(0, 150)
        image[y:, x : x + width] = brush.color((0.05, 0.4), (0.4, 0.8))
        for pane_y in range(y + 10, SIZE - 20, 26):
            for pane_x in range(x + 8, x + width - 14, 22):
                image[pane_y : pane_y + 14, pane_x : pane_x + 10] = (50, 62, 75)
    return cv2.GaussianBlur(image, (0, 0), 3.0)


# Things


def _spines(brush: _Brush) -> Image:
    """The backs of NUM_SPINES books, titles running down."""
    width = SIZE // NUM_SPINES
    strips = []
    for _ in range(NUM_SPINES):
        color = brush.color((0.1, 0.85), (0.15, 0.9))
        strip = _filled(color, width)
        for _ in range(brush.integer(0, 4)):
            begin, thick = brush.integer(0, SIZE - 40), brush.integer(4, 40)
            strip[:, begin : begin + thick] = brush.color((0.1, 0.8), (0.2, 0.95))
        ink = (240.0, 235.0, 220.0) if sum(color) < 380 else _INK
        brush.write(strip, (brush.integer(20, 120), 12), 10, brush.integer(8, 16), ink)
        brush.write(strip, (brush.integer(330, 400), 12), 9, brush.integer(4, 9), ink)
        strip[[0, -1]] //= 2
        strips.append(cv2.rotate(strip, cv2.ROTATE_90_CLOCKWISE))
    return _shaded(np.concatenate(strips, axis=1), 0.05 * brush.cloud(32, 4))


def _labels(brush: _Brush) -> Image:
    """NUM_LABELS small pictures: covers, packets, wrappings."""
    sources = [_abstract(brush), _landscape(brush), _fabric(brush)]
    image, cell = np.empty((SIZE, SIZE, 3), np.uint8), SIZE // 4
    for number in range(NUM_LABELS):
        top, left = brush.point(0, SIZE - 2 * cell)
        part = sources[brush.integer(0, 3)][top : top + 2 * cell, left : left + 2 * cell]
        label = cv2.resize(part, (cell, cell), interpolation=cv2.INTER_AREA)
        if brush.chance(0.7):
            band, ink = brush.integer(0, 80), brush.color((0.3, 1), (0.05, 0.4))
            label[band : band + 40] = brush.color((0, 0.9), (0.6, 1))
            brush.write(label, (8, band + 22), 18, brush.integer(4, 7), ink)
            brush.write(label, (8, band + 35), 8, brush.integer(8, 13), ink)
        y, x = cell * (number // 4), cell * (number % 4)
        image[y : y + cell, x : x + cell] = label
    return image


def _cardboard(brush: _Brush) -> Image:
    color = _scaled((184, 143, 102), brush.rng.uniform(0.8, 1.1))
    image = _tinted(color, 0.03 * brush.noise(4, 256) + 0.04 * brush.cloud(8, 5))
    tape = image[SIZE // 2 - 30 : SIZE // 2 + 30]
    tape[:] = _scaled(color, 1.15)
    brush.write(image, (40, 150), 60, brush.integer(4, 7), _INK)
    for line in range(340, 460, 22):
        brush.write(image, (300, line), 13, brush.integer(6, 14), _INK)
    cv2.rectangle(image, (40, 320), (240, 470), (242, 242, 236), -1)
    for bar in range(55, 225, 6):
        image[335:420, bar : bar + brush.integer(1, 5)] = _INK
    brush.write(image, (55, 450), 16, 10, _INK)
    return image


def _foliage(brush: _Brush) -> Image:
    """A leaf: veins across a midrib along x."""
    x, y = _grid()
    color = _hsv(brush.rng.uniform(0.22, 0.4), brush.rng.uniform(0.4, 0.8), 0.5)
    from_rib = np.abs(y - 0.5)
    veins = np.cos(2 * np.pi * (9 * x - 6 * from_rib)) > 0.9
    pale = np.maximum(0.5 * veins, from_rib < 0.02)
    leaf = _tinted(color, 0.15 * brush.cloud(8, 5))
    return _mixed(leaf, _filled(_scaled(color, 1.4)), pale)


def _screen(brush: _Brush) -> Image:
    """A desktop with windows of text."""
    image = _landscape(brush) // 2
    for _ in range(3):
        width, height = brush.integer(180, 330), brush.integer(150, 300)
        x, y = brush.integer(0, SIZE - width), brush.integer(0, SIZE - height)
        dark = brush.chance(0.5)
        window = _filled((30, 32, 36) if dark else (238, 238, 240), height, width)
        window[:16] = brush.color((0.2, 0.6), (0.4, 0.7))
        for line in range(32, height - 6, 14):
            ink = brush.color((0.2, 0.7), (0.7, 1) if dark else (0.1, 0.4))
            indent = 14 * brush.integer(0, 4)
            brush.write(window, (8 + indent, line), 9, brush.integer(2, width // 9), ink)
        image[y : y + height, x : x + width] = window
    return image


def _paint(brush: _Brush) -> Image:
    """Lacquer, plastic, ceramics: a colour, hardly any texture."""
    return _tinted(brush.color((0.0, 0.6), (0.35, 0.95)), 0.02 * brush.cloud(16, 5))


def _metal(brush: _Brush) -> Image:
    brushed = 0.06 * brush.noise(4, 256) + 0.04 * brush.cloud(4, 4)
    return _tinted(brush.color((0.0, 0.12), (0.45, 0.75)), brushed)


def _white(brush: _Brush) -> Image:
    """Painted woodwork: frames, skirting, radiators."""
    strokes = 0.012 * brush.noise(8, 128) + 0.01 * brush.cloud(16, 4)
    return _tinted(brush.color((0.0, 0.08), (0.82, 0.95)), strokes)


def _wear(brush: _Brush) -> Image:
    """Round half of white: stains, scratches and specks that other textures are multiplied with."""
    shade = 0.05 * brush.cloud(4, 7) + 0.03 * brush.noise(256)
    image = _tinted((128, 128, 128), shade)
    for _ in range(110):
        begin = brush.rng.integers(SIZE, size=2)
        end = begin + brush.rng.integers(-30, 30, size=2)
        tone = _scaled((128, 128, 128), brush.rng.uniform(0.86, 1.1))
        cv2.line(image, begin.tolist(), end.tolist(), tone, 1, cv2.LINE_AA)
    for _ in range(130):
        tone = _scaled((128, 128, 128), brush.rng.uniform(0.84, 1.08))
        cv2.circle(image, brush.point(), brush.integer(1, 4), tone, -1, cv2.LINE_AA)
    return image


_PAINTERS: dict[str, tuple[Callable[[_Brush], Image], int]] = {
    "plaster": (_plaster, 2),
    "ceiling": (_ceiling, 1),
    "wallpaper": (_wallpaper, 2),
    "brick": (_brick, 1),
    "tiles": (_tiles, 1),
    "wood": (_wood, 3),
    "planks": (_planks, 1),
    "parquet": (_parquet, 1),
    "stone": (_stone, 1),
    "fabric": (_fabric, 4),
    "rug": (_rug, 1),
    "carpet": (_carpet, 1),
    "painting": (_painting, 5),
    "poster": (_poster, 4),
    "page": (_page, 1),
    "board": (_board, 1),
    "outside": (_outside, 1),
    "spines": (_spines, 2),
    "labels": (_labels, 2),
    "cardboard": (_cardboard, 1),
    "foliage": (_foliage, 1),
    "screen": (_screen, 1),
    "paint": (_paint, 3),
    "metal": (_metal, 1),
    "white": (_white, 1),
    "wear": (_wear, 1),
}
"""What is painted, and on how many layers."""
_PHOTO_KINDS = ("painting", "poster", "rug")
