"""Sets of points in the plane at distance 1: how they lie, and what brings two of them together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# Neighbours that tell a point how they lie about it.
_NEIGHBOURS = 8
# Of padding: far from anything, and told from it by the mask only where distances do not count.
_FAR = 1e3
# Weight of the identity in the affine map, in matches; without matches nothing is moved.
_AFFINE_PRIOR = 4.0
# What the affine map leaves is smoothed over so much of the plane, and drawn to nothing by a match.
_SMOOTHED_OVER = 0.12
# Shifts that are tried, in cells of the plane; over how many cells offsets of matches spread, and
# what is usual is looked up; and offsets that are few.
_MAX_SHIFT, _CELL = 0.7, 0.015
_PEAK_CELLS, _USUAL_CELLS, _FEW_OFFSETS = 1.0, 8.0, 1.0


@dataclass(frozen=True, eq=False)
class Bearings:
    """Sets of points in the plane at distance 1, filled up to one length.

    Attributes:
        points_BN2: float32.
        valid_BN: which rows are points.
    """

    points_BN2: Tensor
    valid_BN: Tensor

    @staticmethod
    def of(sets: list[Tensor]) -> Bearings:
        """Several sets (N, 2), each at least one point long."""
        padded = nn.utils.rnn.pad_sequence(sets, batch_first=True)
        count_B1 = torch.tensor([[len(points)] for points in sets], device=padded.device)
        return Bearings(padded, torch.arange(padded.shape[1], device=padded.device) < count_B1)


def rows_of(table_BMC: Tensor, index: Tensor) -> Tensor:
    """Rows (B, ..., C) of each table by an index (B, ...)."""
    offset = torch.arange(len(table_BMC), device=index.device) * table_BMC.shape[1]
    flat = index.flatten(1) + offset[:, None]
    return table_BMC.flatten(0, 1)[flat.flatten()].unflatten(0, index.shape)


def distances(first_BN2: Tensor, second_BM2: Tensor) -> Tensor:
    """Distances (B, N, M), exact for small ones, too."""
    return torch.cdist(first_BN2, second_BM2, compute_mode="donot_use_mm_for_euclid_dist")


@torch.no_grad()
def neighbours_of(points_BN2: Tensor, valid_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours (B, N, K) of each point, itself left out, and how they lie about it: (B, N, K, 3).

    The offset over the median distance of neighbours in the set, and its length. Where there are
    fewer, the point stands for them itself.
    """
    count = min(_NEIGHBOURS, points_BN2.shape[1] - 1)
    if count < 1:
        index = torch.zeros(*points_BN2.shape[:2], 1, dtype=torch.int64, device=points_BN2.device)
        return index, points_BN2.new_zeros(*index.shape, 3)
    placed_BN2 = points_BN2.masked_fill(~valid_BN[..., None], _FAR)
    apart_BNN = distances(placed_BN2, placed_BN2)
    distance_BNK, near_BNK = apart_BNN.topk(count + 1, largest=False)
    distance_BNK, near_BNK = distance_BNK[..., 1:], near_BNK[..., 1:]
    own_BN1 = torch.arange(points_BN2.shape[1], device=points_BN2.device)[:, None]
    near_BNK = torch.where(distance_BNK < _FAR / 2, near_BNK, own_BN1)
    offset_BNK2 = rows_of(points_BN2, near_BNK) - points_BN2[:, :, None]
    length_BNK1 = offset_BNK2.norm(dim=-1, keepdim=True)
    of_points = length_BNK1.masked_fill(~valid_BN[..., None, None], torch.nan)
    unit_B = of_points.flatten(1).nanmedian(1).values.nan_to_num(1.0).clamp_min(1e-6)
    edges = torch.cat([offset_BNK2, length_BNK1], dim=-1) / unit_B[:, None, None, None]
    return near_BNK, edges.clamp(-10, 10)


@torch.no_grad()
def shifted(first: Bearings, second: Bearings) -> Tensor:
    """The second set, shifted so that most pairs of points come to lie together.

    All offsets of a point of the first set from one of the second are counted in cells of the
    plane; the shift is where there are most beyond what is usual round about, in deviations of
    chance. Small turns of a camera shift all it sees alike, and matches then add up in one place,
    as those of a parallax do nearly.
    """
    offset_BNM2 = first.points_BN2[:, :, None] - second.points_BN2[:, None]
    both_BNM = first.valid_BN[:, :, None] & second.valid_BN[:, None]
    side = 2 * round(_MAX_SHIFT / _CELL) + 1
    cell_BNM2 = (offset_BNM2 / _CELL).round().long() + side // 2
    inside_BNM = both_BNM & ((cell_BNM2 >= 0) & (cell_BNM2 < side)).all(-1)
    flat_BNM = torch.where(inside_BNM, cell_BNM2[..., 1] * side + cell_BNM2[..., 0], side * side)
    counts_BF = offset_BNM2.new_zeros(len(offset_BNM2), side * side + 1)
    ones_BF = counts_BF.new_ones(1, 1).expand(len(counts_BF), flat_BNM[0].numel())
    counts_BF.scatter_add_(1, flat_BNM.flatten(1), ones_BF)
    counts_B1ss = counts_BF[:, :-1].unflatten(1, (1, side, side))
    near_B1ss, usual_B1ss = (_blurred(counts_B1ss, sigma) for sigma in (_PEAK_CELLS, _USUAL_CELLS))
    surprise_BF = ((near_B1ss - usual_B1ss) / (usual_B1ss + _FEW_OFFSETS).sqrt()).flatten(1)
    best_B = surprise_BF.argmax(1)
    shift_B2 = torch.stack([best_B % side, best_B // side], dim=1) - side // 2
    return second.points_BN2 + _CELL * shift_B2[:, None]


def _blurred(maps_B1ss: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    weights = (-0.5 * (torch.arange(-reach, reach + 1, device=maps_B1ss.device) / sigma) ** 2).exp()
    weights = (weights / weights.sum()).to(maps_B1ss.dtype)
    along = functional.conv2d(maps_B1ss, weights[None, None, None], padding=(0, reach))
    return functional.conv2d(along, weights[None, None, :, None], padding=(reach, 0))


@torch.no_grad()
def moved(first_BN2: Tensor, second_BM2: Tensor, log_BNM: Tensor) -> Tensor:
    """The second set, moved as matches agree on: by an affine map, then smoothly.

    Args:
        first_BN2: a set.
        second_BM2: another.
        log_BNM: logarithms of the probability that two points match.
    """
    probability_BNM = log_BNM.exp()
    weight_BM1 = probability_BNM.sum(1)[..., None]
    target_BM2 = probability_BNM.mT @ first_BN2 / weight_BM1.clamp_min(1e-9)
    lifted_BM3 = functional.pad(second_BM2, (0, 1), value=1.0)
    normal_B33 = (weight_BM1 * lifted_BM3).mT @ lifted_BM3
    right_B32 = (weight_BM1 * lifted_BM3).mT @ (target_BM2 - second_BM2)
    prior = _AFFINE_PRIOR * torch.eye(3, device=normal_B33.device)
    moved_BM2 = second_BM2 + lifted_BM3 @ torch.linalg.solve(normal_B33 + prior, right_B32)
    apart_BMM = distances(second_BM2, second_BM2)
    told_BMM = (-0.5 * (apart_BMM / _SMOOTHED_OVER).square()).exp() * weight_BM1.mT
    left_BM2 = told_BMM @ (target_BM2 - moved_BM2)
    return moved_BM2 + left_BM2 / (1 + told_BMM.sum(2, keepdim=True))
