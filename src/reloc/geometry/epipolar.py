"""Two views of one point: where the second may see what the first saw."""

from __future__ import annotations

import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d, skew


def essential_matrix(cam1_from_cam0: Rigid3d) -> Tensor:
    """The (..., 3, 3) with x1ᵀ E x0 = 0 for a point's rays x0 and x1 in the two camera frames."""
    return skew(cam1_from_cam0.translation) @ cam1_from_cam0.rotation


def fundamental_matrix(camera0: Camera, camera1: Camera, cam1_from_cam0: Rigid3d) -> Tensor:
    """The (..., 3, 3) with p1ᵀ F p0 = 0 for a point's homogeneous pixels, distortion undone."""
    essential = essential_matrix(cam1_from_cam0)
    plane0_from_img0 = camera0.matrix.to(essential).inverse()
    plane1_from_img1 = camera1.matrix.to(essential).inverse()
    return plane1_from_img1.mT @ essential @ plane0_from_img0


def epipolar_error_px(
    points0_N2: Tensor,
    points1_N2: Tensor,
    camera0: Camera,
    camera1: Camera,
    cam1_from_cam0: Rigid3d,
) -> Tensor:
    """How far (..., N) a pair of pixels is from seeing one point: Sampson's distance.

    To first order it is how far the two pixels must move, together, until their rays meet. Noise of
    σ pixels in both images gives a root mean square of σ, whichever image is called the first.

    Args:
        points0_N2: pixels (N, 2) of the first image.
        points1_N2: pixels (N, 2) of the second image, of the same points in the same order.
        camera0: of the first image; its distortion is undone.
        camera1: of the second image.
        cam1_from_cam0: of batch shape (...), so that several hypotheses are judged at once.

    Returns:
        Pixels, not negative; NaN where the camera centres coincide, which leaves no epipolar line,
        and where a pixel sees nothing in front of its camera.

    Source: Hartley and Zisserman, "Multiple view geometry", 2nd edition, equation 11.9.
    """
    fundamental = fundamental_matrix(camera0, camera1, cam1_from_cam0)
    pixels0_N3 = _undistorted_homogeneous(points0_N2, camera0).to(fundamental)
    pixels1_N3 = _undistorted_homogeneous(points1_N2, camera1).to(fundamental)
    lines1 = pixels0_N3 @ fundamental.mT
    lines0 = pixels1_N3 @ fundamental
    slopes = lines0[..., :2].square().sum(-1) + lines1[..., :2].square().sum(-1)
    return (pixels1_N3 * lines1).sum(-1).abs() / slopes.sqrt()


def _undistorted_homogeneous(points_N2: Tensor, camera: Camera) -> Tensor:
    """Pixels (N, 3), the last 1, as the same camera without its distortion would have them."""
    plane_N2 = camera.cam_from_img(points_N2)
    pixels_N2 = plane_N2 * camera.focal.to(plane_N2) + camera.principal_point.to(plane_N2)
    return torch.cat([pixels_N2, torch.ones_like(pixels_N2[:, :1])], dim=-1)
