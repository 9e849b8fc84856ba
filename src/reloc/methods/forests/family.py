"""The forest family: trees say where in the world a pixel's point may be, and a pose explains most.

Map: pixels of the mapping views whose points are known from depth grow trees and fill their leaves.
Query: some thousand pixels fall through the trees, what their leaves say is fused to a few guesses
a pixel, and the pose is sought that most of them agree on: by distance where the trees read depth,
else by reprojection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.contract import Run, Tensors
from reloc.estimation.trials import covariance_scale, left_out
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.forests.config import ForestConfig
from reloc.methods.forests.features import Looks, look
from reloc.methods.forests.leaves import Reservoirs
from reloc.methods.forests.localizer import ForestLocalizer
from reloc.methods.forests.trees import Forest
from reloc.scenes.scene import View, refuse_guessed_focals
from reloc.training.prefetch import prefetch

# To learn how far the covariances are to be trusted, one of so many views, and at most so many, are
# kept from the trees and asked for; then they fill the leaves as the others did.
_VIEWS_PER_TRIAL, _MAX_TRIALS = 12, 12


Grow = Callable[[Sequence[Looks], Sequence[Tensor]], Forest]
"""Looks of views and the points (P, 3) of their pixels to trees."""


@dataclass(frozen=True, eq=False)
class SeenView:
    """A mapping view: its looks, and the points (P, 3) of its pixels from the map's origin."""

    view: View
    looks: Looks
    points_P3: Tensor


def build_map(
    views: Sequence[View],
    config: ForestConfig,
    grow: Grow,
    run: Run,
    *,
    reads_depth: bool,
    aligns_depth: bool = False,
) -> Tensors:
    """Grow trees on the mapping views that have depth, and fill their leaves.

    A view that cannot be read, or shows nothing, is named in the log and left out.

    Args:
        views: the mapping views.
        config: of the map.
        grow: makes the trees.
        run: seed, progress.
        reads_depth: whether trees read depth.
        aligns_depth: as `ForestLocalizer` has it.

    Raises:
        InputError: no view has depth, or none can be used.
    """
    origin_3 = Rigid3d.stack([view.cam_from_world for view in views]).inverse().translation.mean(0)
    with_depth = _with_depth(views, config.max_views)
    seen = read_views(
        with_depth,
        origin_3,
        config.short_side_px,
        config.filling_pixels,
        run,
        reads_depth=reads_depth,
    )
    trials = left_out(len(seen), _VIEWS_PER_TRIAL, _MAX_TRIALS)
    learned = [view for number, view in enumerate(seen) if number not in trials]
    tried = [seen[number] for number in trials]
    learned = learned or tried
    forest = grow([view.looks for view in learned], [view.points_P3 for view in learned])
    reservoirs = Reservoirs(forest.num_leaves, run.seed)
    _fill(reservoirs, forest, learned, run)
    cameras = [view.view.camera for view in seen]
    ratio = torch.tensor([float(cam.focal.mean()) / max(cam.width, cam.height) for cam in cameras])
    tensors = {
        **forest.tensors(),
        **reservoirs.modes(config.num_modes, config.mode_radius).tensors(),
        "origin_3": origin_3,
        "focal_ratio": ratio.median().double(),
        "covariance_scale": torch.tensor(1.0, dtype=torch.float64),
    }
    asked = ForestLocalizer(
        tensors, config, run, reads_depth=reads_depth, aligns_depth=aligns_depth
    )
    scale = covariance_scale(asked, [view.view for view in tried], run, with_depth=True)
    _fill(reservoirs, forest, tried, run)
    run.log.info(f"{forest.num_leaves} leaves; errors are {scale**0.5:.1f} times their sigmas")
    return {
        **tensors,
        **reservoirs.modes(config.num_modes, config.mode_radius).tensors(),
        "covariance_scale": torch.tensor(scale, dtype=torch.float64),
    }


def _with_depth(views: Sequence[View], max_views: int) -> Sequence[View]:
    """Views that have depth, evenly spaced ones where there are too many."""
    with_depth = [view for view in views if view.depth_reader is not None]
    if not with_depth:
        raise InputError(
            f"none of the {len(views)} mapping views (from {views[0].name} on) has a depth map, "
            "and forests learn scene points from depth: add depth, or map with sift or ace"
        )
    refuse_guessed_focals(with_depth, "what they see cannot be placed")
    step = max(len(with_depth) / max_views, 1.0)
    return [with_depth[int(number * step)] for number in range(int(len(with_depth) / step))]


def read_views(
    views: Sequence[View],
    origin_3: Tensor,
    short_side_px: int,
    num_pixels: int,
    run: Run,
    *,
    reads_depth: bool,
) -> list[SeenView]:
    """Pixels of views and where they are; a view that cannot be used is named in the log.

    Args:
        views: with depth.
        origin_3: float64, that points are relative to.
        short_side_px: larger images are reduced to this shorter side.
        num_pixels: most pixels of a view.
        run: seed, progress.
        reads_depth: whether probes may read depth.

    Raises:
        InputError: none can be used.
    """

    def read(number: int) -> SeenView | None:
        view = views[number]
        try:
            image_3HW, depth_HW = view.read_image(), view.read_depth()
        except InputError as error:
            run.log.warning("left out: %s", error)
            return None
        looks = look(
            image_3HW,
            view.camera,
            depth_HW,
            short_side_px,
            num_pixels,
            run.seed * 1_000_003 + number,
            reads_depth=reads_depth,
        )
        if looks is None:
            run.log.warning("left out: view %s has no texture, or no depth", view.name)
            return None
        world_from_cam = view.cam_from_world.inverse()
        points_P3 = world_from_cam @ looks.points_cam_P3 - origin_3
        return SeenView(view, looks, points_P3.float())

    numbers = range(len(views))
    read_views = run.progress.track(prefetch(read, numbers), "reading", total=len(numbers))
    seen = [view for view in read_views if view is not None]
    if not seen:
        raise InputError(
            f"none of the {len(views)} mapping views with depth (from {views[0].name} on) can be "
            "read and has texture: the log says why; look at them, are they black?"
        )
    return seen


def _fill(reservoirs: Reservoirs, forest: Forest, seen: Sequence[SeenView], run: Run) -> None:
    for view in run.progress.track(seen, "filling leaves"):
        reservoirs.add(forest.leaves(view.looks), view.points_P3)
