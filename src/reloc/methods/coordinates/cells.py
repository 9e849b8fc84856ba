"""The cells that a head learns from: of which views, and where their points are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reloc.contract import Run
from reloc.estimation.trials import left_out
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates.cameras import focals_px
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.epipolar_depth import triangulated_depth
from reloc.scenes.scene import View
from reloc.training.buffer import fill_buffer
from reloc.training.replay import PosedCells

# To learn how far the covariances are to be trusted, one view of so many, and at most so many, are
# left out of the training and asked for.
_VIEWS_PER_TRIAL, _MAX_TRIALS = 20, 16


def learned_and_left_out(views: Sequence[View]) -> tuple[list[int], range]:
    """Indices of the views that a head learns from, and of those that it is tried on."""
    trials = left_out(len(views), _VIEWS_PER_TRIAL, _MAX_TRIALS)
    return [index for index in range(len(views)) if index not in trials], trials


def encode_cells(
    encoder: nn.Module,
    views: Sequence[View],
    learned: Sequence[int],
    scale: float,
    config: CoordinatesConfig,
    run: Run,
) -> PosedCells:
    """Cells of those of the views that differ most, among the learned ones.

    Raises:
        InputError: no view can be read.
    """
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    order = views_to_encode(poses[torch.tensor(learned)], scale, config.num_images)
    buffer = fill_buffer(
        encoder,
        views,
        [learned[number] for number in order],
        config.cells_per_image,
        config.short_side_px,
        config.augmentation,
        run,
        with_depth=config.depth,
    )
    return PosedCells(buffer, poses, focals_px(views, config), len(views))


def known_depth(cells: PosedCells, config: CoordinatesConfig, run: Run, wanted: int = 0) -> Tensor:
    """Depth (N,) of the cells before any training, NaN where it is not known.

    Measured, where the settings ask for depth maps, and triangulated where a view has none: of at
    least as many as are `wanted`, if there are as many.
    """
    measured_N = measured_depth(cells, config)
    view_N = cells.buffer.view_N.long()
    with_depth_V = view_N[measured_N.isfinite()].bincount(minlength=len(cells.focal_px_V)) > 0
    if bool(with_depth_V[view_N].all()):
        return measured_N
    triangulated_N = triangulated_depth(cells, run, wanted).to(measured_N.device)
    return torch.where(measured_N.isfinite(), measured_N, triangulated_N)


def measured_depth(cells: PosedCells, config: CoordinatesConfig) -> Tensor:
    """Depth (N,) of the cells by the views' depth maps; NaN everywhere where they are not asked."""
    depth_N = cells.buffer.depth_N
    return depth_N if config.depth else torch.full_like(depth_N, torch.nan)


def views_to_encode(cam_from_world: Rigid3d, scale: float, count: int) -> list[int]:
    """Indices of `count` views: spread over places and directions, or all of them several times.

    Each next view is the one furthest from those before it; a turn of 60° counts as a way of
    `scale`.
    """
    num_views = len(cam_from_world.translation)
    if num_views <= count:
        return [number % num_views for number in range(count)]
    centers_V3 = cam_from_world.inverse().translation / scale
    places_V6 = torch.cat([centers_V3, cam_from_world.rotation[:, 2]], dim=1)
    chosen = [0]
    distance_V = torch.full((num_views,), torch.inf, dtype=places_V6.dtype)
    while len(chosen) < count:
        last = chosen[-1]
        distance_V = distance_V.minimum((places_V6 - places_V6[last]).norm(dim=1))
        # Below those of views that share its pose: none is chosen twice.
        distance_V[last] = -1.0
        chosen.append(int(distance_V.argmax()))
    return chosen
