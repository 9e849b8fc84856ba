"""Groups of points that lie together."""

from __future__ import annotations

import torch
from torch import Tensor

_NUM_ROUNDS = 20


def bisect(points_ND: Tensor) -> Tensor | None:
    """Which of two clusters each point is in (N,), bool; None where the points are all one.

    k-means with k = 2, begun by a cut across the longest axis: no chance plays a part.
    """
    centered_ND = points_ND - points_ND.mean(dim=0)
    *_, axes_DD = torch.linalg.svd(centered_ND.double(), full_matrices=False)
    second_N = centered_ND.double() @ axes_DD[0] > 0
    for _ in range(_NUM_ROUNDS):
        if bool(second_N.all()) or not bool(second_N.any()):
            return None
        means_2D = torch.stack([points_ND[~second_N].mean(0), points_ND[second_N].mean(0)])
        nearer_N = torch.cdist(points_ND, means_2D).argmin(dim=1).bool()
        if torch.equal(nearer_N, second_N):
            break
        second_N = nearer_N
    return second_N


def extent(points_ND: Tensor) -> float:
    """Diagonal of the box round points."""
    return float((points_ND.amax(0) - points_ND.amin(0)).norm())
