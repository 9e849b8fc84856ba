"""The polynomial by which a lens moves points of a plane, and its inverse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_MAX_NEWTON_ROUNDS = 60
# A step that must be this much shorter than Newton's leads nowhere: there is no solution.
_MIN_STEP_SIZE = 1e-3
_ROUNDING_ERROR = 1e-14
_MAX_RESIDUAL = 1e-9
# 89.9° from the optical axis, where the powers of the series are still finite in float32.
_MAX_RADIUS = 1e3


@dataclass(frozen=True, eq=False)
class Distortion:
    """Brown's polynomial, of radial and tangential parts.

    With s = x² + y² and the series c(s) = 1 + k1 s + k2 s² + ... it moves a point (x, y) to

        x c(s) + 2 p1 x y + p2 (s + 2 x²)
        y c(s) + 2 p2 x y + p1 (s + 2 y²)

    A lens puts points further out the further out they are. The polynomial does so up to a fold and
    comes back from there, so that it stands for the lens inside the fold only.

    Attributes:
        radial: (K,), k1 k2 ...
        tangential: (2,), p1 p2.
    """

    radial: Tensor
    tangential: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Points (..., 2) to where the lens puts them."""
        x, y = points.unbind(-1)
        p1, p2 = self.tangential
        square = x * x + y * y
        series = self._series(square)
        moved_x = x * series + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        moved_y = y * series + 2 * p2 * x * y + p1 * (square + 2 * y * y)
        return torch.stack([moved_x, moved_y], dim=-1)

    def jacobian(self, points: Tensor) -> Tensor:
        """The derivative (..., 2, 2) of the moved points by the points; symmetric."""
        x, y = points.unbind(-1)
        p1, p2 = self.tangential
        square = x * x + y * y
        series, slope = self._series(square), 2 * self._series_slope(square)
        xx = series + slope * x * x + 2 * p1 * y + 6 * p2 * x
        xy = slope * x * y + 2 * p1 * x + 2 * p2 * y
        yy = series + slope * y * y + 6 * p1 * y + 2 * p2 * x
        return torch.stack([torch.stack([xx, xy], -1), torch.stack([xy, yy], -1)], -2)

    @property
    def max_radius(self) -> float:
        """How far from the middle the polynomial stands for the lens: at most to its fold."""
        # The derivative of r c(r²) is 1 + 3 k1 s + 5 k2 s² + ...
        slope = [1.0] + [(2 * n + 1) * k for n, k in enumerate(self.radial.tolist(), start=1)]
        roots = np.roots(slope[::-1])
        folds = [math.sqrt(r.real) for r in roots if abs(r.imag) < 1e-9 and r.real > 0]
        return min([*folds, _MAX_RADIUS])

    def inverse(self, moved: Tensor) -> Tensor:
        """The points (..., 2) inside the fold that the lens puts at `moved`, or NaN.

        Newton's method, its step halved wherever it would lead away. The rounds are not
        differentiated: a last step from the solution has the derivatives of the implicit function.
        """
        max_radius = self.max_radius
        with torch.no_grad():
            exact = Distortion(self.radial.detach().double(), self.tangential.detach().double())
            goal = moved.detach().double()
            # Inside the fold from the start: Newton would find the root of another branch outside.
            radius = safe_norm(goal)
            solution = goal * (radius.clamp_max(0.99 * max_radius) / radius)
            residual, step_size = goal - exact(solution), torch.ones_like(radius)
            for _ in range(_MAX_NEWTON_ROUNDS):
                trial = solution + step_size * _solve_2x2(exact.jacobian(solution), residual)
                trial_residual = goal - exact(trial)
                better = _square(trial_residual) < _square(residual)
                better &= safe_norm(trial) < max_radius
                solution = torch.where(better, trial, solution)
                residual = torch.where(better, trial_residual, residual)
                step_size = torch.where(better, (2 * step_size).clamp_max(1), step_size / 2)
                solved = safe_norm(residual) < _ROUNDING_ERROR * (1 + radius)
                if bool((solved | (step_size < _MIN_STEP_SIZE)).all()):
                    break
            found = safe_norm(residual) < _MAX_RESIDUAL * (1 + radius)
            # The tangential part shifts the fold a little.
            found &= torch.linalg.det(exact.jacobian(solution))[..., None] > 0
            start = torch.where(found, solution, 0).to(moved)
        # Masked before the arithmetic: NaN must not reach the derivatives of the other points.
        remainder = torch.where(found, moved, 0) - self(start)
        last_step = _solve_2x2(self.jacobian(start).detach(), remainder)
        return torch.where(found, start + last_step, torch.nan)

    def _series(self, square: Tensor) -> Tensor:
        """c(s), by Horner's rule."""
        value = torch.zeros_like(square)
        for coefficient in self.radial.flip(0):
            value = (value + coefficient) * square
        return 1 + value

    def _series_slope(self, square: Tensor) -> Tensor:
        """c'(s) = k1 + 2 k2 s + ..."""
        value = torch.zeros_like(square)
        for power in range(len(self.radial), 0, -1):
            value = value * square + power * self.radial[power - 1]
        return value


def _square(points: Tensor) -> Tensor:
    return points.square().sum(-1, keepdim=True)


def safe_norm(points: Tensor) -> Tensor:
    """Lengths (..., 1) of (..., 2), never quite 0, so that a division by them has derivatives."""
    return _square(points).clamp_min(1e-30).sqrt()


def _solve_2x2(matrix: Tensor, right: Tensor) -> Tensor:
    """The x (..., 2) with matrix @ x = right; not finite where the matrix is singular."""
    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    p, q = right.unbind(-1)
    return torch.stack([d * p - b * q, a * q - c * p], dim=-1) / (a * d - b * c)[..., None]
