"""Procedural pictures: flat material for correspondences that nobody has rights in."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_SIZE = 360


def procedural_picture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A grey picture (360, 360) of shapes, stripes, lines, letters and clouds over one another."""
    canvas = _clouds(rng)
    for _ in range(int(rng.integers(3, 9))):
        painter = _PAINTERS[int(rng.integers(len(_PAINTERS)))]
        canvas = painter(canvas, rng)
    if rng.uniform() < 0.5:
        canvas = canvas + rng.uniform(0, 50) * (_clouds(rng) / 255 - 0.5)
    return np.rint(canvas.clip(0, 255)).astype(np.uint8)


def _clouds(rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise in octaves with a random slope: from smooth to rough."""
    slope = rng.uniform(0.35, 0.9)
    total = np.full((_SIZE, _SIZE), rng.uniform(40, 215), np.float32)
    amplitude = rng.uniform(5, 80)
    for cells in (3, 6, 12, 24, 48, 96, 180):
        noise = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        total += amplitude * cv2.resize(noise, (_SIZE, _SIZE), interpolation=cv2.INTER_CUBIC)
        amplitude *= slope
    return total.clip(0, 255)


def _shapes(canvas: NDArray, rng: np.random.Generator) -> NDArray:
    """Polygons and ellipses, filled or not."""
    canvas = canvas.copy()
    scale = rng.uniform(8, 90)
    for _ in range(int(rng.integers(3, 25))):
        center, shade = rng.uniform(0, _SIZE, 2), rng.uniform(0, 255)
        thickness = -1 if rng.uniform() < 0.7 else int(rng.integers(1, 4))
        if rng.uniform() < 0.4:
            axes = rng.uniform(0.2, 1.0, 2) * scale + 1
            box = (tuple(center), tuple(2 * axes), rng.uniform(0, 180))
            cv2.ellipse(canvas, box, shade, thickness, cv2.LINE_AA)
            continue
        count = int(rng.integers(3, 7))
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        radii = scale * rng.uniform(0.4, 1.0, count)
        corners = center + np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
        corners = [np.rint(corners).astype(np.int32)]
        if thickness < 0:
            cv2.fillPoly(canvas, corners, shade, cv2.LINE_AA)
        else:
            cv2.polylines(canvas, corners, True, shade, thickness, cv2.LINE_AA)
    return canvas


def _lines(canvas: NDArray, rng: np.random.Generator) -> NDArray:
    """Straight lines in a few directions."""
    canvas = canvas.copy()
    directions = rng.uniform(0, np.pi, int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(3, 30))):
        angle = directions[int(rng.integers(len(directions)))]
        step = rng.uniform(10, _SIZE) * np.array([np.cos(angle), np.sin(angle)])
        middle = rng.uniform(0, _SIZE, 2)
        begin, end = (np.rint(middle + sign * step / 2).astype(int).tolist() for sign in (-1, 1))
        thickness = int(rng.integers(1, 6))
        cv2.line(canvas, begin, end, rng.uniform(0, 255), thickness, cv2.LINE_AA)
    return canvas


def _letters(canvas: NDArray, rng: np.random.Generator) -> NDArray:
    """Rows of writing."""
    canvas = canvas.clip(0, 255).astype(np.uint8)
    size, shade = rng.uniform(0.3, 2.0), rng.uniform(0, 255)
    font = int(rng.integers(0, 8))
    left, top = rng.uniform(-20, 0.6 * _SIZE, 2)
    for row in range(int(rng.integers(1, 8))):
        text = "".join(chr(code) for code in rng.integers(33, 126, int(rng.integers(3, 16))))
        origin = (int(left), int(top + 36 * size * (row + 1)))
        cv2.putText(canvas, text, origin, font, size, shade, int(rng.integers(1, 4)), cv2.LINE_AA)
    return canvas.astype(np.float32)


def _tiles(canvas: NDArray, rng: np.random.Generator) -> NDArray:
    """A part covered by stripes or tiles, each with its own shade."""
    canvas = canvas.copy()
    across, down = (int(count) for count in rng.integers(1, 16, 2))
    contrast = rng.uniform(5, 90)
    shades = rng.uniform(40, 215) + contrast * rng.uniform(-1, 1, (down, across))
    left, top = (int(value) for value in rng.integers(0, _SIZE - 60, 2))
    width, height = (int(rng.integers(50, _SIZE - start + 1)) for start in (left, top))
    patch = cv2.resize(shades.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    canvas[top : top + height, left : left + width] = patch
    return canvas


def _grain(canvas: NDArray, rng: np.random.Generator) -> NDArray:
    """A patch of another cloud, so that textures end at outlines."""
    outline = rng.uniform(0, _SIZE, (int(rng.integers(3, 7)), 2))
    mask = np.zeros(canvas.shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1)
    return np.where(mask.astype(bool), _clouds(rng), canvas)


_PAINTERS = (_shapes, _lines, _letters, _tiles, _grain)
