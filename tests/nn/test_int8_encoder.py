"""The encoder in 8-bit whole numbers: codes as in fp32, and used where it may be."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.nn import precision
from reloc.nn.encoder import SIZES, Encoder
from reloc.nn.int8_encoder import Int8Encoder, gain_by_int8, largest_inputs
from reloc.nn.shared_encoder import LARGEST_INPUTS, open_encoder
from reloc.nn.weights import EncoderName, encoder_path
from reloc.training.pictures import procedural_picture

_FP32 = Run(precision="fp32")
needs_int8 = pytest.mark.skipif(
    not gain_by_int8(), reason="this processor or torch adds no 8-bit products up exactly"
)


def _picture(seed: int, height: int = 240, width: int = 320) -> Tensor:
    grey_HW = procedural_picture(np.random.default_rng(seed))[:height, :width]
    return torch.from_numpy(np.ascontiguousarray(grey_HW))[None, None].float() / 255


def _cosines(left_BChw: Tensor, right_BChw: Tensor) -> Tensor:
    return functional.cosine_similarity(left_BChw, right_BChw, dim=1)


@needs_int8
@pytest.mark.parametrize("name", get_args(EncoderName))
def test_codes_of_a_shipped_encoder_are_those_of_fp32(name: EncoderName) -> None:
    exact, rounded = open_encoder(name, _FP32), open_encoder(name, Run(precision="int8"))
    assert isinstance(rounded, Int8Encoder)
    for seed in range(3):
        grey = _picture(seed)
        cosines = _cosines(exact(grey), rounded(grey))
        assert cosines.mean() > 0.998
        assert cosines.min() > 0.97


@needs_int8
@pytest.mark.parametrize("shape", [(8, 8), (9, 17), (64, 200)])
def test_any_size_has_as_many_codes_as_in_fp32(shape: tuple[int, int]) -> None:
    grey = _picture(5, *shape)
    codes = open_encoder("base", Run(precision="int8"))(grey)
    assert codes.shape == open_encoder("base", _FP32)(grey).shape
    assert codes.isfinite().all()
    assert codes.square().mean(1).allclose(torch.tensor(1.0), atol=1e-3)


@needs_int8
def test_codes_do_not_depend_on_the_company() -> None:
    encoder = open_encoder("base", Run(precision="int8"))
    greys = torch.cat([_picture(1), _picture(2)])
    assert torch.equal(encoder(greys)[1:], encoder(greys[1:]))


@needs_int8
def test_brighter_than_any_image_that_was_seen_is_cut_off_and_does_not_wrap_around() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(SIZES["small"]).eval().requires_grad_(False)
    rounded = Int8Encoder(encoder, largest_inputs(encoder, [0.5 * _picture(3)]))
    grey = _picture(3)
    # Half of the contrast was seen: a wrapped sum would turn codes round.
    assert _cosines(encoder(grey), rounded(grey)).mean() > 0.8


@pytest.mark.parametrize("name", get_args(EncoderName))
def test_largest_inputs_are_what_the_record_beside_the_weights_says(name: EncoderName) -> None:
    record = json.loads(encoder_path(name).with_suffix(".json").read_text(encoding="utf-8"))
    encoder = open_encoder(name, _FP32)
    assert isinstance(encoder, Encoder)
    seen = largest_inputs(encoder, [_picture(0)])
    assert seen.keys() == record[LARGEST_INPUTS].keys()
    # Rooms and pictures have about the same range: what is recorded is of this encoder.
    for layer, largest in record[LARGEST_INPUTS].items():
        assert 0.3 * largest < seen[layer] < 1.5 * largest, layer


def test_a_processor_without_it_is_told_and_auto_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "gain_by_int8", lambda: 0.0)
    assert isinstance(open_encoder("base", Run()), Encoder)
    with pytest.raises(InputError, match="nothing that this processor can do"):
        open_encoder("base", Run(precision="int8"))


def test_another_device_is_told() -> None:
    assert not precision.uses_int8(Run(device="cuda"))
    with pytest.raises(InputError, match="is for --device cpu, not cuda"):
        precision.uses_int8(Run(device="cuda", precision="int8"))


def test_other_precisions_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "gain_by_int8", lambda: 9.0)
    assert precision.uses_int8(Run())
    assert not precision.uses_int8(Run(precision="fp32"))
    assert not precision.uses_int8(Run(precision="bf16"))
    assert not precision.uses_bf16(Run(precision="int8"))
