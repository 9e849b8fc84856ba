"""A procedural room that can be photographed from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.scenes.synthetic.develop import Sensor, develop
from reloc.scenes.synthetic.layout import furnish
from reloc.scenes.synthetic.render import Lighting, Renderer
from reloc.scenes.synthetic.style import Style
from reloc.scenes.synthetic.surfaces import Lamp, Patch, Pen
from reloc.scenes.synthetic.textures import make_layers
from reloc.scenes.synthetic.tracer import Floats

CELL_M = 0.05
"""Side of a cell of `Room.clearance_m`."""
# What is lower than this can be stepped on, what is higher walked under.
_OBSTACLE_LOW_M, _OBSTACLE_HIGH_M = 0.05, 1.95


class Room:
    """A furnished room. The same seed gives the same room.

    The world's origin is on the floor, in the middle of the room; z points up; metres.

    Attributes:
        seed: what it was made of.
        size: along x, along y, and its height.
        clearance_m: (rows of y, columns of x), distance from the middle of each cell of the floor
            to the nearest thing that one could run into.

    Args:
        seed: what the room depends on.
        photos: images (3, H, W) uint8 RGB that hang on its walls and lie on its floor, instead of
            painted ones.

    Raises:
        InputError: embreex is not installed.
    """

    def __init__(self, seed: int, photos: Sequence[Tensor] = ()) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.size = (
            float(rng.uniform(3.8, 6.4)),
            float(rng.uniform(3.4, 5.4)),
            float(rng.uniform(2.4, 2.9)),
        )
        layers = make_layers(seed, [photo.permute(1, 2, 0).numpy() for photo in photos])
        patches: list[Patch] = []
        lamps: list[Lamp] = []
        corner = Pen(patches, lamps, rng).at(-self.size[0] / 2, -self.size[1] / 2)
        furnish(corner, Style(layers, rng), self.size)
        daylight = rng.uniform([0.8, 0.92, 1.0], [1.0, 1.0, 1.25])
        bulbs = rng.uniform([1.0, 0.85, 0.55], [1.1, 0.95, 0.85])
        colors_C3 = np.stack([daylight, bulbs, bulbs * [1.05, 0.95, 0.8]]).astype(np.float32)
        self._renderer = Renderer(patches, layers, lamps, colors_C3, seed)
        self.clearance_m = _clearance(patches, self.size)
        detail_T = _detail(layers.pixels_TSS3)
        self._kind_P = np.array([patch.kind for patch in patches], np.uint8)
        self._detail_P = detail_T[[patch.material.layer for patch in patches]]

    def render(
        self,
        camera: Camera,
        cam_from_world: Rigid3d,
        lighting: Lighting | None = None,
        sensor: Sensor | None = None,
        noise_seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Take a photo.

        Args:
            camera: of any model.
            cam_from_world: without batch axes.
            lighting: what shines; by default all of it.
            sensor: what lens and sensor add.
            noise_seed: of the sensor's noise, and the direction of its smear.

        Returns:
            The image (3, H, W) uint8 RGB, and the depth (H, W) float32 along the optical axis
            through the centre of each pixel, in metres, 0 where there is nothing.
        """
        lighting, sensor = lighting or Lighting(), sensor or Sensor()
        origin_3, directions_HW3, behind_HW = _rays(camera, cam_from_world)
        pixel_angle = 1 / float(camera.focal.mean())
        radiance_HW3, depth_HW = self._renderer.radiance(
            origin_3, directions_HW3, pixel_angle, lighting
        )
        radiance_HW3[behind_HW] = 0
        image_HW3 = develop(radiance_HW3, lighting, sensor, np.random.default_rng(noise_seed))
        image_HW3[behind_HW] = 0
        image = torch.from_numpy(image_HW3).permute(2, 0, 1).contiguous()
        return image, _as_depth(depth_HW, behind_HW)

    def depth(self, camera: Camera, cam_from_world: Rigid3d) -> Tensor:
        """As the second value of `render`, faster."""
        origin_3, directions_HW3, behind_HW = _rays(camera, cam_from_world)
        distance_N, _ = self._renderer.cast(origin_3, directions_HW3.reshape(-1, 3))
        return _as_depth(distance_N.reshape(behind_HW.shape), behind_HW)

    def kinds(self, camera: Camera, cam_from_world: Rigid3d) -> Tensor:
        """What kind of thing each pixel's centre sees: (H, W) uint8, numbers of `layout.KINDS`."""
        origin_3, directions_HW3, behind_HW = _rays(camera, cam_from_world)
        _, patch_N = self._renderer.cast(origin_3, directions_HW3.reshape(-1, 3))
        kind_HW = np.where(patch_N < 0, 0, self._kind_P[patch_N]).reshape(behind_HW.shape)
        return torch.from_numpy(np.where(behind_HW, 0, kind_HW).astype(np.uint8))

    def clearance_at(self, points_N2: NDArray[np.floating]) -> Floats:
        """`clearance_m` (N,) at points x, y of the world; 0 outside."""
        cells_N2 = np.floor((points_N2 + np.array(self.size[:2]) / 2) / CELL_M).astype(int)
        walled = np.pad(self.clearance_m, 1)
        column_N, row_N = np.clip(cells_N2 + 1, 0, np.array(walled.shape[::-1]) - 1).T
        return walled[row_N, column_N]

    def look_around(
        self, center_3: NDArray[np.floating], directions: NDArray[np.floating]
    ) -> tuple[Floats, Floats, NDArray[np.int32]]:
        """What rays (..., 3) of unit length from one point see.

        Returns:
            Each (...): how rich in detail the texture is, from 0 to 1; distance in metres, infinite
            for none; number of the surface, -1 for none.
        """
        flat_N3 = np.ascontiguousarray(directions.reshape(-1, 3), np.float32)
        distance_N, patch_N = self._renderer.cast(center_3.astype(np.float32), flat_N3)
        shape = directions.shape[:-1]
        detail_N = self._detail_P[patch_N]
        return detail_N.reshape(shape), distance_N.reshape(shape), patch_N.reshape(shape)


