"""Retrieval by descriptors: poses between views, and how sure an answer is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import reloc
from reloc.contract import Run
from reloc.geometry.near_views import is_within
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.retrieval.certainty import Certainty, learn_certainty
from reloc.methods.retrieval.densevlad import DenseVladRetrievalConfig
from reloc.methods.retrieval.densevlad_inter import interpolate, rebuilding_weights
from reloc.nn.descriptors.densevlad import DenseVladConfig
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.images import query_from_image

QUICK = DenseVladConfig(max_side_px=160, bins_px=(4, 6), num_words=32, num_dimensions=64)


def random_poses(count: int, seed: int = 0) -> Rigid3d:
    generator = torch.Generator().manual_seed(seed)
    return Rigid3d.exp(torch.randn(count, 6, generator=generator, dtype=torch.float64))


def test_weights_rebuild_a_vector_between_others() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors_KD = torch.randn(4, 16, generator=generator, dtype=torch.float64)
    weights_K = torch.tensor([0.5, 0.2, 0.4, -0.1], dtype=torch.float64)
    found_K = rebuilding_weights(vectors_KD, weights_K @ vectors_KD, ridge=1e-9)
    torch.testing.assert_close(found_K, weights_K, rtol=0, atol=1e-6)
    blurred_K = rebuilding_weights(vectors_KD, weights_K @ vectors_KD, ridge=1e6)
    torch.testing.assert_close(blurred_K, torch.full((4,), 0.25).double(), rtol=0, atol=1e-3)


def test_views_that_are_alike_to_the_bit_share_their_weight() -> None:
    vector_D = torch.nn.functional.normalize(torch.randn(8), dim=0)
    weights_K = rebuilding_weights(vector_D.expand(3, 8), vector_D, ridge=0.1)
    torch.testing.assert_close(weights_K, torch.full((3,), 1 / 3).double())


def test_an_interpolated_pose_moves_with_the_world_and_keeps_agreement() -> None:
    views = random_poses(3)
    vectors_KD = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    vector_D = torch.nn.functional.normalize(vectors_KD.sum(0), dim=0)
    pose = interpolate(views, vectors_KD, vector_D, ridge=0.1)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(pose.rotation @ pose.rotation.mT, eye, rtol=0, atol=1e-9)
    old_from_new = random_poses(1, seed=5)[0]
    moved = interpolate(
        Rigid3d.stack([views[i] @ old_from_new for i in range(3)]), vectors_KD, vector_D, 0.1
    )
    expected = pose @ old_from_new
    torch.testing.assert_close(moved.matrix, expected.matrix, rtol=0, atol=1e-9)
    same = Rigid3d.stack([views[0]] * 3)
    torch.testing.assert_close(
        interpolate(same, vectors_KD, vector_D, 0.1).matrix, views[0].matrix, rtol=0, atol=1e-9
    )


def test_halfway_between_two_views_is_halfway() -> None:
    turn = torch.zeros(2, 6, dtype=torch.float64)
    turn[1, 1] = 0.6
    views = Rigid3d.exp(turn)
    centers = torch.tensor([[0.0, 0, 0], [2, 0, 0]], dtype=torch.float64)
    views = Rigid3d(views.rotation, -(views.rotation @ centers[..., None])[..., 0])
    vectors_KD = torch.eye(2, 5)
    pose = interpolate(views, vectors_KD, vectors_KD.sum(0) / 2**0.5, ridge=0.1)
    middle = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(pose.inverse().translation, middle)
    torch.testing.assert_close(pose.log()[1], torch.tensor(0.3, dtype=torch.float64))


def test_near_views_are_a_share_of_the_extent_apart() -> None:
    centers = torch.tensor([[0.0, 0, 0], [1, 0, 0], [10, 0, 0]], dtype=torch.float64)
    poses = Rigid3d(torch.eye(3, dtype=torch.float64).expand(3, 3, 3), -centers)
    assert is_within(poses, 0.1, 5.0).tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, True],
    ]
    turned = Rigid3d.exp(torch.tensor([0.0, 0.2, 0, 0, 0, 0], dtype=torch.float64))
    poses = Rigid3d.stack([poses[0], turned @ poses[1], poses[2]])
    assert not bool(is_within(poses, 0.1, 5.0)[0, 1])


def _walk() -> tuple[torch.Tensor, Rigid3d]:
    """Views along a line, whose vectors are the more alike the nearer they are."""
    places = torch.linspace(0, 10, 300, dtype=torch.float64)
    centers = torch.stack([places, 0 * places, 0 * places], dim=1)
    poses = Rigid3d(torch.eye(3, dtype=torch.float64).expand(300, 3, 3), -centers)
    angles = places[:, None] * torch.tensor([0.3, 0.9, 2.1])
    vectors = torch.cat([angles.cos(), angles.sin()], dim=1).float()
    generator = torch.Generator().manual_seed(0)
    vectors += 0.1 * torch.randn(vectors.shape, generator=generator)
    return torch.nn.functional.normalize(vectors, dim=1), poses


def test_certainty_is_learned_from_views_and_grows_with_similarity() -> None:
    vectors_ND, poses = _walk()
    certainty = learn_certainty(vectors_ND, poses)
    assert certainty is not None
    values = [certainty(similarity) for similarity in (-1.0, 0.3, 0.6, 0.9, 1.0)]
    assert values == sorted(values)
    assert values[0] < 0.05
    assert values[-1] > 0.8
    assert Certainty.from_tensor(Certainty.to_tensor(certainty)) == certainty


def test_certainty_is_not_learned_from_nothing() -> None:
    vectors_ND, poses = _walk()
    assert learn_certainty(vectors_ND[:8], poses[:8]) is None
    # All of one place: nothing tells what another one looks like.
    together = Rigid3d(poses.rotation, poses.translation * 0)
    assert learn_certainty(vectors_ND, together) is None
    assert Certainty.from_tensor(Certainty.to_tensor(None)) is None


def test_a_view_is_found_again_and_sure_of_itself(small_room) -> None:
    config = DenseVladRetrievalConfig(QUICK)
    map_ = reloc.build_map("densevlad", small_room, config)
    asked = [view.query() for view in small_room.mapping[::8]]
    answers = reloc.localize(map_, asked)
    for view in small_room.mapping[::8]:
        assert answers[view.name].reference == view.name
        confidence = answers[view.name].confidence
        assert confidence is not None
        assert confidence > 0.8


@pytest.mark.data
def test_photos_of_other_places_are_declined(shared_data) -> None:
    """Hardly one passes for the kitchen; frames of its own that were held back all do."""
    kitchen = load_scene(shared_data / "7scenes" / "redkitchen", LoadOptions())
    # Every fifth frame is mapped, and what lies halfway between two of them is asked for.
    mapped = replace(kitchen, mapping=kitchen.mapping[::5])
    map_ = reloc.build_map("densevlad", mapped, DenseVladRetrievalConfig(QUICK), Run())
    photos = sorted((shared_data / "photos").rglob("*.jpg"))[::50]
    asked = [query_from_image(path, None) for path in photos]
    answers = reloc.localize(map_, asked)
    accepted = sum(answers[query.name].cam_from_world is not None for query in asked)
    assert accepted <= 0.1 * len(asked)
    own = [view.query() for view in kitchen.mapping[2::50]]
    answers = reloc.localize(map_, own)
    assert all(answers[query.name].cam_from_world is not None for query in own)
