"""Pairs of images with exact correspondences, from procedural rooms: parallax and occlusion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.nn.encoder import grey_from_rgb
from reloc.scenes.synthetic import synthetic_scene
from reloc.training.correspondences import CollageConfig, Correspondences, disturb

_WIDTH, _HEIGHT = 320, 240
_VIEWS_PER_ROOM = 40
# A point is the same one where the other view's depth is within this share of its own.
_DEPTH_TOLERANCE = 0.03
# Fewer common points than this, and two views are not taken for a pair.
_MIN_POINTS = 24
_MAX_TRIES = 12
# Seeds of rooms to learn from begin here; those below are for judging.
FIRST_TRAINING_SEED = 10_000


@dataclass(frozen=True, eq=False)
class RenderedRoom:
    """Views of one room.

    Attributes:
        grey_VHW: uint8.
        depth_VHW: float16, metres along the optical axis, 0 where there is nothing.
        cam_from_world: batch (V,), float64.
        camera: of all views.
    """

    grey_VHW: Tensor
    depth_VHW: Tensor
    cam_from_world: Rigid3d
    camera: Camera


def render_rooms(count: int, folder: Path, run: Run) -> list[RenderedRoom]:
    """Rooms, each rendered once: those that `folder` holds are read from it.

    Raises:
        InputError: the renderer is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + count)
    return [render_room(seed, folder) for seed in run.progress.track(seeds, "rooms")]


def render_room(seed: int, folder: Path) -> RenderedRoom:
    """One room, rendered once; those with a seed below FIRST_TRAINING_SEED are for judging.

    Raises:
        InputError: the renderer is not installed.
    """
    path = folder / f"room-{seed}.safetensors"
    if not path.exists():
        views = synthetic_scene(seed, _VIEWS_PER_ROOM, 0, _WIDTH, _HEIGHT).mapping
        depths = [view.read_depth() for view in views]
        partial = path.with_name(f".{path.name}")
        rendered = {
            "grey": torch.cat([grey_from_rgb(view.read_image()) for view in views]),
            "depth": torch.stack([depth for depth in depths if depth is not None]).half(),
            "cam_from_world": torch.stack([view.cam_from_world.matrix for view in views]),
            "focal": views[0].camera.focal[:1],
        }
        safetensors.torch.save_file(rendered, partial)
        partial.rename(path)
    content = safetensors.torch.load_file(path)
    return RenderedRoom(
        content["grey"],
        content["depth"],
        Rigid3d.from_matrix(content["cam_from_world"]),
        Camera.simple_pinhole(float(content["focal"]), _WIDTH, _HEIGHT),
    )


def room_pair(
    rooms: Sequence[RenderedRoom], rng: np.random.Generator, config: CollageConfig
) -> Correspondences:
    """One pair of images from rendered rooms; with few points where a few tries found no more."""
    part = _try_pair(rooms, rng, config)
    for _ in range(_MAX_TRIES):
        if len(part.pair_N) >= _MIN_POINTS:
            break
        part = _try_pair(rooms, rng, config)
    images = [
        torch.from_numpy(disturb(image[0, 0].numpy(), rng))[None, None]
        for image in (part.images_a_B1HW, part.images_b_B1HW)
    ]
    return replace(part, images_a_B1HW=images[0], images_b_B1HW=images[1])


def _try_pair(
    rooms: Sequence[RenderedRoom], rng: np.random.Generator, config: CollageConfig
) -> Correspondences:
    number = int(rng.integers(len(rooms)))
    room = rooms[number]
    first, second = (int(index) for index in rng.choice(len(room.grey_VHW), 2, replace=False))
    crops = [_random_crop(rng, config) for _ in range(2)]
    pair = pair_of_views(room, (first, second), crops, rng, config)
    return replace(pair, room_B=torch.tensor([number]))


def pair_of_views(
    room: RenderedRoom,
    views: tuple[int, int],
    crops: Sequence[NDArray[np.float64]],
    rng: np.random.Generator,
    config: CollageConfig,
) -> Correspondences:
    """Two views of a room, each cut out by an affine map (2, 3) crop from view, undisturbed."""
    images = [
        torch.from_numpy(
            cv2.warpAffine(
                room.grey_VHW[view].numpy(),
                _shifted_by_half(crop),
                (config.size, config.size),
                borderMode=cv2.BORDER_REFLECT_101,
            )
        )[None, None]
        for view, crop in zip(views, crops, strict=True)
    ]
    points_a_N2, points_b_N2, world_N3 = _common_points(room, views, crops, config)
    chosen = torch.from_numpy(rng.permutation(len(points_a_N2))[: config.max_points])
    return Correspondences(
        images[0],
        images[1],
        torch.zeros(len(chosen), dtype=torch.int64),
        points_a_N2[chosen].float(),
        points_b_N2[chosen].float(),
        world_N3=world_N3[chosen].float(),
    )


