"""Rotations as networks predict them: numbers without constraints to matrices, and back.

A parametrisation is a row of `PARAMETRIZATIONS`: how many numbers it has, how any numbers are read
as a rotation, and which numbers a rotation is written as.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import roma
import torch
from torch import Tensor
from torch.nn import functional

RotationName = Literal[
    "quaternion", "log-quaternion", "axis-angle", "6d", "9d", "euler", "euler6", "euler-bins"
]
"""Keys of `PARAMETRIZATIONS`."""

# Bins of the Euler angles about x, y and z: y is within a half turn, the others within a whole one.
_BINS = (72, 36, 72)
# Norms below which a direction is taken from another place.
_EPSILON = 1e-8
# How far, in bins, the neighbours of a bin are also right.
_BIN_SIGMA = 1.0


@dataclass(frozen=True)
class Parametrization:
    """One way to write a rotation.

    Attributes:
        size: how many numbers.
        to_matrix: numbers (..., size), any of them, to rotations (..., 3, 3).
        from_matrix: rotations (..., 3, 3) to the numbers (..., size) that a network should predict.
        source: where it comes from.
    """

    size: int
    to_matrix: Callable[[Tensor], Tensor]
    from_matrix: Callable[[Tensor], Tensor]
    source: str


def quaternion_from_matrix(rotation_33: Tensor) -> Tensor:
    """Unit quaternions (..., 4), w first and w >= 0, of rotations (..., 3, 3)."""
    quaternion = roma.rotmat_to_unitquat(rotation_33).roll(1, -1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def matrix_from_quaternion(quaternion_4: Tensor) -> Tensor:
    """Rotations (..., 3, 3) of quaternions (..., 4) of any length, w first; zero is no turn."""
    norm = quaternion_4.norm(dim=-1, keepdim=True)
    unit = torch.where(
        norm > _EPSILON,
        quaternion_4 / norm.clamp_min(_EPSILON),
        functional.pad(torch.zeros_like(quaternion_4[..., 1:]), (1, 0), value=1.0),
    )
    return roma.unitquat_to_rotmat(unit.roll(-1, -1))


def quaternion_log(quaternion_4: Tensor) -> Tensor:
    """The logarithm (..., 3) of quaternions (..., 4), w first: half the rotation vector.

    The shorter way: of q and -q, which turn alike, that with w >= 0. By the arctangent of two
    arguments, and near no turn by the first terms of its series (Żurad's QEH, where the formula is
    v atan2(‖v‖, w) / ‖v‖).
    """
    quaternion_4 = torch.where(quaternion_4[..., :1] < 0, -quaternion_4, quaternion_4)
    w, v = quaternion_4[..., :1], quaternion_4[..., 1:]
    squared = v.square().sum(-1, keepdim=True)
    small = squared < 1e-10
    norm = torch.where(small, torch.ones_like(squared), squared).sqrt()
    far = torch.atan2(norm, w) / norm
    safe_w = torch.where(small, w, torch.ones_like(w)).clamp_min(0.5)
    near = (1 - squared / (3 * safe_w.square())) / safe_w
    return v * torch.where(small, near, far)


def quaternion_product(left_4: Tensor, right_4: Tensor) -> Tensor:
    """The product left ⊗ right of quaternions (..., 4), w first."""
    product = roma.quat_product(left_4.roll(-1, -1), right_4.roll(-1, -1))
    return cast(Tensor, product).roll(1, -1)


def quaternion_conjugate(quaternion_4: Tensor) -> Tensor:
    """The inverse of unit quaternions (..., 4), w first."""
    return quaternion_4 * quaternion_4.new_tensor([1.0, -1.0, -1.0, -1.0])


def euler_from_matrix(rotation_33: Tensor) -> Tensor:
    """Angles (..., 3) in rad with R = Rz(c) Ry(b) Rx(a), in the order a, b, c; b within ±π/2."""
    a = torch.atan2(rotation_33[..., 2, 1], rotation_33[..., 2, 2])
    cos_b = rotation_33[..., 2, 1].hypot(rotation_33[..., 2, 2])
    b = torch.atan2(-rotation_33[..., 2, 0], cos_b)
    c = torch.atan2(rotation_33[..., 1, 0], rotation_33[..., 0, 0])
    return torch.stack([a, b, c], dim=-1)


def matrix_from_euler(angles_3: Tensor) -> Tensor:
    """The inverse of `euler_from_matrix`: Rz(c) Ry(b) Rx(a) (..., 3, 3)."""
    return _matrix_from_sines(angles_3.sin(), angles_3.cos())


def bin_targets(rotation_33: Tensor) -> Tensor:
    """Probabilities (..., 180) of the bins of three Euler angles: a bump round the right bin."""
    angles_3 = euler_from_matrix(rotation_33)
    parts = []
    for axis, count in enumerate(_BINS):
        centers = _bin_centers(axis, angles_3)
        off = angles_3[..., axis, None] - centers
        off = torch.atan2(off.sin(), off.cos())
        sigma = _BIN_SIGMA * _bin_width(axis)
        parts.append(torch.softmax(-((off / sigma) ** 2) / 2, dim=-1))
        assert parts[-1].shape[-1] == count
    return torch.cat(parts, dim=-1)


def bin_cross_entropy(logits: Tensor, rotation_33: Tensor) -> Tensor:
    """Cross-entropy (...) of logits (..., 180) with `bin_targets`, summed over the three angles."""
    targets = bin_targets(rotation_33)
    losses = [
        -(target * part.log_softmax(-1)).sum(-1)
        for target, part in zip(targets.split(_BINS, -1), logits.split(_BINS, -1), strict=True)
    ]
    return torch.stack(losses).sum(0)


def _matrix_from_sines(sin_3: Tensor, cos_3: Tensor) -> Tensor:
    """Rz Ry Rx (..., 3, 3) from the sines and cosines (..., 3) of the angles about x, y, z."""
    sa, sb, sc = sin_3.unbind(-1)
    ca, cb, cc = cos_3.unbind(-1)
    rows = [
        cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa,
        sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa,
        -sb, cb * sa, cb * ca,
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _matrix_from_six(numbers_6: Tensor) -> Tensor:
    """Gram-Schmidt of two columns; numbers that span no plane are read as some rotation."""
    eye_33 = torch.eye(3, dtype=numbers_6.dtype, device=numbers_6.device)
    first_3, second_3 = numbers_6.split(3, dim=-1)
    first_3 = _unit_or(first_3, eye_33[0])
    second_3 = functional.normalize(second_3, dim=-1)
    second_3 = second_3 - (first_3 * second_3).sum(-1, keepdim=True) * first_3
    # The axis that is least along the first column stands in for a second that is along it.
    aside_3 = eye_33[first_3.detach().abs().argmin(-1)]
    aside_3 = aside_3 - (first_3 * aside_3).sum(-1, keepdim=True) * first_3
    second_3 = _unit_or(second_3, functional.normalize(aside_3, dim=-1))
    third_3 = torch.linalg.cross(first_3, second_3)
    return torch.stack([first_3, second_3, third_3], dim=-1)


def _unit_or(vector_3: Tensor, otherwise_3: Tensor) -> Tensor:
    """Vectors (..., 3) of length 1; others where they have hardly any."""
    norm = (vector_3.square().sum(-1, keepdim=True) + 1e-24).sqrt()
    return torch.where(norm > 1e-5, vector_3 / norm, otherwise_3)


def _matrix_from_nine(numbers_9: Tensor) -> Tensor:
    """The nearest rotation, by singular values; zeros give no turn."""
    matrix_33 = numbers_9.unflatten(-1, (3, 3))
    eye_33 = torch.eye(3, dtype=numbers_9.dtype, device=numbers_9.device)
    return cast(Tensor, roma.special_procrustes(matrix_33 + 1e-6 * eye_33))


def _matrix_from_sine_pairs(numbers_6: Tensor) -> Tensor:
    """Three sines, then three cosines, of any length."""
    sin_3, cos_3 = numbers_6.split(3, dim=-1)
    norm_3 = (sin_3.square() + cos_3.square() + 1e-12).sqrt()
    # Where both are 0 the angle is 0.
    none_3 = norm_3 < 1e-5
    cos_3 = torch.where(none_3, torch.ones_like(cos_3), cos_3 / norm_3)
    return _matrix_from_sines(torch.where(none_3, torch.zeros_like(sin_3), sin_3 / norm_3), cos_3)


def _sine_pairs(rotation_33: Tensor) -> Tensor:
    angles_3 = euler_from_matrix(rotation_33)
    return torch.cat([angles_3.sin(), angles_3.cos()], dim=-1)


def _matrix_from_bins(logits: Tensor) -> Tensor:
    """The likeliest bin of each angle, and the mean direction of it and its neighbours."""
    angles = []
    for axis, part in enumerate(logits.split(_BINS, -1)):
        centers = _bin_centers(axis, part)
        off = centers - centers[part.argmax(-1)][..., None]
        off = torch.atan2(off.sin(), off.cos())
        near = off.abs() < 2.5 * _bin_width(axis)
        weights = torch.where(near, part, -torch.inf).softmax(-1)
        angles.append(
            torch.atan2((weights * centers.sin()).sum(-1), (weights * centers.cos()).sum(-1))
        )
    return matrix_from_euler(torch.stack(angles, dim=-1))


def _bin_width(axis: int) -> float:
    return (math.pi if axis == 1 else 2 * math.pi) / _BINS[axis]


def _bin_centers(axis: int, like: Tensor) -> Tensor:
    """The angles (K,) in the middle of the bins of an axis, in rad."""
    numbers = torch.arange(_BINS[axis], dtype=like.dtype, device=like.device)
    return (numbers + 0.5 - _BINS[axis] / 2) * _bin_width(axis)


PARAMETRIZATIONS: dict[RotationName, Parametrization] = {
    "quaternion": Parametrization(
        4, matrix_from_quaternion, quaternion_from_matrix, "Kendall et al., ICCV 2015"
    ),
    "log-quaternion": Parametrization(
        3,
        lambda numbers_3: cast(Tensor, roma.rotvec_to_rotmat(2 * numbers_3)),
        lambda rotation_33: quaternion_log(quaternion_from_matrix(rotation_33)),
        "Brahmbhatt et al., CVPR 2018",
    ),
    "axis-angle": Parametrization(
        3,
        lambda numbers_3: cast(Tensor, roma.rotvec_to_rotmat(numbers_3)),
        lambda rotation_33: 2 * quaternion_log(quaternion_from_matrix(rotation_33)),
        "Euler's theorem",
    ),
    "6d": Parametrization(
        6,
        _matrix_from_six,
        lambda rotation_33: rotation_33[..., :2].mT.flatten(-2),
        "Zhou et al., CVPR 2019",
    ),
    "9d": Parametrization(
        9,
        _matrix_from_nine,
        lambda rotation_33: rotation_33.flatten(-2),
        "Levinson et al., NeurIPS 2020",
    ),
    "euler": Parametrization(3, matrix_from_euler, euler_from_matrix, "Euler, 1776"),
    "euler6": Parametrization(6, _matrix_from_sine_pairs, _sine_pairs, "Wu et al., ICRA 2017"),
    "euler-bins": Parametrization(
        sum(_BINS),
        _matrix_from_bins,
        lambda rotation_33: bin_targets(rotation_33).clamp_min(1e-9).log(),
        "Cai et al., CVPR 2021",
    ),
}
