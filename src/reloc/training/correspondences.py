"""Pairs of images with exact correspondences, made from flat pictures.

A pair shows pictures, cut out and laid over one another, each seen by two cameras at its own tilt,
turn and distance: wide baselines, scale changes and occlusion, and a background that changes behind
every outline. Then both images are lit, blurred, exposed, covered and made noisy by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Grey = NDArray[np.uint8]
Matrix = NDArray[np.float64]

_FOCAL_RATIO = 1.1
_COVERED = 255


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Pairs of images and points that they both show.

    Attributes:
        images_a_B1HW: uint8.
        images_b_B1HW: uint8, of the same size.
        pair_N: which pair a correspondence belongs to.
        points_a_N2: float32 pixels; the centre of the top-left pixel is (0.5, 0.5).
        points_b_N2: of the same points in the other image.
        room_B: int64, which room a pair shows; None where not all of them show rooms.
        world_N3: float32, the points in the world of their room; None as above.
    """

    images_a_B1HW: Tensor
    images_b_B1HW: Tensor
    pair_N: Tensor
    points_a_N2: Tensor
    points_b_N2: Tensor
    room_B: Tensor | None = None
    world_N3: Tensor | None = None

    @staticmethod
    def join(parts: Sequence[Correspondences]) -> Correspondences:
        """One batch of several; images have one size."""
        offsets = np.cumsum([0, *[len(part.images_a_B1HW) for part in parts]])
        return Correspondences(
            torch.cat([part.images_a_B1HW for part in parts]),
            torch.cat([part.images_b_B1HW for part in parts]),
            torch.cat([part.pair_N + int(at) for part, at in zip(parts, offsets, strict=False)]),
            torch.cat([part.points_a_N2 for part in parts]),
            torch.cat([part.points_b_N2 for part in parts]),
            _joined([part.room_B for part in parts]),
            _joined([part.world_N3 for part in parts]),
        )


def _joined(columns: Sequence[Tensor | None]) -> Tensor | None:
    """One column of several; None where one of them is missing."""
    present = [column for column in columns if column is not None]
    return torch.cat(present) if len(present) == len(columns) else None


