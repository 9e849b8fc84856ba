"""Batch normalisation that is there while a network is trained, and folded away afterwards."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

_MOMENTUM, _EPSILON = 0.1, 1e-5
# Residual branches begin small: the network begins as a shallow one.
_BRANCH_GAIN = 0.3


class NormalizedConv(nn.Module):
    """A convolution whose output is normalised over the batch, then scaled and shifted.

    Source: Ioffe and Szegedy, "Batch normalization", ICML 2015.
    """

    def __init__(self, conv: nn.Conv2d, gain: float = 1.0) -> None:
        super().__init__()
        self.conv = conv
        self.gain = nn.Parameter(torch.full((conv.out_channels,), gain))
        self.shift = nn.Parameter(torch.zeros(conv.out_channels))
        self.register_buffer("mean", torch.zeros(conv.out_channels))
        self.register_buffer("variance", torch.ones(conv.out_channels))

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, H, W) to the conv's output, zero mean and unit variance but for gain and shift."""
        return functional.batch_norm(
            self.conv(hidden),
            self.get_buffer("mean"),
            self.get_buffer("variance"),
            self.gain,
            self.shift,
            self.training,
            _MOMENTUM,
            _EPSILON,
        )


def normalize(network: nn.Module, branch_ends: str, bare: str) -> None:
    """Replace the convolutions of a network by normalised ones, in place.

    Args:
        network: of any structure.
        branch_ends: last part of the names of convolutions that end a residual branch.
        bare: name of the one that stays as it is: the last.
    """
    convolutions = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and name != bare
    ]
    for name, conv in convolutions:
        ends_branch = name.split(".")[-1] == branch_ends
        if ends_branch:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        normalized = NormalizedConv(conv, _BRANCH_GAIN if ends_branch else 1.0)
        network.set_submodule(name, normalized)


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the network without normalisation that gives the same, from that with it."""
    folded = {}
    for name, value in state.items():
        layer, _, parameter = name.rpartition(".")
        if f"{layer}.gain" in state:
            continue
        owner = layer.removesuffix(".conv")
        if f"{owner}.gain" in state:
            gain = state[f"{owner}.gain"] / (state[f"{owner}.variance"] + _EPSILON).sqrt()
            folded[f"{owner}.{parameter}"] = (
                value * gain[:, None, None, None]
                if parameter == "weight"
                else (value - state[f"{owner}.mean"]) * gain + state[f"{owner}.shift"]
            )
        else:
            folded[name] = value
    return folded