def _random_crop(rng: np.random.Generator, config: CollageConfig) -> NDArray[np.float64]:
    """An affine map (2, 3), crop from view: turned, scaled, and somewhere in the view."""
    # Part of the turn and of the scale is in the views already.
    turn_deg = rng.uniform(-1, 1) * config.max_turn_deg
    zoom = math.exp(rng.uniform(0, math.log(config.max_scale) / 2))
    focus = (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7)))
    return crop_from_view(config.size, turn_deg, zoom, focus)


def crop_from_view(
    size: int, turn_deg: float = 0.0, zoom: float = 1.0, focus: tuple[float, float] = (0.5, 0.5)
) -> NDArray[np.float64]:
    """An affine map (2, 3) of pixels.

    Args:
        size: of the square crop, pixels.
        turn_deg: of the crop's content, from its x axis towards its y axis.
        zoom: 1 where the crop is as high as the view.
        focus: what is in the middle of the crop, in widths and heights of the view.
    """
    turn, scale = math.radians(turn_deg), size / _HEIGHT * zoom
    rotation = scale * np.array(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    )
    middle = np.multiply(focus, (_WIDTH, _HEIGHT))
    return np.column_stack([rotation, np.full(2, size / 2) - rotation @ middle])


def _shifted_by_half(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map for OpenCV, whose pixel centres are whole numbers."""
    shifted = affine.copy()
    shifted[:, 2] += affine[:, :2] @ [0.5, 0.5] - 0.5
    return shifted


def _common_points(
    room: RenderedRoom,
    views: tuple[int, int],
    crops: Sequence[NDArray[np.float64]],
    config: CollageConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cell centres of the first crop that the second one shows too: (N, 2), (N, 2), in the room."""
    grid = torch.arange(4.0, config.size, 8, dtype=torch.float64)
    points_a_N2 = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    affine_a, affine_b = (torch.from_numpy(crop) for crop in crops)
    pixels_N2 = (points_a_N2 - affine_a[:, 2]) @ torch.linalg.inv(affine_a[:, :2]).T
    world_N3, shown_N = points_shown(room, views[0], pixels_N2)
    seen_N3 = room.cam_from_world[views[1]] @ world_N3
    seen_pixels_N2 = room.camera.img_from_cam(seen_N3)
    points_b_N2 = seen_pixels_N2 @ affine_b[:, :2].T + affine_b[:, 2]
    other_depth_N = _look_up(room.depth_VHW[views[1]], seen_pixels_N2)
    visible_N = (
        shown_N
        & ((seen_N3[:, 2] - other_depth_N).abs() < _DEPTH_TOLERANCE * other_depth_N)
        & ((points_b_N2 >= 4) & (points_b_N2 <= config.size - 4)).all(-1)
    )
    return points_a_N2[visible_N], points_b_N2[visible_N], world_N3[visible_N]


def points_shown(room: RenderedRoom, view: int, pixels_N2: Tensor) -> tuple[Tensor, Tensor]:
    """Points (N, 3) of the room at pixels of a view, float64, and whether there is one (N,)."""
    depth_N = _look_up(room.depth_VHW[view], pixels_N2)
    rays_N3 = torch.cat([room.camera.cam_from_img(pixels_N2), torch.ones(len(pixels_N2), 1)], 1)
    return room.cam_from_world[view].inverse() @ (rays_N3 * depth_N[:, None]), depth_N > 0


def _look_up(depth_HW: Tensor, pixels_N2: Tensor) -> Tensor:
    """Depth (N,) float64 at pixels; 0 outside of the view, and where a pixel is not a number."""
    inside_N = ((pixels_N2 >= 0) & (pixels_N2 < torch.tensor([_WIDTH, _HEIGHT]))).all(-1)
    columns, rows = torch.where(inside_N[:, None], pixels_N2, 0.0).long().unbind(-1)
    return torch.where(inside_N, depth_HW[rows, columns].double(), 0.0)
