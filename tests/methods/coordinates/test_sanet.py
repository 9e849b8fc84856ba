"""SANet: what is read off retrieved views, in any world, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from reloc.contract import Run
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.maps import tensor_to_text
from reloc.methods.coordinates import sanet_query
from reloc.methods.coordinates.sanet import METHOD, build_map
from reloc.methods.coordinates.sanet_query import SanetConfig, SanetLocalizer, decoder_path
from reloc.nn.scene_agnostic import decoder_sha256, load_decoder
from reloc.scenes.scene import Scene, View
from reloc.training.buffer import depth_at

TINY = METHOD.tiny
SOFT = dataclasses.replace(TINY, decoder="soft-nearest")
# A scene at another place, turned, in another unit.
MOVE = Rigid3d.exp(torch.tensor([0.3, -1.1, 0.7, 40.0, -25.0, 3.0], dtype=torch.float64))
SCALE = 7.0
# Views that are rendered for these tests.
FEW = 20


@pytest.fixture(scope="module")
def views(small_room: Scene) -> list[View]:
    return list(small_room.mapping[:12])


def _elsewhere(view: View) -> View:
    """The view in a world whose points are MOVE @ (SCALE * points)."""
    pose, reader = view.cam_from_world, view.depth_reader
    assert reader is not None
    scaled = Rigid3d(pose.rotation, SCALE * pose.translation) @ MOVE.inverse()
    return dataclasses.replace(view, cam_from_world=scaled, depth_reader=lambda: SCALE * reader())


@pytest.mark.parametrize("config", [TINY, SOFT], ids=["shipped", "soft-nearest"])
def test_the_axes_the_origin_and_the_unit_of_the_world_play_no_part(
    config: SanetConfig, views: list[View], small_room: Scene
) -> None:
    moved = [_elsewhere(view) for view in views]
    here, there = (
        SanetLocalizer(build_map(some, config, Run()), config, Run()) for some in (views, moved)
    )
    query = small_room.mapping[12].query()
    seen, seen_there = here.see(query), there.see(query)
    assert seen is not None
    assert seen_there is not None
    assert seen_there.unit == pytest.approx(SCALE * seen.unit, rel=1e-3)
    centers = [torch.stack([view.center_world for view in some]).mean(0) for some in (views, moved)]
    expected_N3 = MOVE @ (SCALE * (seen.points_N3 + centers[0])) - centers[1]
    off_N = (seen_there.points_N3 - expected_N3).norm(dim=1) / seen_there.unit
    # What is stored is rounded: a few cells choose other neighbours.
    assert float(off_N.quantile(0.9)) < 0.01


def test_the_shipped_decoder_is_nearer_than_the_soft_nearest_neighbour(small_room: Scene) -> None:
    views = list(small_room.mapping[:FEW])
    queries = views[2::4]
    errors = {}
    for config in (TINY, SOFT):
        tensors = build_map([view for view in views if view not in queries], config, Run())
        asked = SanetLocalizer(tensors, config, Run())
        off = []
        for view in queries:
            seen = asked.see(view.query())
            assert seen is not None
            points_N3 = view.cam_from_world @ (seen.points_N3 + tensors["center_3"])
            rays_N2 = view.camera.cam_from_img(seen.pixels_N2)
            rays_N3 = torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=1)
            truth_N3 = rays_N3 * depth_at(view.read_depth(), seen.pixels_N2)[:, None]
            off.append((points_N3 - truth_N3).norm(dim=1))
        errors[config.decoder] = float(torch.cat(off).nanmedian())
    assert errors["shipped"] < errors["soft-nearest"]


def test_views_without_depth_are_left_out_and_named(
    views: list[View], caplog: pytest.LogCaptureFixture
) -> None:
    mixed = [*views[:-1], dataclasses.replace(views[-1], depth_reader=None)]
    with caplog.at_level(logging.WARNING):
        tensors = build_map(mixed, SOFT, Run())
    assert views[-1].name in caplog.text
    assert len(tensors["vectors"]) == len(views) - 1


def test_without_any_depth_points_are_triangulated(small_room: Scene) -> None:
    # Few views overlap enough: all are needed.
    known = small_room.mapping
    flat = [dataclasses.replace(view, depth_reader=None) for view in known]
    tensors = build_map(flat, SOFT, Run())
    numbers = tensors["fine.counts"].tolist()
    assert sum(numbers) > 100
    names = tensor_to_text(tensors["names"])
    # Where a triangulated point is in its view, the depth map has it, too.
    off = []
    by_name = {view.name: view for view in known}
    for name, points_N3 in zip(names, tensors["fine.points"].split(numbers), strict=True):
        view = by_name[name]
        seen_N3 = view.cam_from_world @ (points_N3.double() + tensors["center_3"])
        depth_N = depth_at(view.read_depth(), view.camera.img_from_cam(seen_N3))
        off.append((seen_N3[:, 2] / depth_N - 1).abs())
    assert float(torch.cat(off).nanmedian()) < 0.05


def test_a_map_without_points_is_refused(views: list[View]) -> None:
    flat = [dataclasses.replace(view, depth_reader=None) for view in views]
    with pytest.raises(InputError, match="--query-depth"):
        build_map(flat, dataclasses.replace(SOFT, query_depth=True), Run())
    with pytest.raises(InputError, match="no point is known"):
        build_map(flat[:1], SOFT, Run())


def test_with_depth_the_pose_moves_points_onto_points(views: list[View], small_room: Scene) -> None:
    config = dataclasses.replace(SOFT, query_depth=True)
    asked = SanetLocalizer(build_map(views, config, Run()), config, Run())
    view = small_room.mapping[12]
    (answer,) = asked.localize([view.query()])
    assert answer.cam_from_world is not None
    off = answer.cam_from_world.inverse().translation - view.center_world
    assert float(off.norm()) < 0.1
    rotation = answer.cam_from_world.rotation
    assert float(angle_between_rad(rotation, view.cam_from_world.rotation)) < 0.05
    with pytest.raises(InputError, match="has no depth"):
        asked.localize([view.query(with_depth=False)])


def test_hidden_views_are_not_retrieved(views: list[View]) -> None:
    tensors = build_map(views, SOFT, Run())
    query = views[4].query()
    names = [
        SanetLocalizer(tensors, SOFT, Run(), hidden).localize([query])[0].reference
        for hidden in ((), (4,))
    ]
    assert names[0] == views[4].name
    assert names[1] not in (None, views[4].name)


def test_a_map_for_another_decoder_is_refused(
    views: list[View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = build_map(views[:4], TINY, Run())
    other = tmp_path / "sanet_rooms.safetensors"
    monkeypatch.setattr(sanet_query, "decoder_path", lambda: other)
    with pytest.raises(InputError, match="with the decoder cannot be read"):
        SanetLocalizer(tensors, TINY, Run())
    other.write_bytes(b"something else")
    with pytest.raises(InputError, match="another decoder"):
        SanetLocalizer(tensors, TINY, Run())
    with pytest.raises(InputError, match="no decoder"):
        load_decoder(other, 16)
    assert decoder_sha256(other) != decoder_sha256(decoder_path())


def test_settings_out_of_range_are_refused() -> None:
    out_of_range: list[dict[str, Any]] = [
        {"num_retrieved": 0},
        {"short_side_px": 8},
        {"max_error_px": 0.0},
    ]
    for wrong in out_of_range:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SanetConfig(**wrong)
