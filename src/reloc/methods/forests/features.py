"""What a pixel looks like to a tree: differences between two places near it.

A probe is two offsets and the plane of the picture (red, green, blue, depth) that each is read
from. Offsets are lengths in the scene where the pixel's depth is known, so that they cover the same
surface from near and far; else they are parts of the focal length.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from reloc.geometry.camera import Camera

_NUM_COLORS, _DEPTH = 3, 3
# Standard deviation of a picture's grey values below which it shows nothing: black, or overexposed.
_MIN_CONTRAST = 1.0
# Of the Gaussian blur of colours, in pixels of the reduced picture: what is finer does not repeat.
_BLUR_PX = 1.5


@dataclass(frozen=True, eq=False)
class Probes:
    """Questions that a node may ask.

    Attributes:
        offsets_F22: float16, of the two places, x then y, in units of a pixel's reach.
        planes_F2: uint8, what is read at each.
    """

    offsets_F22: Tensor
    planes_F2: Tensor

    @staticmethod
    def cat(parts: list[Probes]) -> Probes:
        """Several sets, one after the other."""
        return Probes(
            torch.cat([part.offsets_F22 for part in parts]),
            torch.cat([part.planes_F2 for part in parts]),
        )


def draw_probes(
    count: int, nearest: float, farthest: float, depth_share: float, rng: np.random.Generator
) -> Probes:
    """Random probes: of two colours, or for `depth_share` of them of depth, half to the middle.

    Args:
        count: how many.
        nearest: least size of the square that a probe's offsets are drawn from...
        farthest: ...and the largest one; sizes between are as likely in logarithm.
        depth_share: of the probes that read depth.
        rng: what is random.
    """
    size = np.exp(rng.uniform(np.log(nearest), np.log(farthest), (count, 1, 1)))
    offsets = size * rng.uniform(-1, 1, (count, 2, 2))
    planes = rng.integers(0, _NUM_COLORS, (count, 2))
    reads_depth = rng.random(count) < depth_share
    planes[reads_depth] = _DEPTH
    offsets[reads_depth & (rng.random(count) < 0.5), 1] = 0
    return Probes(
        torch.from_numpy(offsets).half(), torch.from_numpy(planes.astype(np.uint8, copy=False))
    )


@dataclass(frozen=True, eq=False)
class Looks:
    """Pixels of one picture, and all that trees ask about them.

    Attributes:
        values_CHW: float16 planes of the reduced picture: colours from 0 to 255, then depth in the
            scene's unit, 0 where unknown, where the picture has one.
        rows_P: int64, in the reduced picture.
        columns_P: int64.
        reach_P: float32, pixels that an offset of 1 spans.
        rays_P2: float64, on the plane z = 1, without distortion.
        pixels_P2: float64, in the picture as it was taken.
        depth_P: float32, along the optical axis; NaN where unknown.
    """

    values_CHW: Tensor
    rows_P: Tensor
    columns_P: Tensor
    reach_P: Tensor
    rays_P2: Tensor
    pixels_P2: Tensor
    depth_P: Tensor

    def __len__(self) -> int:
        return len(self.rows_P)

    def __getitem__(self, index: Tensor | slice) -> Looks:
        """Some of the pixels."""
        return Looks(
            self.values_CHW,
            self.rows_P[index],
            self.columns_P[index],
            self.reach_P[index],
            self.rays_P2[index],
            self.pixels_P2[index],
            self.depth_P[index],
        )

    @property
    def points_cam_P3(self) -> Tensor:
        """Where the pixels' points are from the camera, float64; NaN where depth is unknown."""
        homogeneous = torch.nn.functional.pad(self.rays_P2, (0, 1), value=1.0)
        return homogeneous * self.depth_P[:, None]

    def responses(self, pixel: Tensor, probes: Probes, probe: Tensor) -> Tensor:
        """What probes read at pixels, float32: the value at the first place less the second's.

        Beyond the picture its border is read.

        Args:
            pixel: indices of pixels.
            probes: a set.
            probe: indices of probes, of a shape that broadcasts with that of `pixel`.
        """
        _, height, width = self.values_CHW.shape
        values = self.values_CHW.flatten()
        rows, columns, reach = self.rows_P[pixel], self.columns_P[pixel], self.reach_P[pixel]
        read = []
        for place in range(2):
            x, y = probes.offsets_F22[probe, place].float().unbind(-1)
            column = (columns + (x * reach).round().long()).clamp(0, width - 1)
            row = (rows + (y * reach).round().long()).clamp(0, height - 1)
            plane = probes.planes_F2[probe, place].long()
            read.append(values[(plane * height + row) * width + column])
        return read[0].float() - read[1].float()


