"""The encoder that ships, frozen: in the arithmetic of a run, and known to maps by its checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.nn.encoder import Encoder
from reloc.nn.int8_encoder import Int8Encoder
from reloc.nn.precision import uses_int8
from reloc.nn.weights import EncoderName, encoder_path, encoder_sha256, load_encoder

LARGEST_INPUTS = "largest_inputs"
"""Of each convolution, in the record beside an encoder's weights: what 8 bits have to hold."""
FrozenEncoder = Encoder | Int8Encoder
_SHA256 = "encoder_sha256"


def open_encoder(name: EncoderName, run: Run) -> FrozenEncoder:
    """The encoder of that name on the device and in the precision of a run; not to be trained.

    Raises:
        InputError: the installation lacks it.
    """
    path = encoder_path(name)
    encoder = load_encoder(path, name)
    if not uses_int8(run):
        return encoder.to(run.device)
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return Int8Encoder(encoder, record[LARGEST_INPUTS])


def encoder_record(name: EncoderName) -> dict[str, Tensor]:
    """What a map remembers the encoder by that it was built on.

    Raises:
        InputError: the installation lacks it.
    """
    return {_SHA256: text_to_tensor([encoder_sha256(name)])}


def encoder_of_map(tensors: Mapping[str, Tensor], name: EncoderName, run: Run) -> FrozenEncoder:
    """The encoder that a map was built on, as `open_encoder` opens it.

    Raises:
        InputError: the encoder that is installed is another one.
    """
    if tensor_to_text(tensors[_SHA256]) != [encoder_sha256(name)]:
        raise InputError(
            f"the map was built with another {name} encoder than this installation has: build it "
            "again"
        )
    return open_encoder(name, run)
