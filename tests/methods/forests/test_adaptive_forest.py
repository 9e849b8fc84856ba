"""Trees that were grown elsewhere serve a place that they have never seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
import torch

from reloc.contract import Run, Tensors
from reloc.input_error import InputError
from reloc.methods.forests import adaptive_forest
from reloc.methods.forests.adaptive_forest import (
    AdaptiveForestConfig,
    PretrainForestConfig,
    pretrain,
)
from reloc.methods.forests.features import look
from reloc.methods.forests.leaves import Modes
from reloc.methods.forests.trees import Forest, GrowthConfig
from reloc.scenes.scene import View

ROW = adaptive_forest.METHOD
SMALL = PretrainForestConfig(
    num_rooms=4,
    growth=GrowthConfig(num_trees=2, num_probes=32, tried_probes=8, pixels_per_view=200),
)


@pytest.fixture(scope="module")
def room_map(small_room) -> Tensors:
    return ROW.build_map(small_room.mapping, ROW.tiny, Run())


def _share_known(forest: Forest, modes: Modes, view: View, origin_3: torch.Tensor) -> float:
    """Of the pixels of a view, those of which a leaf guesses the point to 10 cm."""
    looks = look(view.read_image(), view.camera, view.read_depth(), 180, 1000, 5, reads_depth=True)
    assert looks is not None
    points_P3 = (view.cam_from_world.inverse() @ looks.points_cam_P3 - origin_3).float()
    guesses = modes.of(forest.leaves(looks))
    distance_PM = (guesses.points_PM3 - points_P3[:, None]).norm(dim=-1)
    distance_PM[guesses.weights_PM <= 0] = torch.inf
    return float((distance_PM.min(1).values < 0.1).float().mean())


def test_the_map_names_its_trees_and_does_not_hold_them(room_map):
    assert not set(Forest.NAMES) & set(room_map)
    other = {**room_map, "forest_sha256": room_map["forest_sha256"].flip(0)}
    with pytest.raises(InputError, match="needs other trees") as raised:
        ROW.localizer(other, ROW.tiny, Run())
    assert "\n" not in str(raised.value)


def test_leaves_learn_places_as_their_frames_arrive(small_room, room_map):
    """Pixels of a far view are known once its neighbours are mapped, by the same trees."""
    forest = adaptive_forest.shipped_forest()
    few = ROW.build_map(small_room.mapping[:8], ROW.tiny, Run())
    first = small_room.mapping[0].center_world
    far = max(small_room.queries, key=lambda view: float((view.center_world - first).norm()))
    before, after = (
        _share_known(forest, Modes.from_tensors(tensors), far, tensors["origin_3"])
        for tensors in (few, room_map)
    )
    assert after > 0.2
    assert after > 2 * before


def _median_error(tensors: Tensors, config: AdaptiveForestConfig, queries: Sequence[View]) -> float:
    localizer = ROW.localizer(tensors, config, Run())
    errors = []
    for view in queries:
        pose = localizer.localize([view.query()])[0].cam_from_world
        errors.append(
            9.0 if pose is None else (pose.inverse().translation - view.center_world).norm()
        )
    return float(torch.tensor(errors).median())


def test_queries_are_found_by_trees_that_have_never_seen_the_scene(small_room, room_map):
    assert _median_error(room_map, ROW.tiny, small_room.queries) < 0.05


def test_queries_far_from_the_first_views_are_found_by_trees_of_these(small_room):
    config = replace(
        ROW.tiny,
        trees="first-views",
        growing_views=6,
        growth=GrowthConfig(num_trees=3, num_probes=64, tried_probes=32, pixels_per_view=500),
    )
    tensors = ROW.build_map(small_room.mapping, config, Run())
    assert _median_error(tensors, config, small_room.queries) < 0.05


def test_the_trees_that_ship_are_those_of_their_card():
    record = json.loads(adaptive_forest.shipped_path().with_suffix(".json").read_text())
    forest = adaptive_forest.shipped_forest()
    assert forest.num_leaves == record["leaves"]
    assert len(forest.roots_T) == record["config"]["growth"]["num_trees"]
    assert adaptive_forest.shipped_path().stat().st_size < 5e6
    assert record["config"] == json.loads(json.dumps(asdict(PretrainForestConfig())))


def test_the_same_rooms_and_seed_give_the_same_trees(small_room, tmp_path):
    rooms = [small_room.mapping[start : start + 2] for start in range(0, 8, 2)]
    paths = [
        pretrain(rooms, SMALL, tmp_path / name, Run(seed=seed))
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    ]
    contents = [path.read_bytes() for path in paths]
    assert contents[0] == contents[1] != contents[2]
    assert json.loads(paths[0].with_suffix(".json").read_text())["seed"] == 1


def test_too_few_rooms_are_refused():
    with pytest.raises(ValueError, match="2 rooms are too few for 5 trees"):
        PretrainForestConfig(num_rooms=2)
