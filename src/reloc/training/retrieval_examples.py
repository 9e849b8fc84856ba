"""Queries of rendered rooms, with what is retrieved for them: what SANet's decoder learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.nn.descriptors.pooled import pool_codes
from reloc.nn.encoder import STRIDE, cell_centers
from reloc.nn.scene_agnostic import KnownPoints, LocalFrame, QueryPyramid
from reloc.nn.shared_encoder import FrozenEncoder
from reloc.training.buffer import encode, resized_grey
from reloc.training.correspondences import disturb
from reloc.training.room_pairs import RenderedRoom, points_shown

# Shorter sides of the pictures: they vary, as the distances of real photos do.
_SHORT_SIDES_PX = (200, 280)
# Views that a query's are retrieved from, as a share of its room's: a map is often sparser than a
# room's walk.
_MAPPED_SHARES = (0.3, 1.0)
_RETRIEVED = (3, 7)


@dataclass(frozen=True)
class CellCount:
    """Most cells that are known of a view, on each level, and that are asked of a query."""

    coarse: int
    fine: int
    asked: int


@dataclass(frozen=True, eq=False)
class EncodedCells:
    """Cells of a picture, row by row.

    Attributes:
        codes_NC: float16.
        points_N3: float64, in the room.
        known_N: whether there is a point.
        size: (H, W) of the picture, in pixels.
    """

    codes_NC: Tensor
    points_N3: Tensor
    known_N: Tensor
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class EncodedView:
    """A view on both levels, its pose, and a vector (D,) that it is retrieved by."""

    coarse: EncodedCells
    fine: EncodedCells
    cam_from_world: Rigid3d
    pooled_D: Tensor


@dataclass(frozen=True, eq=False)
class EncodedRoom:
    """Views of one room, and the camera of all."""

    views: Sequence[EncodedView]
    camera: Camera


@dataclass(frozen=True, eq=False)
class Example:
    """A query, what was retrieved for it, and where its cells really are, in the local frame.

    Attributes:
        query: with the fine cells that are asked.
        coarse: what is known.
        fine: what is known.
        coarse_target_M3: of all coarse cells; NaN where there is no point.
        target_N3: of the fine cells; none is NaN.
        unit_m: of the local frame.
    """

    query: QueryPyramid
    coarse: KnownPoints
    fine: KnownPoints
    coarse_target_M3: Tensor
    target_N3: Tensor
    unit_m: float


def encode_room(encoder: FrozenEncoder, room: RenderedRoom, number: int, run: Run) -> EncodedRoom:
    """All views of a room, each in its own size, light, exposure and focus, the same every time."""
    rng = np.random.default_rng((run.seed, number))
    views = []
    for view in range(len(room.grey_VHW)):
        grey_HW = disturb(room.grey_VHW[view].numpy(), rng)
        image_3HW = torch.from_numpy(grey_HW).expand(3, -1, -1)
        short_side_px = int(rng.integers(*_SHORT_SIDES_PX))
        coarse, fine = (
            _encoded(encoder, room, view, resized_grey(image_3HW, side), run)
            for side in (short_side_px // 2, short_side_px)
        )
        pose = room.cam_from_world[view]
        views.append(EncodedView(coarse, fine, pose, pool_codes(fine.codes_NC)))
    return EncodedRoom(views, room.camera)


def _encoded(
    encoder: FrozenEncoder, room: RenderedRoom, view: int, grey_HW: np.ndarray, run: Run
) -> EncodedCells:
    height, width = grey_HW.shape
    codes_NC = encode(encoder, torch.from_numpy(grey_HW)[None], run)[0].cpu()
    to_view = torch.tensor([room.camera.width / width, room.camera.height / height])
    pixels_N2 = cell_centers(height // STRIDE, width // STRIDE).double() * to_view
    return EncodedCells(codes_NC, *points_shown(room, view, pixels_N2), (height, width))


def make_example(
    room: EncodedRoom, asked: int, count: CellCount, rng: np.random.Generator
) -> Example:
    """One view is asked; of a random part of the others, those most like it are retrieved."""
    others = np.delete(np.arange(len(room.views)), asked)
    num_mapped = int(np.ceil(rng.uniform(*_MAPPED_SHARES) * len(others)))
    mapped = rng.permutation(others)[:num_mapped].tolist()
    pooled_VD = torch.stack([view.pooled_D for view in room.views])
    pooled_VD = functional.normalize(pooled_VD - pooled_VD.mean(0), dim=1)
    nearest = (pooled_VD[mapped] @ pooled_VD[asked]).argsort(descending=True, stable=True)
    retrieved = [room.views[mapped[number]] for number in nearest[: int(rng.integers(*_RETRIEVED))]]
    coarse, coarse_points = _known([view.coarse for view in retrieved], count.coarse, rng)
    fine, fine_points = _known([view.fine for view in retrieved], count.fine, rng)
    frame = LocalFrame.of(retrieved[0].cam_from_world, fine_points)
    query = room.views[asked]
    pyramid = QueryPyramid.of(
        query.coarse.codes_NC.float(),
        query.coarse.size,
        query.fine.codes_NC.float(),
        query.fine.size,
        room.camera,
    )
    cells = torch.from_numpy(rng.permutation(query.fine.known_N.nonzero()[:, 0].numpy()))
    cells = cells[: count.asked]
    coarse_target_M3 = frame.local(query.coarse.points_N3)
    coarse_target_M3[~query.coarse.known_N] = torch.nan
    return Example(
        pyramid.at(cells),
        KnownPoints(coarse, frame.local(coarse_points)),
        KnownPoints(fine, frame.local(fine_points)),
        coarse_target_M3,
        frame.local(query.fine.points_N3[cells]),
        frame.unit,
    )


def _known(
    views: Sequence[EncodedCells], count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Codes (S, C) and points (S, 3) of random cells of each view, as a map stores them."""
    codes, points = [], []
    for view in views:
        cells = torch.from_numpy(rng.permutation(view.known_N.nonzero()[:, 0].numpy())[:count])
        codes.append(view.codes_NC[cells].float())
        points.append(view.points_N3[cells])
    return torch.cat(codes), torch.cat(points)


def on_device(example: Example, device: str) -> Example:
    """The example there."""
    if torch.device(device).type == "cpu":
        return example
    moved = {
        name: replace(part, **{key: value.to(device) for key, value in vars(part).items()})
        for name, part in vars(example).items()
        if isinstance(part, QueryPyramid | KnownPoints)
    }
    targets = {
        name: getattr(example, name).to(device) for name in ("coarse_target_M3", "target_N3")
    }
    return replace(example, **moved, **targets)
