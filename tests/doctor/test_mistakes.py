from __future__ import annotations

from functools import partial

import pytest
import torch
from mistaken import (
    inverted,
    opengl_as_opencv,
    opengl_inverted,
    quaternions_rolled,
    scaled,
    turned,
)

from posed_views import random_poses, views_of
from reloc.doctor.mistakes import (
    AXES,
    INVERSE,
    TURNS,
    W_FIRST,
    X_FIRST,
    IntrinsicsMending,
    TimeShift,
    pose_mendings,
)
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.scenes.scene import Scene

MADE = {
    (INVERSE,): inverted,
    (AXES,): opengl_as_opencv,
    (INVERSE, AXES): opengl_inverted,
    (X_FIRST,): partial(quaternions_rolled, roll=-1),
    (W_FIRST,): partial(quaternions_rolled, roll=1),
    **{(mistake,): partial(turned, quarter_turns=turns) for turns, mistake in TURNS.items()},
}


def relative(poses: Rigid3d) -> torch.Tensor:
    """What images can tell: how each camera lies to the next."""
    return (poses[1:] @ poses[:-1].inverse()).matrix


def made(spoil, poses: Rigid3d) -> Rigid3d:
    views = spoil(Scene("s", views_of(poses), (), "sfm")).mapping
    return Rigid3d.stack([view.cam_from_world for view in views])


@pytest.mark.parametrize("mistakes", MADE, ids=lambda mistakes: mistakes[0].name)
def test_each_mending_undoes_its_mistake(mistakes):
    right = random_poses(5)
    wrong = made(MADE[mistakes], right)
    assert not torch.allclose(relative(wrong), relative(right), atol=1e-2)
    mended = [mending.mend(wrong) for mending in pose_mendings() if mending.mistakes == mistakes]
    assert any(torch.allclose(relative(poses), relative(right), atol=1e-9) for poses in mended)


@pytest.mark.parametrize("mistakes", MADE, ids=lambda mistakes: mistakes[0].name)
def test_no_other_mending_does(mistakes):
    """So the name of a mistake is never an accident."""
    right = random_poses(5)
    wrong = made(MADE[mistakes], right)
    for mending in pose_mendings():
        fits = torch.allclose(relative(mending.mend(wrong)), relative(right), atol=1e-6)
        assert not fits or mending.mistakes == mistakes


@pytest.mark.parametrize("roll", [-1, 1])
def test_quaternions_of_a_loader_that_inverted_them(roll):
    right = random_poses(5)
    wrong = made(partial(quaternions_rolled, roll=roll, inverted=True), right)
    names = {
        mending.mistakes
        for mending in pose_mendings()
        if torch.allclose(relative(mending.mend(wrong)), relative(right), atol=1e-6)
    }
    assert names == {(X_FIRST,) if roll == -1 else (W_FIRST,)}


def test_the_first_mending_leaves_poses_alone():
    plain = pose_mendings()[0]
    poses = random_poses(3)
    assert plain.mistakes == ()
    torch.testing.assert_close(plain.mend(poses).matrix, poses.matrix)


@pytest.mark.parametrize(
    ("mending", "made"),
    [
        (IntrinsicsMending("focal", 0.5), partial(scaled, focal=2, middle=1, size=1)),
        (IntrinsicsMending("scale", 0.5), partial(scaled, focal=2, middle=2, size=1)),
    ],
)
@pytest.mark.parametrize(
    "camera",
    [
        Camera.simple_pinhole(500, 640, 480),
        Camera.of("OPENCV", 640, 480, [500, 501, 319, 241, 0.1, 0.01, 0.001, 0.002]),
        Camera.of("RADIAL", 640, 480, [500, 319, 241, 0.1, 0.01]),
    ],
)
def test_intrinsics_are_mended(mending, made, camera):
    torch.testing.assert_close(mending.mend(made(camera)).params, camera.params)


def test_what_is_said_of_intrinsics():
    kinect = [Camera.simple_pinhole(585, 640, 480)] * 2
    said = IntrinsicsMending("focal", 525 / 585).mistake(kinect)
    assert said.mending == "--focal 525"
    assert "585 px" in said.what
    varied = [Camera.simple_pinhole(585, 640, 480), Camera.simple_pinhole(600, 640, 480)]
    assert "--focal" not in IntrinsicsMending("focal", 0.9).mistake(varied).mending
    assert IntrinsicsMending("scale", 0.5).mistake(kinect).mending == "--intrinsics-scale 0.5"


def test_what_is_said_of_times():
    assert TimeShift(-0.25, "s").mistake().mending == "--time-offset-s -0.25"
    assert TimeShift(1, "frames").mistake().amount == "1 frame later"
    assert TimeShift(-3, "frames").mistake().amount == "3 frames earlier"
