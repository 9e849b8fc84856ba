"""Correspondences of two images to the pose of one camera in the frame of the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import poselib
import torch
from torch import Tensor

from reloc.estimation.absolute import estimate_absolute_pose
from reloc.estimation.rigid_alignment import estimate_rigid_alignment
from reloc.geometry.camera import Camera
from reloc.geometry.epipolar import epipolar_error_px
from reloc.geometry.rigid3d import Rigid3d

RelativeSolver = Literal["essential", "pnp", "kabsch"]
"""essential: five points, the scale from depth where there is any; pnp: points with depth in the
first image; kabsch: points with depth in both."""

# Five points fix an essential matrix; this many more must agree with it.
MIN_INLIERS = 12
# Depths over triangulated depths within this factor of one another vote for one scale.
_SCALE_TOLERANCE = 1.1
_MIN_SCALE_VOTES = 5
# How far measured points may be apart that are the same, as a share of their median depth.
_MAX_POINT_ERROR = 0.05


@dataclass(frozen=True, eq=False)
class RelativePose:
    """The pose of a second camera in the frame of the first.

    Attributes:
        cam1_from_cam0: float64. Without a scale its translation is of length 1.
        has_scale: whether lengths are those of the depth maps.
        inliers_N: bool, which correspondences agree.
        parallax_deg: median angle by which the translation alone moves those: near zero, the
            direction of the translation is a matter of noise.
        camera0: as given, or with the focal length that was estimated.
        camera1: likewise.
    """

    cam1_from_cam0: Rigid3d
    has_scale: bool
    inliers_N: Tensor
    parallax_deg: float
    camera0: Camera
    camera1: Camera

    @property
    def num_inliers(self) -> int:
        """Correspondences that agree."""
        return int(self.inliers_N.sum())


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Pixels of two images that show the same points.

    Attributes:
        pixels0_N2: of the first; the centre of the top-left pixel is (0.5, 0.5).
        pixels1_N2: of the second.
        camera0: of the first image.
        camera1: of the second.
        depth0_N: along the first optical axis, NaN where unknown; None: of no point.
        depth1_N: along the second.
    """

    pixels0_N2: Tensor
    pixels1_N2: Tensor
    camera0: Camera
    camera1: Camera
    depth0_N: Tensor | None = None
    depth1_N: Tensor | None = None


def estimate_relative_pose(
    seen: Correspondences,
    solver: RelativeSolver = "essential",
    max_error_px: float = 2.0,
    seed: int = 0,
    max_iterations: int = 10_000,
) -> RelativePose | None:
    """Robust relative pose of two cameras, in the unit of the depths where these fix it.

    Focal lengths: where neither image's is known and they are of one size, the essential solver
    estimates one for both, the pnp solver that of the second; a guess is taken as it is otherwise.

    Args:
        seen: the correspondences.
        solver: how. "pnp" needs depth in the first image, "kabsch" in both.
        max_error_px: up to which a correspondence agrees: to the epipolar line, or to the
            reprojection.
        seed: of the sampling.
        max_iterations: of RANSAC, so that hopeless input ends.

    Returns:
        None where too few agree, or the depth that the solver needs is missing.
    """
    if solver == "pnp":
        return _by_pnp(seen, max_error_px, seed, max_iterations)
    if solver == "kabsch":
        return _by_kabsch(seen, max_error_px, seed)
    found = _by_essential(seen, max_error_px, seed, max_iterations)
    return found and scaled_by_depth(found, seen)


