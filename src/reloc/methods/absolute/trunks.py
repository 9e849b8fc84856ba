"""The trunk of a map: frozen and named by its weights, or trained with the scene and kept in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Run, Tensors
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.absolute.config import AbsoluteConfig
from reloc.nn.backbones import Trunk, load_trunk, restore_trunk
from reloc.nn.backbones.checkpoint import checkpoint_sha256
from reloc.nn.weights import encoder_sha256

_TRUNK = "trunk."
# Sides of the pictures under which a trunk has no map; all others have one at any size of ours.
_MIN_SIDES_PX = {"inception_resnet_v2": 80}


def named_trunk(config: AbsoluteConfig) -> dict[str, Tensor]:
    """What a map names the trunk by: the digest of its weights, and where their file lies.

    Raises:
        InputError: the weights cannot be read.
    """
    named = {"trunk_sha256": text_to_tensor([trunk_sha256(config)])}
    if config.trunk_weights and not config.train_trunk:
        # The map may be opened from another folder than it was built in.
        path = str(Path(config.trunk_weights).resolve())
        named["trunk_weights"] = text_to_tensor([path])
    return named


def refuse_too_small(config: AbsoluteConfig, width: int, height: int) -> None:
    """Refuse pictures that the trunk makes no map of.

    Raises:
        InputError: they are too small.
    """
    least = _MIN_SIDES_PX.get(config.trunk, 0)
    if min(width, height) < least:
        raise InputError(
            f"the trunk {config.trunk} has no map of pictures of {width}x{height}: give "
            f"--short-side-px {least} or more"
        )


def trunk_sha256(config: AbsoluteConfig) -> str:
    """What a map names the trunk by that it needs, or that its own was trained from.

    Raises:
        InputError: the weights cannot be read.
    """
    if config.trunk == "encoder":
        return encoder_sha256("base")
    return checkpoint_sha256(Path(config.trunk_weights)) if config.trunk_weights else ""


def trunk_of(config: AbsoluteConfig, run: Run) -> Trunk:
    """The trunk of a config, frozen.

    Raises:
        InputError: its weights are missing.
    """
    weights = Path(config.trunk_weights) if config.trunk_weights else None
    return load_trunk(config.trunk, weights).to(run.device)


def trunk_to_train(config: AbsoluteConfig, run: Run) -> Trunk:
    """The trunk of a config, its weights ready to be trained.

    It stays in evaluation mode: where it has batch normalisation, the scales and shifts are trained
    and the running statistics are those of its photos. A step's pictures are few and much alike,
    the frames of a clip still more, so their statistics would be noise, which a query asked alone
    does not have; and a picture's map must not hang on what else is in its step.

    Raises:
        InputError: its weights are missing.
    """
    return trunk_of(config, run).requires_grad_(True)


def trunk_tensors(trunk: Trunk | None) -> dict[str, Tensor]:
    """The weights of a trained trunk for a map, in half precision where they fit; of None, none."""
    state = trunk.network.state_dict() if trunk else {}
    return {_TRUNK + name: _half(value) for name, value in state.items()}


def _half(value: Tensor) -> Tensor:
    """In half precision, but for whole numbers and variances that it does not reach."""
    if not value.is_floating_point():
        return value
    half = value.half()
    return half if bool(half.isfinite().all()) else value


def trunk_in(tensors: Tensors, config: AbsoluteConfig, run: Run) -> Trunk:
    """The trunk that a map is asked with: its own, or the one that it names.

    Raises:
        InputError: its weights are missing, or others than those that the map was built with.
    """
    if config.train_trunk:
        state = {
            name.removeprefix(_TRUNK): value.float() if value.is_floating_point() else value
            for name, value in tensors.items()
            if name.startswith(_TRUNK)
        }
        return restore_trunk(config.trunk, state).to(run.device)
    if "trunk_weights" in tensors:
        (path,) = tensor_to_text(tensors["trunk_weights"])
        config = replace(config, trunk_weights=path)
    if tensor_to_text(tensors["trunk_sha256"]) != [trunk_sha256(config)]:
        raise InputError(
            f"the map needs other weights of the trunk {config.trunk} than are here: build it anew"
        )
    return trunk_of(config, run)


@torch.no_grad()
def encode(
    trunk: nn.Module, pictures: Sequence[NDArray[np.uint8]], pooling: int, run: Run
) -> Tensor:
    """Feature maps (B, C, h, w) float32 of pictures (h, w, 3) of one size."""
    rgb_B3HW = as_rgb(torch.from_numpy(np.stack(pictures)).to(run.device))
    return pooled(trunk(rgb_B3HW), pooling)


def as_rgb(picture_BHW3: Tensor) -> Tensor:
    """Pictures (B, H, W, 3) uint8 as a trunk takes them: (B, 3, H, W) in [0, 1]."""
    return picture_BHW3.permute(0, 3, 1, 2).float() / 255


def pooled(map_BChw: Tensor, pooling: int) -> Tensor:
    """The mean over squares of cells; at least one cell is left."""
    height, width = (max(1, side // pooling) for side in map_BChw.shape[-2:])
    return functional.adaptive_avg_pool2d(map_BChw, (height, width))
