"""Weights of shared networks: where they lie, by name, and how they are opened."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from reloc.input_error import InputError
from reloc.nn.encoder import SIZES, Encoder
from reloc.nn.unfilled import unfilled

EncoderName = Literal["base", "small"]
"""Encoders that ship: small takes a third of the time, and loses a little."""
FOLDER = Path(__file__).parent / "pretrained"

PublishedName = Literal["r2d2", "alike", "superpoint", "lightglue", "superglue", "superglue-indoor"]
"""Weights of others, which do not ship."""
WEIGHTS_VARIABLE = "RELOC_WEIGHTS"
"""The environment variable that names the folder with them."""
NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(frozen=True)
class Published:
    """Weights that others published.

    Attributes:
        file: its name in the folder of weights.
        address: where it is published.
        sha256: of the file. Those of r2d2 and alike were taken from copies, the others as users of
            the files state them. None: any file is taken.
        licence: its terms.
    """

    file: str
    address: str
    sha256: str | None
    licence: str


PUBLISHED: Mapping[PublishedName, Published] = {
    "r2d2": Published(
        "r2d2_WASF_N16.pt",
        "https://github.com/naver/r2d2/blob/master/models/r2d2_WASF_N16.pt",
        "9ae90e02a9a133d100ca7aeaa32f4d4d7736a6dd222a530a25c8f7da5e508528",
        "CC BY-NC-SA 3.0: not for commercial use",
    ),
    "alike": Published(
        "alike-t.pth",
        "https://github.com/Shiaoming/ALIKE/blob/main/models/alike-t.pth",
        "c0840329a6b88518d914b03af2be956f5607055a389ba17441db02bb94f7d12e",
        "BSD 3-clause",
    ),
    "superpoint": Published(
        "superpoint_v1.pth",
        "https://github.com/magicleap/SuperPointPretrainedNetwork/blob/master/superpoint_v1.pth",
        "52b6708629640ca883673b5d5c097c4ddad37d8048b33f09c8ca0d69db12c40e",
        "Magic Leap: not for commercial use",
    ),
    "lightglue": Published(
        "superpoint_lightglue.pth",
        "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/superpoint_lightglue.pth",
        "6ff7040d0a497fc6639337946d7538dae07428c18f77a067a0b5a960e7cc551a",
        "Apache-2.0",
    ),
    "superglue": Published(
        "superglue_outdoor.pth",
        "https://github.com/magicleap/SuperGluePretrainedNetwork/tree/master/models/weights",
        "2f5f5e9bb3febf07b69df633c4c3ff7a17f8af26a023aae2b9303d22339195bd",
        "Magic Leap: not for commercial use",
    ),
    "superglue-indoor": Published(
        "superglue_indoor.pth",
        "https://github.com/magicleap/SuperGluePretrainedNetwork/tree/master/models/weights",
        "0e710469be25ebe1e2ccf68edcae8b2945b0617c8e7e68412251d9d47f5052b1",
        "Magic Leap: not for commercial use",
    ),
}


def load_published(name: PublishedName) -> Mapping[str, Tensor]:
    """The state dict of weights of others, from the folder that `RELOC_WEIGHTS` names.

    Raises:
        InputError: no folder is named, the file is missing, or it is another one.
    """
    published = PUBLISHED[name]
    folder = os.environ.get(WEIGHTS_VARIABLE)
    get_it = f"get {published.file} from {published.address} ({published.licence})"
    if not folder:
        raise InputError(
            f"the weights of {name} do not ship with reloc: {get_it} and set {WEIGHTS_VARIABLE} "
            "to its folder"
        )
    path = Path(folder) / published.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {get_it}") from error
    if published.sha256 and hashlib.sha256(content).hexdigest() != published.sha256:
        raise InputError(f"{path} is not the file that was published, or is damaged: {get_it}")
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        state = dict(saved.get("state_dict", saved))
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} holds no weights ({reason}): {get_it}") from error
    return {key.removeprefix("module."): value for key, value in state.items()}


def with_published_weights(make: Callable[[], NetworkT], name: PublishedName) -> NetworkT:
    """A network of ours with the weights of others, ready to use.

    Raises:
        InputError: the weights are not there, or are those of another network.
    """
    with unfilled():
        network = make()
    state = load_published(name)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the weights of {name} do not fit its network ({reason})") from error
    return network.eval().requires_grad_(False)


def encoder_path(name: EncoderName) -> Path:
    """Where the encoder of that name lies in an installation that has it."""
    return FOLDER / f"encoder_{name}.safetensors"


def weights_sha256(path: Path, what: str, remedy: str = "install reloc again") -> str:
    """What a map names weights by that it needs and does not hold.

    Args:
        path: of their file.
        what: they are, and...
        remedy: ...what helps without them, for the error.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"{path} with {what} cannot be read ({error.strerror}): {remedy}"
        ) from error


def encoder_sha256(name: EncoderName) -> str:
    """What a map names the encoder by that it needs.

    Raises:
        InputError: the installation lacks it.
    """
    return weights_sha256(encoder_path(name), f"the encoder {name}")


def load_encoder(path: Path, name: str) -> Encoder:
    """The encoder in a file that `reloc pretrain encoder` wrote, ready to use.

    Args:
        path: of the weights.
        name: of the size, a key of `SIZES`.

    Raises:
        InputError: the file is missing, or holds no encoder of that size.
    """
    with unfilled():
        encoder = Encoder(SIZES[name])
    try:
        state = safetensors.torch.load_file(path)
        encoder.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no {name} encoder ({reason})") from error
    encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder.eval().requires_grad_(False)
