"""Heads: numbers of a network to relative poses, and how wrong they are.

A head speaks of what is left once the reference is turned towards the query as the matches say
(`correlation.guess_pose`), and may follow the direction of translation that they say. Zeros mean
"no
other turn, and the same place" or direction. Translations are in the scene's typical distance
between a query and its references.

Source: Arnold et al., "Map-free visual relocalization", ECCV 2022, section 4.1; the essential
matrix as in Zhou et al., "To learn or not to learn", ICRA 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import roma
import torch
from torch import Tensor
from torch.nn import functional

from reloc.geometry.rigid3d import Rigid3d, skew
from reloc.methods.relative.essential import (
    essential_loss,
    project_to_essential,
    take_apart,
)

HeadName = Literal[
    "6d+t", "quat+t", "se3", "3d3d", "direction", "binned", "quat+direction", "essential"
]
Decode = Callable[[Tensor, Tensor], Rigid3d]
_BIN_RAD = math.pi / 180
# Of Euler angles x, y, z: 1° each; of the direction: longitude and latitude.
_BINS = (360, 180, 360, 360, 180)


@dataclass(frozen=True, eq=False)
class Head:
    """A row of `HEADS`.

    Attributes:
        size: how many numbers it reads.
        decode: numbers (B, size) and headings (B, 3) to poses (B,), differentiable.
        loss: of numbers, headings and true poses, errors (B,) of rotation and of translation.
        has_scale: False where translations are directions only.
        has_sign: False where these may as well point the other way.
    """

    size: int
    decode: Decode
    loss: Callable[[Tensor, Tensor, Rigid3d], tuple[Tensor, Tensor]]
    has_scale: bool = True
    has_sign: bool = True


def _pose_loss(
    decode: Decode, numbers: Tensor, heading_B3: Tensor, true: Rigid3d
) -> tuple[Tensor, Tensor]:
    """Angle in radians, and the L1 norm of the difference of the translations."""
    found = decode(numbers, heading_B3)
    return (
        smooth_angle(found.rotation, true.rotation),
        (found.translation - true.translation).abs().sum(-1),
    )


def smooth_angle(rotation_a: Tensor, rotation_b: Tensor) -> Tensor:
    """The angle between rotations, with a gradient at zero: the chord, near it the same."""
    chord2 = (rotation_a - rotation_b).square().sum((-1, -2)) / 2
    return (chord2 + 1e-10).sqrt()


def direction_loss(found: Tensor, true: Tensor) -> Tensor:
    """Sine-like distance of directions, less of a translation so short that it has none."""
    unit = functional.normalize(true, dim=-1)
    distance = (functional.normalize(found, dim=-1) - unit).square().sum(-1)
    known = (true.norm(dim=-1) / 0.3).clamp(max=1.0)
    return known * (distance + 1e-10).sqrt()


def _six(numbers: Tensor) -> Tensor:
    """Two columns, offset by those of the identity, to a rotation (Zhou et al., CVPR 2019)."""
    columns = numbers.unflatten(-1, (3, 2)) + torch.eye(3, 2, device=numbers.device)
    return roma.special_gramschmidt(columns)


def _quaternion(numbers: Tensor) -> Tensor:
    offset = torch.tensor([0.0, 0.0, 0.0, 1.0], device=numbers.device)
    return roma.unitquat_to_rotmat(functional.normalize(numbers + offset, dim=-1))


def _six_t(numbers: Tensor) -> Rigid3d:
    return Rigid3d(_six(numbers[:, :6]), numbers[:, 6:])


def _quat_t(numbers: Tensor) -> Rigid3d:
    return Rigid3d(_quaternion(numbers[:, :4]), numbers[:, 4:])


def _se3_loss(numbers: Tensor, heading_B3: Tensor, true: Rigid3d) -> tuple[Tensor, Tensor]:
    """Parts of ‖T⁻¹ T* − I‖ (Balntas, Li and Prisacariu, "RelocNet", ECCV 2018)."""
    rest = HEADS["se3"].decode(numbers, heading_B3).inverse() @ true
    eye = torch.eye(3, device=numbers.device)
    return smooth_angle(rest.rotation, eye.expand_as(rest.rotation)), rest.translation.abs().sum(-1)


def _three_points(numbers: Tensor) -> Rigid3d:
    """Two triplets of points, each offset by the unit vectors: the motion of one to the other."""
    points = numbers.unflatten(-1, (2, 3, 3)) + torch.eye(3, device=numbers.device)
    query_B33, reference_B33 = points[:, 0], points[:, 1]
    mean_q, mean_r = query_B33.mean(1), reference_B33.mean(1)
    spread = (query_B33 - mean_q[:, None]).mT @ (reference_B33 - mean_r[:, None])
    # Three points span a plane: their own normal is added, which fixes the third direction.
    normals = [
        torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]) for p in (query_B33, reference_B33)
    ]
    spread = spread + normals[0][:, :, None] * normals[1][:, None, :] / 3
    rotation: Tensor = roma.special_procrustes(spread)  # pyright: ignore[reportAssignmentType]
    return Rigid3d(rotation, mean_q - (rotation @ mean_r[..., None])[..., 0])


def _direction(numbers: Tensor, heading_B3: Tensor) -> Rigid3d:
    """Rotation, direction and length."""
    length = functional.softplus(numbers[:, 9:] - 1)
    unit = functional.normalize(numbers[:, 6:9] + heading_B3, dim=-1)
    return Rigid3d(_six(numbers[:, :6]), unit * length)


def _quat_direction(numbers: Tensor, heading_B3: Tensor) -> Rigid3d:
    unit = functional.normalize(numbers[:, 4:] + heading_B3, dim=-1)
    return Rigid3d(_quaternion(numbers[:, :4]), unit)


def _quat_direction_loss(
    numbers: Tensor, heading_B3: Tensor, true: Rigid3d
) -> tuple[Tensor, Tensor]:
    found = _quat_direction(numbers, heading_B3)
    return smooth_angle(found.rotation, true.rotation), direction_loss(
        found.translation, true.translation
    )


def _binned(numbers: Tensor, heading_B3: Tensor) -> Rigid3d:
    """The middle of the likeliest bin and its neighbours, for each angle."""
    del heading_B3
    x, y, z, longitude, latitude = (_circular_peak(part) for part in _split(numbers))
    # Bins begin at -180° (-90°); zeros in all bins would mean anything.
    rotation = _euler(x, y / 2, z)
    latitude = latitude / 2
    unit = torch.stack(
        [latitude.cos() * longitude.sin(), latitude.sin(), latitude.cos() * longitude.cos()], -1
    )
    return Rigid3d(rotation, unit * functional.softplus(numbers[:, -1:]))


def _binned_loss(numbers: Tensor, heading_B3: Tensor, true: Rigid3d) -> tuple[Tensor, Tensor]:
    """Cross-entropies of the bins, and the length's error."""
    del heading_B3
    *parts, longitude_bins, latitude_bins = _split(numbers)
    angles = _euler_angles(true.rotation)
    rotation_loss = torch.stack(
        [
            functional.cross_entropy(part, _bin_of(angle, part.shape[1]), reduction="none")
            for part, angle in zip(parts, angles, strict=True)
        ]
    ).mean(0)
    x, y, z = true.translation.unbind(-1)
    length = true.translation.norm(dim=-1)
    longitude, latitude = torch.atan2(x, z), torch.atan2(y, (x * x + z * z).sqrt())
    direction_part = functional.cross_entropy(
        longitude_bins, _bin_of(longitude, _BINS[3]), reduction="none"
    ) + functional.cross_entropy(latitude_bins, _bin_of(latitude, _BINS[4]), reduction="none")
    length_part = (functional.softplus(numbers[:, -1]) - length).abs()
    return rotation_loss, direction_part * (length / 0.3).clamp(max=1.0) / 2 + length_part


