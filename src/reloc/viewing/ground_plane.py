"""The plane that a top-down picture of cameras is drawn in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d

# Cameras that all look one way have parallel x axes: these then say nothing about one direction.
_MIN_SPREAD = 0.02
_MAX_TILT_TO_SPREAD = 0.25
_MIN_AGREEMENT = 0.5


@dataclass(frozen=True, eq=False)
class GroundPlane:
    """Two directions of the world to draw along.

    Attributes:
        axes_23: orthonormal rows: to the right and to the top of the picture.
        origin_3: the point of the world that is drawn at (0, 0).
        level: True where the plane is level: the picture is seen from above.
    """

    axes_23: Tensor
    origin_3: Tensor
    level: bool

    def project(self, points_N3: Tensor) -> Tensor:
        """Points of the world to (N, 2) of the picture, in the scene's unit."""
        return (points_N3 - self.origin_3) @ self.axes_23.T


def ground_plane(cam_from_world_N: Rigid3d) -> GroundPlane:
    """The level plane through cameras, or their two principal axes where "up" cannot be told.

    The longer side of the cameras' path lies along the first axis.
    """
    centers_N3 = cam_from_world_N.inverse().translation
    origin_3 = centers_N3.mean(0)
    offsets_N3 = centers_N3 - origin_3
    up_3 = _up(cam_from_world_N.rotation)
    # Without "up", the direction in which the centres vary least is left out.
    normal_3 = _principal_axes(offsets_N3)[2] if up_3 is None else up_3
    flat_N3 = offsets_N3 - (offsets_N3 @ normal_3)[:, None] * normal_3
    right_3 = _principal_axes(flat_N3)[0]
    if float(flat_N3.abs().max()) == 0.0 or float((right_3 @ normal_3).abs()) > 0.5:
        # All cameras stand above one point: any level direction serves.
        right_3 = torch.linalg.svd(normal_3[None])[2][1]
    right_3 = right_3 * right_3[right_3.abs().argmax()].sign()
    axes_23 = torch.stack([right_3, torch.linalg.cross(normal_3, right_3)])
    return GroundPlane(axes_23, origin_3, up_3 is not None)


def _up(rotation_N33: Tensor) -> Tensor | None:
    """Where "up" is if people hold cameras level (3,); None where the cameras do not agree.

    The x axes of level cameras lie in the ground plane however the cameras are pitched (Szeliski,
    Image Alignment and Stitching, 2006, section 5); the mean of their upward axes is pitched as
    they are.
    """
    mean_up_3 = -rotation_N33[:, 1].mean(0)
    if float(mean_up_3.norm()) < _MIN_AGREEMENT:
        return None
    x_axes_N3 = rotation_N33[:, 0]
    values_3, vectors_33 = torch.linalg.eigh(x_axes_N3.T @ x_axes_N3 / len(x_axes_N3))
    up_3 = vectors_33[:, 0] * (vectors_33[:, 0] @ mean_up_3).sign()
    tilt, spread = float(values_3[0]), float(values_3[1])
    agrees = float(up_3 @ mean_up_3) > _MIN_AGREEMENT * float(mean_up_3.norm())
    if agrees and spread > _MIN_SPREAD and tilt < _MAX_TILT_TO_SPREAD * spread:
        return up_3
    return mean_up_3 / mean_up_3.norm()


def _principal_axes(offsets_N3: Tensor) -> Tensor:
    """(3, 3): rows, the direction of the largest variance first."""
    return torch.linalg.svd(offsets_N3.T @ offsets_N3)[2]