@dataclass(frozen=True)
class CollageConfig:
    """How hard the pairs are.

    Attributes:
        size: of both images, pixels; a multiple of 8.
        max_scale: largest change of scale between the two.
        max_turn_deg: largest turn of one image in its plane.
        max_tilt_deg: largest angle between a picture's normal and the viewing direction.
        max_layers: most pictures laid over the first.
        max_points: most correspondences of a pair.
    """

    size: int = 224
    max_scale: float = 2.5
    max_turn_deg: float = 35.0
    max_tilt_deg: float = 50.0
    max_layers: int = 3
    max_points: int = 192

    def __post_init__(self) -> None:
        if self.size < 8 or self.size % 8:
            raise ValueError(f"size is {self.size}; it must be a multiple of 8")
        if not self.max_scale >= 1:
            raise ValueError(f"max_scale is {self.max_scale}; it must be at least 1")
        if not 0 <= self.max_tilt_deg < 90:
            raise ValueError(f"max_tilt_deg is {self.max_tilt_deg}; it must be in [0, 90)")
        for name in ("max_turn_deg", "max_layers"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it cannot be negative")
        if self.max_points < 1:
            raise ValueError(f"max_points is {self.max_points}; it must be at least 1")


def collage_pair(
    pictures: Sequence[Grey], rng: np.random.Generator, config: CollageConfig
) -> Correspondences:
    """One pair of images from flat pictures (H, W) uint8."""
    size = config.size
    num_layers = 1 + int(rng.integers(config.max_layers + 1))
    views = np.zeros((2, size, size), np.uint8)
    # Which layer a pixel shows; 255 where it shows none that can be matched.
    owners = np.full((2, size, size), _COVERED, np.uint8)
    shown_from_picture: list[tuple[Matrix, Matrix]] = []
    for layer in range(num_layers):
        picture = pictures[int(rng.integers(len(pictures)))]
        height, width = picture.shape
        focus = rng.uniform(0.25, 0.75, 2) * (width, height)
        if layer == 0:
            outline = None
            extent = min(height, width) * math.exp(rng.uniform(math.log(0.3), math.log(0.9)))
        else:
            extent = min(height, width) * rng.uniform(0.15, 0.45)
            outline = _random_polygon(rng, focus, extent)
            # A cut-out fills a part of the view, not all of it.
            extent *= rng.uniform(1.2, 3.0)
        ratio = math.exp(rng.uniform(-1, 1) * math.log(config.max_scale))
        place = rng.uniform(0.15, 0.85, 2) if layer else np.full(2, 0.5)
        pair: list[Matrix] = []
        for view, factor in enumerate((ratio**0.5, ratio**-0.5)):
            shown = place * size + rng.normal(0, 0.1 * size, 2)
            matrix = _view_of_plane(rng, focus, extent * factor, shown, config)
            _paint(views[view], owners[view], picture, matrix, outline, layer)
            pair.append(matrix)
        shown_from_picture.append((pair[0], pair[1]))
    for view in range(2):
        _cover(views[view], owners[view], rng)
    points_a_N2, points_b_N2 = _common_points(owners, shown_from_picture, rng, config)
    images = [torch.from_numpy(disturb(view, rng))[None, None] for view in views]
    return Correspondences(
        images[0],
        images[1],
        torch.zeros(len(points_a_N2), dtype=torch.int64),
        torch.from_numpy(points_a_N2.astype(np.float32)),
        torch.from_numpy(points_b_N2.astype(np.float32)),
    )


def _random_polygon(rng: np.random.Generator, center: NDArray, radius: float) -> NDArray:
    """Corners (K, 2) of a star-shaped outline."""
    count = int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * math.pi, count))
    radii = radius * rng.uniform(0.5, 1.0, count)
    return center + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _view_of_plane(
    rng: np.random.Generator, focus: NDArray, extent: float, shown: NDArray, config: CollageConfig
) -> Matrix:
    """The homography (3, 3), image from picture, of a camera that looks at `focus` of a picture.

    Args:
        rng: of the camera's turn and tilt.
        focus: pixel (2,) of the picture.
        extent: pixels of the picture that fill the image, where it is not tilted.
        shown: pixel (2,) of the image that shows `focus`.
        config: of the bounds.
    """
    turn = math.radians(rng.uniform(-1, 1) * config.max_turn_deg)
    tilt = math.radians(rng.uniform() * config.max_tilt_deg)
    azimuth = rng.uniform(0, 2 * math.pi)
    axis = tilt * np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    rotation = cv2.Rodrigues(np.array([0.0, 0.0, turn]))[0] @ cv2.Rodrigues(axis)[0]
    # The picture's plane is spanned by the first two columns; its unit is the picture's pixel.
    focal = _FOCAL_RATIO * config.size
    distance = extent * _FOCAL_RATIO
    cam_from_picture = np.column_stack([rotation[:, :2], [0.0, 0.0, distance]])
    center = np.array([[1.0, 0.0, -focus[0]], [0.0, 1.0, -focus[1]], [0.0, 0.0, 1.0]])
    calibration = np.array([[focal, 0.0, shown[0]], [0.0, focal, shown[1]], [0.0, 0.0, 1.0]])
    return calibration @ cam_from_picture @ center


