"""What GoMatch's matcher learns from: bearings whose matches are known; and that it learns."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import Scene
from reloc.training.bearing_pairs import (
    UNKNOWN,
    UNMATCHED,
    DetectedRoom,
    PairBatch,
    detect_room,
    make_pair,
)
from reloc.training.pretrain_matcher import (
    PretrainGomatchConfig,
    judge,
    make_batch,
    matching_loss,
    new_matcher,
    pretrain_matcher,
)
from reloc.training.room_pairs import RenderedRoom

CONFIG = PretrainGomatchConfig(
    num_rooms=1, width=16, num_layers=2, max_points=150, batch_pairs=4, steps=30
)


@pytest.fixture(scope="module")
def room(small_room: Scene) -> DetectedRoom:
    """Ten views of the rendered room, enlarged to the size that rooms are rendered at."""
    views = small_room.mapping[:10]
    greys = torch.stack([view.read_image().float().mean(0) for view in views])
    depths = torch.stack([torch.as_tensor(view.read_depth()).float() for view in views])
    enlarged = [
        torch.nn.functional.interpolate(stack[None], size=(240, 320), mode="nearest")[0]
        for stack in (greys, depths)
    ]
    focal_px = float(views[0].camera.focal[0]) * 320 / views[0].camera.width
    return detect_room(
        RenderedRoom(
            enlarged[0].byte(),
            enlarged[1].half(),
            Rigid3d.stack([view.cam_from_world for view in views]),
            Camera.simple_pinhole(focal_px, 320, 240),
        )
    )


def test_a_pair_is_the_same_each_time_and_its_matches_are_both_ways(room: DetectedRoom) -> None:
    for seed in range(6):
        pair, again = (make_pair(room, np.random.default_rng(seed), 90) for _ in range(2))
        assert torch.equal(pair.asked_N2, again.asked_N2)
        assert torch.equal(pair.match_N, again.match_N)
        (row_K,) = (pair.match_N >= 0).nonzero(as_tuple=True)
        assert len(row_K) >= 12
        assert torch.equal(pair.match_M[pair.match_N[row_K]], row_K)
        assert int((pair.match_M >= 0).sum()) == len(row_K)
        assert int((pair.match_N == UNMATCHED).sum()) > 0
        assert max(len(pair.asked_N2), len(pair.known_M2)) <= 90
        assert bool(pair.known_M2.isfinite().all())


def test_matches_are_of_one_point_of_the_room(room: DetectedRoom) -> None:
    asked, known = room.pairs[0]
    match = room.found_in[known, asked]
    assert int(match.sum()) >= 24
    # What is found again is where the other view's depth says, so both views know the point.
    world_N3 = room.views[known].world_N3[match]
    other_N3 = room.views[asked].world_N3
    assert float(torch.cdist(world_N3, other_N3).amin(1).quantile(0.9)) < 0.1


def test_fillings_teach_nothing(room: DetectedRoom) -> None:
    pairs = [make_pair(room, np.random.default_rng(seed), 90) for seed in range(3)]
    batch = PairBatch.of(pairs, "cpu")
    for row, pair in enumerate(pairs):
        assert int(batch.asked.valid_BN[row].sum()) == len(pair.asked_N2)
        assert bool((batch.match_BN[row, len(pair.asked_N2) :] == UNKNOWN).all())
        assert bool((batch.match_BM[row, len(pair.known_M2) :] == UNKNOWN).all())
    matcher = new_matcher(CONFIG, Run())
    together = matching_loss(matcher, batch)
    batch.asked.points_BN2[~batch.asked.valid_BN] = 0.3
    batch.known.points_BN2[~batch.known.valid_BN] = -0.2
    torch.testing.assert_close(matching_loss(matcher, batch), together)


@pytest.mark.slow
def test_a_matcher_learns(room: DetectedRoom) -> None:
    matcher = new_matcher(CONFIG, Run())
    before = judge(matcher, [room], CONFIG, Run())
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=3e-3)
    for step in range(CONFIG.steps):
        optimizer.zero_grad()
        matching_loss(matcher, make_batch([room], CONFIG, (0, step), "cpu")).backward()
        optimizer.step()
    after = judge(matcher, [room], CONFIG, Run())
    assert after["all_recall"] > 1.2 * before["all_recall"]


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    record = {"config": {**asdict(CONFIG), "width": 32}, "seed": 0}
    (tmp_path / "geometric_matcher.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="another width"):
        pretrain_matcher(CONFIG, tmp_path, Run())


@pytest.mark.parametrize("setting", [{"width": 12}, {"steps": 0}, {"max_points": 10}])
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        PretrainGomatchConfig(**setting)
