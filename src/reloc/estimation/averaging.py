"""Several answers to one: rotations and poses averaged, a camera triangulated from directions.

All are robust: what a wrong answer says is bounded by how much it weighs, not by how wrong it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad

_MAX_STEPS = 50
_CONVERGED = 1e-10
# A point nearer to the median than this is at it. The second is a share of the points' spread.
_MIN_ANGLE_RAD, _MIN_DISTANCE = 1e-7, 1e-7
# Two directions nearer to parallel than this meet nowhere that can be told.
_MIN_CROSSING_DEG = 1.0
_MAX_REFINEMENTS = 10
# From a place nearer than this share of the spread, no direction says anything.
_MIN_REACH = 1e-6
# What directions are off, before any is looked at, counts as much as so many of their errors.
_USUAL_ERROR_DEG, _USUAL_COUNT = 1.0, 2
# Sigmas by which a place must explain directions better than that all of them are parallel.
_MIN_SIGNIFICANCE = 4.0


def average_rotations(rotations_N33: Tensor, weights_N: Tensor | None = None) -> Tensor | None:
    """The rotation (3, 3) with the least weighted sum of angles to these; float64.

    Weiszfeld's steps on SO(3) from the best of the given rotations, so that a minority of wrong
    ones, however wrong, moves it little.

    Source: Hartley, Aftab and Trumpf, "L1 rotation averaging using the Weiszfeld algorithm", CVPR
    2011.

    Args:
        rotations_N33: those that are not finite do not count.
        weights_N: not negative; equal where it is None.

    Returns:
        None where no rotation has a weight.
    """
    usable_N, weights_N = _usable(rotations_N33.flatten(1), weights_N)
    if not bool(usable_N.any()):
        return None
    rotations, weights = rotations_N33[usable_N].double(), weights_N[usable_N]
    angles_NN = angle_between_rad(rotations[:, None], rotations[None])
    # SciPy's rotations: of a handful, a step takes a tenth of what it takes as tensors.
    turns = Rotation.from_matrix(rotations.numpy(force=True))
    mean = turns[int((angles_NN @ weights).argmin())]
    for _ in range(_MAX_STEPS):
        offsets_N3 = torch.from_numpy((turns * mean.inv()).as_rotvec())
        step_3 = _weiszfeld_step(offsets_N3, weights, _MIN_ANGLE_RAD)
        mean = Rotation.from_rotvec(step_3.numpy()) * mean
        if float(step_3.norm()) < _CONVERGED:
            break
    return torch.from_numpy(mean.as_matrix())


def geometric_median(points_N3: Tensor, weights_N: Tensor | None = None) -> Tensor | None:
    """The point (3,) with the least weighted sum of distances to these; float64.

    Source: Weiszfeld, "Sur le point pour lequel la somme des distances de n points donnés est
    minimum", Tohoku mathematical journal 1937.

    Returns:
        None where no finite point has a weight.
    """
    usable_N, weights_N = _usable(points_N3, weights_N)
    if not bool(usable_N.any()):
        return None
    points, weights = points_N3[usable_N].double(), weights_N[usable_N]
    distances_NN = torch.cdist(points, points)
    spread = float(distances_NN.max())
    median = points[int((distances_NN @ weights).argmin())]
    for _ in range(_MAX_STEPS):
        offsets_N3 = points - median
        step_3 = _weiszfeld_step(offsets_N3, weights, _MIN_DISTANCE * spread)
        median = median + step_3
        if float(step_3.norm()) <= _CONVERGED * spread:
            break
    return median


def _weiszfeld_step(offsets_N3: Tensor, weights_N: Tensor, near: float) -> Tensor:
    """The step (3,) towards the median of points at these offsets.

    A median may be one of the points, and a point that is none must not hold on to the steps:
    Vardi and Zhang, "The multivariate L1-median and associated data depth", PNAS 2000.
    """
    distances_N = offsets_N3.norm(dim=-1)
    here_N = distances_N <= near
    if bool(here_N.all()):
        return torch.zeros_like(offsets_N3[0])
    pull_N = torch.where(here_N, 0.0, weights_N / distances_N.clamp_min(1e-300))
    drawn_3 = (pull_N[:, None] * offsets_N3).sum(0)
    held = float(weights_N[here_N].sum()) / max(float(drawn_3.norm()), 1e-300)
    return max(0.0, 1 - held) * drawn_3 / pull_N.sum()


@dataclass(frozen=True, eq=False)
class AveragedPose:
    """What several poses agree on.

    Attributes:
        cam_from_world: float64.
        angles_rad_N: of each given pose to it; inf where that was not finite.
        distances_N: of the camera centres, in the scene's unit; inf likewise.
    """

    cam_from_world: Rigid3d
    angles_rad_N: Tensor
    distances_N: Tensor


def average_poses(cam_from_world: Rigid3d, weights_N: Tensor | None = None) -> AveragedPose | None:
    """The robust mean of poses of one camera: of the rotations, and of the camera centres.

    It moves with the world: poses in another frame of the world average to the mean in that frame.

    Args:
        cam_from_world: batch (N,); poses that are not finite do not count.
        weights_N: how much each is thought of, not negative; equal where it is None.

    Returns:
        None where no pose has a weight.
    """
    usable_N, weights_N = _usable(cam_from_world.matrix.flatten(1), weights_N)
    if not bool(usable_N.any()):
        return None
    poses, weights = cam_from_world[usable_N].to(torch.float64), weights_N[usable_N]
    rotation = average_rotations(poses.rotation, weights)
    centers_N3 = poses.inverse().translation
    center_3 = geometric_median(centers_N3, weights)
    if rotation is None or center_3 is None:
        return None
    angles = torch.full_like(weights_N, torch.inf)
    distances = angles.clone()
    angles[usable_N] = angle_between_rad(poses.rotation, rotation)
    distances[usable_N] = (centers_N3 - center_3).norm(dim=-1)
    return AveragedPose(Rigid3d(rotation, -rotation @ center_3), angles, distances)


@dataclass(frozen=True, eq=False)
class TriangulatedCamera:
    """A camera centre that directions agree on.

    Attributes:
        center_3: in the world, float64.
        inliers_N: bool, which directions agree.
        sigma_rad: what these are off, in each of two directions; never far below the usual where
            they are few.
        spread_33: covariance of the center where they are off by a radian; no number where they do
            not fix it.
    """

    center_3: Tensor
    inliers_N: Tensor
    sigma_rad: float
    spread_33: Tensor


def triangulate_camera(
    centers_N3: Tensor,
    directions_N3: Tensor,
    weights_N: Tensor | None = None,
    max_angle_deg: float = 10.0,
    signed: bool = True,
) -> TriangulatedCamera | None:
    """Where a camera is, from the directions in which it lies as seen from known places.

    Every pair of places proposes the middle of the shortest line between its two rays; the proposal
    that most directions agree with is refined on these, in angles.

    Sources: Laskar, Melekhov, Kalia and Kannala, "Camera relocalization by computing pairwise
    relative poses", ICCV workshops 2017; Zhou, Sattler, Pollefeys and Leal-Taixé, "To learn or not
    to learn", ICRA 2020, section III-C.

    Args:
        centers_N3: the places.
        directions_N3: from each to the camera, of any length.
        weights_N: how much each is thought of; equal where it is None.
        max_angle_deg: up to which a direction agrees.
        signed: False: a direction may point away from the camera as well, as that of an essential
            matrix does.

    Returns:
        None where fewer than two directions agree, or all of them may as well be parallel: then no
        place is fixed. A direction from the camera's own place agrees with nothing.
    """
    usable_N, weights_N = _usable(torch.cat([centers_N3, directions_N3], 1), weights_N)
    usable_N = usable_N & (directions_N3.norm(dim=-1) > 0)
    index_M = usable_N.nonzero()[:, 0]
    if len(index_M) < 2:
        return None
    centers, weights = centers_N3[index_M].double(), weights_N[index_M]
    rays = functional.normalize(directions_N3[index_M].double(), dim=-1)
    candidates_P3 = _meeting_points(centers, rays, signed)
    if not len(candidates_P3):
        return None
    limit_rad = torch.deg2rad(torch.tensor(max_angle_deg, dtype=torch.float64))
    spread = (centers - centers.mean(0)).norm(dim=-1).max()

    def off_rad(points_3: Tensor) -> Tensor:
        """Angles (..., M) between the directions and those in which points are seen."""
        towards = points_3[..., None, :] - centers
        here = towards.norm(dim=-1) <= _MIN_REACH * spread
        return _angles_rad(towards, rays, signed).masked_fill(here, torch.pi)

    def score(points_3: Tensor) -> Tensor:
        return ((1 - off_rad(points_3) / limit_rad).clamp_min(0) * weights).sum(-1)

    score_P = score(candidates_P3)
    best = float(score_P.max())
    center_3 = candidates_P3[int(score_P.argmax())]
    for _ in range(_MAX_REFINEMENTS):
        inliers_M = off_rad(center_3) < limit_rad
        refined_3 = _nearest_to_rays(centers, rays, center_3, weights * inliers_M)
        # Squares may trade a ray that agreed for others: then the proposal was better.
        if refined_3 is None or not float(score(refined_3)) > best:
            break
        best, center_3 = float(score(refined_3)), refined_3
    off_rad_M = off_rad(center_3)
    inliers_M = off_rad_M < limit_rad
    if int(inliers_M.sum()) < 2 or not bool(center_3.isfinite().all()):
        return None
    squares = float(off_rad_M[inliers_M].square().sum())
    # Two equations of each direction, and three numbers that they gave.
    freedom = 2 * int(inliers_M.sum()) - 3
    usual = torch.deg2rad(torch.tensor(_USUAL_ERROR_DEG)).item() ** 2
    variance = (squares + _USUAL_COUNT * usual) / (freedom + _USUAL_COUNT)
    if _squares_if_parallel(rays[inliers_M]) - squares < _MIN_SIGNIFICANCE**2 * variance:
        return None
    inliers_N = torch.zeros_like(usable_N)
    inliers_N[index_M] = inliers_M
    spread_33 = _spread_of_center(center_3 - centers[inliers_M])
    return TriangulatedCamera(center_3, inliers_N, variance**0.5, spread_33)


def _squares_if_parallel(rays_M3: Tensor) -> float:
    """The least sum of squared angles, as sines, that rays can have to one line."""
    return float(torch.linalg.eigvalsh(rays_M3.mT @ rays_M3)[:2].sum())


def _spread_of_center(towards_M3: Tensor) -> Tensor:
    """Covariance (3, 3) of a point that is seen along these vectors, off by a radian each."""
    reach_M = towards_M3.norm(dim=-1)
    rays_M3 = towards_M3 / reach_M[:, None]
    across_M33 = torch.eye(3, dtype=torch.float64) - rays_M3[:, :, None] @ rays_M3[:, None, :]
    values_3, vectors_33 = torch.linalg.eigh((across_M33 / reach_M.square()[:, None, None]).sum(0))
    return (vectors_33 / values_3) @ vectors_33.mT


def _meeting_points(centers_M3: Tensor, rays_M3: Tensor, signed: bool) -> Tensor:
    """(P, 3): the middle between the two rays of each pair that crosses, in front of both."""
    i, j = torch.triu_indices(len(rays_M3), len(rays_M3), 1)
    cosine_P = (rays_M3[i] * rays_M3[j]).sum(-1)
    sine2_P = 1 - cosine_P.square()
    base_P3 = centers_M3[j] - centers_M3[i]
    along_i_P, along_j_P = (base_P3 * rays_M3[i]).sum(-1), (base_P3 * rays_M3[j]).sum(-1)
    safe_P = sine2_P.clamp_min(1e-300)
    first_P = (along_i_P - cosine_P * along_j_P) / safe_P
    second_P = (cosine_P * along_i_P - along_j_P) / safe_P
    middle_P3 = (
        centers_M3[i]
        + first_P[:, None] * rays_M3[i]
        + centers_M3[j]
        + second_P[:, None] * rays_M3[j]
    ) / 2
    min_sine = torch.deg2rad(torch.tensor(_MIN_CROSSING_DEG, dtype=torch.float64)).sin()
    usable_P = sine2_P > min_sine**2
    if signed:
        usable_P &= (first_P > 0) & (second_P > 0)
    return middle_P3[usable_P]


def _angles_rad(towards: Tensor, rays: Tensor, signed: bool) -> Tensor:
    """Angles between vectors and unit rays; with `signed` False, between their lines."""
    sine = torch.linalg.cross(towards, rays.expand_as(towards)).norm(dim=-1)
    cosine = (towards * rays).sum(-1)
    return torch.atan2(sine, cosine if signed else cosine.abs())


def _nearest_to_rays(
    centers_M3: Tensor, rays_M3: Tensor, start_3: Tensor, weights_M: Tensor
) -> Tensor | None:
    """The point whose angles to the rays are least, as distances over those to `start_3`."""
    across_M33 = (torch.eye(3, dtype=torch.float64) - rays_M3[:, :, None] @ rays_M3[:, None, :]) * (
        weights_M / (start_3 - centers_M3).square().sum(-1).clamp_min(1e-12)
    )[:, None, None]
    right_3 = (across_M33 @ centers_M3[..., None]).sum(0)[:, 0]
    solution, failed = torch.linalg.solve_ex(across_M33.sum(0), right_3)
    return None if bool(failed) or not bool(solution.isfinite().all()) else solution


def _usable(values_NX: Tensor, weights_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which rows are finite and have a weight, and the weights, float64."""
    if weights_N is None:
        weights_N = torch.ones(len(values_NX), dtype=torch.float64)
    weights_N = weights_N.double()
    return values_NX.isfinite().all(-1) & (weights_N > 0) & weights_N.isfinite(), weights_N
