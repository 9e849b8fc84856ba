"""Laws of averaging: exact where all agree, bounded where some do not, else no answer."""

import math

import pytest
import roma
import torch

from posed_views import random_poses
from reloc.estimation.averaging import (
    average_poses,
    average_rotations,
    geometric_median,
    triangulate_camera,
)
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad


def _near(pose: Rigid3d, count: int, angle_rad: float, distance: float, seed: int = 0) -> Rigid3d:
    """Poses scattered round one."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    size = torch.tensor([angle_rad] * 3 + [distance] * 3, dtype=torch.float64)
    return Rigid3d.exp(noise * size) @ Rigid3d(
        pose.rotation.expand(count, 3, 3), pose.translation.expand(count, 3)
    )


def _chained(poses: Rigid3d, count: int, other: Rigid3d) -> Rigid3d:
    return poses @ Rigid3d(other.rotation.expand(count, 3, 3), other.translation.expand(count, 3))


def test_copies_average_to_themselves():
    pose = random_poses(1)[0]
    found = average_poses(_near(pose, 5, 0.0, 0.0))
    assert found is not None
    torch.testing.assert_close(found.cam_from_world.matrix, pose.matrix)
    assert float(found.angles_rad_N.max()) < 1e-7
    assert float(found.distances_N.max()) < 1e-7


def test_a_third_of_wrong_poses_moves_the_mean_little():
    truth = random_poses(1, seed=3)[0]
    right, wrong = _near(truth, 20, 0.01, 0.01), random_poses(10, seed=5, spread=10.0)
    all_poses = Rigid3d(
        torch.cat([right.rotation, wrong.rotation]),
        torch.cat([right.translation, wrong.translation]),
    )
    found = average_poses(all_poses)
    assert found is not None
    assert float(angle_between_rad(found.cam_from_world.rotation, truth.rotation)) < 0.02
    distance = (found.cam_from_world.inverse().translation - truth.inverse().translation).norm()
    assert float(distance) < 0.05
    # What the wrong ones say is far from the mean, and is told to be.
    assert float(found.angles_rad_N[20:].min()) > float(found.angles_rad_N[:20].max())


def test_the_mean_moves_with_the_world_and_does_not_depend_on_the_order():
    poses, world_from_other = random_poses(9, seed=1), random_poses(1, seed=2)[0]
    weights = torch.rand(9, generator=torch.Generator().manual_seed(0))
    found = average_poses(poses, weights)
    moved = average_poses(_chained(poses, 9, world_from_other), weights)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = average_poses(poses[order], weights[order])
    assert found is not None
    assert moved is not None
    assert shuffled is not None
    expected = (found.cam_from_world @ world_from_other).matrix
    torch.testing.assert_close(moved.cam_from_world.matrix, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        shuffled.cam_from_world.matrix, found.cam_from_world.matrix, rtol=0, atol=1e-5
    )


def test_the_rotation_mean_is_the_one_with_the_least_sum_of_angles():
    rotations = random_poses(7, seed=4).rotation
    weights = torch.arange(1.0, 8.0)
    mean = average_rotations(rotations, weights)
    assert mean is not None
    best = float((angle_between_rad(rotations, mean) * weights).sum())
    for step in torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() * 0.01:
        other = roma.rotvec_to_rotmat(step) @ mean
        assert float((angle_between_rad(rotations, other) * weights).sum()) > best - 1e-6


def test_weights_decide_between_two():
    poses = random_poses(2, seed=8)
    for heavy in (0, 1):
        weights = torch.ones(2)
        weights[heavy] = 3.0
        found = average_poses(poses, weights)
        assert found is not None
        torch.testing.assert_close(found.cam_from_world.matrix, poses[heavy].matrix)


def test_what_is_not_finite_or_weighs_nothing_plays_no_part():
    poses = random_poses(4, seed=6)
    broken = Rigid3d(poses.rotation, poses.translation.clone())
    broken.translation[1] = torch.nan
    weights = torch.tensor([1.0, 5.0, 0.0, 0.0])
    found = average_poses(broken, weights)
    assert found is not None
    torch.testing.assert_close(found.cam_from_world.matrix, poses[0].matrix)
    assert math.isinf(float(found.angles_rad_N[1]))
    assert average_poses(broken, torch.tensor([0.0, 1.0, 0.0, 0.0])) is None
    assert average_poses(poses, torch.zeros(4)) is None
    assert average_rotations(poses.rotation[:0]) is None
    assert geometric_median(torch.zeros(0, 3)) is None


def test_the_median_of_collinear_points_is_one_of_them():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [50, 0, 0]])
    median = geometric_median(points)
    assert median is not None
    torch.testing.assert_close(median, points[1].double(), rtol=0, atol=1e-6)


def _directions(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    center_3 = torch.randn(3, generator=generator, dtype=torch.float64)
    places_N3 = torch.randn(count, 3, generator=generator, dtype=torch.float64) * 2
    return center_3, places_N3, center_3 - places_N3


@pytest.mark.parametrize("signed", [True, False])
def test_a_camera_is_where_exact_directions_meet(signed):
    center_3, places_N3, directions_N3 = _directions(5)
    lengths = torch.tensor([1.0, 0.1, 3.0, 10.0, 0.5], dtype=torch.float64)[:, None]
    if not signed:
        lengths = lengths * torch.tensor([1.0, -1, 1, -1, -1], dtype=torch.float64)[:, None]
    found = triangulate_camera(places_N3, directions_N3 * lengths, signed=signed)
    assert found is not None
    torch.testing.assert_close(found.center_3, center_3)
    assert bool(found.inliers_N.all())


def test_wrong_directions_are_told_and_left_out():
    center_3, places_N3, directions_N3 = _directions(12, seed=1)
    generator = torch.Generator().manual_seed(2)
    directions_N3 = directions_N3 / directions_N3.norm(dim=-1, keepdim=True)
    directions_N3 += 0.005 * torch.randn(12, 3, generator=generator, dtype=torch.float64)
    directions_N3[8:] = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    found = triangulate_camera(places_N3, directions_N3, max_angle_deg=5.0)
    assert found is not None
    assert float((found.center_3 - center_3).norm()) < 0.03
    assert bool(found.inliers_N[:8].all())
    assert not bool(found.inliers_N[8:].any())


def test_directions_that_point_away_meet_nowhere():
    _, places_N3, directions_N3 = _directions(2, seed=3)
    assert triangulate_camera(places_N3, directions_N3) is not None
    assert triangulate_camera(places_N3, -directions_N3) is None
    assert triangulate_camera(places_N3, -directions_N3, signed=False) is not None


def test_parallel_directions_and_single_ones_give_no_camera():
    places_N3 = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ahead = torch.tensor([[0.0, 0, 1]]).expand(4, 3)
    assert triangulate_camera(places_N3, ahead) is None
    assert triangulate_camera(places_N3[:1], ahead[:1]) is None
    assert triangulate_camera(places_N3, torch.zeros(4, 3)) is None
    assert triangulate_camera(places_N3, torch.full((4, 3), torch.nan)) is None
    # All on one line with the camera: the directions cross nowhere.
    line = torch.tensor([[float(x), 0, 0] for x in range(4)])
    assert triangulate_camera(line, torch.tensor([[1.0, 0, 0]]).expand(4, 3)) is None
