"""Reading an answer off a distribution over headings and cells: place, heading, spread."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.methods.allocentric.grid import Grid

# Headings and cells to each side of the peak whose share is its confidence...
_NEAR = 1
# ...and whose spread is its covariance.
_WINDOW = 3
# Headings between two, to refine the peak.
_FINER = 4


@dataclass(frozen=True, eq=False)
class Peak:
    """The likeliest pose over the ground.

    Attributes:
        place_2: float64, in the level frame.
        heading_rad: in it.
        share: of the distribution near the peak.
        covariance_33: float64, of the place and the heading (rad).
    """

    place_2: Tensor
    heading_rad: float
    share: float
    covariance_33: Tensor


def find_peak(log_share_RXY: Tensor, grid: Grid, logits_of: Callable[[Tensor], Tensor]) -> Peak:
    """The peak of a distribution, between its headings and cells.

    Args:
        log_share_RXY: logarithms of the distribution.
        grid: of the distribution.
        logits_of: headings (F,) to log-likelihoods (F, X, Y), up to a constant.
    """
    count, width, height = log_share_RXY.shape
    best = int(log_share_RXY.argmax())
    heading, x, y = best // (width * height), best // height % width, best % height
    share_RXY = log_share_RXY.exp().roll(count // 2 - heading, 0)
    near = _window(share_RXY, (count // 2, x, y), _NEAR)
    spread = _spread(share_RXY, (count // 2, x, y), grid)

    steps_F = torch.arange(-_FINER, _FINER + 1) / _FINER
    fine_F = (heading + steps_F) * (2 * math.pi / count)
    fine_FXY = logits_of(fine_F.double())
    low = max(x - _NEAR, 0), max(y - _NEAR, 0)
    part = fine_FXY[:, low[0] : x + _NEAR + 1, low[1] : y + _NEAR + 1]
    best = int(part.argmax())
    turn = best // part[0].numel()
    x = low[0] + best // part.shape[2] % part.shape[1]
    y = low[1] + best % part.shape[2]
    cells_2 = torch.tensor(
        [
            x + _between(fine_FXY[turn, :, y], x),
            y + _between(fine_FXY[turn, x], y),
        ],
        dtype=torch.float64,
    )
    step_rad = 2 * math.pi / count / _FINER
    heading_rad = float(fine_F[turn]) + step_rad * _between(fine_FXY[:, x, y], turn)
    return Peak(grid.places_of(cells_2), heading_rad, min(float(near.sum()), 1.0), spread)


def _between(line: Tensor, best: int) -> float:
    """Where between its neighbours the top of a parabola through the best of a line is."""
    if not 0 < best < len(line) - 1:
        return 0.0
    left, here, right = line[best - 1 : best + 2].double().tolist()
    bend = left - 2 * here + right
    return 0.0 if bend >= 0 else max(-0.5, min(0.5, (left - right) / (2 * bend)))


def _window(share_RXY: Tensor, middle: tuple[int, int, int], reach: int) -> Tensor:
    first, *others = (slice(max(at - reach, 0), at + reach + 1) for at in middle)
    return share_RXY[first, others[0], others[1]]


def _spread(share_RXY: Tensor, middle: tuple[int, int, int], grid: Grid) -> Tensor:
    """Covariance (3, 3) of x, y and heading round a peak; no sharper than the cells are."""
    part = _window(share_RXY, middle, _WINDOW).double()
    starts = [max(at - _WINDOW, 0) - at for at in middle]
    axes = [
        torch.arange(size, dtype=torch.float64) + start
        for size, start in zip(part.shape, starts, strict=True)
    ]
    turn, x, y = torch.meshgrid(*axes, indexing="ij")
    sizes_3 = torch.tensor([grid.cell, grid.cell, 2 * math.pi / grid.num_headings])
    offsets_S3 = torch.stack([x, y, turn], dim=-1).reshape(-1, 3) * sizes_3
    weights_S = part.flatten() / part.sum()
    offsets_S3 = offsets_S3 - weights_S @ offsets_S3
    # Within a cell the distribution is even: a twelfth of the square of its side.
    within_33 = torch.diag(sizes_3.double().square() / 12)
    return (weights_S[:, None] * offsets_S3).T @ offsets_S3 + within_33
