"""Rigid transforms in three dimensions, named by their two frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast, overload

import roma
import torch
from torch import Tensor

# Below this angle (θ - sin θ) / θ³ loses digits, and two terms of its series are enough.
_SMALL_ANGLE_RAD = 1e-2


@dataclass(frozen=True, eq=False)
class Rigid3d:
    """The transform `b_from_a`: x_b = rotation @ x_a + translation.

    Attributes:
        rotation: (..., 3, 3), orthonormal with determinant +1.
        translation: (..., 3), in the unit of the scene (metres where it is metric).
    """

    rotation: Tensor
    translation: Tensor

    def __post_init__(self) -> None:
        batch = self.translation.shape[:-1]
        if self.translation.shape[-1:] != (3,) or self.rotation.shape != (*batch, 3, 3):
            raise ValueError(
                "Rigid3d takes rotation (..., 3, 3) and translation (..., 3), "
                f"not {tuple(self.rotation.shape)} and {tuple(self.translation.shape)}"
            )

    @staticmethod
    def identity(*batch: int, dtype: torch.dtype = torch.float64) -> Rigid3d:
        """The transform that moves nothing, in batch shape `batch`."""
        return Rigid3d(
            torch.eye(3, dtype=dtype).expand(*batch, 3, 3), torch.zeros(*batch, 3, dtype=dtype)
        )

    @staticmethod
    def from_matrix(matrix: Tensor, max_deviation: float = 1e-2) -> Rigid3d:
        """From homogeneous matrices (..., 3, 4) or (..., 4, 4).

        Rotations are re-orthonormalised (files carry few digits; 7-Scenes is off by 4e-4).

        Raises:
            ValueError: the shape is another, a value is not finite, the last row is not 0 0 0 1, or
                the rotation part is further than `max_deviation` (largest element of R Rᵀ - I) from
                a rotation, or is a reflection.
        """
        if matrix.shape[-2:] not in {(3, 4), (4, 4)}:
            raise ValueError(f"a pose matrix is 3x4 or 4x4, not {tuple(matrix.shape)}")
        rotation, translation = matrix[..., :3, :3], matrix[..., :3, 3]
        if not bool(matrix.isfinite().all()):
            raise ValueError("the pose has values that are not finite")
        if bool(((matrix[..., 3:, :] - matrix.new_tensor([0, 0, 0, 1])).abs() > 1e-6).any()):
            raise ValueError("the last row of the pose matrix is not 0 0 0 1: is it transposed?")
        eye = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
        deviation = (rotation @ rotation.mT - eye).abs()
        if bool((deviation > max_deviation).any()):
            raise ValueError(f"R Rᵀ differs from the identity by {float(deviation.max()):.3g}")
        if bool((torch.linalg.det(rotation) < 0).any()):
            raise ValueError("the rotation part is a reflection (determinant -1)")
        nearest = cast(Tensor, roma.special_procrustes(rotation))
        return Rigid3d(nearest, translation)

    @staticmethod
    def from_quat_wxyz(quat_wxyz: Tensor, translation: Tensor) -> Rigid3d:
        """From quaternions (..., 4), w first, and translations (..., 3).

        Raises:
            ValueError: a value is not finite, or a quaternion's norm is further than 1e-2 from 1.
        """
        if not bool(torch.isfinite(quat_wxyz).all() and torch.isfinite(translation).all()):
            raise ValueError("the pose has values that are not finite")
        norm = quat_wxyz.norm(dim=-1, keepdim=True)
        if bool(((norm - 1).abs() > 1e-2).any()):
            worst = float(norm.flatten()[(norm - 1).abs().flatten().argmax()])
            raise ValueError(f"the quaternion's norm is {worst:.4g}, not 1")
        return Rigid3d(roma.unitquat_to_rotmat((quat_wxyz / norm).roll(-1, -1)), translation)

    @staticmethod
    def exp(tangent: Tensor) -> Rigid3d:
        """The exponential map of SE(3). `tangent` (..., 6): rotation (rad), then translation."""
        omega, rho = tangent[..., :3], tangent[..., 3:]
        translation = (_left_jacobian(omega) @ rho[..., None])[..., 0]
        return Rigid3d(roma.rotvec_to_rotmat(omega), translation)

    def log(self) -> Tensor:
        """The inverse of `exp`: (..., 6), rotation (rad, at most π) then translation."""
        omega = roma.rotmat_to_rotvec(self.rotation)
        rho = torch.linalg.solve(_left_jacobian(omega), self.translation[..., None])[..., 0]
        return torch.cat([omega, rho], dim=-1)

    @property
    def matrix(self) -> Tensor:
        """Homogeneous (..., 4, 4)."""
        bottom = self.translation.new_tensor([0.0, 0.0, 0.0, 1.0])
        top = torch.cat([self.rotation, self.translation[..., None]], dim=-1)
        return torch.cat([top, bottom.expand(*top.shape[:-2], 1, 4)], dim=-2)

    @property
    def quat_wxyz(self) -> Tensor:
        """(..., 4), w first and w >= 0."""
        quat = roma.rotmat_to_unitquat(self.rotation).roll(1, -1)
        return torch.where(quat[..., :1] < 0, -quat, quat)

    @property
    def batch_shape(self) -> torch.Size:
        """The shape before the last axis of `translation`."""
        return self.translation.shape[:-1]

    def inverse(self) -> Rigid3d:
        """`a_from_b`."""
        rotation = self.rotation.mT
        return Rigid3d(rotation, -(rotation @ self.translation[..., None])[..., 0])

    @overload
    def __matmul__(self, other: Rigid3d) -> Rigid3d: ...
    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    def __matmul__(self, other: Rigid3d | Tensor) -> Rigid3d | Tensor:
        """Chain `c_from_b @ b_from_a` to `c_from_a`, or move points (..., N, 3) from a to b."""
        if isinstance(other, Rigid3d):
            moved = (self.rotation @ other.translation[..., None])[..., 0] + self.translation
            return Rigid3d(self.rotation @ other.rotation, moved)
        if other.dim() < 2:
            raise ValueError(f"a transform moves points (..., N, 3), not {tuple(other.shape)}")
        return other @ self.rotation.mT + self.translation[..., None, :]

    def __getitem__(self, index: Any) -> Rigid3d:
        """Index the batch axes as a tensor's: with numbers, slices, masks, lists, `...` or None."""
        # By way of positions: an index with an Ellipsis must not reach the axes of the matrices.
        device, batch_shape = self.translation.device, self.batch_shape
        positions = torch.arange(batch_shape.numel(), device=device).reshape(batch_shape)[index]
        rotations, translations = self.rotation.reshape(-1, 3, 3), self.translation.reshape(-1, 3)
        return Rigid3d(rotations[positions], translations[positions])

    def to(self, *args: Any, **kwargs: Any) -> Rigid3d:
        """As `Tensor.to`, for both parts."""
        return Rigid3d(self.rotation.to(*args, **kwargs), self.translation.to(*args, **kwargs))

    @staticmethod
    def stack(transforms: list[Rigid3d]) -> Rigid3d:
        """Transforms of one batch shape, stacked along a new first axis."""
        return Rigid3d(
            torch.stack([transform.rotation for transform in transforms]),
            torch.stack([transform.translation for transform in transforms]),
        )


def _left_jacobian(omega: Tensor) -> Tensor:
    """The left Jacobian of SO(3) at rotation vectors (..., 3): (..., 3, 3)."""
    angle = omega.norm(dim=-1)[..., None, None]
    small = angle < _SMALL_ANGLE_RAD
    safe = torch.where(small, torch.ones_like(angle), angle)
    # (1 - cos θ) / θ², without the difference that loses digits.
    first = torch.sinc(angle / (2 * math.pi)) ** 2 / 2
    second = torch.where(small, 1 / 6 - angle**2 / 120, (safe - safe.sin()) / safe**3)
    cross = skew(omega)
    eye = torch.eye(3, dtype=omega.dtype, device=omega.device)
    return eye + first * cross + second * (cross @ cross)


def skew(vector: Tensor) -> Tensor:
    """The matrices (..., 3, 3) that multiply by vectors (..., 3): the cross product a × b."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, dim=-1).reshape(*vector.shape[:-1], 3, 3)
