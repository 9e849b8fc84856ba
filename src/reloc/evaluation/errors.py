"""How far a pose is from the true one. The one place where pose errors are computed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad


def position_error(cam_from_world: Rigid3d, true_cam_from_world: Rigid3d) -> Tensor:
    """Distance (...) between the two camera centres, in the unit of the world.

    Centres, not translations: t of cam_from_world depends on where the world's origin is.
    """
    center = cam_from_world.inverse().translation
    return (center - true_cam_from_world.inverse().translation).norm(dim=-1)


def rotation_error_deg(cam_from_world: Rigid3d, true_cam_from_world: Rigid3d) -> Tensor:
    """Angle (...) in [0, 180] of the rotation from the true camera to the estimated one."""
    angle_rad = angle_between_rad(cam_from_world.rotation, true_cam_from_world.rotation)
    return angle_rad * (180 / math.pi)


def normalized_error_squared(
    cam_from_world: Rigid3d, true_cam_from_world: Rigid3d, covariance_66: Tensor
) -> Tensor:
    """Squared error (...) over its predicted spread: ξᵀ Σ⁻¹ ξ with truth = exp(ξ) @ estimate.

    Follows a χ² law of 6 degrees of freedom where the covariances (..., 6, 6) of a
    `PoseEstimate` are right; larger values mean that they are too small. A singular covariance
    claims certainty, which any error at all refutes: inf.
    """
    error_6 = (true_cam_from_world @ cam_from_world.inverse()).log()
    # By eigenvalues: a direction that is claimed to be certain divides by zero, and only that one.
    variances_6, axes_66 = torch.linalg.eigh(covariance_66)
    along_6 = (axes_66.mT @ error_6[..., None])[..., 0].square()
    ratios_6 = along_6 / variances_6.clamp_min(0.0)
    return torch.where(along_6 == 0, torch.zeros_like(ratios_6), ratios_6).sum(-1)
