from __future__ import annotations

import pytest
import torch

from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.methods.absolute.odometry import Motion
from reloc.methods.absolute.pose_graph import optimized


def path(count: int) -> Rigid3d:
    """cam_from_world along a bend."""
    time = torch.linspace(0, 1, count, dtype=torch.float64)
    zero = torch.zeros_like(time)
    turns = torch.stack([zero, 0.5 * time, zero], dim=-1)
    moves = torch.stack([time, zero, time.square()], dim=-1)
    return Rigid3d.exp(torch.cat([turns, moves], dim=-1))


def motions_of(cam_from_world: Rigid3d) -> list[Motion]:
    count = len(cam_from_world.translation)
    found = []
    for first in range(count - 1):
        step = cam_from_world[first + 1] @ cam_from_world[first].inverse()
        unit = step.translation / step.translation.norm()
        found.append(Motion(first, first + 1, Rigid3d(step.rotation, unit), True))
    return found


def errors(found: Rigid3d, true: Rigid3d) -> tuple[float, float]:
    """Mean distance of the centres, and mean angle in degrees."""
    apart = (found.inverse().translation - true.inverse().translation).norm(dim=-1)
    return float(apart.mean()), float(
        angle_between_rad(found.rotation, true.rotation).rad2deg().mean()
    )


def test_right_poses_stay_where_they_are() -> None:
    pytest.importorskip("gtsam")
    true = path(8)
    found = optimized(true, motions_of(true), 7)
    distance, angle_deg = errors(found, true)
    assert distance < 1e-4
    assert angle_deg < 1e-3


def test_odometry_mends_noisy_predictions() -> None:
    pytest.importorskip("gtsam")
    true = path(12)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    noisy = Rigid3d.exp(noise * torch.tensor([0.05] * 3 + [0.05] * 3)) @ true
    before, after = errors(noisy, true), errors(optimized(noisy, motions_of(true), 7), true)
    assert after[1] < 0.7 * before[1]
    assert after[0] < before[0]


def test_frames_without_a_motion_keep_their_predictions() -> None:
    pytest.importorskip("gtsam")
    true = path(4)
    torch.testing.assert_close(optimized(true, [], 3).matrix, true.matrix, rtol=0, atol=1e-6)
