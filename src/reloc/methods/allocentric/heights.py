"""How high a camera stands: heights of its points against those that a cell of the ground has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.methods.allocentric.grid import Grid

_MAX_LEVELS = 64
_LEVEL_PER_CELL = 0.5
_TRIED_PER_LEVEL = 4


@dataclass(frozen=True, eq=False)
class Heights:
    """Histograms of heights, a cell each.

    Attributes:
        share_ZXY: float32, at each level; a cell's sum is less than 1 where little was seen.
        lowest: the middle of the first level, in the level frame.
        step: from a level to the next.
        camera_range: the heights at which mapping cameras stood, widened.
    """

    share_ZXY: Tensor
    lowest: float
    step: float
    camera_range: tuple[float, float]

    @staticmethod
    def of(grid: Grid, places_N3: Tensor, camera_heights_V: Tensor) -> Heights:
        """From points in the level frame, and the heights of the cameras that saw them."""
        heights_N = places_N3[:, 2].sort().values
        low, high = (float(heights_N[int(share * (len(heights_N) - 1))]) for share in (0.01, 0.99))
        step = max(_LEVEL_PER_CELL * grid.cell, (high - low) / (_MAX_LEVELS - 1))
        levels = math.ceil((high - low) / step) + 1
        level_N = ((places_N3[:, 2] - low) / step).float()
        share_NZ = (1 - (level_N[:, None] - torch.arange(levels)).abs()).clamp_min(0)
        sums_ZXY = grid.splat(places_N3[:, :2], share_NZ)
        share_ZXY = sums_ZXY / (sums_ZXY.sum(0) + 1)
        margin = 0.5 * float(camera_heights_V.max() - camera_heights_V.min()) + 2 * grid.cell
        cameras = float(camera_heights_V.min()) - margin, float(camera_heights_V.max()) + margin
        return Heights(share_ZXY, low, step, cameras)

    def of_camera(self, grid: Grid, points_N3: Tensor, place_2: Tensor) -> float | None:
        """The height in the level frame at which a camera's points fit best; None if none does.

        Args:
            grid: of the histograms.
            points_N3: from the camera, along the axes of the level frame.
            place_2: of the camera.
        """
        cells_N2 = grid.cells_of(points_N3[:, :2] + place_2).round().long()
        inside_N = ((cells_N2 >= 0) & (cells_N2 < torch.tensor(grid.shape))).all(1)
        x_N, y_N = cells_N2[inside_N].unbind(1)
        share_NZ = self.share_ZXY[:, x_N, y_N].T
        low, high = self.camera_range
        tried_H = torch.arange(low, high, self.step / _TRIED_PER_LEVEL)
        level_NH = (points_N3[inside_N, 2:].float() + tried_H - self.lowest) / self.step
        levels = len(self.share_ZXY)
        below_NH = level_NH.floor()
        part_NH = level_NH - below_NH
        fits_H = torch.zeros(len(tried_H))
        for offset, weight_NH in ((0, 1 - part_NH), (1, part_NH)):
            at_NH = below_NH.long() + offset
            found_NH = share_NZ.gather(1, at_NH.clamp(0, levels - 1))
            known_NH = (at_NH >= 0) & (at_NH < levels)
            fits_H += (found_NH * weight_NH * known_NH).sum(0)
        return float(tried_H[fits_H.argmax()]) if float(fits_H.max()) > 0 else None
