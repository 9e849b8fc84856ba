from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from posed_views import random_poses, views_of
from reloc.doctor.times import Trajectories
from reloc.geometry.rigid3d import Rigid3d
from reloc.scenes.scene import View


def walk(num: int, sequence: str = "a", fps: float | None = None) -> list[View]:
    """A camera that turns and moves evenly, 0.1 units a frame."""
    tangent = torch.tensor([0.0, 0.02, 0.01, 0.1, 0.0, 0.0], dtype=torch.float64)
    start = random_poses(1)[0]
    steps = torch.arange(num, dtype=torch.float64)
    poses = Rigid3d.exp(steps[:, None] * tangent) @ start
    views = views_of(poses, prefix=sequence)
    return [
        replace(view, sequence=sequence, timestamp_s=None if fps is None else place / fps)
        for place, view in enumerate(views)
    ]


def test_frames_are_counted_where_there_is_no_clock():
    views = walk(10)
    trajectories = Trajectories(views)
    assert (trajectories.unit, trajectories.step) == ("frames", 1.0)
    later = trajectories.poses_later(views[:7], 3)
    expected = Rigid3d.stack([view.cam_from_world for view in views[3:]])
    torch.testing.assert_close(later.matrix, expected.matrix)


def test_poses_between_two_frames():
    views = walk(10, fps=20.0)
    trajectories = Trajectories(views)
    assert (trajectories.unit, trajectories.step) == ("s", pytest.approx(0.05))
    later = trajectories.poses_later(views[2:3], 0.025)[0]
    tangent = (later @ views[2].cam_from_world.inverse()).log()
    whole = (views[3].cam_from_world @ views[2].cam_from_world.inverse()).log()
    torch.testing.assert_close(tangent, whole / 2)


def test_beyond_the_end_and_in_a_gap_a_view_keeps_its_pose():
    views = [*walk(20, fps=20.0)[:8], *walk(20, fps=20.0)[15:]]
    trajectories = Trajectories(views)
    same = trajectories.poses_later([views[-1], views[7], views[0]], 0.1)
    assert torch.equal(same[0].matrix, views[-1].cam_from_world.matrix)
    assert torch.equal(same[1].matrix, views[7].cam_from_world.matrix)
    torch.testing.assert_close(same[2].matrix, views[2].cam_from_world.matrix)
    earlier = trajectories.poses_later(views[:1], -0.1)
    assert torch.equal(earlier[0].matrix, views[0].cam_from_world.matrix)


def test_sequences_do_not_run_into_each_other():
    views = [*walk(4, "a"), *walk(4, "b")]
    later = Trajectories(views).poses_later(views[3:5], 1)
    assert torch.equal(later[0].matrix, views[3].cam_from_world.matrix)
    torch.testing.assert_close(later[1].matrix, views[5].cam_from_world.matrix)


def test_single_photos_have_no_steps():
    views = [*walk(1, "a"), *walk(1, "b")]
    assert Trajectories(views).step == 0.0
