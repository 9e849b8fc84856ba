"""Which views of a scene to use, and which of them see the same things: from their poses."""

from __future__ import annotations

import torch
from torch import Tensor

from reloc.geometry.clusters import local_extent
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad


def select_distinct_views(
    cam_from_world: Rigid3d, min_distance: float, min_angle_deg: float
) -> list[int]:
    """Views that add something: the frames of a video that differ, and all photos of a collection.

    In order, a view is left out where one that is kept is within `min_distance` times the
    extent of the camera centres, and turned by less than `min_angle_deg` from it.

    Args:
        cam_from_world: batch (N,).
        min_distance: as a fraction of the extent of the centres, or of that of a place among them
            where they are of several places.
        min_angle_deg: degrees.
    """
    centers_N3 = cam_from_world.inverse().translation
    radius = min_distance * local_extent(centers_N3)
    kept: list[int] = []
    for index in range(len(centers_N3)):
        distance = (centers_N3[kept] - centers_N3[index]).norm(dim=-1)
        angle_deg = torch.rad2deg(
            angle_between_rad(cam_from_world.rotation[kept], cam_from_world.rotation[index])
        )
        if not bool(((distance <= radius) & (angle_deg < min_angle_deg)).any()):
            kept.append(index)
    return kept


def pairs_by_pose(cam_from_world: Rigid3d, pairs_per_view: int, max_angle_deg: float) -> Tensor:
    """For each view the views that look the same way from the nearest places: (P, 2) int64, i < j.

    Neighbours are taken at spread ranks of nearness rather than the very nearest, which have too
    short a baseline to triangulate.
    """
    centers_N3 = cam_from_world.inverse().translation
    distances_NN = torch.cdist(centers_N3, centers_N3)
    axes_N3 = cam_from_world.rotation[:, 2]
    angles_deg_NN = torch.rad2deg((axes_N3 @ axes_N3.T).clamp(-1, 1).acos())
    # One degree weighs as much as a hundredth of the typical distance.
    cost_NN = distances_NN / distances_NN.median().clamp_min(1e-12) + angles_deg_NN / 100
    cost_NN = cost_NN.masked_fill(angles_deg_NN > max_angle_deg, torch.inf).fill_diagonal_(
        torch.inf
    )
    order_NN = cost_NN.argsort(dim=1, stable=True)
    # Ranks 0, 1, 3, 6, 10, ...: near ones for long tracks, far ones for precise depth.
    ranks = torch.tensor([rank * (rank + 1) // 2 for rank in range(pairs_per_view)])
    ranks = ranks[ranks < len(centers_N3) - 1]
    neighbours_NK = order_NN[:, ranks]
    usable_NK = cost_NN.gather(1, neighbours_NK).isfinite()
    first_NK = torch.arange(len(centers_N3))[:, None].expand_as(neighbours_NK)
    return unique_pairs(torch.stack([first_NK[usable_NK], neighbours_NK[usable_NK]], dim=1))


def unique_pairs(pairs_P2: Tensor) -> Tensor:
    """Pairs (P, 2) of views with i < j, each once, without those of a view with itself."""
    ordered_P2 = pairs_P2.sort(dim=1).values
    return ordered_P2[ordered_P2[:, 0] < ordered_P2[:, 1]].unique(dim=0)
