"""The matching family: scene points with descriptors, found again in the query."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reloc.contract import Localizer, Run, Tensors
from reloc.estimation.trials import covariance_scale, left_out
from reloc.estimation.view_selection import select_distinct_views
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.localizer import MatchingLocalizer
from reloc.methods.matching.mapping import MatchedViews, build_point_map, match_views
from reloc.methods.matching.point_map import PointMap
from reloc.scenes.scene import View

# To learn how far the covariances are to be trusted, at most so many views are left out of a map
# and asked for, and at most one of so many.
_MAX_TRIALS, _VIEWS_PER_TRIAL = 24, 5


def build_map(views: Sequence[View], config: MatchingConfig, run: Run) -> Tensors:
    """Build a map of the distinct views, and learn from some of them how sure its answers are.

    Raises:
        InputError: an image cannot be read, a view's focal length is not known, or no point is
            seen by two views.
    """
    guessed = [view.name for view in views if not view.camera.has_prior_focal]
    if guessed:
        raise InputError(
            f"{len(guessed)} of {len(views)} mapping views, the first is {guessed[0]}, have no "
            "known focal length: points cannot be triangulated; pass --focal, or add intrinsics"
        )
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    kept = select_distinct_views(poses, config.min_view_distance, config.min_view_angle_deg)
    run.log.info(f"{len(kept)} of {len(views)} views are distinct")
    matched = match_views([views[index] for index in kept], config, run)
    point_map = build_point_map(matched, config, run)
    scale = _covariance_scale(matched, config, run)
    run.log.info(
        f"{len(point_map.points_N3)} points; errors are {scale**0.5:.1f} times their sigmas"
    )
    return {**point_map.tensors(), "covariance_scale": torch.tensor(scale)}


def open_map(tensors: Tensors, config: MatchingConfig, run: Run) -> Localizer:
    """The localizer of what `build_map` returned."""
    tensors = dict(tensors)
    scale = float(tensors.pop("covariance_scale"))
    return MatchingLocalizer(PointMap.from_tensors(tensors), scale, config, run)


def _covariance_scale(matched: MatchedViews, config: MatchingConfig, run: Run) -> float:
    """Of a map without some of the views, which are then asked for; 1 where none can be spared."""
    num_views = len(matched.views)
    trials = left_out(num_views, _VIEWS_PER_TRIAL, _MAX_TRIALS)
    rest = matched.only([view for view in range(num_views) if view not in trials])
    try:
        localizer = MatchingLocalizer(build_point_map(rest, config, run), 1.0, config, run)
    except InputError:
        # The rest has no points of its own, though all views together have.
        return 1.0
    return covariance_scale(localizer, [matched.views[number] for number in trials], run)
