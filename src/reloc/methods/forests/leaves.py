"""What leaves know: a sample of the points that fell into each, and the modes of these.

Filling them needs no tree to be grown: pixels are sent down, their points are kept or not. So a
forest that was grown elsewhere serves a new place as soon as its leaves are filled there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reloc.contract import Tensors

# Points of a leaf that are kept: modes need no more.
_CAPACITY = 48
# Leaves whose points are compared with each other at once.
_CHUNK = 2048
_MEAN_SHIFTS = 3
# Modes with a smaller share of their leaf's points are chance.
_MIN_SHARE = 0.05
_MAX_STEP = 2**15 - 1


class Reservoirs:
    """A fair sample of the points that came to each leaf so far, however many come.

    Source: Vitter, "Random sampling with a reservoir", ACM TOMS 11, 1985, for all leaves at once.
    """

    def __init__(self, num_leaves: int, seed: int) -> None:
        self._points_LC3 = np.full((num_leaves, _CAPACITY, 3), np.nan, dtype=np.float32)
        self._count_L = np.zeros(num_leaves, dtype=np.int64)
        self._rng = np.random.default_rng(seed)

    def add(self, leaf_PT: Tensor, points_P3: Tensor) -> None:
        """Points of pixels that fell into leaves, one of each tree."""
        leaf = leaf_PT.flatten().numpy()
        points = points_P3.float().repeat_interleave(leaf_PT.shape[1], dim=0).numpy()
        order = leaf.argsort(kind="stable")
        leaf, points = leaf[order], points[order]
        # How many came to the leaf before this one: in earlier calls, and in this one.
        rank = self._count_L[leaf] + np.arange(len(leaf)) - np.searchsorted(leaf, leaf)
        drawn = (self._rng.random(len(leaf)) * (rank + 1)).astype(np.int64)
        slot = np.where(rank < _CAPACITY, rank, drawn)
        kept = slot < _CAPACITY
        # Where two points go to one slot, the later one stays.
        self._points_LC3[leaf[kept], slot[kept]] = points[kept]
        self._count_L += np.bincount(leaf, minlength=len(self._count_L))

    def modes(self, num_modes: int, radius: float) -> Modes:
        """The densest places among the points of each leaf.

        A mode begins at the point with the most others within `radius`, moves by mean shift, takes
        the points near it, and leaves the rest to the next one.

        Args:
            num_modes: most modes of a leaf.
            radius: of the neighbourhood, in the unit of the points.
        """
        num_leaves = len(self._count_L)
        means_LM3 = torch.full((num_leaves, num_modes, 3), torch.nan)
        shares_LM, spreads_LM = torch.zeros(2, num_leaves, num_modes)
        # Leaves with about as many points together, so that none is compared with empty places.
        kept_L = np.minimum(self._count_L, _CAPACITY)
        order = kept_L.argsort(kind="stable")[(kept_L == 0).sum() :]
        for start in range(0, len(order), _CHUNK):
            leaf = order[start : start + _CHUNK]
            points_LC3 = torch.from_numpy(self._points_LC3[leaf, : kept_L[leaf[-1]]])
            means_LM3[leaf], shares_LM[leaf], spreads_LM[leaf] = _modes(
                points_LC3, num_modes, radius
            )
        return Modes.packed(means_LM3, shares_LM, spreads_LM)


def _modes(points_LC3: Tensor, num_modes: int, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Means (L, M, 3), shares (L, M) and spreads (L, M) of modes; NaN marks a slot of no point."""
    free_LC = points_LC3.isfinite().all(-1)
    count_L1 = free_LC.sum(1, keepdim=True).clamp_min(1)
    points_LC3 = torch.where(free_LC[..., None], points_LC3, 0.0)
    exact = "donot_use_mm_for_euclid_dist"
    near_LCC = torch.cdist(points_LC3, points_LC3, compute_mode=exact) < radius
    leaf_L = torch.arange(len(points_LC3))
    means, shares, spreads = [], [], []
    for _ in range(num_modes):
        support_LC = (near_LCC & free_LC[:, None]).sum(-1) * free_LC
        mean_L3 = points_LC3[leaf_L, support_LC.argmax(1)]
        for _ in range(_MEAN_SHIFTS):
            squared_LC = (points_LC3 - mean_L3[:, None]).square().sum(-1)
            kernel_LC = (-2 * squared_LC / radius**2).exp() * (squared_LC < (2 * radius) ** 2)
            kernel_LC = kernel_LC * free_LC
            total_L1 = kernel_LC.sum(1, keepdim=True)
            shifted_L3 = (kernel_LC[..., None] * points_LC3).sum(1) / total_L1.clamp_min(1e-12)
            mean_L3 = torch.where(total_L1 > 0, shifted_L3, mean_L3)
        squared_LC = (points_LC3 - mean_L3[:, None]).square().sum(-1)
        own_LC = (squared_LC < (1.5 * radius) ** 2) & free_LC
        size_L = own_LC.sum(1)
        means.append(mean_L3)
        shares.append(size_L / count_L1[:, 0])
        spreads.append(((squared_LC * own_LC).sum(1) / (3 * size_L.clamp_min(1))).sqrt())
        free_LC = free_LC & ~own_LC
    return torch.stack(means, 1), torch.stack(shares, 1), torch.stack(spreads, 1)


