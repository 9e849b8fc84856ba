from __future__ import annotations

import pytest
import torch
from mistaken import OPENGL_FROM_OPENCV
from torch import Tensor

from reloc.doctor.half_lines import symmetric_error_px, triangulated_depths
from reloc.geometry.camera import Camera
from reloc.geometry.epipolar import epipolar_error_px
from reloc.geometry.rigid3d import Rigid3d

CAMERA = Camera.simple_pinhole(500.0, 640, 480)
FOCALS_2P = torch.full((2, 1), 500.0, dtype=torch.float64)
# Sideways and forward, with a turn.
SECOND_FROM_FIRST = Rigid3d.exp(
    torch.tensor([[0.05, -0.1, 0.02, -0.4, 0.1, -0.2]], dtype=torch.float64)
)


def seen_points(num: int = 60) -> tuple[Tensor, Tensor]:
    """Rays (2, 1, num, 3) of points in front of both cameras, and their depths in the first."""
    generator = torch.Generator().manual_seed(0)
    random_N3 = torch.rand(num, 3, generator=generator, dtype=torch.float64)
    points_N3 = (random_N3 - 0.5) * torch.tensor([3.0, 2.0, 4.0]) + torch.tensor([0, 0, 5.0])
    second_N3 = SECOND_FROM_FIRST[0] @ points_N3
    rays = torch.stack([points_N3 / points_N3[:, 2:], second_N3 / second_N3[:, 2:]])
    return rays[:, None], points_N3[:, 2]


def moved(rays_2PM3: Tensor, offset_px: float) -> Tensor:
    """Rays of the pixels below, by so much, in the second image."""
    shift = torch.zeros_like(rays_2PM3)
    shift[1, ..., 1] = offset_px / 500.0
    return rays_2PM3 + shift


def test_what_both_cameras_see_has_no_error():
    rays, _ = seen_points()
    assert symmetric_error_px(rays, SECOND_FROM_FIRST, FOCALS_2P).max() < 1e-9


def test_neither_image_is_the_first():
    rays = moved(seen_points()[0], 7.0)
    backward = SECOND_FROM_FIRST.inverse()
    there = symmetric_error_px(rays, SECOND_FROM_FIRST, FOCALS_2P)
    back = symmetric_error_px(rays.flip(0), backward, FOCALS_2P)
    torch.testing.assert_close(there, back)


def test_the_length_of_the_baseline_does_not_matter():
    rays = moved(seen_points()[0], 7.0)
    longer = Rigid3d(SECOND_FROM_FIRST.rotation, 1000 * SECOND_FROM_FIRST.translation)
    torch.testing.assert_close(
        symmetric_error_px(rays, SECOND_FROM_FIRST, FOCALS_2P),
        symmetric_error_px(rays, longer, FOCALS_2P),
    )


def test_small_errors_are_the_usual_epipolar_error():
    """Distances from the lines, both images alike: √2 times Sampson's where both lines are met."""
    rays = moved(seen_points()[0], 0.5)
    pixels_2N2 = rays[:, 0, :, :2] * 500.0 + torch.tensor([320.0, 240.0])
    sampson = epipolar_error_px(*pixels_2N2, CAMERA, CAMERA, SECOND_FROM_FIRST[0])
    error = symmetric_error_px(rays, SECOND_FROM_FIRST, FOCALS_2P)[0]
    torch.testing.assert_close(error.median(), 2**0.5 * sampson.median(), rtol=0.05, atol=0)


def test_points_behind_a_camera_are_errors_though_the_line_is_met():
    rays, _ = seen_points()
    backward = Rigid3d(SECOND_FROM_FIRST.rotation, -SECOND_FROM_FIRST.translation)
    pixels_2N2 = rays[:, 0, :, :2] * 500.0 + torch.tensor([320.0, 240.0])
    line_error = epipolar_error_px(*pixels_2N2, CAMERA, CAMERA, backward[0])
    assert line_error.max() < 1e-6
    assert symmetric_error_px(rays, backward, FOCALS_2P).median() > 10


def test_other_axes_are_told_apart_where_the_line_is_not_enough():
    """Straight ahead: the epipolar lines of the mirrored motion are the same."""
    ahead = Rigid3d(
        torch.eye(3, dtype=torch.float64)[None],
        torch.tensor([[0.0, 0.0, -1.0]], dtype=torch.float64),
    )
    first_N3 = seen_points()[0][0, 0] * 6
    second_N3 = ahead[0] @ first_N3
    rays = torch.stack([first_N3 / first_N3[:, 2:], second_N3 / second_N3[:, 2:]])[:, None]
    mirrored = OPENGL_FROM_OPENCV @ ahead @ OPENGL_FROM_OPENCV.inverse()
    assert symmetric_error_px(rays, ahead, FOCALS_2P).max() < 1e-9
    assert symmetric_error_px(rays, mirrored, FOCALS_2P).median() > 10


def test_a_camera_that_only_turns_is_judged_by_its_turn():
    turn = Rigid3d.exp(torch.tensor([[0.0, 0.1, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
    first_PM3 = seen_points()[0][0]
    second_PM3 = first_PM3 @ turn.rotation.mT
    rays = torch.stack([first_PM3, second_PM3 / second_PM3[..., 2:]])
    assert symmetric_error_px(rays, turn, FOCALS_2P).max() < 1e-6
    assert symmetric_error_px(rays, Rigid3d.identity(1), FOCALS_2P).median() == pytest.approx(
        50, rel=0.1
    )


def test_a_ray_that_is_not_known_gives_no_number():
    rays, _ = seen_points()
    rays[0, 0, 3] = torch.nan
    error = symmetric_error_px(rays, SECOND_FROM_FIRST, FOCALS_2P)[0]
    assert error[3].isnan()
    assert error.isnan().sum() == 1


def test_depths_are_those_of_the_points():
    rays, depths_N = seen_points()
    found = triangulated_depths(rays, SECOND_FROM_FIRST, min_angle_deg=0.1)[0]
    torch.testing.assert_close(found, depths_N)


def test_no_depth_from_parallel_rays_nor_behind_a_camera():
    rays, _ = seen_points()
    assert triangulated_depths(rays, SECOND_FROM_FIRST, min_angle_deg=60.0).isnan().all()
    backward = Rigid3d(SECOND_FROM_FIRST.rotation, -SECOND_FROM_FIRST.translation)
    assert triangulated_depths(rays, backward, min_angle_deg=0.1).isnan().all()
