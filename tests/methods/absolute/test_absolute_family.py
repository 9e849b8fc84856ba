from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import reloc
from reloc.contract import PoseEstimate, Run, UnfinishedMapError
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.maps import Map
from reloc.methods import METHODS, get_method
from reloc.methods.absolute.frame import mean_pose
from reloc.nn.backbones import make_network
from reloc.nn.saliency import Explaining
from reloc.progress import Silent
from reloc.scenes.scene import Scene, View


def median_error(answers: list[PoseEstimate], views: Sequence[View], extent: float) -> float:
    """Median of position error / extent + rotation error in rad."""
    errors = []
    for answer, view in zip(answers, views, strict=True):
        assert answer.cam_from_world is not None
        center = answer.cam_from_world.inverse().translation
        angle = angle_between_rad(answer.cam_from_world.rotation, view.cam_from_world.rotation)
        errors.append(float((center - view.center_world).norm()) / extent + float(angle))
    return float(np.median(errors))


@pytest.mark.parametrize("name", ["posenet", "mapnet"])
def test_beats_the_mean_pose_by_a_wide_margin(name: str, small_room: Scene) -> None:
    """From forty views; the conformance tests say that it does not beat retrieval there."""
    row = get_method(name)
    config = dataclasses.replace(row.tiny, num_looks=240, steps=160)
    localizer = row.localizer(row.build_map(small_room.mapping, config, Run()), config, Run())
    answers = localizer.localize([view.query() for view in small_room.queries])
    mean = mean_pose(Rigid3d.stack([view.cam_from_world for view in small_room.mapping]))
    baseline = median_error(
        [PoseEstimate(mean)] * len(answers), small_room.queries, small_room.extent
    )
    assert median_error(answers, small_room.queries, small_room.extent) < 0.85 * baseline


ABSOLUTE = [name for name, module in METHODS.items() if ".absolute." in module]


@pytest.mark.parametrize("name", ABSOLUTE)
def test_the_mapping_views_themselves_are_learned(name: str, small_room: Scene) -> None:
    """Frame, looks, network, loss and answer agree: a few views are soon known by heart."""
    row = get_method(name)
    config = dataclasses.replace(
        row.tiny, num_looks=8, steps=30, max_learning_rate=4e-3, short_side_px=64,
        batch_size=3 if row.context == "sequence" else 8,
        dropout=0.05 if name == "bayesian-posenet" else 0.0,
    )  # fmt: skip
    views = small_room.mapping[::5]
    localizer = row.localizer(row.build_map(views, config, Run()), config, Run())
    answers = localizer.localize([view.query() for view in views])
    mean = mean_pose(Rigid3d.stack([view.cam_from_world for view in views]))
    baseline = median_error([PoseEstimate(mean)] * len(views), views, small_room.extent)
    assert median_error(answers, views, small_room.extent) < 0.7 * baseline