@dataclass(frozen=True, eq=False)
class Modes:
    """Where the pixels of a leaf may be in the world.

    Attributes:
        center_3: float32, of the box that all means lie in.
        step: length of a step of `means_LM3`.
        means_LM3: int16 steps from the centre.
        shares_LM: uint8, of the leaf's points that are near a mean, out of 255; 0: it is no mode.
        spreads_LM: float16, standard deviation of these points along an axis.
    """

    center_3: Tensor
    step: float
    means_LM3: Tensor
    shares_LM: Tensor
    spreads_LM: Tensor

    @staticmethod
    def packed(means_LM3: Tensor, shares_LM: Tensor, spreads_LM: Tensor) -> Modes:
        """In few bytes."""
        is_mode_LM = shares_LM >= _MIN_SHARE
        found = means_LM3[is_mode_LM]
        center_3 = (found.amin(0) + found.amax(0)) / 2 if len(found) else torch.zeros(3)
        reach = float((found - center_3).abs().max()) if len(found) else 0.0
        step = max(reach / _MAX_STEP, 1e-12)
        steps_LM3 = torch.where(is_mode_LM[..., None], (means_LM3 - center_3) / step, 0.0)
        return Modes(
            center_3=center_3,
            step=step,
            means_LM3=steps_LM3.round().clamp(-_MAX_STEP, _MAX_STEP).short(),
            shares_LM=torch.where(is_mode_LM, 255 * shares_LM, 0.0).round().to(torch.uint8),
            spreads_LM=torch.where(is_mode_LM, spreads_LM, 0.0).half(),
        )

    def of(self, leaf_PT: Tensor) -> Guesses:
        """Those of leaves (P, T), side by side."""
        means = self.means_LM3[leaf_PT].float() * self.step + self.center_3
        return Guesses(
            means.flatten(1, 2),
            self.shares_LM[leaf_PT].float().flatten(1) / 255,
            self.spreads_LM[leaf_PT].float().flatten(1),
        )

    def tensors(self) -> dict[str, Tensor]:
        """For the map's folder."""
        return {
            "center_3": self.center_3,
            "step": torch.tensor(self.step, dtype=torch.float64),
            "means_LM3": self.means_LM3,
            "shares_LM": self.shares_LM,
            "spreads_LM": self.spreads_LM,
        }

    @staticmethod
    def from_tensors(tensors: Tensors) -> Modes:
        """The inverse of `tensors`, from those of a map."""
        names = ("means_LM3", "shares_LM", "spreads_LM")
        return Modes(
            tensors["center_3"], float(tensors["step"]), *(tensors[name] for name in names)
        )


@dataclass(frozen=True, eq=False)
class Guesses:
    """Where pixels may be in the world, several guesses each.

    Attributes:
        points_PM3: float32.
        weights_PM: how much is thought of a guess; 0: it is none.
        spreads_PM: standard deviation along an axis.
    """

    points_PM3: Tensor
    weights_PM: Tensor
    spreads_PM: Tensor

    def fused(self, count: int, radius: float) -> Guesses:
        """At most `count` guesses a pixel, best first: those of trees that agree become one.

        The density of all guesses of a pixel is highest near one of them; what lies near it is
        averaged with weights, and the rest is left to the next.
        """
        free_PM = self.weights_PM
        distance_PMM = torch.cdist(self.points_PM3, self.points_PM3)
        kernel_PMM = (-0.5 * (distance_PMM / radius).square()).exp()
        row_P = torch.arange(len(free_PM))
        points, weights, spreads = [], [], []
        for _ in range(count):
            density_PM = (kernel_PMM @ free_PM[..., None])[..., 0] * (free_PM > 0)
            weight_P, best_P = density_PM.max(1)
            share_PM = kernel_PMM[row_P, best_P] * free_PM
            share_PM = share_PM / share_PM.sum(1, keepdim=True).clamp_min(1e-12)
            point_P3 = (share_PM[..., None] * self.points_PM3).sum(1)
            # Within the guesses, and between them, along an axis.
            off_PM = (self.points_PM3 - point_P3[:, None]).square().sum(-1) / 3
            variance_P = (share_PM * (self.spreads_PM.square() + off_PM)).sum(1)
            points.append(point_P3)
            weights.append(weight_P)
            spreads.append(variance_P.sqrt())
            free_PM = torch.where(distance_PMM[row_P, best_P] < 2 * radius, 0.0, free_PM)
        return Guesses(torch.stack(points, 1), torch.stack(weights, 1), torch.stack(spreads, 1))
