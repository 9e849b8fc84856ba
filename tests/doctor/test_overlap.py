from __future__ import annotations

import math

import pytest
import torch

from posed_views import random_poses, views_of
from reloc.doctor.overlap import measure_overlap
from reloc.geometry.rigid3d import Rigid3d
from reloc.scenes.scene import Scene

# posed_views.CAMERA sees 640 / 500 of the depth from left to right.
WIDTH_AT_DEPTH_5 = 5 * 640 / 500


def camera_at(x: float, turn_deg: float = 0.0) -> Rigid3d:
    """A camera that looks along z, from x on the x axis."""
    angle = math.radians(turn_deg)
    turned_from_straight = Rigid3d.exp(torch.tensor([0.0, angle, 0, 0, 0, 0]).double())
    shift = torch.tensor([-x, 0.0, 0.0], dtype=torch.float64)
    return turned_from_straight @ Rigid3d(torch.eye(3, dtype=torch.float64), shift)


def scene(mapping: list[Rigid3d], queries: list[Rigid3d]) -> Scene:
    return Scene(
        "plane",
        views_of(Rigid3d.stack(mapping), prefix="m"),
        views_of(Rigid3d.stack(queries)),
        "given",
    )


def test_the_nearest_mapping_view():
    found = measure_overlap(scene([camera_at(0), camera_at(10)], [camera_at(9, 20.0)]), None)
    assert found.distance.median == pytest.approx(1.0)
    assert found.angle_deg.median == pytest.approx(20.0)
    assert found.seen_share is None
    assert found.little_seen == ()


@pytest.mark.parametrize(("share", "is_little"), [(1.0, False), (0.5, False), (0.2, True)])
def test_the_share_of_the_picture_that_was_seen(share, is_little):
    aside = (1 - share) * WIDTH_AT_DEPTH_5
    found = measure_overlap(scene([camera_at(0), camera_at(-90)], [camera_at(aside)]), 5.0)
    assert found.seen_share.median == pytest.approx(share, abs=0.08)
    assert bool(found.little_seen) is is_little


def test_who_looks_away_has_seen_nothing():
    found = measure_overlap(scene([camera_at(0)], [camera_at(0, 180.0)]), 5.0)
    assert found.seen_share.high == 0.0
    assert found.angle_deg.median == pytest.approx(180.0)


def test_a_common_motion_changes_nothing():
    poses = random_poses(8)
    still = measure_overlap(
        scene(list(map(poses.__getitem__, range(5))), [poses[5], poses[6]]), 2.0
    )
    moved = [poses[index] @ poses[7] for index in range(7)]
    again = measure_overlap(scene(moved[:5], moved[5:]), 2.0)
    assert again.distance.high == pytest.approx(still.distance.high)
    assert again.angle_deg.high == pytest.approx(still.angle_deg.high)
    assert again.seen_share.high == pytest.approx(still.seen_share.high)


def test_no_queries_no_overlap():
    views = views_of(random_poses(2))
    assert measure_overlap(Scene("s", views, [], "given"), 1.0) is None
    assert measure_overlap(Scene("s", [], views, "given"), 1.0) is None
