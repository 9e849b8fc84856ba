"""Two photos of a rendered room: their relative pose, with a length where there is depth."""

import math
from dataclasses import replace

import pytest
import torch

from reloc.estimation.two_photos import TwoPhotosConfig, describe_photo, relate_photos
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.scenes.scene import Query, Scene

CONFIG = TwoPhotosConfig(max_keypoints=1500)


@pytest.fixture(scope="module")
def pair(small_room: Scene) -> tuple[Query, Query, Rigid3d]:
    """The two mapping views that look the same way from nearest by, and their relative pose."""
    views = small_room.mapping
    centers = torch.stack([view.center_world for view in views])
    axes = torch.stack([view.cam_from_world.rotation[2] for view in views])
    cost = torch.cdist(centers, centers) - (axes @ axes.T) + 10 * torch.eye(len(views))
    first, second = divmod(int(cost.argmin()), len(views))
    truth = views[second].cam_from_world @ views[first].cam_from_world.inverse()
    return views[first].query(), views[second].query(), truth


@pytest.mark.parametrize("without", ["none", "first", "second"])
def test_depth_of_either_photo_gives_lengths(pair, without):
    first, second, truth = pair
    first = replace(first, depth=None) if without == "first" else first
    second = replace(second, depth=None) if without == "second" else second
    found, _ = relate_photos(describe_photo(first, CONFIG), describe_photo(second, CONFIG), CONFIG)
    assert found is not None
    assert found.has_scale
    error = (found.cam1_from_cam0 @ truth.inverse()).log()
    assert math.degrees(float(error[:3].norm())) < 1.0
    assert float(error[3:].norm()) < 0.05


def test_without_depth_there_is_a_rotation_and_no_length(pair):
    first, second, truth = (replace(pair[0], depth=None), replace(pair[1], depth=None), pair[2])
    found, _ = relate_photos(describe_photo(first, CONFIG), describe_photo(second, CONFIG), CONFIG)
    assert found is not None
    assert not found.has_scale
    angle_rad = angle_between_rad(found.cam1_from_cam0.rotation, truth.rotation)
    assert math.degrees(float(angle_rad)) < 1.5


def test_the_other_way_round_is_the_inverse(pair):
    first, second = (describe_photo(photo, CONFIG) for photo in pair[:2])
    there, _ = relate_photos(first, second, CONFIG)
    back, _ = relate_photos(second, first, CONFIG)
    assert there is not None
    assert back is not None
    loop = (there.cam1_from_cam0 @ back.cam1_from_cam0).log()
    assert math.degrees(float(loop[:3].norm())) < 1.0
    assert float(loop[3:].norm()) < 0.05


def test_photos_that_show_nothing_in_common_give_none(pair):
    noise = torch.randint(0, 256, pair[0].image.shape, generator=torch.Generator().manual_seed(0))
    strange = replace(pair[0], image=noise.to(torch.uint8))
    black = replace(pair[0], image=torch.zeros_like(pair[0].image))
    for other in (strange, black):
        found, seen = relate_photos(
            describe_photo(pair[1], CONFIG), describe_photo(other, CONFIG), CONFIG
        )
        assert found is None
        assert len(seen.pixels0_N2) == len(seen.pixels1_N2)


def _with_depth(photo: Query, known: str) -> Query:
    """The photo with its depth everywhere, nowhere, or in a strip of a twentieth of its width."""
    assert photo.depth is not None
    depth_HW = photo.depth.clone()
    if known != "all":
        depth_HW[:, depth_HW.shape[1] // 20 if known == "strip" else 0 :] = 0
    return replace(photo, depth=depth_HW)


@pytest.mark.parametrize("first_known", ["none", "strip"])
def test_depth_that_is_nearly_empty_does_not_hide_that_of_the_other_photo(pair, first_known):
    first, second = (
        describe_photo(_with_depth(photo, known), CONFIG)
        for photo, known in zip(pair[:2], (first_known, "all"), strict=True)
    )
    for one, other, truth in (
        (first, second, pair[2]),
        (second, first, pair[2].inverse()),
    ):
        found, _ = relate_photos(one, other, CONFIG)
        assert found is not None
        assert found.has_scale
        error = (found.cam1_from_cam0 @ truth.inverse()).log()
        assert math.degrees(float(error[:3].norm())) < 1.0
        assert float(error[3:].norm()) < 0.05


def test_depth_that_is_empty_is_none(pair):
    blind = replace(pair[0], depth=None)
    empty = describe_photo(_with_depth(pair[0], "none"), CONFIG)
    assert empty.depth_N is None
    other = describe_photo(replace(pair[1], depth=None), CONFIG)
    found, _ = relate_photos(empty, other, CONFIG)
    as_if, _ = relate_photos(describe_photo(blind, CONFIG), other, CONFIG)
    assert found is not None
    assert as_if is not None
    assert not found.has_scale
    assert torch.equal(found.cam1_from_cam0.matrix, as_if.cam1_from_cam0.matrix)
