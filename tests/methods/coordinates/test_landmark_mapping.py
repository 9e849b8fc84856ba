"""Landmarks placed between views whose poses and points are known."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from reloc.contract import Run
from reloc.evaluation.report import Threshold
from reloc.geometry.rigid3d import Rigid3d
from reloc.maps import Map
from reloc.methods import get_method
from reloc.methods.coordinates.ace import AceConfig
from reloc.methods.coordinates.cameras import MappingCameras, cameras_in_frame
from reloc.methods.coordinates.cells import known_depth
from reloc.methods.coordinates.landmarks import find_landmarks
from reloc.methods.coordinates.map_tensors import landmarks_of
from reloc.scenes.scene import Scene
from reloc.steps import build_map, evaluate, load_scene, localize, update_map
from reloc.training.buffer import FeatureBuffer
from reloc.training.replay import PosedCells

RUN = Run(seed=0)
FOCAL_PX, NUM_POINTS, NUM_VIEWS = 500.0, 400, 12


def _arc(noise_px: float, shuffled: float = 0.0) -> tuple[PosedCells, MappingCameras, torch.Tensor]:
    """Points seen from an arc, each by a code of its own; and where they are (N, 3).

    Args:
        noise_px: of where a cell is.
        shuffled: share of the sightings whose code is that of another point.
    """
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(NUM_POINTS, 3, generator=generator, dtype=torch.float64) - 0.5
    codes = (
        functional.normalize(torch.randn(NUM_POINTS, 128, generator=generator), dim=1) * 128**0.5
    )
    poses, rays, view, seen = [], [], [], []
    for number in range(NUM_VIEWS):
        turn = torch.tensor([0, 0.15 * (number - NUM_VIEWS / 2), 0, 0, 0, 3.0]).double()
        pose = Rigid3d.exp(turn)
        in_camera = pose @ points
        offset = noise_px / FOCAL_PX * torch.randn(NUM_POINTS, 2, generator=generator)
        rays.append((in_camera[:, :2] / in_camera[:, 2:]).float() + offset)
        order = torch.arange(NUM_POINTS)
        wrong = torch.rand(NUM_POINTS, generator=generator) < shuffled
        order[wrong] = order[wrong].roll(1)
        seen.append(codes[order].half())
        view.append(torch.full((NUM_POINTS,), number, dtype=torch.int32))
        poses.append(pose)
    buffer = FeatureBuffer(
        torch.cat(seen),
        torch.cat(rays),
        torch.cat(view),
        torch.full((NUM_VIEWS * NUM_POINTS,), torch.nan),
    )
    stacked = Rigid3d.stack(poses)
    focals = torch.full((NUM_VIEWS,), FOCAL_PX)
    center = torch.tensor([0.2, 0.1, 0.0], dtype=torch.float64)
    cameras = cameras_in_frame(stacked, focals, center, 2.0, "cpu")
    return PosedCells(buffer, stacked, focals, NUM_VIEWS), cameras, (points - center) / 2.0


def _errors(cells: PosedCells, cameras: MappingCameras, truth: torch.Tensor) -> torch.Tensor:
    """From each landmark to the nearest true point, in the unit of the head."""
    found = find_landmarks(cells, cameras, AceConfig(), 500, 64, RUN)
    assert len(found) > 300
    return torch.cdist(found.points_L3.double(), truth.double()).amin(1)


def test_points_seen_exactly_are_placed_exactly() -> None:
    assert float(_errors(*_arc(0.0)).median()) < 1e-3


def test_many_sightings_average_the_noise_of_each() -> None:
    """Two pixels at a distance of three are 6 mm a sighting across, and far more along the ray."""
    errors = _errors(*_arc(2.0)) * 2.0
    assert float(errors.median()) < 0.012


def test_sightings_of_other_points_do_not_count() -> None:
    assert float(_errors(*_arc(0.5, shuffled=0.2)).median()) * 2.0 < 0.012


def test_cells_of_views_without_depth_are_triangulated_beside_those_that_have_it() -> None:
    cells, cameras, truth = _arc(0.5)
    asked, depth_N = AceConfig(depth=True), torch.full((len(cells),), torch.nan)
    triangulated_N = known_depth(cells, AceConfig(), RUN)
    # Where no view has depth it is as if it had not been asked for.
    assert torch.equal(known_depth(cells, asked, RUN).isfinite(), triangulated_N.isfinite())
    measured_N = cells.buffer.view_N < 4
    in_camera_VN3 = cells.cam_from_world[:, None] @ (2.0 * truth + cameras.center_3)
    depth_N[measured_N] = in_camera_VN3[..., 2].flatten().float()[measured_N]
    some = replace(cells, buffer=replace(cells.buffer, depth_N=depth_N))
    known_N = known_depth(some, asked, RUN)
    assert torch.equal(known_N[measured_N], depth_N[measured_N])
    assert torch.equal(known_N[~measured_N].isfinite(), triangulated_N[~measured_N].isfinite())
    # Measured points stay where they are; the others are placed again, as without depth.
    found = find_landmarks(some, cameras, asked, 2000, 64, RUN)
    error_L = torch.cdist(found.points_L3.double(), truth.double()).amin(1)
    assert float(error_L.median()) < 2e-3


def test_views_from_one_direction_place_nothing() -> None:
    cells, cameras, _ = _arc(0.0)
    alone = cells.of_views([0])
    one = cameras_in_frame(alone.cam_from_world, alone.focal_px_V, cameras.center_3, 2.0, "cpu")
    assert len(find_landmarks(alone, one, AceConfig(), 500, 64, RUN)) == 0


def test_a_room_is_mapped_without_training(small_room: Scene) -> None:
    """The images are 180 px high: a cell is a large part of what they show."""
    tiny = get_method("ace").tiny
    assert tiny.head == "landmarks"
    map_ = build_map("ace", small_room, tiny, RUN)
    report = evaluate(localize(map_, small_room.queries, RUN), small_room)
    assert report.recall(Threshold(0.1, 5.0)) >= 0.4
    assert report.recall(Threshold(0.25, 5.0)) >= 0.5


def test_exact_depth_places_landmarks_exactly(small_room: Scene) -> None:
    config = replace(get_method("ace").tiny, depth=True)
    map_ = build_map("ace", small_room, config, RUN)
    report = evaluate(localize(map_, small_room.queries, RUN), small_room)
    assert report.recall(Threshold(0.05, 5.0)) >= 0.8


@pytest.mark.data
def test_real_frames_are_found_and_photos_of_elsewhere_are_not_believed(shared_data: Path) -> None:
    """Every fourth mapping view, and no photo that the map was made of."""
    kitchen = load_scene(shared_data / "7scenes" / "redkitchen")
    few = replace(kitchen, mapping=kitchen.mapping[::4], queries=kitchen.queries[3::10])
    assert not {view.name for view in few.mapping} & {view.name for view in few.queries}
    config = replace(AceConfig(), num_images=60, num_landmarks=6000)
    map_ = build_map("ace", few, config, RUN)
    report = evaluate(localize(map_, few.queries, RUN), few)
    assert report.recall(Threshold(0.05, 5.0)) == 1.0
    elsewhere = load_scene(shared_data / "fox").queries[:4]
    answers = localize(map_, elsewhere, RUN).by_name.values()
    assert all((answer.confidence or 0.0) < 0.2 for answer in answers)
    thumbnails = build_map("thumbnail", few, None, RUN)
    refined = evaluate(localize(thumbnails, few.queries, RUN, refine_on=map_), few)
    assert refined.recall(Threshold(0.05, 5.0)) >= 0.7


@pytest.fixture(scope="module")
def before(small_room: Scene) -> Map:
    """Of the first views of the room."""
    tiny = replace(get_method("ace").tiny, num_landmarks=3000)
    return build_map("ace", replace(small_room, mapping=small_room.mapping[:24]), tiny, RUN)


def test_an_update_keeps_what_was_known_and_adds_what_is_new(
    before: Map, small_room: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    second = replace(small_room, mapping=small_room.mapping[24:])
    with caplog.at_level(logging.INFO):
        after, changes = update_map(before, second, RUN)
    old, new = (landmarks_of(map_.tensors).points_L3 for map_ in (before, after))
    assert len(new) <= 3000
    exact = "donot_use_mm_for_euclid_dist"
    kept_L = torch.cdist(new, old, compute_mode=exact).amin(1) == 0
    kept = kept_L.sum()
    # As many of each as there are views of them, where there are too many.
    assert int(kept) >= min(len(old), 0.6 * 3000)
    assert len(new) > 1.1 * int(kept)
    # Where only the first ones in view are looked for, new ones are among them.
    share = float(kept_L.float().mean())
    assert float(kept_L[: len(new) // 4].float().mean()) == pytest.approx(share, abs=0.1)
    assert f"{len(new) - int(kept)} new landmarks beside" in caplog.text
    of_old = [change for change in changes if "new views" not in change.part]
    agreeing = [
        (change.num_points * change.agreeing_before, change.num_points * change.agreeing_after)
        for change in of_old
        if change.agreeing_before is not None and change.agreeing_after is not None
    ]
    was, is_now = (sum(column) for column in zip(*agreeing, strict=True))
    assert was > 40
    assert is_now > 0.8 * was


def test_an_update_that_adds_nothing_warns(
    before: Map, small_room: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Photos of one place tell no depth."""
    standing = [replace(small_room.queries[0], name=f"again/{number}.jpg") for number in range(3)]
    after, _ = update_map(before, replace(small_room, mapping=standing, queries=[]), RUN)
    assert "no new landmarks" in caplog.text
    old, new = (landmarks_of(map_.tensors).points_L3 for map_ in (before, after))
    assert torch.equal(old.sort(0).values, new.sort(0).values)


def test_where_too_few_landmarks_are_found_layers_are_trained(
    small_room: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Clouds that are others in each view: nothing to triangulate."""

    def cloudy(number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        coarse = torch.rand(1, 1, 12, 16, generator=generator)
        grey = functional.interpolate(coarse, (180, 240), mode="bicubic").clamp(0, 1)[0]
        return (40 * grey).to(torch.uint8).expand(3, -1, -1).contiguous()

    views = [
        replace(view, image_reader=partial(cloudy, number))
        for number, view in enumerate(small_room.mapping[:12])
    ]
    config = replace(get_method("ace").tiny, short_side_px=64, num_images=8, width=16, steps=5)
    with caplog.at_level(logging.WARNING):
        map_ = build_map("ace", replace(small_room, mapping=views), config, RUN)
    assert "layers are trained instead" in caplog.text
    assert "head.enter.weight" in map_.tensors
    assert "landmarks.points" not in map_.tensors
