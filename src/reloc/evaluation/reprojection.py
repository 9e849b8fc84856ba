"""Errors of poses as pixels see them: dense (DCRE) and virtual (VCRE) correspondences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reloc.estimates import PoseEstimates
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import Scene, View

MAX_VIRTUAL_ERROR_PX = 90.0
"""Map-free relocalization accepts a pose whose VCRE is below this."""

_MIN_DEPTH_M, _MAX_DEPTH_M = 0.3, 10.0


def virtual_errors_px(
    cam_from_world: Rigid3d, true_cam_from_world: Rigid3d, cameras: Sequence[Camera]
) -> Tensor:
    """Virtual correspondence reprojection errors (N,) in pixels, of N poses in metres.

    A grid of 7 × 4 × 7 points, 0.3 m apart, stands 1.8 to 3.6 m before the true camera; the error
    is the mean distance between its pictures in the true and the estimated camera, both clamped
    to the image (Arnold et al., Map-free Visual Relocalization, ECCV 2022). Distortion is left
    out, and a point behind the estimated camera is divided by its negative depth, as in their
    program: figures are to be compared with published ones.
    """
    points_true_P3 = _virtual_points_m()
    est_from_true = cam_from_world @ true_cam_from_world.inverse()
    K_N33 = torch.stack([camera.matrix for camera in cameras])
    size_N12 = torch.tensor([[[camera.width, camera.height]] for camera in cameras])

    def clamped_pixels(points_NP3: Tensor) -> Tensor:
        pixels_h_NP3 = points_NP3 @ K_N33.mT
        z_NP1 = pixels_h_NP3[..., 2:]
        # A point in the plane of the camera goes to the border, not to 0 / 0.
        z_NP1 = torch.where(z_NP1 == 0, torch.full_like(z_NP1, 1e-12), z_NP1)
        pixels_NP2 = pixels_h_NP3[..., :2] / z_NP1
        return torch.minimum(pixels_NP2.clamp_min(0.0), size_N12.to(pixels_NP2))

    shift_NP2 = clamped_pixels(points_true_P3) - clamped_pixels(est_from_true @ points_true_P3)
    return shift_NP2.norm(dim=-1).mean(-1)


def _virtual_points_m() -> Tensor:
    """(196, 3) in the true camera: x within ±0.9, y within ±0.45, z from 1.8 to 3.6."""
    step_m = 0.3
    x, y = ((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * step_m for n in (7, 4))
    z = 1.8 + torch.arange(7, dtype=torch.float64) * step_m
    return torch.cartesian_prod(x, y, z)


@dataclass(frozen=True)
class DenseError:
    """Dense correspondence reprojection error of one image.

    Attributes:
        mean_px: over all pixels with depth.
        max_px: of them; inf where a point is behind the estimated camera.
    """

    mean_px: float
    max_px: float


def dense_error(
    cam_from_world: Rigid3d, true_cam_from_world: Rigid3d, camera: Camera, depth_HW: Tensor
) -> DenseError | None:
    """Lift every pixel with a depth in (0.3, 10) m, move it to the estimated camera, project it.

    Wald et al., Beyond Controlled Environments, ECCV 2020, and Brachmann et al., On the Limits of
    Pseudo Ground Truth, ICCV 2021. Nothing is clamped: the error grows without bound as a point
    nears the plane of the estimated camera, so a point behind it counts as infinite.

    Args:
        cam_from_world: the estimate, in metres, without batch axes.
        true_cam_from_world: the true pose.
        camera: of the image; its distortion is applied both ways.
        depth_HW: metres along the optical axis, of the image's size, 0 where unknown.

    Returns:
        None where no pixel has such a depth.
    """
    pixels_HW2, rays_HW3 = _pixels_and_rays(
        camera.model, camera.width, camera.height, tuple(camera.params.tolist())
    )
    known_HW = (depth_HW > _MIN_DEPTH_M) & (depth_HW < _MAX_DEPTH_M) & rays_HW3.isfinite().all(-1)
    if not bool(known_HW.any()):
        return None
    pixels_M2 = pixels_HW2[known_HW]
    points_true_M3 = rays_HW3[known_HW] * depth_HW[known_HW, None]
    est_from_true = cam_from_world @ true_cam_from_world.inverse()
    errors_M = (camera.img_from_cam(est_from_true @ points_true_M3) - pixels_M2).norm(dim=-1)
    errors_M = errors_M.nan_to_num(nan=math.inf, posinf=math.inf)
    return DenseError(float(errors_M.mean()), float(errors_M.max()))


# Undoing distortion for every pixel is slow, and the images of most scenes share their camera.
@lru_cache(maxsize=2)
def _pixels_and_rays(
    model: str, width: int, height: int, params: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Pixel centres (H, W, 2) and the points (H, W, 3) at depth 1 that they show, NaN if none."""
    row_HW, column_HW = torch.meshgrid(
        torch.arange(height, dtype=torch.float64),
        torch.arange(width, dtype=torch.float64),
        indexing="ij",
    )
    pixels_HW2 = torch.stack([column_HW, row_HW], dim=-1) + 0.5
    plane_HW2 = Camera.of(model, width, height, params).cam_from_img(pixels_HW2)
    return pixels_HW2, torch.cat([plane_HW2, torch.ones_like(plane_HW2[..., :1])], dim=-1)