def look(
    image_3HW: Tensor,
    camera: Camera,
    depth_HW: Tensor | None,
    short_side_px: int,
    count: int,
    seed: int,
    *,
    reads_depth: bool,
) -> Looks | None:
    """Choose pixels of a picture at random, and gather what trees ask about them.

    Args:
        image_3HW: uint8 RGB.
        camera: of the image.
        depth_HW: of the image; where it is given, pixels are chosen that have depth.
        short_side_px: larger pictures are reduced to this shorter side.
        count: most pixels chosen.
        seed: of the choice.
        reads_depth: whether probes may read depth, and reach as far as the pixel's depth says.

    Returns:
        None where the picture shows nothing, or has depth nowhere.
    """
    height, width = image_3HW.shape[-2:]
    colors = _reduced(image_3HW, short_side_px)
    if cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY).std() < _MIN_CONTRAST:
        return None
    rows, columns = colors.shape[:2]
    to_image = torch.tensor([width / columns, height / rows], dtype=torch.float64)
    plane_hw = torch.full((rows, columns), torch.nan)
    if depth_HW is not None:
        row = ((torch.arange(rows) + 0.5) * (depth_HW.shape[0] / rows)).long()
        column = ((torch.arange(columns) + 0.5) * (depth_HW.shape[1] / columns)).long()
        plane_hw = depth_HW[row][:, column].float()
        plane_hw = torch.where(plane_hw.isfinite() & (plane_hw > 0), plane_hw, torch.nan)
    generator = torch.Generator().manual_seed(seed)
    allowed = (plane_hw.isfinite() if depth_HW is not None else plane_hw.isnan()).nonzero()
    chosen = allowed[torch.randperm(len(allowed), generator=generator)[:count]]
    pixels_P2 = (chosen.flip(1) + 0.5).double() * to_image
    rays_P2 = camera.cam_from_img(pixels_P2)
    # A lens may leave corners that see nothing.
    sees_P = rays_P2.isfinite().all(-1)
    if not bool(sees_P.any()):
        return None
    chosen, pixels_P2, rays_P2 = chosen[sees_P], pixels_P2[sees_P], rays_P2[sees_P]
    depth_P = plane_hw[chosen[:, 0], chosen[:, 1]]
    focal_px = float((camera.focal / to_image).mean())
    smooth = cv2.GaussianBlur(colors.astype(np.float32), (0, 0), _BLUR_PX)
    values_CHW = torch.from_numpy(smooth).permute(2, 0, 1).half()
    if reads_depth:
        values_CHW = torch.cat([values_CHW, plane_hw[None].nan_to_num(0.0).half()])
    return Looks(
        values_CHW=values_CHW.contiguous(),
        rows_P=chosen[:, 0],
        columns_P=chosen[:, 1],
        reach_P=focal_px / depth_P if reads_depth else torch.full_like(depth_P, focal_px),
        rays_P2=rays_P2,
        pixels_P2=pixels_P2,
        depth_P=depth_P,
    )


def _reduced(image_3HW: Tensor, short_side_px: int) -> np.ndarray:
    """(h, w, 3) uint8: the shorter side at most as asked."""
    colors = image_3HW.permute(1, 2, 0).contiguous().numpy()
    height, width = colors.shape[:2]
    scale = short_side_px / min(height, width)
    if scale >= 1:
        return colors
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(colors, size, interpolation=cv2.INTER_AREA)
