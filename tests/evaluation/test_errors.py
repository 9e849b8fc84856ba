from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posed_views import random_poses
from reloc.evaluation.errors import normalized_error_squared, position_error, rotation_error_deg
from reloc.geometry.rigid3d import Rigid3d

seeds = st.integers(0, 2**31)


def moved(cam_from_world: Rigid3d, angle_deg: float, distance: float, seed: int) -> Rigid3d:
    """The pose with its camera turned by the angle about some axis, and its centre moved."""
    generator = torch.Generator().manual_seed(seed)
    axis, direction = torch.nn.functional.normalize(
        torch.randn(2, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    world_from_cam = cam_from_world.inverse()
    turn = Rigid3d.exp(torch.cat([axis * math.radians(angle_deg), torch.zeros(3)]).double())
    turned = world_from_cam @ turn
    return Rigid3d(turned.rotation, turned.translation + distance * direction).inverse()


@given(seeds, st.floats(0, 179.9), st.floats(0, 1e4))
def test_errors_are_the_turn_and_the_shift_that_were_made(
    seed: int, angle_deg: float, distance: float
) -> None:
    truth = random_poses(1, seed)[0]
    estimate = moved(truth, angle_deg, distance, seed)
    assert float(rotation_error_deg(estimate, truth)) == pytest.approx(angle_deg, abs=1e-9)
    assert float(position_error(estimate, truth)) == pytest.approx(distance, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("angle_deg", [1e-6, 1e-5, 1e-3, 0.02, 179.999999])
def test_small_and_flat_angles_are_resolved(angle_deg: float) -> None:
    truth = random_poses(20)
    for i in range(20):
        estimate = moved(truth[i], angle_deg, 0.0, seed=i)
        error_deg = float(rotation_error_deg(estimate, truth[i]))
        assert error_deg == pytest.approx(angle_deg, rel=1e-6 if angle_deg < 1 else 1e-10)


@given(seeds)
def test_errors_do_not_depend_on_the_world(seed: int) -> None:
    truth, estimate = random_poses(6, seed), random_poses(6, seed + 1)
    world_from_other = random_poses(1, seed + 2, spread=50.0)[0]
    for error in (position_error, rotation_error_deg):
        here = error(estimate, truth)
        there = error(estimate @ world_from_other, truth @ world_from_other)
        torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9)


@given(seeds)
def test_errors_are_distances(seed: int) -> None:
    a, b, c = (random_poses(4, seed + i) for i in range(3))
    for error in (position_error, rotation_error_deg):
        torch.testing.assert_close(error(a, b), error(b, a), rtol=1e-12, atol=1e-12)
        assert bool((error(a, c) <= error(a, b) + error(b, c) + 1e-9).all())
        assert float(error(a, a).max()) < 1e-12


def test_normalized_errors_follow_their_law_when_the_covariance_is_right() -> None:
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64) * 0.01
    covariance = root @ root.mT
    errors = torch.randn(4000, 6, generator=generator, dtype=torch.float64) @ root.mT
    estimate = random_poses(4000, 4)
    truth = Rigid3d.exp(errors) @ estimate

    squared = normalized_error_squared(estimate, truth, covariance.expand(4000, 6, 6))
    # Mean 6 and variance 12 of χ² with 6 degrees of freedom; 4 standard errors.
    assert float(squared.mean()) == pytest.approx(6.0, abs=4 * math.sqrt(12 / 4000))
    # 95 % of its mass lies below 12.592.
    assert float((squared < 12.592).double().mean()) == pytest.approx(0.95, abs=0.014)
    four_times = normalized_error_squared(estimate, truth, 4 * covariance.expand(4000, 6, 6))
    torch.testing.assert_close(four_times, squared / 4)


def test_a_covariance_that_claims_certainty_must_hold() -> None:
    pose = random_poses(1)[0]
    certain = torch.diag(torch.tensor([1e-4, 1e-4, 1e-4, 0.0, 1e-4, 1e-4], dtype=torch.float64))
    shift = torch.zeros(6, dtype=torch.float64)
    shift[4] = 1e-2
    along = Rigid3d(torch.eye(3, dtype=torch.float64), shift[3:])
    origin = Rigid3d.identity()
    assert float(normalized_error_squared(origin, along, certain)) == pytest.approx(1.0)
    shift[3] = 1e-3
    assert float(normalized_error_squared(pose, Rigid3d.exp(shift) @ pose, certain)) == math.inf
