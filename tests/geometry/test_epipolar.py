import math

import pytest
import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.epipolar import epipolar_error_px, essential_matrix, fundamental_matrix
from reloc.geometry.rigid3d import Rigid3d

CAMERA0 = Camera.of("SIMPLE_RADIAL", 800, 600, [666, 400, 300, -0.1])
CAMERA1 = Camera.of("OPENCV_FISHEYE", 640, 640, [300, 310, 320, 330, 0.02, -0.01, 0.002, 0.0])
CAM1_FROM_CAM0 = Rigid3d.exp(torch.tensor([0.05, -0.2, 0.1, -0.5, 0.1, 0.05]).double())


def pixels_of_random_points(count: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    points_cam0 = torch.rand(count, 3, dtype=torch.float64, generator=generator) - 0.5
    points_cam0 = points_cam0 * torch.tensor([2.0, 1.5, 2.0]) + torch.tensor([0, 0, 3.0])
    points_cam1 = CAM1_FROM_CAM0 @ points_cam0
    return CAMERA0.img_from_cam(points_cam0), CAMERA1.img_from_cam(points_cam1)


def test_projections_of_one_point_have_no_error_through_any_lens() -> None:
    pixels0, pixels1 = pixels_of_random_points()
    error_px = epipolar_error_px(pixels0, pixels1, CAMERA0, CAMERA1, CAM1_FROM_CAM0)
    assert float(error_px.max()) < 1e-9


def test_the_error_does_not_depend_on_which_image_is_first() -> None:
    pixels0, pixels1 = pixels_of_random_points()
    pixels1 = pixels1 + torch.randn(pixels1.shape, generator=torch.Generator().manual_seed(1))
    forth = epipolar_error_px(pixels0, pixels1, CAMERA0, CAMERA1, CAM1_FROM_CAM0)
    back = epipolar_error_px(pixels1, pixels0, CAMERA1, CAMERA0, CAM1_FROM_CAM0.inverse())
    torch.testing.assert_close(forth, back)


def test_noise_of_some_pixels_is_an_error_of_so_many_pixels() -> None:
    camera = Camera.simple_pinhole(500, 640, 480)
    generator = torch.Generator().manual_seed(2)
    points_cam0 = torch.rand(20000, 3, dtype=torch.float64, generator=generator)
    points_cam0 = points_cam0 + torch.tensor([-0.5, -0.5, 2.0])
    pixels0 = camera.img_from_cam(points_cam0)
    pixels1 = camera.img_from_cam(CAM1_FROM_CAM0 @ points_cam0)
    noise_px = 0.5
    noisy0, noisy1 = (
        pixels + noise_px * torch.randn(pixels.shape, dtype=torch.float64, generator=generator)
        for pixels in (pixels0, pixels1)
    )
    error_px = epipolar_error_px(noisy0, noisy1, camera, camera, CAM1_FROM_CAM0)
    assert float(error_px.square().mean().sqrt()) == pytest.approx(noise_px, rel=0.02)


def test_the_length_of_the_baseline_does_not_matter_and_its_absence_is_no_number() -> None:
    pixels0, pixels1 = pixels_of_random_points()
    noisy1 = pixels1 + 2.0
    longer = Rigid3d(CAM1_FROM_CAM0.rotation, 7 * CAM1_FROM_CAM0.translation)
    torch.testing.assert_close(
        epipolar_error_px(pixels0, noisy1, CAMERA0, CAMERA1, longer),
        epipolar_error_px(pixels0, noisy1, CAMERA0, CAMERA1, CAM1_FROM_CAM0),
    )
    turn = Rigid3d(CAM1_FROM_CAM0.rotation, torch.zeros(3, dtype=torch.float64))
    assert bool(epipolar_error_px(pixels0, pixels1, CAMERA0, CAMERA1, turn).isnan().all())


def test_many_hypotheses_at_once_and_only_the_right_one_fits() -> None:
    pixels0, pixels1 = pixels_of_random_points()
    hypotheses = Rigid3d.stack(
        [CAM1_FROM_CAM0, CAM1_FROM_CAM0.inverse(), Rigid3d.exp(torch.ones(6).double())]
    )
    error_px = epipolar_error_px(pixels0, pixels1, CAMERA0, CAMERA1, hypotheses)
    medians_px = error_px.nanmedian(dim=-1).values
    assert medians_px.shape == (3,)
    assert medians_px[0] < 1e-9
    assert bool((medians_px[1:] > 5).all())


def test_matrices_are_those_of_the_books() -> None:
    essential = essential_matrix(CAM1_FROM_CAM0)
    singular_values = torch.linalg.svdvals(essential)
    length = float(CAM1_FROM_CAM0.translation.norm())
    expected = torch.tensor([length, length, 0.0], dtype=torch.float64)
    torch.testing.assert_close(singular_values, expected)

    fundamental = fundamental_matrix(CAMERA0, CAMERA1, CAM1_FROM_CAM0)
    # The epipole of image 1 is where the first camera's centre is seen.
    epipole1 = CAMERA1.matrix @ CAM1_FROM_CAM0.translation
    epipole0 = CAMERA0.matrix @ CAM1_FROM_CAM0.inverse().translation
    assert float((epipole1 @ fundamental).abs().max()) < 1e-9
    assert float((fundamental @ epipole0).abs().max()) < 1e-9


def test_a_pixel_that_sees_nothing_is_no_number() -> None:
    folded = Camera.of("SIMPLE_RADIAL", 640, 480, [300, 320, 240, -0.4])
    corner = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    error_px = epipolar_error_px(corner, corner, folded, folded, CAM1_FROM_CAM0)
    assert math.isnan(float(error_px))
