"""What SANet's decoder learns from, and that it learns."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.nn.descriptors.pooled import pool_codes
from reloc.nn.encoder import STRIDE, cell_centers
from reloc.nn.scene_agnostic import look_up
from reloc.training.pretrain_decoder import (
    PretrainSanetConfig,
    decoding_loss,
    judge,
    make_batch,
    new_decoder,
    pretrain_decoder,
)
from reloc.training.retrieval_examples import (
    EncodedCells,
    EncodedRoom,
    EncodedView,
    make_example,
)

CODE = 128
CAMERA = Camera.simple_pinhole(150.0, 192, 144)
CONFIG = PretrainSanetConfig(
    num_rooms=1, width=16, num_neighbours=8, batch_queries=2, asked_cells=64
)


def _room(seed: int) -> EncodedRoom:
    """A wall 2 m away. Codes tell the place on it, but so noisily that many must be asked."""
    generator = torch.Generator().manual_seed(seed)
    waves_3C = 4 * torch.randn(3, CODE, generator=generator)

    def cells(size: tuple[int, int], pose: Rigid3d) -> EncodedCells:
        pixels_N2 = cell_centers(size[0] // STRIDE, size[1] // STRIDE).double()
        rays_N2 = CAMERA.cam_from_img(pixels_N2 * CAMERA.width / size[1])
        points_cam_N3 = 2 * torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=1)
        points_N3 = pose.inverse() @ points_cam_N3
        codes_NC = torch.sin(points_N3.float() @ waves_3C)
        codes_NC = codes_NC + 1.5 * torch.randn(codes_NC.shape, generator=generator)
        codes_NC = functional.normalize(codes_NC, dim=1) * CODE**0.5
        known_N = torch.rand(len(codes_NC), generator=generator) < 0.9
        return EncodedCells(codes_NC.half(), points_N3, known_N, size)

    views = []
    for number in range(8):
        offset = torch.tensor([0.1 * number, 0.05 * (number % 3), 0.0], dtype=torch.float64)
        pose = Rigid3d(torch.eye(3, dtype=torch.float64), -offset)
        coarse, fine = cells((72, 96), pose), cells((144, 192), pose)
        views.append(EncodedView(coarse, fine, pose, pool_codes(fine.codes_NC)))
    return EncodedRoom(views, CAMERA)


def test_an_example_is_the_same_each_time_and_does_not_retrieve_its_query() -> None:
    room = _room(0)
    first, second = (
        make_batch([room].__getitem__, CONFIG, 0, 7),
        make_batch([room].__getitem__, CONFIG, 0, 7),
    )
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.target_N3, other.target_N3)
        assert torch.equal(one.fine.points_S3, other.fine.points_S3)
    example = make_example(room, 0, CONFIG.count, np.random.default_rng(0))
    assert bool(example.target_N3.isfinite().all())
    assert len(example.target_N3) == CONFIG.asked_cells
    # Its own points would be retrieved with an error of 0.
    assert float(torch.cdist(example.target_N3, example.fine.points_S3).amin(1).median()) > 1e-4
    # In units of the distance of what was retrieved.
    assert float(example.fine.points_S3.norm(dim=1).median()) == pytest.approx(1, abs=1e-3)


def test_a_new_decoder_says_the_soft_nearest_neighbour() -> None:
    example = make_example(_room(0), 3, CONFIG.count, np.random.default_rng(0))
    decoder = new_decoder(CONFIG, Run())
    decoded = decoder(example.query, example.coarse, example.fine)
    expected = look_up(example.query.fine_NC, example.fine, CONFIG.num_neighbours).soft_nearest()
    torch.testing.assert_close(decoded.points_N3, expected)
    assert len(set(decoded.log_error_N.tolist())) == 1


def test_a_decoder_learns_to_do_better_and_where_it_does_not() -> None:
    decoder, room = new_decoder(CONFIG, Run()), _room(0)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    for step in range(30):
        losses = [
            decoding_loss(decoder, one) for one in make_batch([room].__getitem__, CONFIG, 0, step)
        ]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    said = judge(decoder, [room], CONFIG, Run())
    assert said["decoder_median_error_m"] < 0.92 * said["soft_nearest_median_error_m"]
    assert said["surer_half_median_error_m"] < 0.85 * said["decoder_median_error_m"]


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    record = {"config": {**asdict(CONFIG), "width": 32}, "seed": 0}
    (tmp_path / "sanet_rooms.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="another width"):
        pretrain_decoder(CONFIG, tmp_path, Run())
