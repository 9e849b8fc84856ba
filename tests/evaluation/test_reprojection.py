from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from posed_views import CAMERA, random_poses, scene_of
from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import evaluate
from reloc.evaluation.reprojection import dense_error, dense_errors, virtual_errors_px
from reloc.exports import true_poses
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import Scene

CAMERAS = [
    CAMERA,
    Camera.of("PINHOLE", 540, 720, [590.0, 580.0, 265.0, 371.0]),
    Camera.of("SIMPLE_RADIAL", 800, 600, [666.17, 400.0, 300.0, -0.02]),
    Camera.of("OPENCV", 540, 960, [700.0, 705.0, 275.0, 470.0, 0.05, -0.03, 1e-3, -2e-3]),
    Camera.of("OPENCV_FISHEYE", 640, 480, [300.0, 300.0, 320.0, 240.0, 0.03, -0.01, 0.0, 0.0]),
]
# From 1.8 m on: where the grid of virtual points stands before the camera.
GRID_Z = np.arange(7) * 0.3 + 1.8
GRID_X = np.arange(7) * 0.3 - 0.9
GRID_Y = np.arange(4) * 0.3 - 0.45


def shifted(pose: Rigid3d, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Rigid3d:
    """The pose of a camera whose points lie (x, y, z) further in its frame."""
    return Rigid3d(torch.eye(3).double(), torch.tensor([x, y, z]).double()) @ pose


def virtual_px(estimate: Rigid3d, truth: Rigid3d, camera: Camera) -> float:
    return float(virtual_errors_px(Rigid3d.stack([estimate]), Rigid3d.stack([truth]), [camera]))


def test_virtual_error_of_the_truth_is_zero() -> None:
    poses = random_poses(len(CAMERAS))
    assert float(virtual_errors_px(poses, poses, CAMERAS).max()) < 1e-9


def test_virtual_error_of_a_sideways_step_is_focal_times_step_over_depth() -> None:
    wide = Camera.simple_pinhole(500.0, 10_000, 10_000)
    truth = random_poses(1)[0]
    expected_px = np.mean(500 * 0.1 / GRID_Z)
    assert virtual_px(shifted(truth, x=0.1), truth, wide) == pytest.approx(expected_px)
    assert virtual_px(shifted(truth, y=-0.1), truth, wide) == pytest.approx(expected_px)


def test_virtual_error_of_a_step_forward_is_the_zoom_of_the_grid() -> None:
    wide = Camera.simple_pinhole(500.0, 10_000, 10_000)
    truth = random_poses(1)[0]
    x, y, z = np.meshgrid(GRID_X, GRID_Y, GRID_Z)
    assert x.size == 196
    expected_px = np.mean(500 * np.hypot(x, y) * np.abs(1 / z - 1 / (z - 0.5)))
    assert virtual_px(shifted(truth, z=-0.5), truth, wide) == pytest.approx(expected_px)


def test_virtual_error_is_clamped_to_the_image_on_both_sides() -> None:
    truth = random_poses(1)[0]
    # All points leave the picture to the left: their x is 0, their y what it was.
    x, _, z = np.meshgrid(GRID_X, GRID_Y, GRID_Z)
    true_x_px = np.clip(500 * x / z + 320, 0, 640)
    assert (true_x_px < 640).all()
    far = virtual_px(shifted(truth, x=-1e6), truth, CAMERA)
    assert far == pytest.approx(np.mean(true_x_px))
    # A camera so small that the true points lie outside of its image: only what is inside counts.
    tiny = Camera.simple_pinhole(500.0, 10, 10)
    assert virtual_px(shifted(truth, x=-1e6), truth, tiny) <= math.hypot(10, 10)


def test_virtual_error_is_a_number_for_every_pose() -> None:
    truth = random_poses(50)
    estimate = random_poses(50, seed=9, spread=1e5)
    errors_px = virtual_errors_px(estimate, truth, [CAMERA] * 50)
    assert bool(errors_px.isfinite().all())
    assert float(errors_px.max()) <= math.hypot(640, 480)
    # A grid point exactly at the camera's centre, where the picture of it is 0 / 0.
    at_point = shifted(Rigid3d.identity(), z=-1.8, y=0.45, x=0.9)
    assert math.isfinite(virtual_px(at_point, Rigid3d.identity(), CAMERA))


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_virtual_error_does_not_depend_on_the_world(seed: int) -> None:
    truth, estimate = random_poses(3, seed), random_poses(3, seed + 1)
    move = random_poses(1, seed + 2)[0]
    here = virtual_errors_px(estimate, truth, [CAMERA] * 3)
    there = virtual_errors_px(estimate @ move, truth @ move, [CAMERA] * 3)
    # A point near the camera's plane is thrown far by the last digit.
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


def test_poses_are_accepted_strictly_below_90_px() -> None:
    scene = scene_of(random_poses(4))
    report = evaluate(true_poses(scene.queries), scene)
    report = replace(report, virtual_error_px=np.array([0.0, 89.999, 90.0, math.inf]))
    assert report.row()["recall_vcre_90px"] == 0.5


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.model)
def test_dense_error_of_the_truth_is_zero(camera: Camera) -> None:
    pose, camera = random_poses(1)[0], camera.resized(camera.width // 8, camera.height // 8)
    error = dense_error(pose, pose, camera, torch.full((camera.height, camera.width), 2.0))
    assert error is not None
    assert error.max_px < 1e-6


def test_dense_error_of_a_sideways_step_is_focal_times_step_over_depth() -> None:
    pose = random_poses(1)[0]
    depth_HW = torch.full((480, 640), 2.0)
    depth_HW[:240] = 4.0
    error = dense_error(shifted(pose, x=0.1), pose, CAMERA, depth_HW)
    assert error is not None
    assert error.max_px == pytest.approx(500 * 0.1 / 2)
    assert error.mean_px == pytest.approx((500 * 0.1 / 2 + 500 * 0.1 / 4) / 2)


def test_dense_error_of_a_step_forward_is_largest_in_the_corner() -> None:
    pose = random_poses(1)[0]
    error = dense_error(shifted(pose, z=-1.0), pose, CAMERA, torch.full((480, 640), 2.0))
    assert error is not None
    # Half the depth doubles the distance from the middle: pixel centres are at half pixels.
    assert error.max_px == pytest.approx(math.hypot(319.5, 239.5))


def test_dense_error_takes_depth_strictly_between_30_cm_and_10_m() -> None:
    pose = random_poses(1)[0]
    depth_HW = torch.zeros(480, 640)
    depth_HW[0, :5] = torch.tensor([0.3, 10.0, math.nan, math.inf, -1.0])
    assert dense_error(pose, pose, CAMERA, depth_HW) is None
    depth_HW[1, 1] = 5.0
    error = dense_error(shifted(pose, x=0.1), pose, CAMERA, depth_HW)
    assert error is not None
    assert error.max_px == error.mean_px == pytest.approx(500 * 0.1 / 5)


def test_dense_error_of_a_camera_that_looks_away_is_infinite() -> None:
    pose = random_poses(1)[0]
    half_turn = Rigid3d.exp(torch.tensor([0.0, math.pi, 0.0, 0.0, 0.0, 0.0]).double())
    error = dense_error(half_turn @ pose, pose, CAMERA, torch.full((480, 640), 2.0))
    assert error is not None
    assert error.max_px == error.mean_px == math.inf


def scene_with_depth(depths: list[Tensor | None]) -> Scene:
    scene = scene_of(random_poses(len(depths)))
    readers = [None if depth is None else (lambda depth=depth: depth) for depth in depths]
    views = [
        replace(view, depth_reader=reader)
        for view, reader in zip(scene.queries, readers, strict=True)
    ]
    return replace(scene, queries=views)


def test_dense_errors_count_declined_queries_and_those_without_depth() -> None:
    flat = torch.full((480, 640), 2.0)
    scene = scene_with_depth([flat, flat, None, torch.zeros(480, 640), None])
    estimates = PoseEstimates(
        {
            view.name: PoseEstimate(
                None if name in {"q1.jpg", "q4.jpg"} else shifted(view.cam_from_world, x=0.2)
            )
            for view in scene.queries
            for name in [view.name]
        }
    )
    errors = dense_errors(estimates, scene)
    assert errors.names == ("q0.jpg", "q1.jpg")
    np.testing.assert_allclose(errors.mean_px, [50.0, math.inf])
    np.testing.assert_allclose(errors.max_px, [50.0, math.inf])
    np.testing.assert_allclose(errors.diagonal_px, [800.0, 800.0])
    assert errors.num_without_depth == 3


def test_dense_errors_say_what_is_in_their_way() -> None:
    flat = torch.full((480, 640), 2.0)
    with pytest.raises(InputError, match="no query of scene walk has depth"):
        scene = scene_with_depth([None, torch.zeros(480, 640)])
        dense_errors(true_poses(scene.queries), scene)
    with pytest.raises(InputError, match=r"depth of q0.jpg is 320x240 but its image is 640x480"):
        scene = scene_with_depth([torch.ones(240, 320)])
        dense_errors(true_poses(scene.queries), scene)
    scene = scene_with_depth([flat, flat])
    with pytest.raises(InputError, match=r"query q1.jpg of walk has no estimate"):
        dense_errors(true_poses(scene.queries[:1]), scene)
    with pytest.raises(InputError, match="no metric scale"):
        dense_errors(true_poses(scene.queries), replace(scene, metric=False))
