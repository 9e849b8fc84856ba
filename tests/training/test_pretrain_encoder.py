"""Pretraining: from nothing to a file, and on from where it stopped."""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.nn.shared_encoder import LARGEST_INPUTS
from reloc.nn.weights import load_encoder
from reloc.progress import Item, Silent
from reloc.provenance import write_record
from reloc.training.correspondences import CollageConfig
from reloc.training.pretrain_encoder import PretrainEncoderConfig, codes_at, pretrain_encoder

TINY = PretrainEncoderConfig(
    size="small",
    num_pictures=4,
    num_rooms=0,
    collage=CollageConfig(size=96, max_points=40),
    batch_pairs=2,
    steps=2,
)


def test_writes_weights_that_load_and_says_how_they_came_to_be(tmp_path: Path) -> None:
    path = pretrain_encoder(TINY, tmp_path, Run())
    codes = load_encoder(path, "small")(torch.rand(1, 1, 64, 64))
    assert bool(codes.isfinite().all())
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["steps"] == 2
    assert record["pictures"] == 4
    assert record["config"]["photos"] is None
    # What 8-bit arithmetic has to know: a range for each convolution but the first.
    encoder = load_encoder(path, "small")
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    assert len(record[LARGEST_INPUTS]) == len(convolutions) - 1
    assert all(largest > 0 for largest in record[LARGEST_INPUTS].values())


class _StoppedAt(Silent):
    """Ctrl-C before a step."""

    def track(
        self, items: Iterable[Item], description: str, total: int | None = None
    ) -> Iterator[Item]:
        del total
        for number, item in enumerate(items):
            if description == "encoder" and number == 2:
                raise KeyboardInterrupt
            yield item


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four = replace(TINY, steps=4)
    whole = load_encoder(pretrain_encoder(four, tmp_path / "whole", Run()), "small").state_dict()
    with pytest.raises(KeyboardInterrupt):
        pretrain_encoder(four, tmp_path / "stopped", Run(progress=_StoppedAt()))
    path = tmp_path / "stopped" / "encoder_small.safetensors"
    early = load_encoder(path, "small").state_dict()
    assert json.loads(path.with_suffix(".json").read_text())["steps"] == 2
    with caplog.at_level(logging.INFO):
        pretrain_encoder(four, tmp_path / "stopped", Run())
    assert "goes on from step 2" in caplog.text
    after = load_encoder(path, "small").state_dict()
    assert all(torch.equal(after[name], whole[name]) for name in whole)
    assert any(not torch.equal(after[name], early[name]) for name in early)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"batch_pairs": 0},
        {"room_share": 1.5},
        {"average": 1.0},
        {"num_rooms": -1},
    ],
    ids=str,
)
def test_settings_that_train_nothing_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(TINY, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 100}, {"size": 0}, {"max_points": 0}, {"max_scale": 0.5}, {"max_tilt_deg": 90.0}],
    ids=str,
)
def test_pairs_that_cannot_be_made_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CollageConfig(**wrong)


def test_a_record_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.json"
    write_record({"steps": 1, "photos": tmp_path}, path)
    before = path.read_text()
    assert json.loads(before) == {"steps": 1, "photos": str(tmp_path)}

    def cut_short(self: Path, data: str, encoding: str) -> None:
        self.write_bytes(data[:7].encode(encoding))
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut_short)
    with pytest.raises(KeyboardInterrupt):
        write_record({"steps": 2}, path)
    assert path.read_text() == before


def test_photos_are_read_and_too_few_of_them_refused(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(10):
        image = np.random.default_rng(number).integers(0, 255, (120, 130, 3), np.uint8)
        cv2.imwrite(str(photos / f"{number}.png"), image)
    config = replace(TINY, photos=photos, num_pictures=0, steps=1)
    path = pretrain_encoder(config, tmp_path / "run", Run())
    assert json.loads(path.with_suffix(".json").read_text())["pictures"] == 10
    (photos / "0.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="has 9 photos"):
        pretrain_encoder(config, tmp_path / "other", Run())


def test_a_run_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    pretrain_encoder(TINY, tmp_path, Run())
    with pytest.raises(InputError, match="another temperature"):
        pretrain_encoder(replace(TINY, temperature=0.1), tmp_path, Run())
    with pytest.raises(InputError, match="another seed"):
        pretrain_encoder(TINY, tmp_path, Run(seed=1))


def test_nothing_to_train_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to train with"):
        pretrain_encoder(replace(TINY, num_pictures=0), tmp_path, Run())


def test_codes_are_interpolated_between_cells_of_the_right_image() -> None:
    height, width = 5, 7
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.tensor([0.0, 100.0])[:, None, None]
    maps = torch.stack([8 * (x + 0.5) + image, 8 * (y + 0.5) + image], dim=1)
    points = torch.tensor([[4.0, 4.0], [13.0, 21.5], [52.0, 36.0], [30.0, 8.0]])
    found = codes_at(maps, torch.tensor([0, 1, 1, 0]), points)
    torch.testing.assert_close(found, points + torch.tensor([[0.0], [100], [100], [0]]))