def _split(numbers: Tensor) -> list[Tensor]:
    return list(numbers[:, :-1].split(_BINS, dim=1))


def _bin_of(angle_B: Tensor, count: int) -> Tensor:
    """360 bins of [-180°, 180°), or 180 of [-90°, 90°)."""
    half = count / 2
    return ((angle_B / _BIN_RAD + half).floor().long()).clamp(0, count - 1)


def _circular_peak(logits_BN: Tensor) -> Tensor:
    """The mean angle round the likeliest bin, as if the bins went once round the circle."""
    count = logits_BN.shape[1]
    step = 2 * math.pi / count
    centre_N = (torch.arange(count, device=logits_BN.device) + 0.5 - count / 2) * step
    peak_B1 = logits_BN.argmax(1, keepdim=True)
    away_BN = (torch.arange(count, device=logits_BN.device) - peak_B1 + count // 2) % count
    away_BN = away_BN - count // 2
    share_BN = logits_BN.masked_fill(away_BN.abs() > 3, -torch.inf).softmax(1)
    return centre_N[peak_B1[:, 0]] + (share_BN * away_BN * step).sum(1)


def _euler(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Rotation about x, then y, then z."""
    return roma.euler_to_rotmat("xyz", torch.stack([x, y, z], -1))


def _euler_angles(rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Angles: x and z in [-π, π], y in [-π/2, π/2]."""
    x = torch.atan2(rotation[:, 2, 1], rotation[:, 2, 2])
    y = torch.asin((-rotation[:, 2, 0]).clamp(-1, 1))
    z = torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])
    return x, y, z


def _essential(numbers: Tensor, heading_B3: Tensor) -> Tensor:
    """Numbers, beside what the heading alone says, to essential matrices (B, 3, 3)."""
    return project_to_essential(numbers.unflatten(-1, (3, 3)) + skew(heading_B3))


def _essential_pose(numbers: Tensor, heading_B3: Tensor) -> Rigid3d:
    near = torch.eye(3, device=numbers.device).expand(len(numbers), 3, 3)
    return take_apart(_essential(numbers, heading_B3), near).to(numbers.dtype)


def _essential_losses(numbers: Tensor, heading_B3: Tensor, true: Rigid3d) -> tuple[Tensor, Tensor]:
    """The one distance, for both errors: a matrix does not tell them apart."""
    loss = essential_loss(_essential(numbers, heading_B3), true)
    return loss, loss


def _following(decode: Callable[[Tensor], Rigid3d]) -> Decode:
    """The last number says how far to follow the heading, beside what the others say."""

    def following(numbers: Tensor, heading_B3: Tensor) -> Rigid3d:
        free = decode(numbers[:, :-1])
        return Rigid3d(free.rotation, free.translation + numbers[:, -1:] * heading_B3)

    return following


def _regressed(size: int, decode: Decode) -> Head:
    return Head(size, decode, partial(_pose_loss, decode))


HEADS: dict[HeadName, Head] = {
    "6d+t": _regressed(10, _following(_six_t)),
    "quat+t": _regressed(8, _following(_quat_t)),
    "se3": Head(7, _following(Rigid3d.exp), _se3_loss),
    "3d3d": _regressed(19, _following(_three_points)),
    "direction": _regressed(10, _direction),
    "binned": Head(sum(_BINS) + 1, _binned, _binned_loss),
    "quat+direction": Head(7, _quat_direction, _quat_direction_loss, has_scale=False),
    "essential": Head(9, _essential_pose, _essential_losses, has_scale=False, has_sign=False),
}
