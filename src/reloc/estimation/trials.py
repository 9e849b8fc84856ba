"""Trials of a map on views that were left out of it: how far its covariances are to be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reloc.contract import Localizer, Run
from reloc.input_error import InputError
from reloc.scenes.scene import View

# Of the squared Mahalanobis distance in six dimensions (chi-square).
_MEDIAN_CHI_SQUARE_6 = 5.348


def left_out(num_views: int, views_per_trial: int, max_trials: int) -> range:
    """Indices of views to leave out: one of so many, evenly spaced, no more than `max_trials`."""
    step = max(views_per_trial, -(-num_views // max_trials))
    return range(step // 2, num_views, step)


def covariance_scale(
    localizer: Localizer, views: Sequence[View], run: Run, with_depth: bool = False
) -> float:
    """By how much covariances must grow to explain the errors of views that the map has not seen.

    Jacobians know the noise of the pixels, not that of the map and of the poses it was made from,
    which often is the larger part.

    Returns:
        1 at least; 1 where no view is answered. A view that cannot be read is named in the log.
    """
    squared = []
    for view in run.progress.track(views, "trying the map"):
        try:
            query = view.query(with_depth=with_depth)
        except InputError as error:
            run.log.warning("not tried: %s", error)
            continue
        (estimate,) = localizer.localize([query])
        if estimate.cam_from_world is not None and estimate.covariance is not None:
            error = (view.cam_from_world @ estimate.cam_from_world.inverse()).log()
            squared.append(error @ torch.linalg.solve(estimate.covariance, error))
    if not squared:
        return 1.0
    return max(1.0, float(torch.stack(squared).median()) / _MEDIAN_CHI_SQUARE_6)
