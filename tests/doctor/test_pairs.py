from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mistaken import cameras_scaled, inverted, with_views

from posed_views import random_poses, views_of
from reloc.contract import Run
from reloc.doctor.order import evenly, in_order
from reloc.doctor.pairs import match_pairs
from reloc.input_error import InputError
from reloc.scenes.scene import Scene


@pytest.fixture(scope="module")
def corner(room: Scene) -> Scene:
    return replace(room, mapping=room.mapping[:6], queries=room.queries[:2])


def test_poses_and_cameras_have_no_say(corner):
    sound = match_pairs(corner, Run())
    spoilt = match_pairs(cameras_scaled(2, 2, 2)(inverted(corner)), Run())
    assert len(sound) >= 6
    assert torch.equal(sound.views_2P, spoilt.views_2P)
    assert torch.equal(sound.pixels_2PM2, spoilt.pixels_2PM2)
    assert (sound.image_over_camera, spoilt.image_over_camera) == (1.0, 0.5)


def test_pairs_are_of_two_views_that_see_the_same_points(corner):
    """The room's poses are exact, and its depth maps tell where a pixel's point is."""
    pairs = match_pairs(corner, Run())
    misses_px = []
    for pair, (first, second) in enumerate(pairs.views_2P.T.tolist()):
        assert first != second
        view, other = pairs.views[first], pairs.views[second]
        pixels_M2 = pairs.pixels_2PM2[0, pair]
        columns, rows = pixels_M2.long().unbind(-1)
        depth_M1 = view.read_depth()[rows, columns].double()[:, None]
        plane_M2 = view.camera.cam_from_img(pixels_M2)
        points_M3 = torch.cat([plane_M2, torch.ones_like(depth_M1)], dim=-1) * depth_M1
        other_from_view = other.cam_from_world @ view.cam_from_world.inverse()
        seen_M2 = other.camera.img_from_cam(other_from_view @ points_M3)
        misses_px.append((seen_M2 - pairs.pixels_2PM2[1, pair]).norm(dim=-1).nanmedian())
    assert torch.stack(misses_px).median() < 1.0


def test_an_unreadable_image_is_passed_over(corner):
    name = corner.mapping[2].name

    def refuse():
        raise InputError(f"image {name} is missing")

    broken = with_views(
        corner, lambda view: replace(view, image_reader=refuse) if view.name == name else view
    )
    found = match_pairs(broken, Run())
    assert len(found.views) == 7
    assert name not in {view.name for view in found.views}


def test_order_is_by_sequence_then_time_then_number():
    views = views_of(random_poses(4), ["f10.jpg", "f9.jpg", "a.jpg", "b.jpg"])
    views[2] = replace(views[2], sequence="z", timestamp_s=5.0)
    views[3] = replace(views[3], sequence="z", timestamp_s=4.0)
    assert [view.name for view in in_order(views)] == ["f9.jpg", "f10.jpg", "b.jpg", "a.jpg"]


def test_even_samples():
    assert evenly([1, 2, 3], 5) == [1, 2, 3]
    assert evenly(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert evenly([], 5) == []
