"""Pairs of bearing sets with known matches, from keypoints of rendered rooms.

One set is what a detector finds in a view; the other is scene points that it found in a second view
and once more elsewhere, as points of a map are, moved into the frame of a camera that stands near
the first: the second view's own, or one that is the first's but for a random motion, as that of a
first guess is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.nn.bearings import Bearings
from reloc.nn.local_features import extract_features
from reloc.training.room_pairs import RenderedRoom, points_shown

# Of a pair: as a view that retrieval finds.
_MAX_DISTANCE_M, _MAX_ANGLE_DEG = 0.8, 35.0
# In pixels of the rooms' views: up to here two keypoints are of one point, and from there on not.
_SAME_PX, _OTHER_PX = 2.0, 4.0
# Share by which a point's depth may differ from what the view shows there.
_DEPTH_TOLERANCE = 0.03
_MAX_KEYPOINTS = 500
_MIN_MATCHES, _MAX_TRIES = 12, 100
# Share of pairs in which the known points are seen from their own view; of the others, the random
# motion of a guess: turn, and way in units of the median depth. Both are often much less.
_OWN_FRAME_SHARE = 0.5
_MAX_TURN_RAD, _MAX_WAY = 0.4, 0.25
_MIN_DEPTH_M = 0.1
UNMATCHED, UNKNOWN = -1, -2


@dataclass(frozen=True, eq=False)
class DetectedView:
    """Keypoints of a view of a room, strongest first.

    Attributes:
        pixels_N2: float32.
        bearings_N2: float32.
        world_N3: float32, the points there; zeros where nothing is known.
        known_N: whether the point is known.
        cam_from_world: float32.
    """

    pixels_N2: Tensor
    bearings_N2: Tensor
    world_N3: Tensor
    known_N: Tensor
    cam_from_world: Rigid3d


@dataclass(frozen=True, eq=False)
class DetectedRoom:
    """Views of a room, and which of them see much the same.

    Attributes:
        views: with their keypoints.
        pairs: an asked view and a known one.
        times_found: of each view, in how many of its partners each known point is detected.
        found_in: of a known view and an asked one, which of the known points are detected there.
        focal_px: of the camera.
        size: width and height.
    """

    views: list[DetectedView]
    pairs: list[tuple[int, int]]
    times_found: list[Tensor]
    found_in: dict[tuple[int, int], Tensor]
    focal_px: float
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class BearingPair:
    """Two sets of bearings and what is known of their matches.

    Attributes:
        asked_N2: float32, of the keypoints of a view.
        known_M2: of scene points.
        match_N: int64, the known point of each keypoint, or UNMATCHED or UNKNOWN.
        match_M: the keypoint of each known point, likewise.
    """

    asked_N2: Tensor
    known_M2: Tensor
    match_N: Tensor
    match_M: Tensor


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Several pairs, filled up to one length."""

    asked: Bearings
    known: Bearings
    match_BN: Tensor
    match_BM: Tensor

    @staticmethod
    def of(pairs: list[BearingPair], device: str) -> PairBatch:
        """Filled up with points whose match is unknown."""

        def filled(matches: list[Tensor]) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(
                matches, batch_first=True, padding_value=UNKNOWN
            ).to(device)

        return PairBatch(
            Bearings.of([pair.asked_N2.to(device) for pair in pairs]),
            Bearings.of([pair.known_M2.to(device) for pair in pairs]),
            filled([pair.match_N for pair in pairs]),
            filled([pair.match_M for pair in pairs]),
        )


def detect_room(room: RenderedRoom) -> DetectedRoom:
    """Detect keypoints in all views of a room, and find them again in views near by."""
    views = [_detect(room, number) for number in range(len(room.grey_VHW))]
    centers_V3 = room.cam_from_world.inverse().translation
    rotation_V33 = room.cam_from_world.rotation
    angle_deg_VV = angle_between_rad(rotation_V33[:, None], rotation_V33[None]).rad2deg()
    near_VV = (torch.cdist(centers_V3, centers_V3) < _MAX_DISTANCE_M) & (
        angle_deg_VV < _MAX_ANGLE_DEG
    )
    near_VV.fill_diagonal_(False)
    focal_px, size = float(room.camera.focal[0]), (room.camera.width, room.camera.height)
    times_found = [torch.zeros(len(view.pixels_N2), dtype=torch.int64) for view in views]
    found_in: dict[tuple[int, int], Tensor] = {}
    pairs: list[tuple[int, int]] = []
    for known, asked in near_VV.nonzero().tolist():
        match_M, _ = _matches(views[known], views[asked], focal_px, size)
        found_M = match_M >= 0
        found_in[known, asked] = found_M
        times_found[known] += found_M
        if int(found_M.sum()) >= 2 * _MIN_MATCHES:
            pairs.append((asked, known))
    return DetectedRoom(views, pairs, times_found, found_in, focal_px, size)


def make_pair(
    room: DetectedRoom, rng: np.random.Generator, max_points: int, difficulty: float = 1.0
) -> BearingPair:
    """A random pair, the same for the same state of `rng`.

    Args:
        room: with its keypoints.
        rng: of what is random.
        max_points: of a set.
        difficulty: in [0, 1]; at 0 the known points are seen from where the keypoints are.

    Raises:
        ValueError: the room's views have too little in common.
    """
    for _ in range(_MAX_TRIES if room.pairs else 0):
        pair = _try_pair(room, rng, max_points, difficulty)
        if int((pair.match_N >= 0).sum()) >= _MIN_MATCHES:
            return pair
    raise ValueError(f"of {len(room.pairs)} pairs of views none has {_MIN_MATCHES} matches")


