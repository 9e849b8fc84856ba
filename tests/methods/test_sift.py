"""The classical pipeline on real images: what the conformance laws do not say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reloc import steps
from reloc.contract import PoseEstimate, Run
from reloc.geometry.camera import Camera
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.maps import Map
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.localizer import confidence
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.images import query_from_image
from reloc.scenes.scene import Scene, View

CONFIG = MatchingConfig(max_keypoints=1200, pairs_by_pose=5, pairs_by_retrieval=2)


@pytest.fixture(scope="module")
def kitchen(shared_data) -> Scene:
    """Every eighth mapping frame, and some queries of the harder split."""
    scene = load_scene(shared_data / "7scenes" / "redkitchen", LoadOptions(split="hard"))
    return replace(scene, mapping=scene.mapping[::8], queries=scene.queries[10::40])


@pytest.fixture(scope="module")
def kitchen_map(kitchen) -> Map:
    return steps.build_map("sift", kitchen, CONFIG)


def _errors(estimate: PoseEstimate, view: View) -> tuple[float, float]:
    """Position (units of the scene) and rotation (degrees)."""
    assert estimate.cam_from_world is not None
    position = (estimate.cam_from_world.inverse().translation - view.center_world).norm()
    angle = angle_between_rad(estimate.cam_from_world.rotation, view.cam_from_world.rotation)
    return float(position), float(angle.rad2deg())


@pytest.mark.data
def test_queries_from_new_places_are_found(kitchen, kitchen_map):
    estimates = steps.localize(kitchen_map, kitchen.queries)
    for view in kitchen.queries:
        position_m, angle_deg = _errors(estimates[view.name], view)
        assert position_m < 0.05
        assert angle_deg < 1.0
        assert estimates[view.name].confidence > 0.95


@pytest.mark.data
def test_an_unknown_focal_length_is_estimated(kitchen, kitchen_map):
    for view in kitchen.queries[:3]:
        query = replace(view.query(), camera=Camera.guess(640, 480))
        estimate = steps.localize(kitchen_map, [query])[view.name]
        assert estimate.camera is not None
        assert float(estimate.camera.focal[0]) == pytest.approx(525.5, rel=0.03)
        assert _errors(estimate, view)[0] < 0.05


@pytest.mark.data
def test_a_photo_of_another_place_is_declined(kitchen_map, shared_data):
    photos = sorted((shared_data / "photos").rglob("*.jpg"))[::80]
    assert len(photos) > 10
    for path in photos:
        query = query_from_image(path, None)
        assert steps.localize(kitchen_map, [query])[query.name].cam_from_world is None


@pytest.mark.data
def test_a_reduced_photo_is_found_in_the_pixels_of_the_original(kitchen, kitchen_map):
    """A query four times as large is reduced; its focal length comes back in its own pixels."""
    view = kitchen.queries[0]
    image = torch.nn.functional.interpolate(view.read_image()[None].float(), scale_factor=4.0)
    query = replace(
        view.query(), image=image[0].to(torch.uint8), camera=Camera.guess(640 * 4, 480 * 4)
    )
    estimate = steps.localize(kitchen_map, [query])[view.name]
    assert _errors(estimate, view)[0] < 0.05
    assert estimate.camera is not None
    assert (estimate.camera.width, estimate.camera.height) == (640 * 4, 480 * 4)
    assert float(estimate.camera.focal[0]) == pytest.approx(4 * 525.5, rel=0.03)


@pytest.mark.data
def test_depth_maps_add_points_where_the_poses_fit_them(shared_data):
    scene = load_scene(shared_data / "7scenes" / "redkitchen", LoadOptions(ground_truth="d-slam"))
    with_depth = [view for view in scene.mapping if view.depth_reader is not None]
    scene = replace(scene, mapping=with_depth[:24:4], queries=with_depth[2:24:8])
    sparse = steps.build_map("sift", scene, CONFIG)
    dense = steps.build_map("sift", scene, replace(CONFIG, depth=True))
    assert len(dense.tensors["points_N3"]) > 1.5 * len(sparse.tensors["points_N3"])
    answers = steps.localize(dense, scene.queries)
    for view in scene.queries:
        assert _errors(answers[view.name], view)[0] < 0.05


def test_a_map_far_from_the_origin_is_as_good(small_room):
    """Coordinates of a national grid: float32 has steps of half a metre there."""
    shift = torch.tensor([4.5e6, 5.3e6, 300.0], dtype=torch.float64)

    def moved(view: View) -> View:
        pose = view.cam_from_world
        return replace(
            view,
            cam_from_world=replace(pose, translation=pose.translation - pose.rotation @ shift),
        )

    far = replace(
        small_room,
        mapping=[moved(view) for view in small_room.mapping],
        queries=[moved(view) for view in small_room.queries],
    )
    near_answers = steps.localize(steps.build_map("sift", small_room, CONFIG), small_room.queries)
    far_answers = steps.localize(steps.build_map("sift", far, CONFIG), far.queries)
    for near, view in zip(small_room.queries, far.queries, strict=True):
        here = near_answers[near.name].cam_from_world
        there = far_answers[view.name].cam_from_world
        assert (here is None) == (there is None)
        if here is not None and there is not None:
            centers = there.inverse().translation - shift, here.inverse().translation
            assert (centers[0] - centers[1]).norm() < 2e-3


def test_images_without_texture_are_refused(small_room):
    def blank(view: View) -> View:
        return replace(view, image_reader=lambda: torch.zeros_like(view.read_image()))

    scene = replace(small_room, mapping=[blank(view) for view in small_room.mapping])
    with pytest.raises(InputError, match="texture"):
        steps.build_map("sift", scene, CONFIG, Run())


def test_confidence_grows_with_agreement():
    values = [confidence(count) for count in (1, 6, 12, 30, 100, 1000)]
    assert values == sorted(values)
    assert 0 <= values[0] < 0.1
    assert 0.99 < values[-1] <= 1


@pytest.mark.parametrize("change", [{"max_ratio": 0.0}, {"vocabulary": 0}, {"max_keypoints": -1}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CONFIG, **change)
