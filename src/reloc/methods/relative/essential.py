"""Essential matrices as a network says them: projected, taken apart, and put together in the world.

Source: Zhou, Sattler, Pollefeys and Leal-Taixé, "To learn or not to learn: visual localization from
essential matrices", ICRA 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from reloc.geometry.rigid3d import Rigid3d, skew

# Singular values of the target are equal, where the gradient of their vectors is without bounds.
_APART = 1e-3


def essential_of(pose: Rigid3d) -> Tensor:
    """[t]× R (..., 3, 3) with t of length 1: of Frobenius norm √2."""
    unit = functional.normalize(pose.translation, dim=-1)
    return skew(unit) @ pose.rotation


def project_to_essential(matrix_B33: Tensor) -> Tensor:
    """The nearest matrices with two equal singular values and a zero, of Frobenius norm √2."""
    noise = torch.diag(matrix_B33.new_tensor([_APART, 0.0, -_APART]))
    left, _, right = torch.linalg.svd(matrix_B33 + noise)
    values = matrix_B33.new_tensor([1.0, 1.0, 0.0])
    return (left * values) @ right


def take_apart(essential_B33: Tensor, near_B33: Tensor) -> Rigid3d:
    """Poses (B,) of essential matrices, the one of their two rotations that is nearer to `near`.

    The sign of a translation, which is of length 1, has no meaning: E is only known up to its own.
    """
    left, _, right = torch.linalg.svd(essential_B33.double())
    left = left * torch.linalg.det(left).sign()[:, None, None]
    right = right * torch.linalg.det(right).sign()[:, None, None]
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    quarter = quarter.to(left.device)
    both_B233 = torch.stack([left @ quarter @ right, left @ quarter.T @ right], dim=1)
    alike_B2 = (both_B233 * near_B33.double()[:, None]).sum((-1, -2))
    rotation = both_B233[torch.arange(len(left)), alike_B2.argmax(1)]
    return Rigid3d(rotation, left[..., 2])


def essential_loss(found_B33: Tensor, true: Rigid3d) -> Tensor:
    """Frobenius distance (B,) to the true essential matrix or its negative, the nearer one.

    Less of pairs from about one place, whose translation has no direction to speak of.
    """
    true_B33 = essential_of(true)
    distances = torch.stack(
        [(found_B33 - sign * true_B33).square().sum((-1, -2)) for sign in (1.0, -1.0)]
    )
    known = (true.translation.norm(dim=-1) / 0.3).clamp(max=1.0)
    return known * (distances.amin(0) + 1e-10).sqrt()
