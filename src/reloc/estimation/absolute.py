"""2D-3D correspondences to a camera pose, with its covariance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import poselib
import pycolmap
import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d, skew

# Three points fix a pose, the fourth tells its mirror images apart; more must agree with it.
MIN_INLIERS = 6
# Feature detectors do not locate a point better than this, whatever a small sample's residuals say.
_MIN_NOISE_PX = 0.25


@dataclass(frozen=True, eq=False)
class AbsolutePose:
    """A pose that correspondences agree on.

    Attributes:
        cam_from_world: float64.
        inliers_N: bool, which correspondences agree.
        covariance: (6, 6) of a left perturbation, rotation (rad) then translation, from the
            Jacobian of the inliers' reprojections at the pose and the spread of their residuals.
        camera: as given, or with the focal length that was estimated.
    """

    cam_from_world: Rigid3d
    inliers_N: Tensor
    covariance: Tensor
    camera: Camera

    @property
    def num_inliers(self) -> int:
        """Correspondences that agree."""
        return int(self.inliers_N.sum())

    @property
    def inlier_ratio(self) -> float:
        """Their share of all correspondences."""
        return self.num_inliers / len(self.inliers_N)


def estimate_absolute_pose(
    pixels_N2: Tensor,
    points_world_N3: Tensor,
    camera: Camera,
    max_error_px: float,
    seed: int = 0,
    max_iterations: int = 10_000,
) -> AbsolutePose | None:
    """Robust camera pose: LO-RANSAC over P3P, then refinement on all inliers.

    By PoseLib; where the camera has no prior focal length, by pycolmap, which estimates that too.

    Args:
        pixels_N2: image points; the centre of the top-left pixel is (0.5, 0.5).
        points_world_N3: the scene points seen there.
        camera: of the image.
        max_error_px: reprojection error up to which a correspondence agrees.
        seed: of the sampling.
        max_iterations: of RANSAC, so that hopeless input ends.

    Returns:
        None where fewer than `MIN_INLIERS` correspondences agree, or the geometry is degenerate.
    """
    finite_N = pixels_N2.isfinite().all(-1) & points_world_N3.isfinite().all(-1)
    if int(finite_N.sum()) < MIN_INLIERS:
        return None
    pixels = pixels_N2[finite_N].double()
    points = points_world_N3[finite_N].double()
    if camera.has_prior_focal:
        pose = _pose_by_poselib(pixels, points, camera, max_error_px, seed, max_iterations)
    else:
        pose, camera = _pose_by_pycolmap(pixels, points, camera, max_error_px, seed, max_iterations)
    if pose is None or not bool(pose.matrix.isfinite().all()):
        return None
    inliers = reprojection_error_px(pose, pixels, points, camera) < max_error_px
    if int(inliers.sum()) < MIN_INLIERS:
        return None
    covariance = pose_covariance(pose, pixels[inliers], points[inliers], camera)
    if covariance is None:
        return None
    inliers_N = finite_N.clone()
    inliers_N[finite_N] = inliers
    return AbsolutePose(pose, inliers_N, covariance, camera)


def refine_absolute_pose(
    pixels_N2: Tensor,
    points_world_N3: Tensor,
    camera: Camera,
    start: Rigid3d,
    max_error_px: float,
    loss_scale_px: float,
) -> AbsolutePose | None:
    """A pose that is about right, fitted to all correspondences under a Cauchy loss, by PoseLib.

    Args:
        pixels_N2: image points; the centre of the top-left pixel is (0.5, 0.5).
        points_world_N3: the scene points seen there.
        camera: of the image; its focal length stays as it is.
        start: cam_from_world.
        max_error_px: reprojection error up to which a correspondence counts as an inlier.
        loss_scale_px: reprojection error from which on the loss grows slowly.

    Returns:
        None where fewer than `MIN_INLIERS` correspondences agree, or the geometry is degenerate.
    """
    if len(pixels_N2) < MIN_INLIERS:
        return None
    first = poselib.CameraPose()
    first.R, first.t = start.rotation.numpy(), start.translation.numpy()
    refined, _ = poselib.refine_absolute_pose(
        pixels_N2.numpy(),
        points_world_N3.numpy(),
        first,
        camera.as_dict(),
        {"loss_type": "CAUCHY", "loss_scale": loss_scale_px},
    )
    pose = _rigid3d(refined.R, refined.t)
    if not bool(pose.matrix.isfinite().all()):
        return None
    inliers_N = reprojection_error_px(pose, pixels_N2, points_world_N3, camera) < max_error_px
    if int(inliers_N.sum()) < MIN_INLIERS:
        return None
    covariance = pose_covariance(pose, pixels_N2[inliers_N], points_world_N3[inliers_N], camera)
    return None if covariance is None else AbsolutePose(pose, inliers_N, covariance, camera)


def pose_covariance(
    cam_from_world: Rigid3d, pixels_N2: Tensor, points_world_N3: Tensor, camera: Camera
) -> Tensor | None:
    """Covariance (6, 6) of a left perturbation of a least-squares pose; None where it is unbounded.

    σ² (JᵀJ)⁻¹ with the Jacobian of the projections and the residuals' own σ² (Hartley and
    Zisserman, Multiple View Geometry, 2nd edition, section 5.2). Where the camera's focal length is
    no prior one it was estimated with the pose: it is a seventh unknown, and what is returned the
    part of the pose. Else the way along the optical axis would look far too sure.
    """
    points_cam_N3 = cam_from_world @ points_world_N3
    # d exp(ξ) x / dξ at ξ = 0 is [-[x]×, I].
    jacobian_cam_N36 = torch.cat(
        [-skew(points_cam_N3), torch.eye(3, dtype=torch.float64).expand(len(points_cam_N3), 3, 3)],
        -1,
    )
    jacobian_N2P = _projection_jacobian(points_cam_N3, camera) @ jacobian_cam_N36
    projected_N2 = camera.img_from_cam(points_cam_N3)
    if not camera.has_prior_focal:
        by_focal_N2 = (projected_N2 - camera.principal_point) / camera.focal
        jacobian_N2P = torch.cat([jacobian_N2P, by_focal_N2[..., None]], -1)
    residuals = projected_N2 - pixels_N2
    degrees_of_freedom = max(residuals.numel() - jacobian_N2P.shape[-1], 1)
    variance = max(float((residuals**2).sum()) / degrees_of_freedom, _MIN_NOISE_PX**2)
    information = torch.einsum("nij,nik->jk", jacobian_N2P, jacobian_N2P) / variance
    inverse, failed = torch.linalg.inv_ex(information)
    covariance = inverse[:6, :6]
    if bool(failed) or not bool(covariance.isfinite().all()):
        return None
    # Of a pose that hardly anything holds in one direction, rounding breaks the symmetry.
    covariance = (covariance + covariance.mT) / 2
    return covariance if float(torch.linalg.eigvalsh(covariance)[0]) > 0 else None


def _projection_jacobian(points_cam_N3: Tensor, camera: Camera) -> Tensor:
    """(N, 2, 3): d pixel / d point, by the chain of central differences that any model allows."""
    step = 1e-6 * points_cam_N3[:, 2:].abs().clamp_min(1e-9)
    columns = []
    for axis in range(3):
        offset = torch.zeros_like(points_cam_N3)
        offset[:, axis : axis + 1] = step
        ahead = camera.img_from_cam(points_cam_N3 + offset)
        behind = camera.img_from_cam(points_cam_N3 - offset)
        columns.append((ahead - behind) / (2 * step))
    return torch.stack(columns, dim=-1)


def reprojection_error_px(
    cam_from_world: Rigid3d, pixels_N2: Tensor, points_world_N3: Tensor, camera: Camera
) -> Tensor:
    """(N,); infinite behind the camera."""
    error_N = (camera.img_from_cam(cam_from_world @ points_world_N3) - pixels_N2).norm(dim=-1)
    return error_N.nan_to_num(torch.inf)


def _pose_by_poselib(
    pixels: Tensor,
    points: Tensor,
    camera: Camera,
    max_error_px: float,
    seed: int,
    max_iterations: int,
) -> Rigid3d | None:
    pose, _ = poselib.estimate_absolute_pose(
        pixels.numpy(),
        points.numpy(),
        camera.as_dict(),
        {
            "max_reproj_error": max_error_px,
            "seed": seed,
            "min_iterations": 100,
            "max_iterations": max_iterations,
        },
        {"loss_type": "CAUCHY", "loss_scale": max_error_px / 4},
    )
    return _rigid3d(pose.R, pose.t)


def _pose_by_pycolmap(
    pixels: Tensor,
    points: Tensor,
    camera: Camera,
    max_error_px: float,
    seed: int,
    max_iterations: int,
) -> tuple[Rigid3d | None, Camera]:
    estimation = pycolmap.AbsolutePoseEstimationOptions()
    estimation.estimate_focal_length = True
    estimation.ransac.max_error = max_error_px
    estimation.ransac.random_seed = seed
    estimation.ransac.max_num_trials = max_iterations
    estimation.ransac.min_num_trials = min(estimation.ransac.min_num_trials, max_iterations)
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    refinement.refine_focal_length = True
    estimated = pycolmap.Camera(camera.as_dict())
    answer = pycolmap.estimate_and_refine_absolute_pose(
        pixels.numpy(),
        points.numpy(),
        estimated,
        estimation_options=estimation,
        refinement_options=refinement,
    )
    if answer is None:
        return None, camera
    # The focal length comes back in the camera that was passed in; on hopeless input it can be
    # negative.
    params = torch.from_numpy(np.array(estimated.params))
    if not bool(params.isfinite().all()) or estimated.mean_focal_length() <= 0:
        return None, camera
    matrix = answer["cam_from_world"].matrix()
    return _rigid3d(matrix[:, :3], matrix[:, 3]), replace(camera, params=params)


def _rigid3d(rotation: np.ndarray, translation: np.ndarray) -> Rigid3d:
    return Rigid3d(
        torch.from_numpy(np.array(rotation, dtype=np.float64)),
        torch.from_numpy(np.array(translation, dtype=np.float64)),
    )