def _as_depth(distance_HW: Floats, behind_HW: NDArray[np.bool_]) -> Tensor:
    """Distances, 0 where there is nothing."""
    return torch.from_numpy(np.where(np.isfinite(distance_HW) & ~behind_HW, distance_HW, 0))


def _rays(camera: Camera, cam_from_world: Rigid3d) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """The camera centre (3,), and directions (H, W, 3) whose part along the optical axis is 1.

    The last value (H, W) marks pixels that look back over the camera's shoulder: they have none.
    """
    plane_HW2 = _plane(camera.model, camera.width, camera.height, tuple(camera.params.tolist()))
    world_from_cam = cam_from_world.inverse()
    rotation = world_from_cam.rotation.numpy()
    behind_HW = np.isnan(plane_HW2[..., 0])
    directions_HW3 = np.nan_to_num(plane_HW2) @ rotation[:, :2].T + rotation[:, 2]
    center_3 = world_from_cam.translation.numpy().astype(np.float32)
    return center_3, directions_HW3.astype(np.float32), behind_HW


@lru_cache(maxsize=4)
def _plane(model: str, width: int, height: int, params: tuple[float, ...]) -> NDArray[np.float64]:
    """Pixel centres (H, W, 2) on the plane z = 1. Kept: undoing distortion can be slow."""
    x = torch.arange(width, dtype=torch.float64) + 0.5
    y = torch.arange(height, dtype=torch.float64) + 0.5
    pixels_HW2 = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return Camera.of(model, width, height, params).cam_from_img(pixels_HW2).numpy()


def _detail(layers_TSS3: NDArray[np.uint8]) -> Floats:
    """How rich in detail textures are, seen from some way off; 0 to 1, 1 for posters and books."""
    green_Tss = layers_TSS3[:, ::4, ::4, 1].astype(np.float32)
    steps_T = [np.abs(np.diff(green_Tss, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
    return np.clip((steps_T[0] + steps_T[1]) / 20, 0, 1)


def _clearance(patches: Sequence[Patch], size: tuple[float, float, float]) -> Floats:
    """`Room.clearance_m`."""
    columns, rows = int(size[0] / CELL_M), int(size[1] / CELL_M)
    free = np.ones((rows + 2, columns + 2), np.uint8)
    free[[0, -1]] = 0
    free[:, [0, -1]] = 0
    for patch in patches:
        points = patch.points_VU3.reshape(-1, 3)
        low, high = points.min(0), points.max(0)
        if high[2] < _OBSTACLE_LOW_M or low[2] > _OBSTACLE_HIGH_M:
            continue
        (x0, y0), (x1, y1) = (
            np.clip((corner[:2] + np.array(size[:2]) / 2) / CELL_M + 1, 0, [columns + 1, rows + 1])
            for corner in (low, high)
        )
        free[int(y0) : int(np.ceil(y1)) + 1, int(x0) : int(np.ceil(x1)) + 1] = 0
    distance = cv2.distanceTransform(free, cv2.DIST_L2, 5)
    return distance[1:-1, 1:-1] * np.float32(CELL_M)
