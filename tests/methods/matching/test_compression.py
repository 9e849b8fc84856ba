"""Small maps of points: views stay covered, and descriptors are nearly what they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reloc import steps
from reloc.geometry.rotation import angle_between_rad
from reloc.maps import Map
from reloc.methods.matching.compression import cover, pack, unpack
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.point_map import PointMap

CONFIG = MatchingConfig(max_keypoints=600, pairs_by_pose=4, pairs_by_retrieval=2, vocabulary=16)
SMALL = replace(CONFIG, points_per_view=80, descriptor_bytes=16, full_points_per_view=5)


@pytest.fixture(scope="module")
def whole(small_room) -> Map:
    return steps.build_map("sift", small_room, CONFIG)


@pytest.fixture(scope="module")
def point_map(whole) -> PointMap:
    return unpack(whole.tensors)


def test_each_view_keeps_the_points_asked_for_or_all_it_had(point_map) -> None:
    kept = unpack(pack(point_map, replace(SMALL, descriptor_bytes=None), seed=0))
    assert len(kept.points_N3) < 0.9 * len(point_map.points_N3)
    for before, after in zip(point_map.num_seen_V, kept.num_seen_V, strict=True):
        assert int(after) >= min(int(before), 80)
    # What a view saw is still what it saw.
    view = torch.tensor([3])
    rows = kept.points_N3[kept.points_seen_by(view)].tolist()
    former = point_map.points_N3[point_map.points_seen_by(view)].tolist()
    assert all(row in former for row in rows)


def test_the_cover_is_greedy() -> None:
    done: list[int] = []
    cover([[0], [0, 1, 2], [1], [2], [0, 1]], 3, wanted=1, done=done)
    assert done == [1]
    cover([[0], [0, 1, 2], [1], [2], [0, 1]], 3, wanted=2, done=done)
    assert done == [1, 4, 3]


def test_first_points_are_whole_and_the_others_nearly(point_map) -> None:
    tensors = pack(point_map, SMALL, seed=0)
    num_full = len(tensors["full_descriptors"])
    assert 0 < num_full < len(tensors["points_N3"])
    exact = unpack(pack(point_map, replace(SMALL, descriptor_bytes=None), seed=0))
    packed = unpack(tensors)
    assert packed.descriptors_ND.dtype == exact.descriptors_ND.dtype
    assert torch.equal(packed.descriptors_ND[:num_full], exact.descriptors_ND[:num_full])
    error_N = (packed.descriptors_ND.float() - exact.descriptors_ND.float()).norm(dim=1)
    # Different points are 500 apart and more; the same point in two views, about 150.
    assert float(error_N[num_full:].median()) < 150


def test_a_small_map_still_answers(whole, small_room) -> None:
    small = steps.build_map("sift", small_room, SMALL)
    assert small.megabytes < 0.6 * whole.megabytes
    answers = steps.localize(small, small_room.queries)
    right = 0
    for view in small_room.queries:
        pose = answers[view.name].cam_from_world
        if pose is not None:
            distance = float((pose.inverse().translation - view.center_world).norm())
            angle = float(angle_between_rad(pose.rotation, view.cam_from_world.rotation))
            right += distance < 0.1 and angle < 0.1
    assert right >= 8


@pytest.mark.parametrize(
    "setting",
    [
        {"points_per_view": 0},
        {"descriptor_bytes": 5},
        {"full_points_per_view": -1},
        {"full_points_per_view": 20, "descriptor_bytes": 16},
        {"descriptor_bytes": 16, "features": "orb"},
    ],
)
def test_settings_out_of_range_are_refused(setting) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        MatchingConfig(**setting)
