"""Queries matched by a network: what the map keeps for it, and that answers are right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from matcher_weights import similarity_matcher
from reloc import steps
from reloc.contract import Run
from reloc.estimation.two_photos import TwoPhotosConfig, describe_photo, relate_photos
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.maps import Map
from reloc.methods import get_config
from reloc.methods.matching.by_matcher import agreed
from reloc.methods.matching.compression import pack, unpack
from reloc.methods.matching.hloc import METHOD, HlocConfig
from reloc.nn import learned_features
from reloc.nn.matchers import load_matcher
from reloc.nn.matchers.lightglue import LightGlue
from reloc.nn.weights import PUBLISHED, WEIGHTS_VARIABLE

CONFIG = replace(
    METHOD.tiny, features="superpoint", matcher="lightglue", max_keypoints=250, num_retrieved=3
)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Our encoder's corners in place of SuperPoint's, and LightGlue's weights made by hand."""
    folder = tmp_path_factory.mktemp("weights")
    published = replace(PUBLISHED["lightglue"], sha256=None)
    network = similarity_matcher(LightGlue)
    # Sure after one layer: it is quick.
    torch.nn.init.constant_(network.token_confidence[0].token[0].bias, 10.0)
    torch.save(network.state_dict(), folder / published.file)
    corners = learned_features._detector("encoder")

    def detect(image, count):
        keypoints_N2, codes_NC = corners(image, count)
        wider_ND = torch.nn.functional.pad(codes_NC, (0, 256 - codes_NC.shape[1]))
        return keypoints_N2, wider_ND, torch.linspace(1, 0.1, len(keypoints_N2))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEIGHTS_VARIABLE, str(folder))
        patch.setitem(PUBLISHED, "lightglue", published)
        patch.setattr(learned_features, "_detector", lambda kind: detect)
        load_matcher.cache_clear()
        yield
    load_matcher.cache_clear()


@pytest.fixture(scope="module")
def matched_map(stand_ins, small_room):
    few = replace(small_room, mapping=small_room.mapping[:16])
    return steps.build_map("hloc", few, CONFIG, Run())


def test_a_map_with_a_matcher_answers_also_after_it_was_written(
    matched_map, small_room, tmp_path
) -> None:
    matched_map.save(tmp_path / "map")
    again = Map.load(tmp_path / "map")
    queries = [small_room.queries[number] for number in (1, 3, 10)]
    estimates = steps.localize(again, queries)
    right = 0
    for view in queries:
        pose = estimates[view.name].cam_from_world
        if pose is not None:
            distance = float((pose.inverse().translation - view.center_world).norm())
            angle = float(angle_between_rad(pose.rotation, view.cam_from_world.rotation))
            right += distance < 0.1 and angle < 0.1
    assert right >= 2


def test_keypoints_of_views_know_their_points(matched_map) -> None:
    point_map = unpack(matched_map.tensors)
    small = unpack(pack(point_map, replace(CONFIG, points_per_view=20), seed=0))
    assert len(small.points_N3) < len(point_map.points_N3)
    for map_ in (point_map, small):
        image, point_N = map_.keypoints_of(2)
        known_N = point_N >= 0
        assert 0 < int(known_N.sum()) < len(image)
        assert set(point_N[known_N].tolist()) == set(
            map_.points_seen_by(torch.tensor([2])).tolist()
        )
        # A point looks like the keypoints that it came of.
        points_ND = torch.nn.functional.normalize(map_.descriptors_ND[point_N[known_N]].float())
        alike = (points_ND * image.descriptors_ND[known_N]).sum(1)
        assert float(alike.median()) > 0.8
        assert image.size == (240, 180)
    # Only for matchers.
    assert get_config("hloc:lightglue")[1].matcher == "lightglue"
    assert get_config("hloc")[1].matcher == "nearest"


def test_each_keypoint_gets_the_point_that_most_views_give_it() -> None:
    pairs = torch.tensor([[7, 1], [7, 2], [3, 5], [7, 1], [4, 5], [3, 6]])
    probability = torch.tensor([0.4, 0.6, 0.9, 0.4, 0.5, 0.2])
    assert agreed(pairs, probability).tolist() == [[3, 5], [7, 1], [4, 5]]
    assert agreed(pairs[:0], probability[:0]).shape == (0, 2)


def test_a_photo_matches_itself_when_two_photos_are_related_by_a_matcher(
    stand_ins, small_room
) -> None:
    config = TwoPhotosConfig(features="superpoint", matcher="lightglue", max_keypoints=250)
    photo = describe_photo(small_room.mapping[2].query(), config)
    _, seen = relate_photos(photo, photo, config)
    assert len(seen.pixels0_N2) > 30
    same = (seen.pixels0_N2 == seen.pixels1_N2).all(dim=1)
    assert float(same.float().mean()) > 0.9
    with pytest.raises(ValueError, match="superpoint"):
        TwoPhotosConfig(matcher="lightglue")


def test_settings_and_weights_that_are_missing_are_told_of(small_room, monkeypatch) -> None:
    with pytest.raises(ValueError, match="superpoint"):
        HlocConfig(matcher="superglue")
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    load_matcher.cache_clear()
    with pytest.raises(InputError, match="lightglue do not ship"):
        steps.build_map("hloc", small_room, CONFIG, Run())
