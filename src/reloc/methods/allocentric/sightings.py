"""What is read off an image with depth: codes where their points are, and surfaces' normals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.methods.allocentric.ground import surface_normals
from reloc.nn.encoder import STRIDE, cell_centers
from reloc.nn.shared_encoder import FrozenEncoder
from reloc.training.buffer import depth_at, encode, resized_grey

# Standard deviation, in grey values, below which an image shows nothing: black, or overexposed.
_MIN_CONTRAST = 1.0
_MIN_POINTS = 20


@dataclass(frozen=True, eq=False)
class Sighting:
    """An image with depth.

    Attributes:
        codes_NC: float32, of the cells with depth.
        points_cam_N3: float32, their points.
        normals_cam_M3: float32, of surfaces.
    """

    codes_NC: Tensor
    points_cam_N3: Tensor
    normals_cam_M3: Tensor


def sight(
    encoder: FrozenEncoder,
    image_3HW: Tensor,
    depth_HW: Tensor,
    camera: Camera,
    short_side_px: int,
    max_range: float,
    run: Run,
) -> Sighting | None:
    """Read an image (3, H, W) uint8 with depth (H, W); None where it shows nothing in range."""
    grey = resized_grey(image_3HW, short_side_px)
    if grey.std() < _MIN_CONTRAST:
        return None
    height, width = grey.shape
    h, w = height // STRIDE, width // STRIDE
    pixels_N2 = cell_centers(h, w).double()
    pixels_N2 *= torch.tensor([camera.width / width, camera.height / height])
    rays_N2 = camera.cam_from_img(pixels_N2)
    rays_N3 = torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=1).float()
    depth_N1 = depth_at(depth_HW, pixels_N2)[:, None]
    points_N3 = rays_N3 * depth_N1
    usable_N = (points_N3.isfinite() & (depth_N1 < max_range)).all(1)
    if int(usable_N.sum()) < _MIN_POINTS:
        return None
    codes_NC = encode(encoder, torch.from_numpy(grey)[None], run)[0].cpu()[usable_N].float()
    return Sighting(codes_NC, points_N3[usable_N], surface_normals(depth_HW, camera))
