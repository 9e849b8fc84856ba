"""Laws of absolute pose: exact data gives the pose, noise its covariance, nonsense None."""

import math
from dataclasses import replace

import pytest
import torch

from reloc.estimation.absolute import estimate_absolute_pose, pose_covariance
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad

CAMERAS = [
    Camera.simple_pinhole(525.0, 640, 480),
    Camera.of("PINHOLE", 480, 640, [500.0, 540.0, 230.0, 330.0]),
    Camera.of("SIMPLE_RADIAL", 800, 600, [666.0, 400.0, 300.0, -0.05]),
    Camera.of("OPENCV", 540, 960, [687.0, 688.0, 277.0, 482.0, 0.06, -0.08, -0.001, 0.0002]),
]


def _seen(camera: Camera, count: int, seed: int = 0) -> tuple[Rigid3d, torch.Tensor, torch.Tensor]:
    """A pose, and points with the pixels where it sees them."""
    generator = torch.Generator().manual_seed(seed)
    cam_from_world = Rigid3d.exp(torch.randn(6, dtype=torch.float64, generator=generator))
    size = torch.tensor([camera.width, camera.height])
    pixels_N2 = torch.rand(count, 2, dtype=torch.float64, generator=generator) * size
    depth_N1 = 1 + 4 * torch.rand(count, 1, dtype=torch.float64, generator=generator)
    rays_N3 = torch.nn.functional.pad(camera.cam_from_img(pixels_N2), (0, 1), value=1.0)
    return cam_from_world, cam_from_world.inverse() @ (rays_N3 * depth_N1), pixels_N2


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.model)
def test_exact_correspondences_give_the_exact_pose_in_spite_of_outliers(camera):
    truth, points_N3, pixels_N2 = _seen(camera, 200)
    wrong_N2 = pixels_N2[:100].roll(1, 0)
    # An outlier that lands near the right pixel by chance would not be one.
    near_N = (wrong_N2 - pixels_N2[:100]).norm(dim=1) < 30
    wrong_N2[near_N] = pixels_N2[:100][near_N] + 60
    pixels_N2[:100] = wrong_N2
    found = estimate_absolute_pose(pixels_N2, points_N3, camera, max_error_px=4.0)
    assert found is not None
    assert float(angle_between_rad(found.cam_from_world.rotation, truth.rotation)) < 1e-6
    assert (found.cam_from_world.translation - truth.translation).norm() < 1e-6
    assert bool(found.inliers_N[100:].all())
    assert found.num_inliers == 100


def test_an_unknown_focal_length_is_found():
    camera = Camera.simple_pinhole(700.0, 640, 480)
    truth, points_N3, pixels_N2 = _seen(camera, 300)
    pixels_N2[:90] = pixels_N2[:90].roll(1, 0)
    found = estimate_absolute_pose(pixels_N2, points_N3, Camera.guess(640, 480), max_error_px=4.0)
    assert found is not None
    assert float(found.camera.focal[0]) == pytest.approx(700.0, rel=1e-4)
    assert (found.cam_from_world.translation - truth.translation).norm() < 1e-3


def test_the_covariance_is_that_of_repeated_measurements():
    """Mahalanobis distances of errors under Gaussian noise follow chi-square with 6 degrees."""
    camera = CAMERAS[2]
    truth, points_N3, pixels_N2 = _seen(camera, 80)
    generator = torch.Generator().manual_seed(5)
    squared = []
    for _ in range(150):
        noise_N2 = torch.randn(pixels_N2.shape, dtype=torch.float64, generator=generator)
        found = estimate_absolute_pose(pixels_N2 + noise_N2, points_N3, camera, max_error_px=8.0)
        assert found is not None
        error = (truth @ found.cam_from_world.inverse()).log()
        squared.append(float(error @ torch.linalg.solve(found.covariance, error)))
    # The mean of 150 such distances has a standard error of sqrt(12 / 150) = 0.28; the estimator is
    # robust rather than least squares, which costs a little.
    assert 6 - 4 * 0.28 < sum(squared) / len(squared) < 6 * 1.25 + 4 * 0.28


def test_the_covariance_grows_with_the_noise_and_shrinks_with_the_count():
    camera = CAMERAS[0]
    truth, points_N3, pixels_N2 = _seen(camera, 400)
    generator = torch.Generator().manual_seed(1)
    noise_N2 = torch.randn(pixels_N2.shape, dtype=torch.float64, generator=generator)

    def sigma(count: int, scale: float) -> float:
        pixels = pixels_N2[:count] + scale * noise_N2[:count]
        covariance = pose_covariance(truth, pixels, points_N3[:count], camera)
        assert covariance is not None
        return math.sqrt(float(covariance.diagonal().sum()))

    assert sigma(400, 2.0) == pytest.approx(2 * sigma(400, 1.0), rel=1e-6)
    assert sigma(400, 1.0) == pytest.approx(sigma(100, 1.0) / 2, rel=0.2)


@pytest.mark.parametrize(
    "points",
    [
        torch.zeros(50, 3),
        torch.full((50, 3), torch.nan),
        torch.arange(50.0)[:, None] * torch.tensor([1.0, 2.0, 3.0]),
        torch.randn(5, 3),
        torch.zeros(0, 3),
    ],
    ids=["all equal", "not numbers", "on a line", "too few", "none"],
)
def test_degenerate_points_give_none(points):
    generator = torch.Generator().manual_seed(2)
    pixels = torch.rand(len(points), 2, generator=generator) * 400
    assert estimate_absolute_pose(pixels, points, CAMERAS[0], max_error_px=4.0) is None
    assert estimate_absolute_pose(pixels, points, Camera.guess(640, 480), max_error_px=4.0) is None


def test_the_same_seed_gives_the_same_pose():
    _, points_N3, pixels_N2 = _seen(CAMERAS[0], 120)
    pixels_N2[:80] = pixels_N2[:80].roll(1, 0)
    for camera in (CAMERAS[0], Camera.guess(640, 480)):
        first, second = (
            estimate_absolute_pose(pixels_N2, points_N3, camera, 4.0, seed=3) for _ in range(2)
        )
        assert first is not None
        assert second is not None
        assert torch.equal(first.cam_from_world.matrix, second.cam_from_world.matrix)


def test_the_covariance_knows_that_the_focal_length_was_estimated_too():
    """It trades off with the depth: without it, such errors were 10 times too large and more."""
    camera = CAMERAS[0].with_focal(600.0)
    truth, points_N3, pixels_N2 = _seen(camera, 150)
    guessed = camera.with_focal(500.0, has_prior_focal=False)
    generator = torch.Generator().manual_seed(6)
    squared = []
    for _ in range(40):
        noise_N2 = torch.randn(pixels_N2.shape, dtype=torch.float64, generator=generator)
        found = estimate_absolute_pose(pixels_N2 + noise_N2, points_N3, guessed, max_error_px=8.0)
        assert found is not None
        error = (truth @ found.cam_from_world.inverse()).log()
        squared.append(float(error @ torch.linalg.solve(found.covariance, error)))
        known = replace(found.camera, has_prior_focal=True)
        agreeing = found.inliers_N
        sure = pose_covariance(
            found.cam_from_world, pixels_N2[agreeing], points_N3[agreeing], known
        )
        assert sure is not None
        assert float(found.covariance[5, 5]) > float(sure[5, 5])
    # The median of chi-square with 6 degrees is 5.3; what estimates the focal length is no exact
    # least-squares fit.
    assert float(torch.tensor(squared).median()) < 2 * 5.3
