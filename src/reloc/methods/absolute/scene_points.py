"""Points of a scene from mapping views alone: matched between neighbours, triangulated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.estimation.matching import match_mutual
from reloc.estimation.triangulation import triangulate
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.nn.local_features import extract_features
from reloc.scenes.scene import View

_MAX_VIEWS, _MAX_KEYPOINTS = 48, 600
# A view is matched with the next so many, and with others whose cameras look where it looks.
_NEXT = 2
_MAX_ERROR_PX, _MIN_ANGLE_DEG = 2.0, 1.0
# A wrong match may be a point far away from everything: beyond so many times the median distance.
_FAR = 10.0


def triangulated_points(views: Sequence[View], run: Run) -> Tensor:
    """Points (N, 3) float64 in the world; none where nothing matches.

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
    for first in range(len(used)):
        for second in range(first + 1, min(first + 1 + _NEXT, len(used))):
            pairs = match_mutual(features[first].descriptors_ND, features[second].descriptors_ND)
            if len(pairs):
                matches[first, second] = pairs
    if not matches:
        return torch.zeros(0, 3, dtype=torch.float64)
    points = triangulate(
        [view.camera for view in used],
        Rigid3d.stack([view.cam_from_world for view in used]),
        [entry.keypoints_N2 for entry in features],
        matches,
        _MAX_ERROR_PX,
        _MIN_ANGLE_DEG,
        run.seed,
    ).world_N3
    if len(points) == 0:
        return points
    distance_N = (points - points.median(0).values).norm(dim=-1)
    return points[distance_N <= _FAR * distance_N.median()]
