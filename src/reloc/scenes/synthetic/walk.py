"""Camera walks: a person strolls through a room and looks around."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree

from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.synthetic.room import CELL_M, Room

Points = NDArray[np.float64]

# A camera keeps this far from all that stands, and turns corners at least this wide.
_COMFORT_M, _CLOSEST_M = 0.32, 0.2
_NUM_STOPS = 6
# How far the second walk is from the first, at most.
_BESIDE_M = 1.0
_LEAST_VIEWS_A_TURN = 16
_NUM_YAWS = 48
_VIEW_ANGLE = np.deg2rad(50)
_ELEVATIONS = np.deg2rad([-30, -18, -6, 6])
_STEP_M = 0.02


def take_walk(
    room: Room,
    count: int,
    eye_height_m: float,
    rng: np.random.Generator,
    *,
    max_step_m: float = np.inf,
    beside_N2: Points | None = None,
) -> list[Rigid3d]:
    """Poses cam_from_world along one walk, evenly spaced.

    Args:
        room: where to walk.
        count: of poses.
        eye_height_m: about which the camera bobs.
        rng: of where to walk and where to look.
        max_step_m: the walk ends where its poses would be further apart.
        beside_N2: the walk stays near these points of the floor.

    Raises:
        InputError: the room is too full to walk in.
    """
    path_K2 = _path(room, rng, beside_N2)
    num_steps = min(len(path_K2) - 1, max_step_m * max(count - 1, 1) / _STEP_M)
    places = np.linspace(0, num_steps, count).round().astype(int)
    centers_N3 = np.empty((count, 3))
    centers_N3[:, :2] = path_K2[places]
    centers_N3[:, 2] = eye_height_m + 0.05 * _sway(count, rng)
    yaw_N = _gaze(room, centers_N3, rng)
    pitch_N = np.deg2rad(-9 + 5 * _sway(count, rng))
    roll_N = np.deg2rad(2.5 * _sway(count, rng))
    return [
        _pose(center, float(yaw), float(pitch), float(roll))
        for center, yaw, pitch, roll in zip(centers_N3, yaw_N, pitch_N, roll_N, strict=True)
    ]


def _sway(count: int, rng: np.random.Generator) -> Points:
    """Smooth noise (count,) of standard deviation about 1."""
    sigma = max(count / 20, 1.0)
    noise = gaussian_filter1d(rng.standard_normal(count), sigma, mode="nearest")
    return noise * np.sqrt(2 * sigma * np.sqrt(np.pi))


def _pose(center: Points, yaw: float, pitch: float, roll: float) -> Rigid3d:
    """A camera that looks along `yaw` (from x to y) and up by `pitch`, turned about its axis."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    across = np.cos(roll) * right + np.sin(roll) * down
    rotation = torch.from_numpy(np.stack([across, np.cross(forward, across), forward]))
    return Rigid3d(rotation, -rotation @ torch.from_numpy(center))


def _path(room: Room, rng: np.random.Generator, beside_N2: Points | None) -> Points:
    """A smooth path (K, 2) past random stops, in steps of _STEP_M."""
    free = room.clearance_m > _COMFORT_M
    if beside_N2 is not None:
        middles_YX2 = _middles(np.indices(free.shape).transpose(1, 2, 0), room)
        distance_YX, _ = KDTree(beside_N2).query(middles_YX2)
        free &= distance_YX < _BESIDE_M
    if not free.any():
        raise InputError(f"synthetic room {room.seed} is too full to walk in: take another seed")
    _, pieces = cv2.connectedComponents(free.astype(np.uint8))
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    cells_M2 = np.argwhere(pieces == largest)
    graph = _graph(cells_M2, room.clearance_m)
    stops = [int(rng.integers(len(cells_M2)))]
    for _ in range(_NUM_STOPS - 1):
        # Of a few places, the one farthest from the last stops: the walk goes everywhere.
        options = rng.integers(len(cells_M2), size=12)
        nearest = np.min(
            [np.linalg.norm(cells_M2[options] - cells_M2[stop], axis=1) for stop in stops[-3:]],
            axis=0,
        )
        stops.append(int(options[nearest.argmax()]))
    _, before = dijkstra(graph, indices=stops, return_predecessors=True)
    visited: list[int] = []
    for source, (start, end) in enumerate(pairwise(stops)):
        leg = [end]
        while leg[-1] != start:
            leg.append(int(before[source, leg[-1]]))
        visited += leg[::-1]
    return _smoothed(_middles(cells_M2[visited], room), room)


def _middles(cells: NDArray[np.int64], room: Room) -> Points:
    """Points (..., 2), x and y of the world, in the middle of cells (..., 2), row and column."""
    return (cells[..., ::-1] + 0.5) * CELL_M - np.array(room.size[:2]) / 2