def _try_pair(
    room: DetectedRoom, rng: np.random.Generator, max_points: int, difficulty: float
) -> BearingPair:
    asked, known = room.pairs[int(rng.integers(len(room.pairs)))]
    view, other = room.views[asked], room.views[known]
    # As in a map: seen by two views at least, of which the asked one is none.
    times_M = room.times_found[known] - room.found_in[known, asked].long()
    mapped = ((times_M >= 1) & other.known_N).nonzero()[:, 0]
    mapped = mapped[torch.from_numpy(rng.permutation(len(mapped)))]
    mapped = mapped[: int(rng.integers(max_points // 3, max_points + 1))]
    strongest = int(rng.integers(max_points // 2, max_points + 1))
    left = torch.from_numpy(rng.random(min(strongest, len(view.pixels_N2))) > rng.uniform(0, 0.2))
    asked_rows = left.nonzero()[:, 0]
    chosen = _subset(other, mapped)
    match_M, match_N = _matches(chosen, _subset(view, asked_rows), room.focal_px, room.size)
    frame = other.cam_from_world
    if rng.random() >= _OWN_FRAME_SHARE * difficulty:
        depth_M = (view.cam_from_world @ chosen.world_N3)[:, 2]
        unit_m = difficulty * (float(depth_M.median()) if len(depth_M) else 1.0)
        frame = _random_motion(rng, _MAX_TURN_RAD * difficulty, _MAX_WAY * unit_m) @ (
            view.cam_from_world
        )
    placed_M3 = frame @ chosen.world_N3
    front_M = placed_M3[:, 2] > _MIN_DEPTH_M
    rows_M = torch.full((len(front_M),), UNMATCHED)
    rows_M[front_M] = torch.arange(int(front_M.sum()))
    match_N = torch.where(
        match_N >= 0, rows_M[match_N.clamp_min(0)] if len(rows_M) else match_N, match_N
    )
    known_M2 = (placed_M3[:, :2] / placed_M3[:, 2:])[front_M]
    turn_22 = _random_turn(rng)
    return BearingPair(
        view.bearings_N2[asked_rows] @ turn_22, known_M2 @ turn_22, match_N, match_M[front_M]
    )


def _detect(room: RenderedRoom, number: int) -> DetectedView:
    image = room.grey_VHW[number].expand(3, -1, -1)
    pixels_N2 = extract_features(image, "sift", _MAX_KEYPOINTS).keypoints_N2
    world_N3, known_N = points_shown(room, number, pixels_N2.double())
    return DetectedView(
        pixels_N2,
        room.camera.cam_from_img(pixels_N2.double()).float(),
        world_N3.float(),
        known_N,
        room.cam_from_world[number].to(torch.float32),
    )


def _subset(view: DetectedView, rows: Tensor) -> DetectedView:
    return DetectedView(
        view.pixels_N2[rows], view.bearings_N2[rows], view.world_N3[rows], view.known_N[rows],
        view.cam_from_world,
    )  # fmt: skip


def _matches(
    known: DetectedView, asked: DetectedView, focal_px: float, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The keypoint of each known point, and the known point of each keypoint.

    Each is the other's nearest; UNKNOWN where one is near that is not, or not near enough.
    """
    nothing = [torch.full((len(view.pixels_N2),), UNMATCHED) for view in (known, asked)]
    if not (len(known.pixels_N2) and len(asked.pixels_N2)):
        return nothing[0], nothing[1]
    seen_M3 = asked.cam_from_world @ known.world_N3
    front_M = seen_M3[:, 2] > _MIN_DEPTH_M
    center_2 = torch.tensor(size) / 2
    pixels_M2 = focal_px * seen_M3[:, :2] / seen_M3[:, 2:].clamp_min(_MIN_DEPTH_M) + center_2
    apart_MN = torch.cdist(pixels_M2, asked.pixels_N2)
    depth_N = (asked.cam_from_world @ asked.world_N3)[:, 2]
    # Where something stands before the point, what is detected there is something else.
    hidden_MN = asked.known_N & (
        (seen_M3[:, 2:] - depth_N).abs() > _DEPTH_TOLERANCE * seen_M3[:, 2:]
    )
    apart_MN = apart_MN.masked_fill(hidden_MN | ~(front_M & known.known_N)[:, None], torch.inf)
    nearest_M, column_M = apart_MN.min(1)
    nearest_N, row_N = apart_MN.min(0)
    found_M = (row_N[column_M] == torch.arange(len(column_M))) & (nearest_M < _SAME_PX)
    match_M = torch.where(nearest_M < _OTHER_PX, UNKNOWN, UNMATCHED)
    match_N = torch.where(nearest_N < _OTHER_PX, UNKNOWN, UNMATCHED)
    match_M[found_M] = column_M[found_M]
    match_N[column_M[found_M]] = found_M.nonzero()[:, 0]
    return match_M, match_N


def _random_motion(rng: np.random.Generator, max_turn_rad: float, max_way: float) -> Rigid3d:
    """Of a guess from the camera that is right: turned about any axis, moved any way."""
    size = rng.random() ** 1.5
    turn_3 = rng.normal(size=3)
    turn_3 *= size * max_turn_rad * rng.random() / np.linalg.norm(turn_3)
    way_3 = rng.normal(size=3)
    way_3 *= size * max_way * rng.random() / np.linalg.norm(way_3)
    return Rigid3d.exp(torch.from_numpy(np.concatenate([turn_3, way_3]))).to(torch.float32)


def _random_turn(rng: np.random.Generator) -> Tensor:
    """(2, 2): of the plane about the optical axis, and now and then its mirror image."""
    angle = rng.normal(0, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return torch.from_numpy(turn @ np.diag([rng.choice([-1.0, 1.0]), 1.0])).float()
