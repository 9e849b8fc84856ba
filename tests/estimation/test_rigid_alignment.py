"""Laws of aligning measured points with guesses: the pose, its covariance, and no answer."""

import math
import time

import pytest
import torch

from reloc.estimation.rigid_alignment import MIN_INLIERS, estimate_rigid_alignment
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad

MAX_ERROR = 0.1


def _measured(count: int, seed: int = 0) -> tuple[Rigid3d, torch.Tensor, torch.Tensor]:
    """A pose, and points of a room from the camera and in the world."""
    generator = torch.Generator().manual_seed(seed)
    cam_from_world = Rigid3d.exp(torch.randn(6, dtype=torch.float64, generator=generator))
    points_cam_N3 = torch.rand(count, 3, dtype=torch.float64, generator=generator) * 3
    points_cam_N3 += torch.tensor([-1.5, -1.5, 1.0], dtype=torch.float64)
    return cam_from_world, points_cam_N3, cam_from_world.inverse() @ points_cam_N3


def _among_wrong(
    points_N3: torch.Tensor, num_right: int, num_guesses: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Guesses (N, M, 3): right ones in a random slot of the first points, the rest anywhere."""
    generator = torch.Generator().manual_seed(seed)
    guesses = torch.rand(len(points_N3), num_guesses, 3, generator=generator).double() * 6 - 3
    slot = torch.randint(num_guesses, (num_right,), generator=generator)
    guesses[torch.arange(num_right), slot] = points_N3[:num_right]
    return guesses, torch.ones(len(points_N3), num_guesses)


def _errors(found: Rigid3d, truth: Rigid3d) -> tuple[float, float]:
    distance = (found.inverse().translation - truth.inverse().translation).norm()
    return float(distance), float(angle_between_rad(found.rotation, truth.rotation))


@pytest.mark.parametrize("num_right", [1000, 300, 120])
def test_right_guesses_among_many_wrong_ones_give_the_pose(num_right):
    truth, points_cam_N3, points_N3 = _measured(1000)
    guesses, weights = _among_wrong(points_N3, num_right, num_guesses=4)
    found = estimate_rigid_alignment(points_cam_N3, guesses, weights, MAX_ERROR)
    assert found is not None
    distance, angle_rad = _errors(found.cam_from_world, truth)
    # Some wrong guesses lie within the error that is allowed, and pull.
    assert distance < 0.01
    assert angle_rad < math.radians(0.3)
    assert bool(found.inliers_N[:num_right].all())
    assert found.inlier_ratio == pytest.approx(found.num_inliers / 1000)


def test_it_is_a_motion_and_never_a_reflection_or_a_scaling():
    """Mirrored or enlarged guesses fit no rigid pose, however many they are."""
    _, points_cam_N3, points_N3 = _measured(500)
    for guesses in (points_N3 * torch.tensor([-1.0, 1.0, 1.0]), points_N3 * 1.5):
        weights = torch.ones(500, 1)
        found = estimate_rigid_alignment(points_cam_N3, guesses[:, None], weights, MAX_ERROR)
        assert found is None or found.inlier_ratio < 0.2


def test_the_covariance_is_that_of_repeated_measurements():
    """Mahalanobis distances of errors under Gaussian noise follow chi-square with 6 degrees."""
    squared = []
    for seed in range(40):
        truth, points_cam_N3, points_N3 = _measured(150, seed)
        generator = torch.Generator().manual_seed(1000 + seed)
        noise = 0.01 * torch.randn(150, 1, 3, dtype=torch.float64, generator=generator)
        found = estimate_rigid_alignment(
            points_cam_N3, points_N3[:, None] + noise, torch.ones(150, 1), MAX_ERROR
        )
        assert found is not None
        error = (truth @ found.cam_from_world.inverse()).log()
        squared.append(float(error @ torch.linalg.solve(found.covariance, error)))
    mean = sum(squared) / len(squared)
    # The mean of 40 has a standard deviation of 0.55; the robust weights cost a little.
    assert 4.0 < mean < 8.0


def test_weights_say_which_guesses_count():
    """A guess of weight 0 is none, even where it is right."""
    truth, points_cam_N3, points_N3 = _measured(200)
    other = Rigid3d.exp(torch.tensor([0.3, -0.2, 0.4, 1.0, 0.5, -0.7], dtype=torch.float64))
    guesses = torch.stack([points_N3, other @ points_N3], dim=1)
    for kept, expected in ((0, truth), (1, truth @ other.inverse())):
        weights = torch.zeros(200, 2)
        weights[:, kept] = 1
        found = estimate_rigid_alignment(points_cam_N3, guesses, weights, MAX_ERROR)
        assert found is not None
        distance, angle_rad = _errors(found.cam_from_world, expected)
        assert distance < 1e-4
        assert angle_rad < 1e-4


def _degenerate(kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _, points_cam_N3, points_N3 = _measured(3000)
    weights = torch.ones(3000, 4)
    if kind == "all guesses equal":
        guesses = torch.zeros(3000, 4, 3)
    elif kind == "no guess":
        guesses, weights = _among_wrong(points_N3, 3000, 4)[0], torch.zeros(3000, 4)
    elif kind == "not measured":
        guesses, _ = _among_wrong(points_N3, 3000, 4)
        points_cam_N3 = torch.full_like(points_cam_N3, torch.nan)
    elif kind == "chance":
        guesses, _ = _among_wrong(points_N3, 0, 4)
        guesses = guesses * 10
    elif kind == "a line":
        points_cam_N3 = points_cam_N3[:, 2:] * torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64)
        guesses = points_cam_N3[:, None].expand(-1, 4, -1)
    else:
        points_cam_N3, guesses, weights = points_cam_N3[:2], points_N3[:2, None], weights[:2, :1]
    return points_cam_N3, guesses, weights


KINDS = ["all guesses equal", "no guess", "not measured", "chance", "a line", "two points"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_fixes_no_pose_is_declined_in_the_time_of_an_answer(kind):
    _, points_cam_N3, points_N3 = _measured(3000)
    guesses, weights = _among_wrong(points_N3, 600, 4)
    started = time.process_time()
    assert estimate_rigid_alignment(points_cam_N3, guesses, weights, MAX_ERROR) is not None
    answered = time.process_time()
    found = estimate_rigid_alignment(*_degenerate(kind), MAX_ERROR)
    declined = time.process_time()
    assert found is None or found.inlier_ratio < 0.02
    assert declined - answered < 5 * (answered - started) + 0.1


def test_the_same_seed_gives_the_same_pose_and_leaves_the_random_state_alone():
    _, points_cam_N3, points_N3 = _measured(500)
    guesses, weights = _among_wrong(points_N3, 200, 4)
    state = torch.get_rng_state()
    poses = [
        estimate_rigid_alignment(points_cam_N3, guesses, weights, MAX_ERROR, seed)
        for seed in (3, 3, 4)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    matrices = [pose.cam_from_world.matrix for pose in poses if pose is not None]
    assert torch.equal(matrices[0], matrices[1])
    # Another seed draws other samples, and ends at the same place.
    torch.testing.assert_close(matrices[0], matrices[2], rtol=0, atol=1e-3)


def test_as_few_points_as_may_agree_are_enough():
    truth, points_cam_N3, points_N3 = _measured(MIN_INLIERS)
    found = estimate_rigid_alignment(
        points_cam_N3, points_N3[:, None], torch.ones(MIN_INLIERS, 1), MAX_ERROR
    )
    assert found is not None
    assert _errors(found.cam_from_world, truth)[0] < 1e-5
