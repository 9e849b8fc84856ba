"""The ground as a grid: splatting onto it, copies at every heading, and matching by convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from reloc.methods.allocentric.ground import about_z


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells of the ground.

    Attributes:
        origin_2: float64, the corner of the first cell in the level frame, in the scene's unit.
        cell: side of a cell, in the scene's unit.
        shape: cells along x and y.
        num_headings: of a full turn.
        radius: cells that are seen to each side of a camera.
    """

    origin_2: Tensor
    cell: float
    shape: tuple[int, int]
    num_headings: int
    radius: int

    @property
    def headings_rad(self) -> Tensor:
        """(R,) float64: the headings that are told apart."""
        count = self.num_headings
        return torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)

    def cells_of(self, places_N2: Tensor) -> Tensor:
        """Places in the level frame in cells: the middle of the first cell is (0, 0)."""
        return (places_N2 - self.origin_2.to(places_N2)) / self.cell - 0.5

    def places_of(self, cells_N2: Tensor) -> Tensor:
        """The inverse of `cells_of`."""
        return (cells_N2 + 0.5) * self.cell + self.origin_2.to(cells_N2)

    def splat(self, places_N2: Tensor, values_NC: Tensor) -> Tensor:
        """Sums (C, X, Y) of values at places in the level frame, shared by the nearest cells."""
        cells_1N2 = self.cells_of(places_N2)[None]
        return _splat(cells_1N2, values_NC, self.shape)[0]

    def copies(self, places_N2: Tensor, values_NC: Tensor, headings_rad_R: Tensor) -> Tensor:
        """Sums (R, C, K, K), K = 2 radius + 1, round a camera that has each of the headings.

        Args:
            places_N2: from the camera, in the frame in which it looks along x.
            values_NC: at these places.
            headings_rad_R: from the x axis to the y axis.
        """
        turns_R22 = about_z(headings_rad_R)[:, :2, :2].to(places_N2)
        cells_RN2 = places_N2 @ turns_R22.mT / self.cell + self.radius
        side = 2 * self.radius + 1
        return _splat(cells_RN2, values_NC, (side, side))


def _splat(cells_RN2: Tensor, values_NC: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bilinear sums (R, C, X, Y); what falls outside is left out."""
    count, channels = len(cells_RN2), values_NC.shape[1]
    # With a rim, for what falls outside.
    width, height = shape[0] + 2, shape[1] + 2
    corner_RN2 = cells_RN2.floor()
    part_RN2 = (cells_RN2 - corner_RN2).to(values_NC)
    first_R1 = torch.arange(count, device=cells_RN2.device)[:, None] * width
    sums = values_NC.new_zeros(count * width * height, channels)
    for dx in (0, 1):
        for dy in (0, 1):
            x_RN = (corner_RN2[..., 0] + dx).clamp(-1, shape[0]).long() + 1
            y_RN = (corner_RN2[..., 1] + dy).clamp(-1, shape[1]).long() + 1
            share_RN = (part_RN2[..., 0] - (1 - dx)).abs() * (part_RN2[..., 1] - (1 - dy)).abs()
            row_RN = (first_R1 + x_RN) * height + y_RN
            weighted_RNC = share_RN[..., None] * values_NC
            sums = sums.index_add(0, row_RN.flatten(), weighted_RNC.flatten(0, 1))
    return sums.reshape(count, width, height, channels)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


def correlate(memory_CXY: Tensor, copies_RCKK: Tensor) -> Tensor:
    """Scores (R, X, Y): the inner product of each copy with the memory round each cell.

    Beyond the memory's edge is nothing. By the Fourier transform: copies are large.
    """
    radius = copies_RCKK.shape[-1] // 2
    # A copy that reaches round the end of this meets zeros there, and nothing of the memory.
    size = [
        next_fast_len(max(side + radius, 2 * radius + 1), real=True)
        for side in memory_CXY.shape[1:]
    ]
    memory_CUV = torch.fft.rfft2(memory_CXY, s=size)
    copies_RCUV = torch.fft.rfft2(copies_RCKK.contiguous(), s=size)
    product_RUV = (memory_CUV * copies_RCUV.conj()).sum(1)
    scores_RXY = torch.fft.irfft2(product_RUV, s=size).roll((radius, radius), (1, 2))
    return scores_RXY[:, : memory_CXY.shape[1], : memory_CXY.shape[2]]
