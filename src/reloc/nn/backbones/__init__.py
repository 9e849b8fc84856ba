"""Trunks: images to feature maps. The table; a trunk is imported when it is used.

Where a network is also torchvision's, its parameters have torchvision's names, so that official
checkpoints load. Nothing here needs torchvision.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from reloc.input_error import InputError
from reloc.nn.backbones.checkpoint import load_checkpoint
from reloc.nn.encoder import SIZES, Encoder
from reloc.nn.unfilled import unfilled
from reloc.nn.weights import encoder_path, load_encoder

TrunkName = Literal[
    "encoder",
    "squeezenet1_0",
    "resnet18",
    "resnet34",
    "resnet50",
    "googlenet",
    "vgg16",
    "efficientnet_b0",
    "inception_resnet_v2",
]
"""Trunks: our own encoder, which ships with its weights, and those of `NETWORKS`."""

NETWORKS = {
    "squeezenet1_0": ("reloc.nn.backbones.squeezenet", "squeezenet1_0"),
    "resnet18": ("reloc.nn.backbones.resnet", "resnet18"),
    "resnet34": ("reloc.nn.backbones.resnet", "resnet34"),
    "resnet50": ("reloc.nn.backbones.resnet", "resnet50"),
    "googlenet": ("reloc.nn.backbones.googlenet", "googlenet"),
    "vgg16": ("reloc.nn.backbones.vgg", "vgg16"),
    "efficientnet_b0": ("reloc.nn.backbones.efficientnet", "efficientnet_b0"),
    "inception_resnet_v2": ("reloc.nn.backbones.inception_resnet", "inception_resnet_v2"),
}
"""Name to module and function: each makes a network with `features_of(rgb) -> map`."""

# Parts of these networks that name what is seen, and make no maps.
_CLASSIFIERS = ("classifier", "fc", "last_linear", "aux1", "aux2")
# Of ImageNet's pixels, in [0, 1].
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def make_network(name: str) -> nn.Module:
    """The network of a name in `NETWORKS`, untrained, with its classifier.

    Raises:
        InputError: there is none.
    """
    if name not in NETWORKS:
        raise InputError(
            f"there is no trunk {name!r}: choose one of encoder, {', '.join(NETWORKS)}"
        )
    module, function = NETWORKS[name]
    return getattr(importlib.import_module(module), function)()


class Trunk(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to feature maps (B, C, h, w)."""

    def __init__(self, network: nn.Module, grey: bool) -> None:
        super().__init__()
        self.network, self._grey = network, grey

    def forward(self, rgb_B3HW: Tensor) -> Tensor:
        """Feature maps."""
        if self._grey:
            luma_3 = rgb_B3HW.new_tensor(_LUMA)
            grey_B1HW = (rgb_B3HW * luma_3[:, None, None]).sum(1, keepdim=True)
            return self.network(grey_B1HW.contiguous(memory_format=torch.channels_last))
        mean_3, std_3 = rgb_B3HW.new_tensor(_MEAN), rgb_B3HW.new_tensor(_STD)
        normal_B3HW = (rgb_B3HW - mean_3[:, None, None]) / std_3[:, None, None]
        return self.network.features_of(normal_B3HW)  # type: ignore[operator]


def load_trunk(name: TrunkName, weights: Path | None) -> Trunk:
    """A trunk with its weights, frozen, without what names things.

    Args:
        name: of the trunk.
        weights: file of the checkpoint; None for the encoder, whose weights ship.

    Raises:
        InputError: the weights are missing, or not those of the network.
    """
    if name == "encoder":
        if weights is not None:
            raise InputError("the trunk encoder has weights of its own: leave --trunk-weights out")
        return Trunk(load_encoder(encoder_path("base"), "base"), grey=True)
    if weights is None:
        raise InputError(
            f"the trunk {name} ships without weights: give its checkpoint with --trunk-weights "
            "FILE (docs/absolute.md says which), or use the trunk encoder"
        )
    with unfilled():
        network = make_network(name)
    load_checkpoint(network, weights)
    _forget_names(network)
    return Trunk(network.eval().requires_grad_(False), grey=False).eval()


def restore_trunk(name: TrunkName, state: Mapping[str, Tensor]) -> Trunk:
    """A trunk with the weights of the `network` of another, frozen.

    Args:
        name: of both.
        state: float32.

    Raises:
        InputError: they are not those of the network.
    """
    with unfilled():
        network = Encoder(SIZES["base"]) if name == "encoder" else make_network(name)
    _forget_names(network)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"the weights are not those of the trunk {name} ({reason})") from error
    if name == "encoder":
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trunk(network.requires_grad_(False), grey=name == "encoder").eval()


def _forget_names(network: nn.Module) -> None:
    """Take away what makes names of maps, in place."""
    for part in _CLASSIFIERS:
        if hasattr(network, part):
            delattr(network, part)
