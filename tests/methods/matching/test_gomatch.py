"""GoMatch: its map holds no descriptor and is small, and it answers all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reloc import steps
from reloc.contract import Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.maps import Map, text_to_tensor
from reloc.methods.matching import gomatch
from reloc.methods.matching.geometry_map import GeometryMap, without_descriptors
from reloc.methods.matching.gomatch import GomatchConfig
from reloc.methods.matching.point_map import PointMap
from reloc.nn.weights import FOLDER
from reloc.scenes.scene import Scene

CONFIG = replace(gomatch.METHOD.tiny, points_per_view=150)


@pytest.fixture(scope="module")
def room_map(small_room: Scene) -> Map:
    return steps.build_map("gomatch", small_room, CONFIG)


def _geometry(num_points: int) -> GeometryMap:
    """Points far from the origin, each seen by one of two views."""
    generator = torch.Generator().manual_seed(0)
    points_N3 = 40 + torch.tensor([8.0, 3.0, 0.5]) * torch.rand(num_points, 3, generator=generator)
    half = num_points // 2
    point_map = PointMap(
        origin_3=torch.tensor([1e6, -2e6, 3.0], dtype=torch.float64),
        points_N3=points_N3,
        descriptors_ND=torch.randint(0, 256, (num_points, 128), dtype=torch.uint8),
        vocabulary_KD=torch.rand(4, 128),
        image_vectors_VL=torch.randint(-127, 128, (2, 16), dtype=torch.int8),
        view_names=["a", "b"],
        num_seen_V=torch.tensor([half, num_points - half]),
        seen_S=torch.arange(num_points).int(),
    )
    tangents = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    return GeometryMap(without_descriptors(point_map), Rigid3d.exp(tangents))


@pytest.mark.parametrize("num_points", [1000, 70_000])
def test_a_map_is_what_it_was_and_has_a_few_bytes_a_point(num_points: int) -> None:
    geometry = _geometry(num_points)
    tensors = geometry.tensors()
    again = GeometryMap.from_tensors(tensors)
    off_N3 = (again.point_map.points_N3 - geometry.point_map.points_N3).abs()
    # Half a step of 65,535 over the extent, and what float32 loses 40 away from the origin.
    assert bool((off_N3.amax(0) < torch.tensor([8.0, 3.0, 0.5]) / 65535 / 2 + 4e-6).all())
    assert torch.equal(again.point_map.seen_S, geometry.point_map.seen_S)
    assert torch.equal(again.point_map.num_seen_V, geometry.point_map.num_seen_V)
    moved = again.cam_from_map @ geometry.cam_from_map.inverse()
    assert float(moved.log().abs().max()) < 1e-5
    assert {name: tensor.dtype for name, tensor in again.tensors().items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }
    for name, size in (("places_N3", 6), ("seen_S", 2 if num_points < 65_536 else 4)):
        assert tensors[name].numel() * tensors[name].element_size() == size * num_points


def test_the_file_holds_no_descriptor_of_a_point(
    room_map: Map, small_room: Scene, tmp_path: Path
) -> None:
    room_map.save(tmp_path / "map")
    tensors: Tensors = Map.load(tmp_path / "map").tensors
    num_points = len(tensors["places_N3"])
    num_seen = int(tensors["num_seen_V"].sum())
    # Whatever grows with the points: where they are, and who saw them. All else is of views.
    of_points = {
        name: tensor
        for name, tensor in tensors.items()
        if len(tensor.shape) and len(tensor) in (num_points, num_seen)
    }
    assert set(of_points) == {"places_N3", "seen_S"}
    assert of_points["places_N3"].shape[1] == 3
    size = sum(tensor.numel() * tensor.element_size() for tensor in of_points.values())
    assert size == 6 * num_points + 2 * num_seen
    assert num_points > 200
    with_descriptors = steps.build_map(
        "sift", small_room, replace(_as_sift(CONFIG), points_per_view=CONFIG.points_per_view)
    )
    assert room_map.megabytes < 0.4 * with_descriptors.megabytes


def _as_sift(config: GomatchConfig):
    from reloc.methods.matching.config import MatchingConfig

    return MatchingConfig(
        max_keypoints=config.max_keypoints,
        pairs_by_pose=config.pairs_by_pose,
        pairs_by_retrieval=config.pairs_by_retrieval,
        vocabulary=config.vocabulary,
    )


def test_a_query_near_a_view_is_answered(room_map: Map, small_room: Scene) -> None:
    # The only query of the room with a view less than 0.3 m away; the others are to be declined,
    # or right.
    near = small_room.queries[3]
    answers = steps.localize(room_map, small_room.queries)
    for view in small_room.queries:
        pose = answers[view.name].cam_from_world
        assert pose is not None or view is not near
        if pose is not None:
            distance = float((pose.inverse().translation - view.center_world).norm())
            angle = float(angle_between_rad(pose.rotation, view.cam_from_world.rotation))
            assert (distance < 0.1 and angle < 0.05) or (answers[view.name].confidence or 0) < 0.5
    pose = answers[near.name].cam_from_world
    assert pose is not None
    assert float((pose.inverse().translation - near.center_world).norm()) < 0.03


def test_another_place_is_declined(room_map: Map, small_room: Scene) -> None:
    localizer = gomatch.localizer(room_map.tensors, CONFIG, Run())
    generator = torch.Generator().manual_seed(0)
    query = small_room.queries[0].query()
    # What is in the picture is still there, but in another place.
    height, width = query.image.shape[1:]
    blocks = query.image.unfold(1, height // 6, height // 6).unfold(2, width // 6, width // 6)
    order = torch.randperm(36, generator=generator)
    shuffled = blocks.flatten(1, 2)[:, order].unflatten(1, (6, 6)).permute(0, 1, 3, 2, 4)
    mixed = replace(query, image=shuffled.reshape(3, height, width).contiguous())
    (estimate,) = localizer.localize([mixed])
    assert estimate.cam_from_world is None or (estimate.confidence or 0) < 0.5


def test_another_matcher_is_refused(room_map: Map, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"another")
    with pytest.raises(InputError, match="another matcher"):
        gomatch.localizer(room_map.tensors, replace(CONFIG, matcher=str(other)), Run())


@pytest.mark.parametrize(
    "setting", [{"rounds": 0}, {"min_probability": 1.0}, {"descriptor_bytes": 16}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        GomatchConfig(**setting)  # pyright: ignore[reportArgumentType]


def test_a_matcher_of_ones_own_is_found_from_any_folder(room_map: Map, tmp_path: Path) -> None:
    """A path that was typed in the folder of the mapping says nothing elsewhere."""
    own = tmp_path / "own.safetensors"
    own.write_bytes((FOLDER / "geometric_matcher.safetensors").read_bytes())
    tensors = {**room_map.tensors, "matcher": text_to_tensor([str(own)])}
    typed = replace(CONFIG, matcher="own.safetensors")
    assert gomatch.localizer(tensors, typed, Run()) is not None
    with pytest.raises(InputError, match="cannot be read"):
        gomatch.localizer(room_map.tensors, typed, Run())