class StopsAt(Silent):
    """Interrupts the training before a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def track(self, items, description):  # type: ignore[no-untyped-def]
        for item in items:
            if description == "training the map" and item == self._step:
                raise KeyboardInterrupt
            yield item


def test_a_map_that_was_stopped_answers_and_goes_on_to_the_same_end(
    small_room: Scene, tmp_path: Path
) -> None:
    row = get_method("posenet-learned")
    config = dataclasses.replace(row.tiny, num_looks=16, steps=12)
    views = small_room.mapping[:8]
    whole = row.build_map(views, config, Run())
    stopped = Run(progress=StopsAt(5), checkpoint_folder=tmp_path)
    with pytest.raises(UnfinishedMapError) as unfinished:
        row.build_map(views, config, stopped)
    queries = [view.query() for view in small_room.queries[:2]]
    answers = row.localizer(unfinished.value.tensors, config, Run()).localize(queries)
    assert all(answer.cam_from_world is not None for answer in answers)
    # What the trunk made is not made again: the views are not even read.
    blind = [dataclasses.replace(view, image_reader=lambda: 1 / 0) for view in views]
    resumed = row.build_map(blind, config, Run(checkpoint_folder=tmp_path))
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_trunk_with_a_checkpoint_is_used_and_its_weights_are_checked(
    small_room: Scene, tmp_path: Path
) -> None:
    row = get_method("posenet-learned")
    weights = tmp_path / "some.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.torch.save_file(make_network("squeezenet1_0").state_dict(), weights)
    config = dataclasses.replace(
        row.tiny, num_looks=8, steps=2, trunk="squeezenet1_0", trunk_weights=str(weights)
    )
    views = small_room.mapping[:8]
    tensors = row.build_map(views, config, Run())
    localizer = row.localizer(tensors, config, Run())
    assert localizer.localize([views[0].query()])[0].cam_from_world is not None
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match="other weights"):
        row.localizer(tensors, config, Run())


def test_a_map_finds_the_weights_of_its_trunk_from_any_folder(
    small_room: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = make_network("squeezenet1_0").state_dict()
    safetensors.torch.save_file(state, tmp_path / "some.safetensors")
    config = dataclasses.replace(
        get_method("posenet-learned").tiny,
        num_looks=4, steps=1, trunk="squeezenet1_0", trunk_weights="some.safetensors",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    few = Scene("few", small_room.mapping[:4], [], "synthetic")
    reloc.build_map("posenet-learned", few, config).save(tmp_path / "map")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    photo = small_room.queries[0]
    answers = reloc.localize(Map.load(tmp_path / "map"), [photo]).by_name
    assert answers[photo.name].cam_from_world is not None


def test_pictures_that_a_trunk_makes_no_map_of_are_refused(small_room: Scene) -> None:
    row = get_method("posenet-learned")
    config = dataclasses.replace(row.tiny, short_side_px=64, trunk="inception_resnet_v2")
    for train_trunk in (False, True):
        asked = dataclasses.replace(config, train_trunk=train_trunk)
        with pytest.raises(InputError, match="--short-side-px 80 or more"):
            row.build_map(small_room.mapping[:4], asked, Run())


def test_messages_need_their_library_before_any_picture_is_read(
    small_room: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric.utils", None)
    row = get_method("grnet")
    blind = [
        dataclasses.replace(view, image_reader=lambda: 1 / 0) for view in small_room.mapping[:4]
    ]
    with pytest.raises(InputError, match="needs torch_geometric"):
        row.build_map(blind, row.tiny, Run())


def test_several_scenes_in_one_map_are_told_apart(small_room: Scene) -> None:
    """The second scene is the first with its colours inverted, somewhere else."""
    away = Rigid3d(torch.eye(3).double(), torch.tensor([50.0, 0.0, 0.0]).double())
    first = [dataclasses.replace(view, sequence="a/1") for view in small_room.mapping[:8]]
    second = [
        dataclasses.replace(
            view,
            name=f"{view.name} again",
            sequence="b/1",
            cam_from_world=view.cam_from_world @ away.inverse(),
            image_reader=lambda view=view: 255 - view.read_image(),
        )
        for view in small_room.mapping[:8]
    ]
    row = get_method("ms-transformer")
    config = dataclasses.replace(row.tiny, num_looks=32, steps=100, batch_size=12)
    localizer = row.localizer(row.build_map([*first, *second], config, Run()), config, Run())
    for views, near in ((first, 0.0), (second, 50.0)):
        for answer in localizer.localize([view.query() for view in views[:4]]):
            assert answer.cam_from_world is not None
            assert abs(float(answer.cam_from_world.inverse().translation[0]) - near) < 3


def test_explanations_are_of_the_picture_and_are_none_where_nothing_is_seen(
    small_room: Scene,
) -> None:
    for name in ("posenet-learned", "mapnet"):
        row = get_method(name)
        config = dataclasses.replace(row.tiny, num_looks=8, steps=2)
        localizer = row.localizer(
            row.build_map(small_room.mapping[:8], config, Run()), config, Run()
        )
        assert isinstance(localizer, Explaining)
        query = small_room.queries[0].query()
        found = localizer.explain(query, 2)
        assert found is not None
        assert found.position_hw.shape == found.picture_hw3.shape[:2]
        assert float(found.position_hw.min()) >= 0 < float(found.position_hw.max())
        assert not torch.equal(found.position_hw, found.rotation_hw)
        black = dataclasses.replace(query, image=torch.zeros_like(query.image))
        assert localizer.explain(black, 2) is None
