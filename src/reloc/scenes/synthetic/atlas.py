"""All textures of a room in one image, at all scales, so that one look-up serves every pixel."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from reloc.scenes.synthetic.textures import SIZE
from reloc.scenes.synthetic.tracer import Floats

# Sides 512, 256, ... 8. A frame of one pixel, taken from the far side, makes each seamless.
_SCALES = 7
_PITCH = SIZE + 4
_WIDTH = SIZE + 2 + SIZE // 2 + 2


def _corners() -> Floats:
    """Column and row (_SCALES, 2) of each scale in a layer: the first, a column of the others."""
    corners = [(0, 0)]
    row = 0
    for scale in range(1, _SCALES):
        corners.append((SIZE + 2, row))
        row += (SIZE >> scale) + 2
    return np.array(corners, np.float32)


class Atlas:
    """Textures with trilinear look-up.

    Source: Williams, "Pyramidal parametrics", SIGGRAPH 1983.

    Args:
        layers: (T, SIZE, SIZE, 3) or, gray, (T, SIZE, SIZE) uint8.
    """

    def __init__(self, layers: NDArray[np.uint8]) -> None:
        count, gray = len(layers), layers.ndim == 3
        channels = () if gray else (3,)
        packed = np.zeros((count, _PITCH, _WIDTH, *channels), np.uint8)
        # Layers stand on each other, so that one call halves them all.
        tower = layers.reshape(count * SIZE, SIZE, *channels)
        self._corner_L2 = _corners()
        for scale, (column, row) in enumerate(self._corner_L2.astype(int)):
            side = SIZE >> scale
            frame = ((0, 0), (1, 1), (1, 1), *((0, 0) for _ in channels))
            block = np.pad(tower.reshape(count, side, side, *channels), frame, mode="wrap")
            packed[:, row : row + side + 2, column : column + side + 2] = block
            tower = cv2.resize(tower, (side // 2, count * side // 2), interpolation=cv2.INTER_AREA)
        self._image = packed.reshape(count * _PITCH, _WIDTH, *channels)

    def look_up(self, layer_N: Floats, uv_N2: Floats, texels_N: Floats) -> Floats:
        """Colours (N, 3), or (N,) of gray layers, in [0, 1].

        Args:
            layer_N: numbers of layers.
            uv_N2: place; a layer repeats with period 1.
            texels_N: side of the pixel's footprint, in texels of the first scale.
        """
        scale_N = np.log2(np.clip(texels_N, 1, 2 ** (_SCALES - 1.001)))
        fine_N = scale_N.astype(np.int32)
        blend_N = scale_N - fine_N
        uv_N2 = uv_N2 - np.floor(uv_N2)
        fine = self._sample(layer_N, uv_N2, fine_N)
        coarse = self._sample(layer_N, uv_N2, fine_N + 1)
        if fine.ndim == 2:
            blend_N = blend_N[:, None]
        return (fine * (1 - blend_N) + coarse * blend_N) * np.float32(1 / 255)

    def _sample(
        self, layer_N: Floats, uv_N2: Floats, scale_N: NDArray[np.int32]
    ) -> NDArray[np.uint8]:
        side_N = np.ldexp(np.float32(SIZE), -scale_N)
        corner_N2 = self._corner_L2[scale_N]
        # OpenCV's texel centres are whole numbers; the frame adds one.
        x_N = corner_N2[:, 0] + uv_N2[:, 0] * side_N + np.float32(0.5)
        y_N = (
            corner_N2[:, 1] + uv_N2[:, 1] * side_N + layer_N * np.float32(_PITCH) + np.float32(0.5)
        )
        return look_up(self._image, x_N, y_N)


def look_up(image: NDArray, x_N: Floats, y_N: Floats) -> NDArray:
    """Values (N, ...) of an image between its pixels, whose centres are whole numbers."""
    # OpenCV's images have at most 32767 rows.
    rows = -(-len(x_N) // 256) * 256
    grid = np.zeros((2, rows), np.float32)
    grid[0, : len(x_N)], grid[1, : len(y_N)] = x_N, y_N
    found = cv2.remap(image, grid[0].reshape(-1, 256), grid[1].reshape(-1, 256), cv2.INTER_LINEAR)
    return found.reshape(rows, *image.shape[2:])[: len(x_N)]
