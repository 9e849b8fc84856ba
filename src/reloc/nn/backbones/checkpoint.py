"""Checkpoints of trunks: files of weights under torchvision's names."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from reloc.input_error import InputError

# Official checkpoints end in the first digits of their sha256: resnet34-b627a593.pth.
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})$")


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Give a network, made on "meta", the weights of a file: .safetensors, or .pth of tensors only.

    What the network has and the file lacks, or the other way round, is an error; only counts of
    batches, which no answer depends on, may be missing.

    Raises:
        InputError: the file is missing, its digest is not the one in its name, or its weights are
            of another network.
    """
    state = _read(path)
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked") and name not in state:
            state[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path} has the weights of another network ({reason})") from error


def checkpoint_sha256(path: Path) -> str:
    """The digest of a file of weights.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"weights {path} cannot be read: {error.strerror}") from error


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, float32.

    Raises:
        InputError: it is missing, damaged or no file of tensors.
    """
    digest = checkpoint_sha256(path)
    stated = _DIGEST_IN_NAME.search(path.stem)
    if stated and not digest.startswith(stated[1]):
        raise InputError(
            f"{path} is damaged: its sha256 begins {digest[: len(stated[1])]}, not {stated[1]} as "
            "its name says; fetch it again"
        )
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path} is no file of weights ({reason})") from error
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise InputError(f"{path} is no file of weights (it holds other things than tensors)")
    return {
        name: value.float() if value.is_floating_point() else value for name, value in state.items()
    }
