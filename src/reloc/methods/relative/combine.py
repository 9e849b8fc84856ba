"""What references say of a query, each from its own place, to one pose of the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reloc.estimation.averaging import average_poses, average_rotations, triangulate_camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad

Combination = Literal["average", "triangulate", "single"]
"""average: robust mean of the poses; triangulate: from their directions, and the robust mean of
their rotations; single: the pose that is said to be the surest."""
# Floors of the spread, where a few answers agree by chance: radians, and share of the unit.
_MIN_ANGLE_RAD, _MIN_DISTANCE = 2e-3, 1e-2


@dataclass(frozen=True, eq=False)
class Combined:
    """One pose of many.

    Attributes:
        cam_from_world: float64.
        agreeing_K: bool, which references agree.
        sigma_rad: how far their rotations scatter about it, over the root of their number.
        sigma: likewise their camera centres, in the scene's unit.
    """

    cam_from_world: Rigid3d
    agreeing_K: Tensor
    sigma_rad: float
    sigma: float

    @property
    def covariance(self) -> Tensor:
        """(6, 6), of a left perturbation: the same in all directions."""
        variance = [self.sigma_rad**2] * 3 + [self.sigma**2] * 3
        return torch.diag(torch.tensor(variance, dtype=torch.float64))


def combine(
    query_from_reference: Rigid3d,
    reference_from_world: Rigid3d,
    log_scale_K2: Tensor,
    how: Combination,
    unit: float,
    max_angle_deg: float,
    signed: bool = True,
) -> Combined | None:
    """One pose of K answers.

    Args:
        query_from_reference: batch (K,).
        reference_from_world: batch (K,).
        log_scale_K2: logarithms of the errors that each is said to have: they weigh.
        how: to combine.
        unit: of the map: poses further apart than it do not agree.
        max_angle_deg: further than this, rotations (or directions) do not agree.
        signed: whether a direction points to the query, or only lies on one line with it.

    Returns:
        None where nothing can be said: no answer is finite, or directions meet nowhere.
    """
    weights_K = (-log_scale_K2.double().mean(-1)).exp()
    said = query_from_reference.to(torch.float64) @ reference_from_world
    max_angle_rad = torch.deg2rad(torch.tensor(max_angle_deg, dtype=torch.float64))
    # One answer does not scatter: how wrong it may be is then what is said of it.
    if how == "single" or (how == "average" and len(weights_K) == 1):
        best = int(weights_K.argmax())
        alone = torch.arange(len(weights_K)) == best
        rotation_scale, scale = log_scale_K2[best].double().exp().tolist()
        pose = said[best]
        return Combined(pose, alone, rotation_scale, scale * unit) if _finite(pose) else None
    if how == "average":
        averaged = average_poses(said, weights_K)
        if averaged is None:
            return None
        angles_K, distances_K = averaged.angles_rad_N, averaged.distances_N
        agreeing_K = (angles_K < max_angle_rad) & (distances_K < unit)
        pose = averaged.cam_from_world
    else:
        # Rotations first: they are the surer part, and tell which references see the same place.
        rotation = average_rotations(said.rotation, weights_K)
        if rotation is None:
            return None
        turned_K = angle_between_rad(said.rotation, rotation) < 2 * max_angle_rad
        centers_K3 = reference_from_world.inverse().translation
        # In the reference's frame the query is at -Rᵀ t.
        towards_K3 = said.inverse().translation - centers_K3
        found = triangulate_camera(
            centers_K3, towards_K3, weights_K * turned_K, max_angle_deg, signed
        )
        if found is None and signed:
            # Rays that meet nowhere ahead: where little moved, a sign is a matter of noise.
            found = triangulate_camera(
                centers_K3, towards_K3, weights_K * turned_K, max_angle_deg, signed=False
            )
        if found is None:
            return None
        rotation = average_rotations(said.rotation[found.inliers_N], weights_K[found.inliers_N])
        if rotation is None:
            return None
        pose = Rigid3d(rotation, -rotation @ found.center_3)
        angles_K = angle_between_rad(said.rotation, rotation)
        agreeing_K = found.inliers_N & (angles_K < max_angle_rad)
        reach_K = (found.center_3 - centers_K3).norm(dim=-1)
        towards_K3 = torch.nn.functional.normalize(towards_K3, dim=-1)
        # How far the ray of each passes the place that was found.
        distances_K = torch.linalg.cross(found.center_3 - centers_K3, towards_K3).norm(dim=-1)
        distances_K = torch.minimum(distances_K, reach_K)
    count = max(1, int(agreeing_K.sum()))
    scatter = [
        float(values_K[agreeing_K].median()) if bool(agreeing_K.any()) else float(values_K.median())
        for values_K in (angles_K, distances_K)
    ]
    return Combined(
        pose,
        agreeing_K,
        max(scatter[0], _MIN_ANGLE_RAD) / count**0.5,
        max(scatter[1], _MIN_DISTANCE * unit) / count**0.5,
    )


def _finite(pose: Rigid3d) -> bool:
    return bool(pose.matrix.isfinite().all())
