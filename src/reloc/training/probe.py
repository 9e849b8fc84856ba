"""How good codes are, in seconds: without a map of a scene, so that short runs can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from reloc.contract import Run
from reloc.nn.encoder import cell_centers
from reloc.nn.heads import CoordinateHead
from reloc.nn.precision import autocast
from reloc.training.correspondences import CollageConfig, Correspondences
from reloc.training.fit import FitConfig, fit
from reloc.training.pretrain_encoder import codes_at
from reloc.training.room_pairs import RenderedRoom, crop_from_view, pair_of_views, points_shown
from reloc.training.schedule import one_cycle

# A point found within one and a half cells of the right place is found.
_MAX_ERROR_PX = 12.0
# Of probe pairs from rooms: size of the images, and least number of common points.
_SIZE, _MIN_POINTS, _MAX_POINTS = 240, 60, 150
# Of the head that is trained on codes: one view of so many is kept apart.
_VIEWS_PER_TRIAL = 4
_HEAD_WIDTH, _HEAD_STEPS, _HEAD_BATCH, _HEAD_LEARNING_RATE = 128, 400, 512, 3e-3
_MAX_ERROR_M = 0.25


def pairs_to_match(
    rooms: Sequence[RenderedRoom],
    count: int,
    seed: int,
    turn_deg: float = 0.0,
    zoom: float = 1.0,
) -> Correspondences:
    """Pairs of views of rooms and points that both show, as they were rendered.

    Args:
        rooms: shown in turn.
        count: of pairs.
        seed: of the choice of views and points.
        turn_deg: by which the second image of each pair is turned.
        zoom: by which it is enlarged.
    """
    rng = np.random.default_rng(seed)
    config = CollageConfig(size=_SIZE, max_points=_MAX_POINTS)
    crops = [crop_from_view(_SIZE), crop_from_view(_SIZE, turn_deg, zoom)]
    pairs: list[Correspondences] = []
    while len(pairs) < count:
        room = rooms[len(pairs) % len(rooms)]
        first, second = (int(view) for view in rng.choice(len(room.grey_VHW), 2, replace=False))
        pair = pair_of_views(room, (first, second), crops, rng, config)
        if len(pair.pair_N) >= _MIN_POINTS:
            pairs.append(pair)
    return Correspondences.join(pairs)


@torch.no_grad()
def matching_accuracy(encoder: nn.Module, pairs: Correspondences, run: Run) -> float:
    """Share of the points of first images whose most alike cell of the second one is at the point.

    All cells of the second image are asked. Codes are compared by their cosine; at the point means
    within 12 px.
    """
    right_N = torch.zeros(len(pairs.pair_N), dtype=torch.bool)
    for number in range(len(pairs.images_a_B1HW)):
        mine_N = pairs.pair_N == number
        codes_a, codes_b = (
            _encode(encoder, images[number : number + 1], run)
            for images in (pairs.images_a_B1HW, pairs.images_b_B1HW)
        )
        points_a_N2 = pairs.points_a_N2[mine_N].to(run.device)
        first_N = torch.zeros(len(points_a_N2), dtype=torch.int64, device=run.device)
        rows_NC = nn.functional.normalize(codes_at(codes_a, first_N, points_a_N2), dim=1)
        best_N = (rows_NC @ nn.functional.normalize(codes_b[0].flatten(1), dim=0)).argmax(1).cpu()
        found_N2 = cell_centers(*codes_b.shape[-2:])[best_N]
        error_px_N = (found_N2 - pairs.points_b_N2[mine_N]).norm(dim=1)
        right_N[mine_N] = error_px_N < _MAX_ERROR_PX
    return float(right_N.float().mean())


def coordinate_accuracy(encoder: nn.Module, room: RenderedRoom, run: Run) -> float:
    """Share of cells for which a small head, trained on other views of the room, is within 25 cm.

    The head gets true coordinates. Every fourth view is kept apart to be asked.
    """
    codes_NC, world_N3, view_N = _cells(encoder, room, run)
    asked_N = view_N % _VIEWS_PER_TRIAL == 0
    mapped = (~asked_N).nonzero()[:, 0]
    center_3, scale = center_and_scale(world_N3[mapped])
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        head = CoordinateHead(codes_NC.shape[1], _HEAD_WIDTH, num_blocks=1).to(run.device)
    target_N3 = (world_N3 - center_3) / scale

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        rows = mapped[torch.randint(len(mapped), (_HEAD_BATCH,), generator=generator)]
        with autocast(run):
            return (head(codes_NC[rows]) - target_N3[rows]).norm(dim=1).tanh().mean()

    schedule = FitConfig(
        _HEAD_STEPS, lambda step: one_cycle(step, _HEAD_STEPS, _HEAD_LEARNING_RATE)
    )
    fit(head, loss_at, schedule, replace(run, checkpoint_folder=None), "head")
    with torch.no_grad():
        error_m_N = scale * (head(codes_NC[asked_N]) - target_N3[asked_N]).norm(dim=1)
    return float((error_m_N < _MAX_ERROR_M).float().mean())


def center_and_scale(points_N3: Tensor) -> tuple[Tensor, float]:
    """Mean (3,) of points, and the root of their mean square distance from it."""
    center_3 = points_N3.mean(0)
    return center_3, float((points_N3 - center_3).square().sum(1).mean().sqrt())


def _cells(encoder: nn.Module, room: RenderedRoom, run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (N, C) of a room's cells, the points (N, 3) float32 that they show, and views (N,)."""
    codes, world, view = [], [], []
    for number, grey_HW in enumerate(room.grey_VHW):
        codes_1Chw = _encode(encoder, grey_HW[None, None], run)
        points_N3, shown_N = points_shown(
            room, number, cell_centers(*codes_1Chw.shape[-2:]).double()
        )
        codes.append(codes_1Chw[0].flatten(1).T[shown_N.to(run.device)])
        world.append(points_N3[shown_N].float())
        view.append(torch.full((len(world[-1]),), number))
    return torch.cat(codes), torch.cat(world).to(run.device), torch.cat(view).to(run.device)


@torch.no_grad()
def _encode(encoder: nn.Module, images_B1HW: Tensor, run: Run) -> Tensor:
    with autocast(run):
        grey = images_B1HW.to(run.device).contiguous(memory_format=torch.channels_last)
        return encoder(grey.float() / 255).float()