def scaled_by_depth(found: RelativePose, seen: Correspondences) -> RelativePose:
    """A pose with the length that its translation has in the unit of the depths.

    Each correspondence that agrees is triangulated; known over triangulated depth is what it says
    of the scale, and the scale that most say, within a tenth, is taken. It stays without a scale
    where fewer than five say the same.

    Source: Arnold et al., "Map-free visual relocalization", ECCV 2022, section 4.2.
    """
    triangulated_N2 = _triangulated_depths(found, seen)
    votes = [
        depth_N.double() / triangulated_N2[:, side]
        for side, depth_N in enumerate((seen.depth0_N, seen.depth1_N))
        if depth_N is not None
    ]
    if not votes:
        return found
    votes_V = torch.cat([vote_N[found.inliers_N] for vote_N in votes])
    log_V = votes_V[votes_V.isfinite() & (votes_V > 0)].log()
    if len(log_V) < _MIN_SCALE_VOTES:
        return found
    near_VV = (log_V[:, None] - log_V).abs() < np.log(_SCALE_TOLERANCE)
    agree_V = near_VV[int(near_VV.sum(1).argmax())]
    if int(agree_V.sum()) < _MIN_SCALE_VOTES:
        return found
    scale = log_V[agree_V].median().exp()
    pose = found.cam1_from_cam0
    return replace(
        found, cam1_from_cam0=Rigid3d(pose.rotation, scale * pose.translation), has_scale=True
    )


def _by_essential(
    seen: Correspondences, max_error_px: float, seed: int, max_iterations: int
) -> RelativePose | None:
    finite_N = seen.pixels0_N2.isfinite().all(-1) & seen.pixels1_N2.isfinite().all(-1)
    if int(finite_N.sum()) < MIN_INLIERS:
        return None
    camera0, camera1 = seen.camera0, seen.camera1
    pixels0, pixels1 = (
        pixels_N2[finite_N].double().numpy() for pixels_N2 in (seen.pixels0_N2, seen.pixels1_N2)
    )
    sampling = {
        "max_epipolar_error": max_error_px,
        "seed": seed,
        "min_iterations": 100,
        "max_iterations": max_iterations,
    }
    refinement = {"loss_type": "CAUCHY", "loss_scale": max_error_px / 4}
    same_size = (camera0.width, camera0.height) == (camera1.width, camera1.height)
    if same_size and not (camera0.has_prior_focal or camera1.has_prior_focal):
        # Its correspondences are relative to the principal point.
        middle = camera0.principal_point.numpy()
        pair, _ = poselib.estimate_shared_focal_relative_pose(
            pixels0 - middle, pixels1 - middle, np.zeros((2, 1)), sampling, refinement
        )
        found, focal = pair.pose, float(pair.camera1.focal())
        if not (np.isfinite(focal) and 0.1 < focal / max(camera0.width, camera0.height) < 20):
            return None
        camera0, camera1 = (
            camera.with_focal(focal, has_prior_focal=False) for camera in (camera0, camera1)
        )
    else:
        found, _ = poselib.estimate_relative_pose(
            pixels0, pixels1, camera0.as_dict(), camera1.as_dict(), sampling, refinement
        )
    pose = Rigid3d(torch.from_numpy(np.array(found.R)), torch.from_numpy(np.array(found.t)))
    if not bool(pose.matrix.isfinite().all()) or float(pose.translation.norm()) == 0:
        return None
    pose = Rigid3d(pose.rotation, pose.translation / pose.translation.norm())
    error_px_N = epipolar_error_px(
        seen.pixels0_N2.double(), seen.pixels1_N2.double(), camera0, camera1, pose
    )
    answer = _with_parallax(pose, False, error_px_N < max_error_px, camera0, camera1, seen)
    # A point behind a camera agrees with a line, not with the pose.
    in_front_N = (_triangulated_depths(answer, seen) > 0).all(-1)
    # Far away points have no depth to speak of: without parallax, either sign is noise.
    inliers_N = answer.inliers_N & (in_front_N | (answer.parallax_deg < 0.1))
    if int(inliers_N.sum()) < MIN_INLIERS:
        return None
    return _with_parallax(pose, False, inliers_N, camera0, camera1, seen)


