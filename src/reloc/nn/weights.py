"""Weights of shared networks: where they lie, by name, and how they are opened."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch

from reloc.input_error import InputError
from reloc.nn.encoder import SIZES, Encoder

EncoderName = Literal["base"]
"""Encoders that ship."""
FOLDER = Path(__file__).parent / "pretrained"


def encoder_path(name: EncoderName) -> Path:
    """Where the encoder of that name lies in an installation that has it."""
    return FOLDER / f"encoder_{name}.safetensors"


def encoder_sha256(name: EncoderName) -> str:
    """What a map names the encoder by that it needs.

    Raises:
        InputError: the installation lacks it.
    """
    try:
        return hashlib.sha256(encoder_path(name).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"this installation lacks the encoder {name} ({error.strerror}): install reloc again"
        ) from error


def load_encoder(path: Path, name: str) -> Encoder:
    """The encoder in a file that `reloc pretrain encoder` wrote, ready to use.

    Args:
        path: of the weights.
        name: of the size, a key of `SIZES`.

    Raises:
        InputError: the file is missing, or holds no encoder of that size.
    """
    # On "meta": random weights, which these replace, would draw from the process's random state.
    with torch.device("meta"):
        encoder = Encoder(SIZES[name])
    try:
        state = safetensors.torch.load_file(path)
        encoder.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no {name} encoder ({reason})") from error
    encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder.eval().requires_grad_(False)
