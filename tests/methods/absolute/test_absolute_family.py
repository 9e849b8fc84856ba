from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import roma
import safetensors.torch
import torch

from reloc.contract import PoseEstimate, Run, UnfinishedMapError
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.methods import get_method
from reloc.nn.backbones import make_network
from reloc.nn.saliency import Explaining
from reloc.progress import Silent
from reloc.scenes.scene import Scene


def median_error(answers: list[PoseEstimate], scene: Scene) -> float:
    """Median of position error / extent + rotation error in rad."""
    errors = []
    for answer, view in zip(answers, scene.queries, strict=True):
        assert answer.cam_from_world is not None
        center = answer.cam_from_world.inverse().translation
        angle = angle_between_rad(answer.cam_from_world.rotation, view.cam_from_world.rotation)
        errors.append(float((center - view.center_world).norm()) / scene.extent + float(angle))
    return float(np.median(errors))


@pytest.mark.parametrize("name", ["posenet", "mapnet"])
def test_beats_the_mean_pose_by_a_wide_margin(name: str, small_room: Scene) -> None:
    """From forty views; the conformance tests say that it does not beat retrieval there."""
    row = get_method(name)
    config = dataclasses.replace(row.tiny, num_looks=240, steps=160)
    localizer = row.localizer(row.build_map(small_room.mapping, config, Run()), config, Run())
    answers = localizer.localize([view.query() for view in small_room.queries])
    poses = Rigid3d.stack([view.cam_from_world.inverse() for view in small_room.mapping])
    rotation = roma.special_procrustes(poses.rotation.sum(0))
    mean = Rigid3d(rotation, poses.translation.mean(0)).inverse()
    baseline = median_error([PoseEstimate(mean)] * len(answers), small_room)
    assert median_error(answers, small_room) < 0.85 * baseline


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
    config = dataclasses.replace(row.tiny, num_looks=32, steps=200, batch_size=12)
    localizer = row.localizer(row.build_map([*first, *second], config, Run()), config, Run())
    for views, near in ((first, 0.0), (second, 50.0)):
        for answer in localizer.localize([view.query() for view in views[:4]]):
            assert answer.cam_from_world is not None
            assert abs(float(answer.cam_from_world.inverse().translation[0]) - near) < 15


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
