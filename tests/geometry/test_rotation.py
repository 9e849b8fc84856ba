import math

import pytest
import roma
import torch

from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad, turned_from_cam


def rotation_by(angle_rad: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    axis = torch.tensor([2.0, -1.0, 2.0], dtype=dtype) / 3
    return roma.rotvec_to_rotmat(angle_rad * axis)


@pytest.mark.parametrize("angle_rad", [0.0, 1e-9, 1e-5, 0.3, 3.0, math.pi - 1e-6, math.pi])
def test_angle_is_the_angle_that_was_turned_by(angle_rad: float) -> None:
    start = roma.random_rotmat(8, generator=torch.Generator().manual_seed(0)).double()
    start = roma.special_procrustes(start)
    turned = rotation_by(angle_rad) @ start
    measured = angle_between_rad(turned, start)
    expected = torch.full((8,), angle_rad, dtype=torch.float64)
    torch.testing.assert_close(measured, expected, rtol=1e-6, atol=1e-9)


def test_float32_sees_a_hundredth_of_a_degree() -> None:
    angle_rad = math.radians(0.01)
    measured = angle_between_rad(rotation_by(angle_rad, torch.float32), torch.eye(3))
    assert float(measured) == pytest.approx(angle_rad, rel=1e-3)


def test_angle_is_a_metric_that_common_rotations_do_not_change() -> None:
    a, b, c, common = (
        roma.random_rotmat(50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed in range(4)
    )
    torch.testing.assert_close(angle_between_rad(a, b), angle_between_rad(b, a))
    torch.testing.assert_close(angle_between_rad(common @ a, common @ b), angle_between_rad(a, b))
    torch.testing.assert_close(angle_between_rad(a @ common, b @ common), angle_between_rad(a, b))
    detour = angle_between_rad(a, b) + angle_between_rad(b, c)
    assert bool((angle_between_rad(a, c) <= detour + 1e-12).all())
    assert bool((angle_between_rad(a, b) >= 0).all())
    assert bool((angle_between_rad(a, b) <= math.pi).all())


@pytest.mark.parametrize("angle_rad", [1e-3, 1.0, 3.0])
def test_derivatives_of_the_angle(angle_rad: float) -> None:
    other = rotation_by(0.7)
    rotvec = (angle_rad * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda rotvec: angle_between_rad(roma.rotvec_to_rotmat(rotvec) @ other, other), rotvec
    )


def test_the_derivative_at_no_angle_is_no_nan() -> None:
    rotation = torch.eye(3, dtype=torch.float64, requires_grad=True)
    angle_between_rad(rotation, torch.eye(3, dtype=torch.float64)).backward()
    assert rotation.grad is not None
    assert bool(rotation.grad.isfinite().all())


def test_what_is_right_in_a_picture_is_below_after_a_clockwise_quarter_turn() -> None:
    right = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
    below = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(turned_from_cam(1) @ right, below)


def test_quarter_turns_add_up() -> None:
    for first in range(-4, 5):
        for second in range(4):
            torch.testing.assert_close(
                (turned_from_cam(first) @ turned_from_cam(second)).matrix,
                turned_from_cam(first + second).matrix,
                rtol=0,
                atol=0,
            )
    torch.testing.assert_close(turned_from_cam(4).matrix, Rigid3d.identity().matrix)
