"""The matching family: scene points with descriptors, found again in the query."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reloc.contract import Localizer, Run, Tensors
from reloc.estimation.view_selection import select_distinct_views
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.localizer import MatchingLocalizer
from reloc.methods.matching.mapping import build_point_map
from reloc.methods.matching.point_map import PointMap
from reloc.scenes.scene import View

# Spare mapping views that are asked for, to learn how far the covariances are to be trusted.
_NUM_TRIALS = 24
# Of the squared Mahalanobis distance in six dimensions (chi-square).
_MEDIAN_CHI_SQUARE_6 = 5.348


def build_map(views: Sequence[View], config: MatchingConfig, run: Run) -> Tensors:
    """Build a map of the distinct views, and try it on some of the others.

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
    spare = sorted(set(range(len(views))) - set(kept))
    run.log.info(f"{len(kept)} of {len(views)} views are distinct")
    point_map = build_point_map([views[index] for index in kept], config, run)
    trials = [views[index] for index in spare[:: -(-len(spare) // _NUM_TRIALS) or 1]]
    scale = 1.0
    if trials:
        scale = _covariance_scale(MatchingLocalizer(point_map, 1.0, config, run), trials, run)
        run.log.info(f"errors of {len(trials)} spare views are {scale**0.5:.1f} times their sigmas")
    return {**point_map.tensors(), "covariance_scale": torch.tensor(scale)}


def open_map(tensors: Tensors, config: MatchingConfig, run: Run) -> Localizer:
    """The localizer of what `build_map` returned."""
    tensors = dict(tensors)
    scale = float(tensors.pop("covariance_scale"))
    return MatchingLocalizer(PointMap.from_tensors(tensors), scale, config, run)


def _covariance_scale(localizer: Localizer, trials: Sequence[View], run: Run) -> float:
    """By how much covariances must grow to explain the errors of mapping views left out of the map.

    Jacobians know the noise of the keypoints, not that of the map and of the poses it was made
    from, which often is the larger part. Never less than 1.
    """
    squared = []
    for view in run.progress.track(trials, "trying the map"):
        (estimate,) = localizer.localize([view.query(with_depth=False)])
        if estimate.cam_from_world is not None and estimate.covariance is not None:
            error = (view.cam_from_world @ estimate.cam_from_world.inverse()).log()
            squared.append(error @ torch.linalg.solve(estimate.covariance, error))
    if not squared:
        return 1.0
    return max(1.0, float(torch.stack(squared).median()) / _MEDIAN_CHI_SQUARE_6)
