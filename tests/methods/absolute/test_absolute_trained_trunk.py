"""Trunks that are trained with the scene, in every kind of row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from reloc.contract import Run, UnfinishedMapError
from reloc.methods import get_method
from reloc.methods.absolute.config import AbsoluteConfig
from reloc.methods.absolute.features import looks_of
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.looks import SmallCamera, exposed
from reloc.nn.backbones import load_trunk, make_network
from reloc.progress import Silent
from reloc.scenes.scene import Scene

SMALL = {"num_looks": 12, "batch_size": 4, "train_trunk": True}


def trunk_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the trunk in a map."""
    return {
        name.removeprefix("trunk."): value
        for name, value in tensors.items()
        if name.startswith("trunk.")
    }


def shipped() -> dict[str, Tensor]:
    """The weights of the encoder, as a map would hold them."""
    state = load_trunk("encoder", None).network.state_dict()
    return {name: value.half() for name, value in state.items()}


@pytest.mark.parametrize("name", ["posenet", "adposenet", "vlocnet-pp"])
def test_the_trunk_is_trained_and_answers(name: str, small_room: Scene) -> None:
    row = get_method(name)
    config = dataclasses.replace(row.tiny, steps=2, **SMALL)
    state = torch.get_rng_state()
    tensors = dict(row.build_map(small_room.mapping[:8], config, Run()))
    assert torch.equal(torch.get_rng_state(), state)
    trained, before = trunk_of(tensors), shipped()
    assert trained.keys() == before.keys()
    assert not torch.equal(trained["stem.0.weight"], before["stem.0.weight"])
    queries = [view.query() for view in small_room.queries[:2]]
    answers = row.localizer(tensors, config, Run()).localize(queries)
    # It is the trunk in the map that is asked: another one answers otherwise.
    other = {**tensors, **{f"trunk.{key}": value for key, value in before.items()}}
    others = row.localizer(other, config, Run()).localize(queries)
    for answer, another in zip(answers, others, strict=True):
        assert answer.cam_from_world is not None
        assert another.cam_from_world is not None
        assert not torch.equal(answer.cam_from_world.matrix, another.cam_from_world.matrix)


def test_a_frozen_trunk_is_not_in_the_map_and_its_rate_is_that_of_nothing(
    small_room: Scene,
) -> None:
    row, views = get_method("posenet-learned"), small_room.mapping[:8]
    config = dataclasses.replace(row.tiny, num_looks=12, steps=2)
    tensors = row.build_map(views, config, Run())
    assert not trunk_of(tensors)
    again = row.build_map(views, dataclasses.replace(config, trunk_rate=7.0), Run())
    assert tensors.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in tensors.items())
    # So slow that no weight moves: a trained trunk that is the frozen one.
    slow = dataclasses.replace(config, trunk_rate=1e-30, train_trunk=True)
    kept = trunk_of(row.build_map(views, slow, Run()))
    assert all(torch.equal(value, kept[key]) for key, value in shipped().items())
    with pytest.raises(ValueError, match="trunk_rate"):
        dataclasses.replace(config, trunk_rate=0.0)


class StopsAt(Silent):
    """Interrupts the training before a step."""

    def track(self, items, description, total=None):  # type: ignore[no-untyped-def]
        for item in items:
            if description == "training the map" and item == 2:
                raise KeyboardInterrupt
            yield item


def test_stopped_and_gone_on_with_it_ends_as_if_never_stopped(
    small_room: Scene, tmp_path: Path
) -> None:
    row, views = get_method("posenet-learned"), small_room.mapping[:8]
    config = dataclasses.replace(row.tiny, steps=4, **SMALL)
    whole = row.build_map(views, config, Run())
    with pytest.raises(UnfinishedMapError) as unfinished:
        row.build_map(views, config, Run(progress=StopsAt(), checkpoint_folder=tmp_path))
    half_way = unfinished.value.tensors
    assert half_way.keys() == whole.keys()
    query = small_room.queries[0].query()
    assert row.localizer(half_way, config, Run()).localize([query])[0].cam_from_world is not None
    assert not torch.equal(half_way["trunk.stem.0.weight"], whole["trunk.stem.0.weight"])
    # The pictures are kept: the views are not even read.
    blind = [dataclasses.replace(view, image_reader=lambda: 1 / 0) for view in views]
    resumed = row.build_map(blind, config, Run(checkpoint_folder=tmp_path))
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_batch_normalisation_keeps_its_statistics_and_the_map_needs_no_file(
    small_room: Scene, tmp_path: Path
) -> None:
    weights = tmp_path / "some.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = make_network("resnet18").state_dict()
    safetensors.torch.save_file(before, weights)
    row = get_method("posenet-learned")
    # A rate at which one step is seen in half precision.
    config = dataclasses.replace(
        row.tiny, num_looks=4, batch_size=2, steps=1, train_trunk=True, trunk_rate=300.0,
        trunk="resnet18", trunk_weights=str(weights),
    )  # fmt: skip
    tensors = row.build_map(small_room.mapping[:4], config, Run())
    weights.unlink()
    trained = trunk_of(tensors)
    # All but what names things.
    assert trained.keys() == {name for name in before if not name.startswith("fc.")}
    for name, value in trained.items():
        same = torch.equal(value, before[name].to(value.dtype))
        assert same == ("running_" in name or "num_batches" in name), name
    query = small_room.queries[0].query()
    assert row.localizer(tensors, config, Run()).localize([query])[0].cam_from_world is not None


def test_pictures_are_those_that_a_frozen_trunk_is_shown_but_for_their_exposure(
    small_room: Scene,
) -> None:
    views = small_room.mapping[:4]
    frozen = AbsoluteConfig(short_side_px=80, num_looks=8)
    trained = dataclasses.replace(frozen, train_trunk=True)
    camera, frame = SmallCamera.of(views, 80), Frame.from_views(views)
    kept = looks_of(views, camera, frame, frozen, Run())
    shown = looks_of(views, camera, frame, trained, Run())
    assert shown.shape == kept.shape
    assert torch.equal(shown.position_L3, kept.position_L3)
    assert torch.equal(shown.rotation_L33, kept.rotation_L33)
    # The first look of a view is the view as it is, in any exposure.
    index = torch.tensor([[0, 2], [4, 6]])
    with torch.no_grad():
        torch.testing.assert_close(shown.maps(index), kept.maps(index), rtol=2e-3, atol=2e-3)
    with torch.random.fork_rng():
        maps = shown.maps(index)
    assert maps.requires_grad
    assert float((maps.detach() - kept.maps(index)).abs().max()) > 1e-2


def test_exposures_are_each_picture_s_own_and_keep_within_their_bounds() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rgb = 0.3 + 0.2 * torch.rand(32, 3, 6, 7)
        other = exposed(rgb, 0.2)
    brightness = other.mean((1, 2, 3)) / rgb.mean((1, 2, 3))
    contrast = other.std((1, 2, 3)) / rgb.std((1, 2, 3)) / brightness
    for change in (brightness, contrast):
        assert 0.8 <= float(change.min()) < 0.85
        assert 1.15 < float(change.max()) <= 1.2
    assert abs(float(torch.corrcoef(torch.stack([brightness, contrast]))[0, 1])) < 0.5
