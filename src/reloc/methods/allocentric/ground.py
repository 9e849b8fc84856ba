"""Which way is up: of a place by its cameras and surfaces, of a query by its own depth.

Surfaces that people build are level or upright. The direction that most of them are parallel or
perpendicular to is sought by turns: assign the normals, then solve for the direction (Gupta et al.,
"Perceptual Organization and Recognition of Indoor Scenes from RGB-D Images", CVPR 2013, section 3).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reloc.geometry.camera import Camera
from reloc.geometry.up_direction import up_of_cameras

# Degrees that a normal may be off level or upright, turn after turn.
_TOLERANCES_DEG = (20.0, 12.0, 8.0, 8.0)
# Where surfaces say nothing, the candidate stays: it counts as this share of the normals...
_PRIOR_SHARE = 0.01
# ...and the most usual candidate is taken: the cosine to it counts as this share.
_USUAL_SHARE = 0.05
_MIN_NORMALS = 30
# Normals are of points on a grid of so many along the longer side, of depth averaged over a window,
# from neighbours so far to each side; windows and reach in steps of the grid.
_NORMALS_ACROSS, _WINDOW, _REACH = 128, 3, 2
_MIN_KNOWN = 0.6
# Share by which the inverse depth of a point may differ from the mean of its neighbours'.
_MAX_BEND = 0.02
_MAX_CANDIDATES = 64
# Normals that choose among the candidates.
_MAX_CHOOSING = 1000


def surface_normals(depth_HW: Tensor, camera: Camera) -> Tensor:
    """Unit normals (N, 3) float32, in the camera, of the surfaces in a depth map; none at edges."""
    height, width = depth_HW.shape
    step = max(1, round(max(height, width) / _NORMALS_ACROSS))
    depth = depth_HW.nan_to_num(0.0, 0.0, 0.0).clamp_min(0).float().numpy()
    known = cv2.blur((depth > 0).astype("float32"), (_WINDOW * step,) * 2)
    depth = cv2.blur(depth, (_WINDOW * step,) * 2) / known.clip(1e-6)
    depth[known < _MIN_KNOWN] = np.nan
    depth_hw = torch.from_numpy(depth)[step // 2 :: step, step // 2 :: step]
    rows, columns = (torch.arange(count) * step + step // 2 + 0.5 for count in depth_hw.shape)
    pixels_hw2 = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    rays_hw2 = camera.cam_from_img(pixels_hw2.double()).float()
    points_hw3 = torch.cat([rays_hw2, torch.ones_like(rays_hw2[..., :1])], -1) * depth_hw[..., None]
    if min(depth_hw.shape) <= 2 * _REACH:
        return points_hw3.new_zeros(0, 3)
    before, here, after = slice(None, -2 * _REACH), slice(_REACH, -_REACH), slice(2 * _REACH, None)
    # On a plane the inverse of the depth is linear in the image: it bends at edges.
    inverse_hw = 1 / depth_hw
    smooth_hw = (
        torch.maximum(
            (inverse_hw[here, before] + inverse_hw[here, after] - 2 * inverse_hw[here, here]).abs(),
            (inverse_hw[before, here] + inverse_hw[after, here] - 2 * inverse_hw[here, here]).abs(),
        )
        < _MAX_BEND * inverse_hw[here, here]
    )
    across = points_hw3[here, after] - points_hw3[here, before]
    down = points_hw3[after, here] - points_hw3[before, here]
    return functional.normalize(torch.linalg.cross(across, down)[smooth_hw], dim=-1)


def level_direction(candidates_K3: Tensor, normals_N3: Tensor) -> Tensor:
    """The direction (3,) that surfaces are parallel or perpendicular to, near a candidate.

    Args:
        candidates_K3: unit vectors, one of which is roughly right.
        normals_N3: of surfaces, of either sign.
    """
    step = -(-len(candidates_K3) // _MAX_CANDIDATES)
    candidates_K3 = candidates_K3[::step].double()
    middle_3 = functional.normalize(candidates_K3.sum(0), dim=0)
    normals_N3 = normals_N3.double()
    if len(normals_N3) < _MIN_NORMALS:
        return middle_3
    choosing_N3 = normals_N3[:: -(-len(normals_N3) // _MAX_CHOOSING)]
    level_NK, upright_NK = _sides(choosing_N3, candidates_K3, _TOLERANCES_DEG[0])
    # Of candidates that surfaces do not tell apart, the most usual.
    score_K = (level_NK | upright_NK).double().mean(0)
    score_K = score_K + _USUAL_SHARE * (candidates_K3 @ middle_3)
    first_3 = up_3 = candidates_K3[score_K.argmax()]
    prior_33 = _PRIOR_SHARE * len(normals_N3) * torch.outer(first_3, first_3)
    for tolerance_deg in _TOLERANCES_DEG:
        level_N, upright_N = (side[:, 0] for side in _sides(normals_N3, up_3[None], tolerance_deg))
        level, upright = normals_N3[level_N], normals_N3[upright_N]
        _, vectors_33 = torch.linalg.eigh(upright.T @ upright - level.T @ level - prior_33)
        up_3 = vectors_33[:, 0] * torch.where(vectors_33[:, 0] @ first_3 < 0, -1.0, 1.0)
    return up_3


def up_of_place(cam_from_world_N33: Tensor, normals_world_M3: Tensor) -> Tensor:
    """Up (3,) in the world: what the cameras agree on, made exact by the surfaces.

    Where cameras are held every way, the direction that most surfaces are parallel or
    perpendicular to, with the sign that most cameras have.
    """
    candidate_3 = up_of_cameras(cam_from_world_N33)
    candidates_K3 = normals_world_M3 if candidate_3 is None else candidate_3[None]
    up_3 = level_direction(candidates_K3, normals_world_M3)
    return up_3 * torch.where(up_3 @ -cam_from_world_N33[:, 1].mean(0) < 0, -1.0, 1.0)


def level_from_world(up_3: Tensor) -> Tensor:
    """A rotation (3, 3) to a frame whose z axis points up."""
    first_3 = torch.eye(3, dtype=up_3.dtype)[up_3.abs().argmin()]
    x_3 = functional.normalize(torch.linalg.cross(first_3, up_3), dim=0)
    return torch.stack([x_3, torch.linalg.cross(up_3, x_3), up_3])


def leveled_from_cam(up_cam_3: Tensor) -> Tensor:
    """The rotation (3, 3) to a frame with z up in which the camera looks along x.

    A camera that looks straight up or down has the top of its image along -x or x instead.
    """
    forward_3 = up_cam_3.new_tensor([0.0, 0.0, 1.0])
    if float((forward_3 @ up_cam_3).abs()) > math.cos(math.radians(2)):
        forward_3 = up_cam_3.new_tensor([0.0, -1.0, 0.0]) * -(up_cam_3[2].sign())
    x_3 = functional.normalize(forward_3 - (forward_3 @ up_cam_3) * up_cam_3, dim=0)
    return torch.stack([x_3, torch.linalg.cross(up_cam_3, x_3), up_cam_3])


def heading_of(level_from_cam_33: Tensor) -> tuple[Tensor, Tensor]:
    """The heading, in radians, and the rest: `about_z(heading) @ rest` is the rotation."""
    rest_33 = leveled_from_cam(level_from_cam_33[2])
    turned_33 = level_from_cam_33 @ rest_33.T
    return torch.atan2(turned_33[1, 0], turned_33[0, 0]), rest_33


def about_z(angle_rad: Tensor) -> Tensor:
    """Rotations (..., 3, 3) about the z axis, from x to y."""
    cos, sin = angle_rad.cos(), angle_rad.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rows = [cos, -sin, zero, sin, cos, zero, zero, zero, one]
    return torch.stack(rows, dim=-1).reshape(*angle_rad.shape, 3, 3)


def _sides(normals_N3: Tensor, up_K3: Tensor, tolerance_deg: float) -> tuple[Tensor, Tensor]:
    """Whether surfaces are level, and whether they are upright: (N, K) bool each."""
    cos_NK = (normals_N3 @ up_K3.T).abs()
    tolerance = math.radians(tolerance_deg)
    return cos_NK > math.cos(tolerance), cos_NK < math.sin(tolerance)
