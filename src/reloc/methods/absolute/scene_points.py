"""Points of a scene from mapping views alone: matched between views that may show the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.estimation.matching import match_mutual
from reloc.estimation.triangulation import triangulate
from reloc.geometry.near_views import is_within
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.nn.local_features import LocalFeatures, extract_features
from reloc.scenes.scene import View

_MAX_VIEWS, _MAX_KEYPOINTS = 48, 600
# A view is matched with the next so many of the list, and with so many others at most whose cameras
# are near, as a share of the scene, and look the same way: collections of photos have no order.
_NEXT, _NEAR = 2, 3
_NEAR_SHARE, _NEAR_DEG = 0.2, 40.0
_MAX_ERROR_PX, _MIN_ANGLE_DEG = 2.0, 1.0
# A wrong match may be a point far away from everything: beyond so many times the median distance.
_FAR = 10.0


def triangulated_points(views: Sequence[View], run: Run) -> Tensor:
    """Points (N, 3) float64 in the world; none where nothing matches, and the log says so.

    ORB: the points only have to be somewhere on the scene, not everywhere.
    """
    chosen = np.unique(np.linspace(0, len(views) - 1, min(len(views), _MAX_VIEWS)).astype(int))
    used: list[View] = []
    features = []
    for index in run.progress.track(list(chosen), "points of the scene"):
        try:
            image = views[index].read_image()
        except InputError as error:
            run.log.warning("left out: %s", error)
            continue
        used.append(views[index])
        features.append(extract_features(image, "orb", _MAX_KEYPOINTS))
    matches = {}
    for first, second in pairs_of([view.cam_from_world for view in used]):
        pairs = match_mutual(features[first].descriptors_ND, features[second].descriptors_ND)
        if len(pairs):
            matches[first, second] = pairs
    points = _triangulated(used, features, matches, run.seed)
    if len(points) == 0:
        run.log.warning("no point of the scene could be triangulated from %d views", len(used))
    return points


def pairs_of(cam_from_world: Sequence[Rigid3d]) -> list[tuple[int, int]]:
    """Pairs of views to match, the lower number first."""
    count = len(cam_from_world)
    pairs = {
        (first, second)
        for first in range(count)
        for second in range(first + 1, min(first + 1 + _NEXT, count))
    }
    if count < 2:
        return []
    poses = Rigid3d.stack(list(cam_from_world))
    centers_V3 = poses.inverse().translation
    apart_VV = torch.cdist(centers_V3, centers_V3)
    apart_VV[~is_within(poses, _NEAR_SHARE, _NEAR_DEG)] = torch.inf
    apart_VV.fill_diagonal_(torch.inf)
    for first, row in enumerate(apart_VV):
        nearest = row.argsort(stable=True)[:_NEAR].tolist()
        pairs |= {
            (min(first, other), max(first, other))
            for other in nearest
            if bool(row[other].isfinite())
        }
    return sorted(pairs)


def _triangulated(
    used: Sequence[View],
    features: Sequence[LocalFeatures],
    matches: Mapping[tuple[int, int], Tensor],
    seed: int,
) -> Tensor:
    """Points (N, 3) of matches between views, without those that lie far away from all."""
    if not matches:
        return torch.zeros(0, 3, dtype=torch.float64)
    points = triangulate(
        [view.camera for view in used],
        Rigid3d.stack([view.cam_from_world for view in used]),
        [entry.keypoints_N2 for entry in features],
        matches,
        _MAX_ERROR_PX,
        _MIN_ANGLE_DEG,
        seed,
    ).world_N3
    if len(points) == 0:
        return points
    distance_N = (points - points.median(0).values).norm(dim=-1)
    return points[distance_N <= _FAR * distance_N.median()]
