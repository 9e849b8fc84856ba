"""The network of a pair: matches of two images to the pose of one as seen from the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.relative.correlation import BELIEF, NUM_CHANNELS, Guess
from reloc.methods.relative.heads import HEADS, HeadName

# Logarithms of the scales that a network gives its errors stay within these.
_MAX_LOG_SCALE = 6.0
_POOLED = (3, 4)


@dataclass(frozen=True, eq=False)
class Edges:
    """What a network says of pairs of a query and a reference; batch (B,).

    Attributes:
        guess: the poses by the matches alone.
        numbers: of the head, (B, size).
        log_scale_2: logarithms of the errors that it expects, of rotation (rad) and translation
            (in the map's unit), (B, 2).
        embedding_D: what it is all read from, (B, D).
    """

    guess: Guess
    numbers: Tensor
    log_scale_2: Tensor
    embedding_D: Tensor

    def query_from_reference(self, head: HeadName, unit: float) -> Rigid3d:
        """The poses (B,), float32; without a scale, translations are of length 1."""
        left = HEADS[head].decode(self.numbers, self.guess.heading_B3)
        length = unit if HEADS[head].has_scale else 1.0
        return Rigid3d(left.rotation @ self.guess.turn_B33, left.translation * length)


class PairNetwork(nn.Module):
    """Channels of pairs (B, 7 + code, h, w) to a head's numbers.

    Convolutions over the grid of the query, whose cells hold where the reference shows the same:
    what is left of the correlation volume of Melekhov et al. (2017) and Arnold et al. (2022) when
    each row of it is reduced to its peak.
    """

    def __init__(self, head: HeadName, code: int, width: int) -> None:
        super().__init__()
        self.head = head
        channels = NUM_CHANNELS + code
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(channels, width // 2, 3, stride=2, padding=1),
                nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
                nn.Conv2d(width, width, 3, stride=1, padding=1),
            ]
        )
        self.hidden = nn.Linear(width * _POOLED[0] * _POOLED[1], 2 * width)
        self.embed = nn.Linear(2 * width, 2 * width)
        self.numbers = nn.Linear(2 * width, HEADS[head].size)
        self.log_scale = nn.Linear(2 * width, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Zeros say: as turned, and in the same place; which is a good guess to begin with.
        nn.init.normal_(self.numbers.weight, std=1e-3)
        nn.init.zeros_(self.log_scale.weight)
        self.trust = nn.Parameter(torch.tensor(3.0))

    def forward(self, channels_BChw: Tensor, guess: Guess) -> Edges:
        """What the network says of pairs."""
        hidden = channels_BChw
        for convolution in self.convolutions:
            hidden = functional.relu(convolution(hidden))
        hidden = functional.adaptive_avg_pool2d(hidden, _POOLED).flatten(1)
        hidden = functional.relu(self.hidden(hidden))
        embedding = functional.relu(self.embed(hidden))
        # Matches that are not believed say little, whatever else they look like.
        belief_B1 = channels_BChw[:, BELIEF].mean((1, 2))[:, None].clamp_min(0.01)
        log_scale = self.log_scale(embedding) - self.trust * belief_B1.log()
        log_scale = log_scale.clamp(-_MAX_LOG_SCALE, _MAX_LOG_SCALE)
        return Edges(guess, self.numbers(embedding), log_scale, embedding)


def edge_loss(edges: Edges, head: HeadName, target: Rigid3d) -> Tensor:
    """Negative log likelihood of Laplace errors whose scales the network gives itself.

    Source: Kendall and Gal, "What uncertainties do we need in Bayesian deep learning for computer
    vision?", NeurIPS 2017.

    Args:
        edges: of the network.
        head: its head.
        target: true poses with the turn taken off, translations in the map's unit.
    """
    rotation_B, translation_B = HEADS[head].loss(edges.numbers, edges.guess.heading_B3, target)
    error_B2 = torch.stack([rotation_B, translation_B], dim=-1)
    return (error_B2 * (-edges.log_scale_2).exp() + edges.log_scale_2).sum(-1).mean()
