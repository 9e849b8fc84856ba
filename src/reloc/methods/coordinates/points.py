"""The points that a head predicts for cells of mapping views, and the loss of known ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Run
from reloc.methods.coordinates.cameras import MappingCameras
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.global_codes import with_global
from reloc.nn.heads import CoordinateHead
from reloc.nn.landmarks import LandmarkHead
from reloc.nn.precision import autocast
from reloc.training.buffer import FeatureBuffer

# Error at which the loss of known points flattens: some of them are wrong.
_LOOSE_POINT_PX = 300.0

# Head, buffer, cameras, cells of the batch, share of the training done: the loss.
Loss = Callable[[CoordinateHead, FeatureBuffer, MappingCameras, Tensor, float], Tensor]


def points_in_cameras(
    head: nn.Module, buffer: FeatureBuffer, cameras: MappingCameras, cells_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted points (N, 3) in the frames of their cells' views, in `scale`, and focals (N,).

    And the logarithms (N,) of the pixels by which the head says they are off.
    """
    view_N = buffer.view_N[cells_N].long()
    codes_NC = buffer.codes_NC[cells_N].float()
    if cameras.global_codes is not None:
        codes_NC = with_global(codes_NC, cameras.global_codes.of_views(view_N))
    points_N3, log_error_N = predicted(head, codes_NC)
    rotation_N33 = cameras.rotation_V33[view_N]
    points_cam_N3 = (rotation_N33 * points_N3[:, None]).sum(-1) + cameras.translation_V3[view_N]
    return points_cam_N3, cameras.focal_px_V[view_N], log_error_N


def predicted(head: nn.Module, codes_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Points (N, 3), and what tells (N,) the sure ones, which is less for them, from the others.

    Of layers the logarithms of their errors in pixels, of landmarks how unlike them the codes are;
    all the same from a head that does not know.
    """
    if isinstance(head, CoordinateHead | LandmarkHead):
        return head.with_error(codes_NC)
    points_N3 = head(codes_NC)
    return points_N3, torch.zeros_like(points_N3[:, 0])


def point_loss(
    head: nn.Module,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    cells_N: Tensor,
    depth_N: Tensor,
) -> Tensor:
    """The mean of w tanh(e / w), with e the L1 distance to a point as large as it looks, in pixels.

    As the reprojection error, but it counts along the ray, too. w is `_LOOSE_POINT_PX`.

    Args:
        head: that predicts the points.
        buffer: of the cells.
        cameras: of the views.
        cells_N: indices of cells.
        depth_N: of them, along the optical axes, in the unit of the world.
    """
    points_cam_N3, focal_px_N, _ = points_in_cameras(head, buffer, cameras, cells_N)
    rays_N3 = functional.pad(buffer.rays_N2[cells_N], (0, 1), value=1.0)
    depth_N = depth_N / cameras.scale
    off_N = (points_cam_N3 - rays_N3 * depth_N[:, None]).abs().sum(-1)
    error_px_N = focal_px_N * off_N / depth_N
    return (_LOOSE_POINT_PX * (error_px_N / _LOOSE_POINT_PX).tanh()).mean()


def begun_with_points(loss: Loss, depth_N: Tensor, config: CoordinatesConfig, run: Run) -> Loss:
    """The loss, but in the first part of the training half of the cells learn known points."""
    depth_N = depth_N.to(run.device)
    known_K = depth_N.isfinite().nonzero()[:, 0]
    run.log.info("the points of %.0f %% of the cells are known", 100 * len(known_K) / len(depth_N))
    if len(known_K) == 0:
        return loss

    def begun_with_points(
        head: CoordinateHead,
        buffer: FeatureBuffer,
        cameras: MappingCameras,
        cells_N: Tensor,
        done: float,
    ) -> Tensor:
        first_N, rest_N = cells_N.chunk(2)
        known_N = known_K[first_N % len(known_K)]
        if done >= config.points_until:
            return loss(head, buffer, cameras, torch.cat([known_N, rest_N]), done)
        points = point_loss(head, buffer, cameras, known_N, depth_N[known_N])
        return (points + loss(head, buffer, cameras, rest_N, done)) / 2

    return begun_with_points


def agreeing(
    head: nn.Module,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    config: CoordinatesConfig,
    run: Run,
) -> tuple[Tensor, Tensor]:
    """Predicted points (N, 3) of all cells, in the frames of their views and in `scale`.

    And whether each agrees (N,) with the pose of its view, as a query's would.
    """
    every_N = torch.arange(len(buffer), device=buffer.view_N.device)
    with torch.no_grad(), autocast(run):
        points_cam_N3, focal_px_N, _ = points_in_cameras(head, buffer, cameras, every_N)
    residual_N2 = points_cam_N3[:, :2] / points_cam_N3[:, 2:] - buffer.rays_N2
    error_px_N = focal_px_N * residual_N2.norm(dim=1)
    return points_cam_N3, (points_cam_N3[:, 2] > 0) & (error_px_N < config.max_error_px)
