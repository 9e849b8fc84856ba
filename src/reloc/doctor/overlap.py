"""How much of what a query shows the mapping views show, by their poses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reloc.doctor.diagnosis import Overlap
from reloc.doctor.order import evenly
from reloc.doctor.survey import spread
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.scenes.scene import Scene, View

_MAX_QUERIES, _MAX_MAPPING = 200, 1000
_LITTLE_SEEN = 1 / 3
# Points along each side of a query's picture.
_GRID = 7


def measure_overlap(scene: Scene, depth: float | None) -> Overlap | None:
    """Of an even sample of the queries; None where there are none.

    Args:
        scene: its poses are trusted.
        depth: at which all that a query shows is taken to be; None leaves the shares out.
    """
    queries = evenly(scene.queries, _MAX_QUERIES)
    if not queries or not scene.mapping:
        return None
    query_from_world_Q = Rigid3d.stack([view.cam_from_world for view in queries])
    mapping_from_world_N = Rigid3d.stack([view.cam_from_world for view in scene.mapping])
    centers_Q3 = query_from_world_Q.inverse().translation
    centers_N3 = mapping_from_world_N.inverse().translation
    distance_Q, nearest_Q = torch.cdist(centers_Q3, centers_N3).min(dim=1)
    angle_Q = angle_between_rad(
        query_from_world_Q.rotation, mapping_from_world_N.rotation[nearest_Q]
    )
    shares = None if depth is None else _seen_shares(queries, scene.mapping, depth).tolist()
    distances, angles_deg = spread(distance_Q.tolist()), spread(angle_Q.rad2deg().tolist())
    assert distances is not None and angles_deg is not None
    return Overlap(
        num_queries=len(queries),
        distance=distances,
        angle_deg=angles_deg,
        depth=depth,
        seen_share=None if shares is None else spread(shares),
        little_seen=tuple(
            view.name
            for view, share in zip(queries, shares or [], strict=False)
            if share < _LITTLE_SEEN
        ),
    )


def _seen_shares(queries: list[View], mapping: Sequence[View], depth: float) -> Tensor:
    """The largest share (Q,) of a query's picture that is inside of one mapping view's."""
    points_world = torch.stack([_points_world(view, depth) for view in queries])
    best_Q = torch.zeros(len(queries))
    for view in evenly(mapping, _MAX_MAPPING):
        size = torch.tensor([view.camera.width, view.camera.height])
        pixels = view.camera.img_from_cam(view.cam_from_world @ points_world.reshape(-1, 3))
        # A point behind the camera is NaN, and NaN is inside of nothing.
        inside = ((pixels > 0) & (pixels < size)).all(-1).reshape(len(queries), -1)
        best_Q = torch.maximum(best_Q, inside.float().mean(-1))
    return best_Q


def _points_world(view: View, depth: float) -> Tensor:
    """A grid of the picture's pixels at one depth: (_GRID², 3)."""
    steps = (torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    size = torch.tensor([view.camera.width, view.camera.height])
    plane = view.camera.cam_from_img(torch.stack([columns, rows], dim=-1).reshape(-1, 2) * size)
    points_cam = depth * torch.cat([plane, torch.ones_like(plane[:, :1])], dim=-1)
    return view.cam_from_world.inverse() @ points_cam
