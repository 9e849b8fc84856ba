from __future__ import annotations

import math

import pytest
import roma
import torch
from torch import Tensor

from reloc.geometry.rotation import angle_between_rad
from reloc.nn.rotations import (
    PARAMETRIZATIONS,
    RotationName,
    bin_cross_entropy,
    bin_targets,
    matrix_from_quaternion,
    quaternion_conjugate,
    quaternion_from_matrix,
    quaternion_log,
    quaternion_product,
)

NAMES: list[RotationName] = list(PARAMETRIZATIONS)


def rotations(count: int = 200) -> Tensor:
    """Random ones, and the angles where formulas have corners."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    axes = axes / axes.norm(dim=-1, keepdim=True)
    angles = math.pi * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    angles[:4, 0] = torch.tensor([0.0, 1e-9, 1e-4, math.pi - 1e-3])
    return roma.rotvec_to_rotmat(axes * angles)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_a_rotation_are_read_as_it(name: RotationName) -> None:
    row = PARAMETRIZATIONS[name]
    rotation = rotations()
    numbers = row.from_matrix(rotation)
    assert numbers.shape == (len(rotation), row.size)
    error_deg = angle_between_rad(row.to_matrix(numbers), rotation).rad2deg()
    if name == "euler-bins":
        # Bins are 5 degrees wide and their neighbours tell the rest, but where these are cut off:
        # next to half a turn about y.
        assert float(error_deg.median()) < 0.5
        assert float(error_deg.max()) < 5.0
    else:
        assert float(error_deg.max()) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_any_numbers_are_a_rotation(name: RotationName) -> None:
    row = PARAMETRIZATIONS[name]
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(50, row.size, generator=generator)
    numbers[0], numbers[1] = 0.0, 1e3
    rotation = row.to_matrix(numbers)
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3).expand(50, 3, 3), rtol=0, atol=1e-4
    )
    assert bool((torch.linalg.det(rotation) > 0).all())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "euler-bins"])
def test_gradients_are_finite_also_at_no_turn(name: RotationName) -> None:
    row = PARAMETRIZATIONS[name]
    numbers = torch.stack(
        [row.from_matrix(torch.eye(3)), row.from_matrix(rotations()[7].float())]
    ).requires_grad_()
    weights = torch.arange(9.0).view(3, 3)
    (row.to_matrix(numbers) * weights).sum().backward()
    assert numbers.grad is not None
    assert bool(numbers.grad.isfinite().all())
    assert float(numbers.grad[1].abs().max()) > 0


def test_the_logarithm_is_half_the_rotation_vector_and_the_same_for_both_signs() -> None:
    rotation = rotations()
    quaternion = quaternion_from_matrix(rotation)
    torch.testing.assert_close(
        2 * quaternion_log(quaternion), roma.rotmat_to_rotvec(rotation), rtol=0, atol=1e-7
    )
    torch.testing.assert_close(quaternion_log(-quaternion), quaternion_log(quaternion))


def test_quaternions_multiply_as_rotations_do() -> None:
    first, second = rotations()[:100], rotations()[100:]
    product = quaternion_product(quaternion_from_matrix(first), quaternion_from_matrix(second))
    torch.testing.assert_close(matrix_from_quaternion(product), first @ second)
    back = quaternion_conjugate(quaternion_from_matrix(first))
    torch.testing.assert_close(matrix_from_quaternion(back), first.mT)


def test_bins_are_probabilities_and_the_right_ones_cost_least() -> None:
    rotation = rotations()
    targets = bin_targets(rotation)
    torch.testing.assert_close(targets.sum(-1), torch.full_like(targets[:, 0], 3.0))
    right = bin_cross_entropy(targets.clamp_min(1e-9).log(), rotation)
    wrong = bin_cross_entropy(targets.roll(100, 0).clamp_min(1e-9).log(), rotation)
    assert bool((right < wrong).all())
