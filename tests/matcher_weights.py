"""Matchers whose weights are made for tests: the published ones are not at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reloc.nn.matchers.lightglue import LightGlue
from reloc.nn.matchers.superglue import SuperGlue

# Similarities of descriptors of norm 1 are so many times as large before they are compared.
_SHARPNESS = 60.0


def random_matcher(kind: type[LightGlue] | type[SuperGlue], seed: int = 0) -> Any:
    """Random layers, but for the last: keypoints that come out alike match."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind().eval().requires_grad_(False)
    if isinstance(network, SuperGlue):
        for name, value in network.named_buffers():
            # As trained ones: not those of a network that has seen nothing.
            if name.endswith("running_mean"):
                value.copy_(torch.linspace(-0.1, 0.1, len(value)))
        _pass_on(network.final_proj)
        return network
    for assignment in network.log_assignment:
        _pass_on(assignment.final_proj)
        _set_constant(assignment.matchability, 10.0)
    for confidence in network.token_confidence:
        _set_constant(confidence.token[0], -10.0)
    return network


def similarity_matcher(kind: type[LightGlue] | type[SuperGlue]) -> Any:
    """No layer changes a keypoint's state: those with the most similar descriptors match."""
    network = random_matcher(kind)
    if isinstance(network, SuperGlue):
        _set_constant(network.kenc.encoder[-1], 0.0)
        network.bin_score.fill_(_SHARPNESS / 2)
        for layer in network.gnn.layers:
            _set_constant(layer.mlp[-1], 0.0)
    else:
        for layer in (*network.self_attn, *network.cross_attn):
            _set_constant(layer.ffn[-1], 0.0)
    return network


def _set_constant(layer: Any, bias: float) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, bias)


def _pass_on(layer: Any) -> None:
    """Products of outputs, over the root of the width, are `_SHARPNESS` times those of inputs."""
    width = layer.weight.shape[0]
    scale = (_SHARPNESS * width**0.5) ** 0.5
    layer.weight.copy_(scale * torch.eye(width).reshape(layer.weight.shape))
    nn.init.zeros_(layer.bias)
