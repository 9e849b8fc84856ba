"""Laws of the pose of two cameras: exact from exact matches, metric with depth, else None."""

import math
from dataclasses import replace

import pytest
import torch

from reloc.estimation.relative import Correspondences, estimate_relative_pose
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad

CAMERA = Camera.simple_pinhole(520.0, 640, 480)
TRUTH = Rigid3d.exp(torch.tensor([0.1, -0.25, 0.05, 0.5, 0.1, -0.2], dtype=torch.float64))


def _seen(
    count: int = 400,
    num_wrong: int = 0,
    noise_px: float = 0.0,
    pose: Rigid3d = TRUTH,
    camera: Camera = CAMERA,
    seed: int = 0,
) -> Correspondences:
    """Points of a room in two cameras, with depth; the first ones are matched wrongly."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([camera.width, camera.height])
    pixels0 = torch.rand(4 * count, 2, generator=generator, dtype=torch.float64) * size
    depth0 = 1.5 + 3 * torch.rand(4 * count, generator=generator, dtype=torch.float64)
    rays = torch.cat([camera.cam_from_img(pixels0), torch.ones(4 * count, 1)], 1)
    points1 = pose @ (rays * depth0[:, None])
    pixels1 = camera.img_from_cam(points1)
    shown = ((pixels1 >= 0) & (pixels1 < size)).all(-1).nonzero()[:count, 0]
    assert len(shown) == count
    pixels0, pixels1 = pixels0[shown], pixels1[shown]
    pixels1 += noise_px * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    pixels1[:num_wrong] = torch.rand(num_wrong, 2, generator=generator, dtype=torch.float64) * size
    return Correspondences(
        pixels0, pixels1, camera, camera, depth0[shown].float(), points1[shown, 2].float()
    )


def _without_depth(seen: Correspondences) -> Correspondences:
    return replace(seen, depth0_N=None, depth1_N=None)


def _direction_error_deg(found: torch.Tensor, truth: torch.Tensor) -> float:
    sine = torch.linalg.cross(found, truth).norm()
    return math.degrees(math.atan2(float(sine), float(found @ truth)))


def test_without_depth_the_pose_is_up_to_scale_and_says_so():
    found = estimate_relative_pose(_without_depth(_seen(num_wrong=120, noise_px=0.5)))
    assert found is not None
    assert not found.has_scale
    pose = found.cam1_from_cam0
    assert float(pose.translation.norm()) == pytest.approx(1)
    assert math.degrees(float(angle_between_rad(pose.rotation, TRUTH.rotation))) < 0.3
    assert _direction_error_deg(pose.translation, TRUTH.translation) < 1.5
    assert found.num_inliers > 250
    assert int(found.inliers_N[:120].sum()) < 12


@pytest.mark.parametrize("solver", ["essential", "pnp", "kabsch"])
def test_with_depth_the_pose_has_the_unit_of_the_depth(solver):
    found = estimate_relative_pose(_seen(num_wrong=120, noise_px=0.5), solver)
    assert found is not None
    assert found.has_scale
    error = found.cam1_from_cam0 @ TRUTH.inverse()
    assert math.degrees(float(error.log()[:3].norm())) < 0.5
    assert float(error.log()[3:].norm()) < 0.02


@pytest.mark.parametrize("missing", ["depth0_N", "depth1_N"])
def test_the_depth_of_either_photo_gives_the_scale(missing):
    found = estimate_relative_pose(replace(_seen(noise_px=0.3), **{missing: None}))
    assert found is not None
    assert found.has_scale
    length, truth = found.cam1_from_cam0.translation.norm(), TRUTH.translation.norm()
    assert float(length) == pytest.approx(float(truth), rel=0.02)


def test_the_scale_of_most_depths_outvotes_wrong_ones():
    seen = _seen()
    assert seen.depth0_N is not None
    wrong = seen.depth0_N.clone()
    wrong[:150] *= torch.linspace(0.2, 5.0, 150)
    wrong[150:200] = torch.nan
    found = estimate_relative_pose(replace(seen, depth0_N=wrong, depth1_N=None))
    assert found is not None
    length, truth = found.cam1_from_cam0.translation.norm(), TRUTH.translation.norm()
    assert float(length) == pytest.approx(float(truth), rel=0.02)


def test_unknown_focal_lengths_of_one_camera_are_estimated():
    guess = Camera.guess(640, 480)
    seen = replace(_without_depth(_seen(noise_px=0.2)), camera0=guess, camera1=guess)
    found = estimate_relative_pose(seen)
    assert found is not None
    assert float(found.camera0.focal[0]) == pytest.approx(520, rel=0.05)
    assert math.degrees(float(angle_between_rad(found.cam1_from_cam0.rotation, TRUTH.rotation))) < 2


def test_a_camera_that_only_turned_has_no_parallax():
    turned = Rigid3d(TRUTH.rotation, torch.zeros(3, dtype=torch.float64))
    found = estimate_relative_pose(_without_depth(_seen(pose=turned, noise_px=0.3)))
    assert found is not None
    angle_rad = angle_between_rad(found.cam1_from_cam0.rotation, TRUTH.rotation)
    assert math.degrees(float(angle_rad)) < 0.3
    moved = estimate_relative_pose(_without_depth(_seen(noise_px=0.3)))
    assert moved is not None
    assert found.parallax_deg < 0.1
    assert moved.parallax_deg > 3


def test_points_behind_a_camera_do_not_agree():
    """The same picture pairs, the translation reversed: lines agree, depths are negative."""
    found = estimate_relative_pose(_without_depth(_seen()))
    assert found is not None
    assert _direction_error_deg(found.cam1_from_cam0.translation, TRUTH.translation) < 0.5


@pytest.mark.parametrize("solver", ["essential", "pnp", "kabsch"])
def test_what_fixes_no_pose_gives_none(solver):
    seen = _seen(50)
    few = Correspondences(
        seen.pixels0_N2[:4],
        seen.pixels1_N2[:4],
        CAMERA,
        CAMERA,
        seen.depth0_N[:4],  # type: ignore[index]
        seen.depth1_N[:4],  # type: ignore[index]
    )
    assert estimate_relative_pose(few, solver) is None
    nothing = replace(seen, pixels1_N2=torch.full_like(seen.pixels1_N2, torch.nan))
    assert estimate_relative_pose(nothing, solver) is None
    if solver != "essential":
        assert estimate_relative_pose(_without_depth(seen), solver) is None


@pytest.mark.parametrize("solver", ["pnp", "kabsch"])
def test_chance_matches_give_none_with_depth(solver):
    assert estimate_relative_pose(_seen(200, num_wrong=200), solver) is None


def test_the_same_seed_gives_the_same_answer():
    first, second = (estimate_relative_pose(_seen(num_wrong=200, noise_px=1.0)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert torch.equal(first.cam1_from_cam0.matrix, second.cam1_from_cam0.matrix)