def _graph(cells_M2: NDArray[np.int64], clearance_m: NDArray[np.float32]) -> coo_array:
    """Steps between neighbouring cells; it costs more to pass close to things."""
    number = np.full(np.add(clearance_m.shape, 2), -1)
    number[cells_M2[:, 0] + 1, cells_M2[:, 1] + 1] = np.arange(len(cells_M2))
    cost_M = 1 + 0.1 / clearance_m[cells_M2[:, 0], cells_M2[:, 1]] ** 2
    begins, ends, costs = [], [], []
    for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
        neighbour = number[cells_M2[:, 0] + 1 + step[0], cells_M2[:, 1] + 1 + step[1]]
        exists = np.flatnonzero(neighbour >= 0)
        length = float(np.hypot(*step))
        for begin, end in ((exists, neighbour[exists]), (neighbour[exists], exists)):
            begins.append(begin)
            ends.append(end)
            costs.append(length * (cost_M[begin] + cost_M[end]) / 2)
    where = (np.concatenate(begins), np.concatenate(ends))
    return coo_array((np.concatenate(costs), where), shape=(len(cells_M2), len(cells_M2)))


def _smoothed(corners_K2: Points, room: Room) -> Points:
    """The path without corners, as smooth as the furniture allows."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(corners_K2, axis=0), axis=1))])
    even = np.arange(0, along[-1], _STEP_M)
    path_K2 = np.stack([np.interp(even, along, column) for column in corners_K2.T], axis=1)
    for sigma_m in (0.35, 0.25, 0.15, 0.08):
        smooth_K2 = gaussian_filter1d(path_K2, sigma_m / _STEP_M, axis=0, mode="nearest")
        if room.clearance_at(smooth_K2).min() > _CLOSEST_M:
            return smooth_K2
    return path_K2


def _gaze(room: Room, centers_N3: Points, rng: np.random.Generator) -> Points:
    """Where to look (N,), radians: all round by and by, smoothly, at things rather than at walls.

    The best sequence of directions, by dynamic programming.
    """
    count = len(centers_N3)
    if not count:
        return np.empty(0)
    interest_NY = np.stack([_interest(room, center) for center in centers_N3])
    # A wish to look around: a few turns, now faster, now slower, now back.
    turns = rng.choice([-1, 1]) * min(rng.uniform(1.5, 2.5), max(count / _LEAST_VIEWS_A_TURN, 1.0))
    wish_N = 2 * np.pi * (rng.random() + turns * np.linspace(0, 1, count)) + 0.6 * _sway(count, rng)
    yaws_Y = 2 * np.pi * np.arange(_NUM_YAWS) / _NUM_YAWS
    away_NY = np.abs(np.angle(np.exp(1j * (yaws_Y - wish_N[:, None]))))
    step_YY = np.abs(np.angle(np.exp(1j * (yaws_Y - yaws_Y[:, None]))))
    usual = 2 * np.pi * abs(turns) / count
    cost_NY = 0.6 * away_NY**2 - 2 * np.log(interest_NY + 0.02)
    change_YY = (step_YY / max(2 * usual, 0.15)) ** 2
    total_Y, chosen = cost_NY[0], []
    for cost_Y in cost_NY[1:]:
        options_YY = total_Y[:, None] + change_YY
        chosen.append(options_YY.argmin(axis=0))
        total_Y = options_YY.min(axis=0) + cost_Y
    best = [int(total_Y.argmin())]
    for previous in reversed(chosen):
        best.append(int(previous[best[-1]]))
    yaw_N = np.unwrap(yaws_Y[best[::-1]])
    return gaussian_filter1d(yaw_N, 1.0, mode="nearest")


def _interest(room: Room, center: Points) -> Points:
    """How much there is to see (_NUM_YAWS,) along each direction, about 0 to 1."""
    yaw, elevation = np.meshgrid(
        2 * np.pi * np.arange(2 * _NUM_YAWS) / (2 * _NUM_YAWS), _ELEVATIONS
    )
    flat = np.cos(elevation)
    directions_EY3 = np.stack([flat * np.cos(yaw), flat * np.sin(yaw), np.sin(elevation)], axis=2)
    detail_EY, distance_EY, patch_EY = room.look_around(center, directions_EY3)
    # What is too near fills the picture with too little. Borders count as much as textures.
    near = np.clip(distance_EY / 1.8, 0, 1) ** 2
    borders = patch_EY != np.roll(patch_EY, 1, axis=1)
    worth_Y = (near * (0.6 * detail_EY + 0.6 * borders)).mean(axis=0)
    window = round(_VIEW_ANGLE / (np.pi / _NUM_YAWS))
    spread_Y = sum(np.roll(worth_Y, shift) for shift in range(-window // 2, window // 2 + 1))
    return np.asarray(spread_Y)[::2] / (window + 1)
