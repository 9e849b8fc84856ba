"""Forests on real frames and on the rendered room: what the conformance laws do not say."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest
import torch

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.geometry.camera import Camera
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.methods.forests import adaptive_forest, rgb_forest, scorf
from reloc.methods.forests.leaves import Modes
from reloc.methods.forests.trees import Forest
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.scene import Scene, View

ROWS = [scorf.METHOD, rgb_forest.METHOD, adaptive_forest.METHOD]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def _errors(estimate: PoseEstimate, view: View) -> tuple[float, float]:
    """Position in metres and rotation in degrees."""
    assert estimate.cam_from_world is not None
    position = (estimate.cam_from_world.inverse().translation - view.center_world).norm()
    angle = angle_between_rad(estimate.cam_from_world.rotation, view.cam_from_world.rotation)
    return float(position), float(angle.rad2deg())


# ------------------------------------------------------------------------------ real frames


@pytest.fixture(scope="module")
def kitchen(shared_data) -> Scene:
    """Every fourth mapping frame with depth, and some queries of the given blocks."""
    scene = load_scene(shared_data / "7scenes" / "redkitchen", LoadOptions(ground_truth="d-slam"))
    mapping = [view for view in scene.mapping if view.depth_reader is not None]
    return replace(scene, mapping=mapping[::4], queries=scene.queries[7::18])


@pytest.mark.data
@pytest.mark.parametrize(
    ("row", "max_m", "max_deg"),
    [
        (ROWS[0], 0.05, 2.5),
        pytest.param(
            *(ROWS[1], 0.12, 5.0),
            marks=pytest.mark.xfail(strict=True, reason="one ratio of inliers is 0.09, not 0.15"),
        ),
    ],
)
def test_real_frames_are_found(kitchen, row, max_m, max_deg):
    growth = replace(row.config().growth, num_trees=4, tried_probes=64)
    config = replace(row.config(), growth=growth, filling_pixels=2000)
    localizer = row.localizer(row.build_map(kitchen.mapping, config, Run()), config, Run())
    for view in kitchen.queries:
        (answer,) = localizer.localize([view.query()])
        position_m, angle_deg = _errors(answer, view)
        assert position_m < max_m
        assert angle_deg < max_deg
        assert answer.inlier_ratio is not None
        assert answer.inlier_ratio > 0.15


# ------------------------------------------------------------------------------ the rendered room


@pytest.fixture(scope="module")
def scorf_map(small_room) -> Tensors:
    return scorf.build_map(small_room.mapping, scorf.METHOD.tiny, Run())


def test_a_query_without_depth_is_told_what_to_do(small_room, scorf_map):
    localizer = scorf.localizer(scorf_map, scorf.METHOD.tiny, Run())
    with pytest.raises(InputError, match=r"query/0000 has no depth map.*rgb-forest") as raised:
        localizer.localize([small_room.queries[0].query(with_depth=False)])
    assert "\n" not in str(raised.value)


def test_what_shows_nothing_is_declined_in_the_time_of_an_answer(small_room, scorf_map):
    localizer = scorf.localizer(scorf_map, scorf.METHOD.tiny, Run())
    query = small_room.queries[0].query()
    assert query.depth is not None
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, query.image.shape, dtype=torch.uint8, generator=generator)
    odd = {
        "black": replace(query, image=torch.zeros_like(query.image)),
        "grey": replace(query, image=torch.full_like(query.image, 128)),
        "no depth anywhere": replace(query, depth=torch.zeros_like(query.depth)),
        "depth is not finite": replace(query, depth=torch.full_like(query.depth, torch.nan)),
        "depth is the same": replace(query, image=noise, depth=torch.full_like(query.depth, 1e-3)),
    }
    started = time.process_time()
    assert localizer.localize([query])[0].cam_from_world is not None
    answer_s = time.process_time() - started
    for name, asked in odd.items():
        started = time.process_time()
        (answer,) = localizer.localize([asked])
        assert answer.cam_from_world is None, name
        assert time.process_time() - started < 3 * answer_s + 0.1, name


def test_kabsch_is_as_good_as_a_forest_gets_and_reprojection_serves_an_unknown_focal_length(
    small_room, scorf_map
):
    localizer = scorf.localizer(scorf_map, scorf.METHOD.tiny, Run())
    with_focal, without = [], []
    for view in small_room.queries:
        query = view.query()
        (known,) = localizer.localize([query])
        (unknown,) = localizer.localize([replace(query, camera=Camera.guess(240, 180))])
        with_focal.append(_errors(known, view)[0])
        assert known.camera is None
        if unknown.cam_from_world is not None:
            without.append(_errors(unknown, view)[0])
            assert unknown.camera is not None
            assert float(unknown.camera.focal[0]) == pytest.approx(197, rel=0.15)
    assert torch.tensor(with_focal).median() < 0.03
    assert len(without) >= len(with_focal) / 2


@each_row
def test_views_that_cannot_be_used_are_named_and_left_out(row, small_room, caplog):
    def broken() -> torch.Tensor:
        raise InputError("image gone.png is missing")

    def dark(view: View) -> View:
        return replace(view, image_reader=lambda: torch.zeros(3, 180, 240, dtype=torch.uint8))

    views = list(small_room.mapping[:8])
    views[2] = replace(views[2], image_reader=broken)
    views[3] = replace(views[3], depth_reader=broken)
    views[4] = dark(views[4])
    views[5] = replace(views[5], depth_reader=None)
    with caplog.at_level(logging.WARNING, logger="reloc"):
        tensors = row.build_map(views, row.tiny, Run())
    assert caplog.text.count("left out: image gone.png is missing") == 2
    assert views[4].name in caplog.text
    # What is left is enough to find a frame that it was learned from.
    localizer = row.localizer(tensors, row.tiny, Run())
    (answer,) = localizer.localize([small_room.mapping[6].query()])
    assert _errors(answer, small_room.mapping[6])[0] < 0.2


@each_row
def test_a_scene_without_depth_is_told_what_to_do(row, small_room):
    views = [replace(view, depth_reader=None) for view in small_room.mapping[:4]]
    with pytest.raises(InputError, match=r"none of the 4 mapping views.*depth") as raised:
        row.build_map(views, row.tiny, Run())
    assert "sift" in str(raised.value)
    assert "\n" not in str(raised.value)


@each_row
def test_a_map_far_from_the_origin_is_as_good(row, small_room):
    """Coordinates of a national grid: float32 has steps of half a metre there."""
    shift = torch.tensor([4.5e6, 5.3e6, 300.0], dtype=torch.float64)

    def moved(view: View) -> View:
        pose = view.cam_from_world
        translation = pose.translation - pose.rotation @ shift
        return replace(view, cam_from_world=replace(pose, translation=translation))

    views = small_room.mapping[::2]
    asked = [small_room.queries[3].query()]
    answers = []
    for mapping in (views, [moved(view) for view in views]):
        tensors = row.build_map(mapping, row.tiny, Run())
        answers.append(row.localizer(tensors, row.tiny, Run()).localize(asked)[0].cam_from_world)
    near, far = answers
    assert (near is None) == (far is None)
    if near is not None and far is not None:
        difference = far.inverse().translation - shift - near.inverse().translation
        assert difference.norm() < 1e-3


@pytest.mark.xfail(
    strict=True, reason="not reached yet: leaves hold fewer modes, not 1.2 times more"
)
def test_an_adaptive_forest_learns_places_that_its_trees_have_not_seen(small_room):
    """Trees of the first views only; leaves of all: queries far from the first views are found."""
    config = replace(adaptive_forest.METHOD.tiny, growing_views=6)
    tensors = adaptive_forest.build_map(small_room.mapping, config, Run())
    forest, modes = Forest.from_tensors(tensors), Modes.from_tensors(tensors)
    few = adaptive_forest.build_map(small_room.mapping[:8], config, Run())
    # The same trees, but for what the trial view takes from them; more is known in their leaves.
    assert forest.num_leaves == int((few["child_N"] < 0).sum())
    assert torch.equal(tensors["child_N"], few["child_N"])
    assert int((modes.shares_LM > 0).sum()) > 1.2 * int((few["shares_LM"] > 0).sum())
    localizer = adaptive_forest.localizer(tensors, config, Run())
    errors = []
    for view in small_room.queries:
        (answer,) = localizer.localize([view.query()])
        errors.append(_errors(answer, view)[0] if answer.cam_from_world is not None else 9.0)
    assert torch.tensor(errors).median() < 0.05
