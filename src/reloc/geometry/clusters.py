"""Groups of points that lie together."""

from __future__ import annotations

import torch
from torch import Tensor

_NUM_ROUNDS = 20
# Neighbours at a distance that is typical of a place: a share of all points, and at least so many;
# and how many times that distance a place is wide at most: a straight walk has 16, rooms 6 to 10.
_NEIGHBOURS, _FEWEST_NEIGHBOURS, _WIDTHS = 0.125, 8, 17.0


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


def local_extent(points_ND: Tensor) -> float:
    """Diagonal of the box round points, or of a place among them where others are far away.

    A length for what hangs on how far apart cameras stand that see the same: one camera with a
    wrong pose, or a second place a street away, leave it as it was.
    """
    count = max(_FEWEST_NEIGHBOURS, round(_NEIGHBOURS * len(points_ND)))
    nearest_NK = torch.cdist(points_ND, points_ND).sort(dim=1).values
    typical = float(nearest_NK[:, min(count, len(points_ND) - 1)].median())
    whole = extent(points_ND)
    # Half of the points at one place tell nothing of its width.
    return min(whole, _WIDTHS * typical) if typical > 1e-6 * whole else whole