def _paint(
    view: Grey, owner: Grey, picture: Grey, matrix: Matrix, outline: NDArray | None, layer: int
) -> None:
    """Draw a picture, or a cut-out of it, into a view."""
    size = len(view)
    # OpenCV's pixel centres are whole numbers, ours are halves.
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    warp = np.linalg.inv(half) @ matrix @ half
    warped = cv2.warpPerspective(
        picture, warp, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    if outline is None:
        view[:] = warped
        height, width = picture.shape
        outline = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    drawn = np.zeros_like(view)
    homogeneous = np.column_stack([outline, np.ones(len(outline))]) @ matrix.T
    if (homogeneous[:, 2] <= 1e-3).any():
        return
    corners = homogeneous[:, :2] / homogeneous[:, 2:]
    cv2.fillPoly(drawn, [np.rint(corners - 0.5).clip(-8192, 8192).astype(np.int32)], 1)
    inside = drawn.astype(bool)
    view[inside] = warped[inside]
    owner[inside] = layer


def _cover(view: Grey, owner: Grey, rng: np.random.Generator) -> None:
    """Things that only one of the two images shows."""
    size = len(view)
    for _ in range(int(rng.integers(0, 3))):
        center = rng.uniform(0, size, 2)
        corners = _random_polygon(rng, center, rng.uniform(0.05, 0.2) * size)
        drawn = np.zeros_like(view)
        cv2.fillPoly(drawn, [np.rint(corners).astype(np.int32)], 1)
        inside = drawn.astype(bool)
        texture = rng.normal(rng.uniform(0, 255), rng.uniform(0, 40), int(inside.sum()))
        view[inside] = texture.clip(0, 255).astype(np.uint8)
        owner[inside] = _COVERED


def _common_points(
    owners: NDArray,
    shown_from_picture: Sequence[tuple[Matrix, Matrix]],
    rng: np.random.Generator,
    config: CollageConfig,
) -> tuple[NDArray, NDArray]:
    """Cell centres of the first image that show a point of the second: (N, 2) and (N, 2)."""
    grid = np.arange(4, config.size, 8)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    owner = owners[0][points[:, 1], points[:, 0]]
    target = np.full(points.shape, -1.0)
    for layer, (a_from_picture, b_from_picture) in enumerate(shown_from_picture):
        mine = owner == layer
        b_from_a = b_from_picture @ np.linalg.inv(a_from_picture)
        moved = np.column_stack([points[mine], np.ones(int(mine.sum()))]) @ b_from_a.T
        # Of a plane seen by two cameras, what is in front of one has the sign of the depth there.
        target[mine] = moved[:, :2] / np.where(np.abs(moved[:, 2:]) < 1e-9, 1e-9, moved[:, 2:])
    inside = ((target >= 4) & (target <= config.size - 4)).all(axis=1)
    cells = target.clip(0, config.size - 1).astype(int)
    visible = inside & (owner != _COVERED) & (owners[1][cells[:, 1], cells[:, 0]] == owner)
    chosen = rng.permutation(np.flatnonzero(visible))[: config.max_points]
    return points[chosen], target[chosen]


def disturb(image: Grey, rng: np.random.Generator) -> Grey:
    """Another light, exposure, focus and sensor: (H, W) uint8 to the same."""
    values = image.astype(np.float32) / 255
    if rng.uniform() < 0.7:
        light = rng.normal(0, rng.uniform(0, 0.3), (4, 4)).astype(np.float32)
        values *= np.exp(cv2.resize(light, image.shape[::-1], interpolation=cv2.INTER_CUBIC))
    values = values.clip(0, 1) ** math.exp(rng.normal(0, 0.2))
    middle = float(values.mean())
    values = middle + (values - middle) * math.exp(rng.normal(-0.1, 0.25)) + rng.normal(0, 0.06)
    kind = rng.uniform()
    if kind < 0.4:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 1.6))
    elif kind < 0.55:
        values = cv2.filter2D(values, -1, _motion_kernel(rng))
    noisy = values + rng.uniform(0, 0.03) * rng.standard_normal(image.shape, np.float32)
    return np.rint(255 * noisy.clip(0, 1)).astype(np.uint8)


def _motion_kernel(rng: np.random.Generator) -> NDArray[np.float32]:
    """A straight blur of up to nine pixels, summing to 1."""
    length, angle = rng.uniform(2, 9), rng.uniform(0, math.pi)
    step = 0.5 * length * np.array([math.cos(angle), math.sin(angle)])
    kernel = np.zeros((11, 11), np.float32)
    start, end = (np.rint(5 + sign * step).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0, lineType=cv2.LINE_AA)
    return kernel / kernel.sum()
