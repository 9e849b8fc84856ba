"""Where predicted points fall in the views that their cells are from: what losses are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.methods.coordinates.cameras import MappingCameras
from reloc.nn.heads import CoordinateHead
from reloc.training.buffer import FeatureBuffer

# A point at less than this is not in front of its camera yet, one at more is lost. In the head's
# unit, which is the extent of the mapping cameras where they stand together.
_MIN_DEPTH, _MAX_DEPTH = 0.05, 200.0
_MAX_ERROR_PX = 1000.0


@dataclass(frozen=True, eq=False)
class Sightings:
    """Predicted points of a batch of cells, as their views see them.

    Attributes:
        points_cam_N3: in the views' frames, in the head's unit.
        error_px_N: length of the reprojection error, of the resized image.
        depth_N: known depth in the head's unit, NaN where unknown.
        plausible_N: whether a point is in front of its camera, not lost, and seen near its cell.
        rays_N3: of the cells, to the plane z = 1.
    """

    points_cam_N3: Tensor
    error_px_N: Tensor
    depth_N: Tensor
    plausible_N: Tensor
    rays_N3: Tensor

    def distance_at(self, depth: Tensor | float) -> Tensor:
        """(N,): L1 distance to the points on the cells' rays at a depth (N,)."""
        target_N3 = self.rays_N3 * torch.as_tensor(depth, device=self.depth_N.device)[..., None]
        return (self.points_cam_N3 - target_N3).abs().sum(-1)

    def distance_to_known(self) -> Tensor:
        """(N,): distance to the known points; 0 where none is known."""
        known_N = self.depth_N.isfinite()
        target_N3 = self.rays_N3 * torch.where(known_N, self.depth_N, 0.0)[:, None]
        offset_N3 = torch.where(known_N[:, None], self.points_cam_N3 - target_N3, 0.0)
        return offset_N3.norm(dim=-1)


def soft_clamped(error: Tensor, limit: float) -> Tensor:
    """The error itself, and above the limit sqrt(limit · error)."""
    return torch.where(error < limit, error, (limit * error.clamp_min(limit)).sqrt())


def see(
    head: CoordinateHead, buffer: FeatureBuffer, cameras: MappingCameras, cells_N: Tensor
) -> Sightings:
    """Predict the points of cells of a buffer, and project them."""
    view_N = buffer.view_N[cells_N].long()
    rays_N2, depth_N = buffer.rays_N2[cells_N], buffer.depth_N[cells_N] / cameras.scale
    points_N3 = head(buffer.codes_NC[cells_N].float())
    turned_N3 = (cameras.rotation_V33[view_N] * points_N3[:, None]).sum(-1)
    points_cam_N3 = turned_N3 + cameras.translation_V3[view_N]
    z_N = points_cam_N3[:, 2]
    residual_N2 = points_cam_N3[:, :2] / z_N.clamp_min(_MIN_DEPTH)[:, None] - rays_N2
    error_px_N = cameras.focal_px_V[view_N] * residual_N2.norm(dim=-1)
    plausible_N = (z_N > _MIN_DEPTH) & (z_N < _MAX_DEPTH) & (error_px_N < _MAX_ERROR_PX)
    rays_N3 = torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=1)
    return Sightings(points_cam_N3, error_px_N, depth_N, plausible_N.detach(), rays_N3)
