"""What references say of a query, each from its own place, to one pose of the query."""

from __future__ import annotations

import math
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
        agreeing_K: bool, which references agree: one at least.
        covariance: (6, 6) of a left perturbation, by how far those that agree scatter about it, or
            all where only one does.
    """

    cam_from_world: Rigid3d
    agreeing_K: Tensor
    covariance: Tensor


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
        unit: of the map: poses further apart than it do not agree, and a triangulated camera whose
            place is less certain is none.
        max_angle_deg: further than this, rotations (or directions) do not agree.
        signed: whether a direction points to the query, or only lies on one line with it.

    Returns:
        None where nothing can be said: no answer is finite, or directions fix no place.
    """
    said = query_from_reference.to(torch.float64) @ reference_from_world
    weights_K = (-log_scale_K2.double().mean(-1)).exp()
    usable_K = said.matrix.isfinite().flatten(1).all(1) & weights_K.isfinite() & (weights_K > 0)
    index_U = usable_K.nonzero()[:, 0]
    if not len(index_U):
        return None
    said, weights_U = said[index_U], weights_K[index_U]
    # One answer does not scatter: how wrong it may be is then what is said of it.
    if how == "single" or (how == "average" and len(index_U) == 1):
        found = surest(said, weights_U, log_scale_K2[index_U], unit)
    elif how == "average":
        found = averaged(said, weights_U, unit, max_angle_deg)
    else:
        places = reference_from_world[index_U]
        found = triangulated(said, places, weights_U, unit, max_angle_deg, signed)
    if found is None:
        return None
    agreeing_K = torch.zeros_like(usable_K)
    agreeing_K[index_U] = found.agreeing_K
    return Combined(found.cam_from_world, agreeing_K, found.covariance)


def surest(said: Rigid3d, weights_K: Tensor, log_scale_K2: Tensor, unit: float) -> Combined:
    """The one that is thought most of, as wrong as is said of it; arguments as of `combine`."""
    best = int(weights_K.argmax())
    alone_K = torch.arange(len(weights_K)) == best
    rotation_scale, scale = log_scale_K2[best].double().exp().tolist()
    return Combined(said[best], alone_K, _even(rotation_scale, scale * unit))


def averaged(
    said: Rigid3d, weights_K: Tensor, unit: float, max_angle_deg: float
) -> Combined | None:
    """The robust mean of those that agree, in angle and place at once; see `combine`."""
    limit_rad = math.radians(max_angle_deg)
    centers_K3 = said.inverse().translation
    apart_KK = angle_between_rad(said.rotation[:, None], said.rotation[None])
    near_KK = (apart_KK < limit_rad) & (torch.cdist(centers_K3, centers_K3) < unit)
    mean = average_poses(said, weights_K * consensus(near_KK, weights_K))
    if mean is None:
        return None
    pose = mean.cam_from_world
    angles_K = angle_between_rad(said.rotation, pose.rotation)
    distances_K = (centers_K3 - pose.inverse().translation).norm(dim=-1)
    agreeing_K = (angles_K < limit_rad) & (distances_K < unit)
    count = int(agreeing_K.sum())
    if not count:
        return None
    sigma_rad = max(_scatter(angles_K, agreeing_K), _MIN_ANGLE_RAD) / count**0.5
    sigma = max(_scatter(distances_K, agreeing_K), _MIN_DISTANCE * unit) / count**0.5
    return Combined(pose, agreeing_K, _even(sigma_rad, sigma))


def triangulated(
    said: Rigid3d,
    reference_from_world: Rigid3d,
    weights_K: Tensor,
    unit: float,
    max_angle_deg: float,
    signed: bool,
) -> Combined | None:
    """Where directions meet, turned as those say that point there; see `combine`."""
    limit_rad = math.radians(max_angle_deg)
    near_KK = angle_between_rad(said.rotation[:, None], said.rotation[None]) < limit_rad
    # Rotations first: they are the surer part, and tell which references see the same place.
    rotation = average_rotations(said.rotation, weights_K * consensus(near_KK, weights_K))
    if rotation is None:
        return None
    turned_K = angle_between_rad(said.rotation, rotation) < 2 * limit_rad
    centers_K3 = reference_from_world.inverse().translation
    towards_K3 = said.inverse().translation - centers_K3
    meeting = (centers_K3, towards_K3, weights_K * turned_K, max_angle_deg)
    found = triangulate_camera(*meeting, signed)
    if found is None and signed:
        # Rays that meet nowhere ahead: where little moved, a sign is a matter of noise.
        found = triangulate_camera(*meeting, signed=False)
    if found is None:
        return None
    inliers_K = found.inliers_N
    pointing_K = weights_K * inliers_K
    chosen_K = consensus(near_KK, pointing_K) & inliers_K
    rotation = average_rotations(said.rotation, weights_K * chosen_K)
    if rotation is None:
        return None
    angles_K = angle_between_rad(said.rotation, rotation)
    agreeing_K = inliers_K & (angles_K < limit_rad)
    count = int(agreeing_K.sum())
    if not count:
        return None
    scatter_rad = max(_scatter(angles_K, agreeing_K), _MIN_ANGLE_RAD)
    # A direction is hardly better known than the rotation that came with it.
    center_33 = max(found.sigma_rad, scatter_rad) ** 2 * found.spread_33
    if not bool(center_33.isfinite().all()):
        return None
    if float(torch.linalg.eigvalsh(center_33)[-1]) > unit**2:
        return None
    covariance = _even(scatter_rad / count**0.5, 0.0)
    covariance[3:, 3:] = rotation @ center_33 @ rotation.mT
    return Combined(Rigid3d(rotation, -rotation @ found.center_3), agreeing_K, covariance)


def consensus(near_KK: Tensor, weights_K: Tensor) -> Tensor:
    """Which (K,) answers are near the one that most, by weight, are near to."""
    near_K: Tensor = near_KK[int((near_KK * weights_K).sum(1).argmax())]
    return near_K


def _scatter(off_K: Tensor, agreeing_K: Tensor) -> float:
    """Standard deviation, one degree of freedom spent on the mean.

    Where fewer than two agree, all count: that they contradict one another is what is known.
    """
    off = off_K[agreeing_K] if int(agreeing_K.sum()) > 1 else off_K
    return float((off.square().sum() / max(1, len(off) - 1)).sqrt())


def _even(sigma_rad: float, sigma: float) -> Tensor:
    """A covariance that is the same in all directions."""
    return torch.diag(torch.tensor([sigma_rad**2] * 3 + [sigma**2] * 3, dtype=torch.float64))