@dataclass(frozen=True, eq=False)
class DenseErrors:
    """Dense correspondence reprojection errors of the queries of a scene.

    Attributes:
        names: of the queries that have depth, N of them.
        mean_px: (N,) mean over the pixels of each; inf where it was declined.
        max_px: (N,) largest of the pixels of each; inf where it was declined.
        diagonal_px: (N,) of the images: RIO10 divides by it.
        num_without_depth: queries that could not be measured, for want of a pixel with depth.
    """

    names: tuple[str, ...]
    mean_px: NDArray[np.float64]
    max_px: NDArray[np.float64]
    diagonal_px: NDArray[np.float64]
    num_without_depth: int


def dense_errors(estimates: PoseEstimates, scene: Scene) -> DenseErrors:
    """DCRE of every query that has depth; reads all their depth maps.

    Raises:
        InputError: the scene is not metric, no query has depth, one has no estimate, or a depth
            map is not of its image's size.
    """
    if not scene.metric:
        raise InputError(
            f"scene {scene.name} has no metric scale: its depth does not fit its poses"
        )
    measured: list[tuple[View, DenseError]] = []
    for view in scene.queries:
        if view.name not in estimates.by_name:
            raise InputError(f"query {view.name} of {scene.name} has no estimate: localize it")
        error = _view_error(view, estimates[view.name].cam_from_world)
        if error is not None:
            measured.append((view, error))
    if not measured:
        raise InputError(f"no query of scene {scene.name} has depth: DCRE cannot be computed")
    return DenseErrors(
        names=tuple(view.name for view, _ in measured),
        mean_px=np.array([error.mean_px for _, error in measured]),
        max_px=np.array([error.max_px for _, error in measured]),
        diagonal_px=np.array(
            [math.hypot(view.camera.width, view.camera.height) for view, _ in measured]
        ),
        num_without_depth=len(scene.queries) - len(measured),
    )


def _view_error(view: View, cam_from_world: Rigid3d | None) -> DenseError | None:
    depth_HW = view.read_depth()
    if depth_HW is None:
        return None
    height, width = depth_HW.shape
    if (width, height) != (view.camera.width, view.camera.height):
        raise InputError(
            f"depth of {view.name} is {width}x{height} but its image is "
            f"{view.camera.width}x{view.camera.height}: register the depth to the image"
        )
    if cam_from_world is not None:
        return dense_error(cam_from_world, view.cam_from_world, view.camera, depth_HW)
    # Declined: infinite, where there was something to measure.
    at_truth = dense_error(view.cam_from_world, view.cam_from_world, view.camera, depth_HW)
    return at_truth and DenseError(math.inf, math.inf)
