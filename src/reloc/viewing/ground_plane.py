"""The plane that a top-down picture of cameras is drawn in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.up_direction import up_of_cameras


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
    up_3 = up_of_cameras(cam_from_world_N.rotation)
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


def _principal_axes(offsets_N3: Tensor) -> Tensor:
    """(3, 3): rows, the direction of the largest variance first."""
    return torch.linalg.svd(offsets_N3.T @ offsets_N3)[2]