def _by_pnp(
    seen: Correspondences, max_error_px: float, seed: int, max_iterations: int
) -> RelativePose | None:
    if seen.depth0_N is None:
        return None
    points0_N3 = _points(seen.pixels0_N2, seen.camera0, seen.depth0_N)
    found = estimate_absolute_pose(
        seen.pixels1_N2, points0_N3, seen.camera1, max_error_px, seed, max_iterations
    )
    if found is None or found.num_inliers < MIN_INLIERS:
        return None
    return _with_parallax(
        found.cam_from_world, True, found.inliers_N, seen.camera0, found.camera, seen
    )


def _by_kabsch(seen: Correspondences, max_error_px: float, seed: int) -> RelativePose | None:
    if seen.depth0_N is None or seen.depth1_N is None:
        return None
    points0_N3 = _points(seen.pixels0_N2, seen.camera0, seen.depth0_N)
    points1_N3 = _points(seen.pixels1_N2, seen.camera1, seen.depth1_N)
    known_N = points0_N3.isfinite().all(-1) & points1_N3.isfinite().all(-1)
    if int(known_N.sum()) < MIN_INLIERS:
        return None
    # Where pixels are precise, depth is not: errors grow with it.
    depth = float(points1_N3[known_N, 2].median())
    max_error = max(_MAX_POINT_ERROR, max_error_px / float(seen.camera1.focal.mean())) * depth
    found = estimate_rigid_alignment(
        points1_N3, points0_N3.nan_to_num()[:, None], known_N[:, None].float(), max_error, seed
    )
    if found is None or found.num_inliers < MIN_INLIERS:
        return None
    return _with_parallax(
        found.cam_from_world, True, found.inliers_N, seen.camera0, seen.camera1, seen
    )


def _with_parallax(
    pose: Rigid3d,
    has_scale: bool,
    inliers_N: Tensor,
    camera0: Camera,
    camera1: Camera,
    seen: Correspondences,
) -> RelativePose:
    rays0_N3 = _rays(seen.pixels0_N2[inliers_N], camera0) @ pose.rotation.mT
    rays1_N3 = _rays(seen.pixels1_N2[inliers_N], camera1)
    sine_N = torch.linalg.cross(rays0_N3, rays1_N3).norm(dim=-1)
    angle_deg_N = torch.atan2(sine_N, (rays0_N3 * rays1_N3).sum(-1)).rad2deg()
    parallax_deg = float(angle_deg_N.nanmedian()) if len(angle_deg_N) else 0.0
    return RelativePose(pose, has_scale, inliers_N, parallax_deg, camera0, camera1)


def _triangulated_depths(found: RelativePose, seen: Correspondences) -> Tensor:
    """Depths (N, 2) in both cameras where the rays are nearest, for a translation of length 1."""
    pose = found.cam1_from_cam0
    unit_3 = pose.translation / pose.translation.norm().clamp_min(1e-300)
    rays0_N3 = _rays(seen.pixels0_N2, found.camera0) @ pose.rotation.mT
    rays1_N3 = _rays(seen.pixels1_N2, found.camera1)
    # z0 r0 + t = z1 r1, in least squares.
    a, b, c = ((x * y).sum(-1) for x, y in _pairs(rays0_N3, rays1_N3))
    d, e = -(rays0_N3 @ unit_3), -(rays1_N3 @ unit_3)
    determinant_N = (a * c - b * b).clamp_min(1e-18)
    return torch.stack([(c * d - b * e) / determinant_N, (b * d - a * e) / determinant_N], dim=-1)


def _pairs(first: Tensor, second: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(first, first), (first, second), (second, second)]


def _points(pixels_N2: Tensor, camera: Camera, depth_N: Tensor) -> Tensor:
    """Points (N, 3) in the camera; NaN where the depth is unknown."""
    depth_N = torch.where(depth_N > 0, depth_N.double(), torch.nan)
    return _rays(pixels_N2, camera) * depth_N[:, None]


def _rays(pixels_N2: Tensor, camera: Camera) -> Tensor:
    """Rays (N, 3) float64 with z = 1."""
    plane_N2 = camera.cam_from_img(pixels_N2.double())
    return torch.cat([plane_N2, torch.ones_like(plane_N2[:, :1])], dim=-1)
