"""What an image says of the places of its cells, with and without depth: the seam of `hypotheses`.

Shapes: B images, N cells of an image, H poses, T samples of K cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reloc.estimation.minimal_solvers import kabsch, p3p
from reloc.geometry.rigid3d import Rigid3d

# A point nearer to the image plane than this has no image. In units of the scene.
MIN_Z = 1e-6


class Observations(Protocol):
    """What an image says of the places of its cells: the seam between RGB and RGB-D."""

    poses_per_sample: int

    def poses(self, points_BN3: Tensor, sample_BT3: Tensor) -> tuple[Rigid3d, Tensor]:
        """Poses (B, P) from samples of three cells, and whether each is one (B, P).

        P is T times `poses_per_sample`, those of a sample side by side.
        """
        ...

    def residuals(self, points_cam_BHN3: Tensor) -> Tensor:
        """(B, H, N, R): how far points in the camera's frame are from what is observed."""
        ...

    def jacobian(self, points_cam_BHN3: Tensor) -> Tensor:
        """(B, H, N, R, 3): d residuals / d points."""
        ...

    def curvature(self, points_cam_BHN3: Tensor) -> Tensor:
        """(B, H, N, 3, 3): Σ over residuals r of r d²r / d point²."""
        ...

    def at(self, sample_BHK: Tensor) -> Observations:
        """Those of the sampled cells, each sample an image of its own: B H images of K cells."""
        ...


@dataclass(frozen=True, eq=False)
class Rays:
    """Cells of a colour image: a point is seen along its cell's ray. Residuals are in pixels.

    Attributes:
        rays_BN2: float64, on the plane z = 1.
        focal_px_B: float64.
    """

    rays_BN2: Tensor
    focal_px_B: Tensor

    poses_per_sample = 4

    def poses(self, points_BN3: Tensor, sample_BT3: Tensor) -> tuple[Rigid3d, Tensor]:
        """By P3P."""
        rays_M32 = gather_cells(self.rays_BN2, sample_BT3).flatten(0, 1)
        points_M33 = gather_cells(points_BN3, sample_BT3).flatten(0, 1)
        rays_M33 = torch.cat([rays_M32, torch.ones_like(rays_M32[..., :1])], dim=-1)
        poses, is_pose_M4 = p3p(rays_M33, points_M33)
        shape = len(sample_BT3), sample_BT3.shape[1] * self.poses_per_sample
        return unflatten(poses, shape), is_pose_M4.view(shape)

    def residuals(self, points_cam_BHN3: Tensor) -> Tensor:
        """Of the projections, in pixels."""
        z = points_cam_BHN3[..., 2:].clamp_min(MIN_Z)
        offset = points_cam_BHN3[..., :2] / z - self.rays_BN2[:, None]
        return self.focal_px_B[:, None, None, None] * offset

    def jacobian(self, points_cam_BHN3: Tensor) -> Tensor:
        """By point: focal length times [1/z, 0, -x/z²; 0, 1/z, -y/z²]."""
        plane, per_z = _projected(points_cam_BHN3)
        zero = torch.zeros_like(per_z)
        rows = [[per_z, zero, -plane[..., 0] * per_z], [zero, per_z, -plane[..., 1] * per_z]]
        focal = self.focal_px_B[:, None, None, None, None]
        return focal * torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)

    def curvature(self, points_cam_BHN3: Tensor) -> Tensor:
        """Of the two projections: d²/dxdz is -f/z², d²/dz² is 2 f x / z³."""
        plane, per_z = _projected(points_cam_BHN3)
        focal = self.focal_px_B[:, None, None, None]
        weights = focal * self.residuals(points_cam_BHN3) * per_z[..., None] ** 2
        u, v = weights.unbind(-1)
        zero = torch.zeros_like(u)
        w = 2 * (weights * plane).sum(-1)
        rows = [[zero, zero, -u], [zero, zero, -v], [-u, -v, w]]
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)

    def at(self, sample_BHK: Tensor) -> Rays:
        """The rays of samples."""
        return Rays(
            gather_cells(self.rays_BN2, sample_BHK).flatten(0, 1),
            self.focal_px_B.repeat_interleave(sample_BHK.shape[1]),
        )


@dataclass(frozen=True, eq=False)
class MeasuredPoints:
    """Cells of an image with depth: where their points are from the camera.

    Attributes:
        points_cam_BN3: float64.
        per_unit: residuals for one unit of length: 100 gives centimetres where lengths are metres.
    """

    points_cam_BN3: Tensor
    per_unit: float = 100.0

    poses_per_sample = 1

    def poses(self, points_BN3: Tensor, sample_BT3: Tensor) -> tuple[Rigid3d, Tensor]:
        """By Kabsch."""
        measured_M33 = gather_cells(self.points_cam_BN3, sample_BT3).flatten(0, 1)
        points_M33 = gather_cells(points_BN3, sample_BT3).flatten(0, 1)
        poses, is_pose_M = kabsch(measured_M33, points_M33)
        shape = sample_BT3.shape[:2]
        return unflatten(poses, shape), is_pose_M.view(shape)

    def residuals(self, points_cam_BHN3: Tensor) -> Tensor:
        """Of the points themselves."""
        return self.per_unit * (points_cam_BHN3 - self.points_cam_BN3[:, None])

    def jacobian(self, points_cam_BHN3: Tensor) -> Tensor:
        """The identity, in the unit of the residuals."""
        eye = torch.eye(3, dtype=points_cam_BHN3.dtype, device=points_cam_BHN3.device)
        return self.per_unit * eye.expand(*points_cam_BHN3.shape, 3)

    def curvature(self, points_cam_BHN3: Tensor) -> Tensor:
        """None: residuals are linear in the points."""
        return points_cam_BHN3.new_zeros(()).expand(*points_cam_BHN3.shape, 3)

    def at(self, sample_BHK: Tensor) -> MeasuredPoints:
        """The points of samples."""
        return MeasuredPoints(
            gather_cells(self.points_cam_BN3, sample_BHK).flatten(0, 1), self.per_unit
        )


def point_errors(cam_from_world: Rigid3d, observations: Observations, points_BN3: Tensor) -> Tensor:
    """(B, H, N): the length of the residual of each cell.

    Infinite, without a gradient, behind the camera and where a point is not finite.
    """
    finite_BN1 = points_BN3.isfinite().all(-1, keepdim=True)
    points_cam = cam_from_world @ torch.where(finite_BN1, points_BN3, 0.0)[:, None]
    errors_BHN = observations.residuals(points_cam).norm(dim=-1)
    hidden = (points_cam[..., 2] <= MIN_Z) | ~finite_BN1[:, None, :, 0]
    return errors_BHN.masked_fill(hidden, torch.inf)


def _projected(points_cam: Tensor) -> tuple[Tensor, Tensor]:
    """Points on the plane z = 1, and 1 / z."""
    per_z = 1 / points_cam[..., 2].clamp_min(MIN_Z)
    return points_cam[..., :2] * per_z[..., None], per_z


def gather_cells(values_BNX: Tensor, index_BHK: Tensor) -> Tensor:
    """(B, H, K, X), or (B, H, X) for an index (B, H): rows of each image by their numbers."""
    rows = torch.arange(len(values_BNX), device=values_BNX.device)
    return values_BNX[rows.view(-1, *[1] * (index_BHK.dim() - 1)), index_BHK]


def unflatten(poses: Rigid3d, shape: Sequence[int]) -> Rigid3d:
    """Poses in another batch shape."""
    return Rigid3d(poses.rotation.reshape(*shape, 3, 3), poses.translation.reshape(*shape, 3))
