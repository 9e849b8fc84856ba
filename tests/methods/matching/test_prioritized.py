"""Prioritised search, and the rows of learned features: what the conformance laws do not say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from reloc import steps
from reloc.methods import get_method
from reloc.methods.matching.point_map import PointMap
from reloc.methods.matching.prioritized import PrioritizedSearch, SearchLimits
from reloc.nn.local_features import LocalFeatures, as_vectors
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.images import query_from_image
from reloc.scenes.scene import Query, Scene

LIMITS = SearchLimits(max_ratio=0.8, max_back_ratio=0.8, max_matches=50, num_near=10)


@pytest.fixture(scope="module")
def points() -> PointMap:
    """400 points with descriptors of their own; each of four views saw a quarter of them."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.rand(400, 128, generator=generator) ** 3, dim=1)
    return PointMap(
        origin_3=torch.zeros(3, dtype=torch.float64),
        points_N3=torch.rand(400, 3, generator=generator),
        descriptors_ND=(512 * vectors).round().clamp(max=255).to(torch.uint8),
        vocabulary_KD=torch.zeros(0, 0),
        image_vectors_VL=torch.ones(4, 1, dtype=torch.int8),
        view_names=list("abcd"),
        num_seen_V=torch.full((4,), 100),
        seen_S=torch.arange(400, dtype=torch.int32),
    )


@pytest.fixture(scope="module")
def search(points) -> PrioritizedSearch:
    fine_KD = as_vectors(points.descriptors_ND)[::20].clone()
    return PrioritizedSearch(points, fine_KD, torch.arange(20) // 5, LIMITS)


def _seen(points: PointMap, shown: list[int]) -> LocalFeatures:
    """Features that look like these points, with noise."""
    generator = torch.Generator().manual_seed(1)
    exact = points.descriptors_ND[shown].float()
    noisy = (exact + 6 * torch.randn(exact.shape, generator=generator)).clamp(0, 255)
    count = len(shown)
    return LocalFeatures(torch.zeros(count, 2), noisy.round().to(torch.uint8), torch.ones(count))


def test_features_find_their_points_and_the_search_ends_early(points, search, small_room) -> None:
    query = small_room.queries[0].query()
    shown = list(range(0, 400, 2))
    first, all_matches = search(query, _seen(points, shown))
    assert len(first) == LIMITS.max_matches
    assert len(all_matches) > 0.8 * len(shown)
    for matches in (first, all_matches):
        right = torch.tensor(shown)[matches[:, 0]] == matches[:, 1]
        assert float(right.float().mean()) > 0.97
        assert len(matches[:, 0].unique()) == len(matches[:, 1].unique()) == len(matches)


def test_points_round_a_match_are_looked_for(points, small_room) -> None:
    """A point alone in its word can be told apart from nothing there; its neighbours get to it."""
    query = small_room.queries[0].query()
    features = _seen(points, list(range(100)))
    words_ND = as_vectors(points.descriptors_ND)
    # Points 0 to 49 have a word each, all others share one far off; all are in one coarse word.
    others = words_ND[50:].mean(0, keepdim=True)
    fine_KD = torch.cat([words_ND[:50], others])
    coarse_K = torch.zeros(len(fine_KD), dtype=torch.int64)

    def found(num_near: int) -> Tensor:
        limits = replace(LIMITS, max_ratio=0.9, max_back_ratio=0.9, num_near=num_near)
        _, matches = PrioritizedSearch(points, fine_KD, coarse_K, limits)(query, features)
        assert float((matches[:, 0] == matches[:, 1]).float().mean()) > 0.9
        return matches[:, 1]

    assert len(found(100)) > len(found(0)) + 10


def test_nothing_is_found_in_nothing(search, small_room) -> None:
    query = small_room.queries[0].query()
    empty = LocalFeatures(torch.zeros(0, 2), torch.zeros(0, 128, dtype=torch.uint8), torch.zeros(0))
    assert [len(matches) for matches in search(query, empty)] == [0, 0]


@pytest.fixture(scope="module")
def kitchen(shared_data) -> Scene:
    scene = load_scene(shared_data / "7scenes" / "redkitchen", LoadOptions())
    return replace(scene, mapping=scene.mapping[::24], queries=scene.queries[5::25])


@pytest.fixture(scope="module")
def photos(shared_data) -> list[Query]:
    paths = sorted((shared_data / "photos").rglob("*.jpg"))[::150]
    return [query_from_image(path, None) for path in paths]


@pytest.mark.data
@pytest.mark.parametrize("name", ["active-search", "hloc"])
def test_the_kitchen_is_known_and_photos_of_other_places_are_declined(
    name, kitchen, photos
) -> None:
    row = get_method(name)
    config = replace(row.tiny, max_side_px=480, max_keypoints=800)
    map_ = steps.build_map(name, kitchen, config)
    answers = steps.localize(map_, kitchen.queries)
    for view in kitchen.queries:
        pose = answers[view.name].cam_from_world
        assert pose is not None
        assert float((pose.inverse().translation - view.center_world).norm()) < 0.1
    declined = steps.localize(map_, photos)
    assert all(declined[query.name].cam_from_world is None for query in photos)
