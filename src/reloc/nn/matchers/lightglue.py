"""LightGlue: a transformer over the keypoints of two images that stops when it is sure.

Source: Lindenberger, Sarlin and Pollefeys, "LightGlue: local feature matching at light speed", ICCV
2023. The layers and their names are those of the published weights for SuperPoint; these were not
at hand when this was written, and it has not been run with them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.nn.matchers.keypoints import ImageKeypoints, Matches, mutual_matches

WIDTH, LAYERS = 256, 9
_HEADS = 4
_HEAD_WIDTH = WIDTH // _HEADS
# Section 3.3 and the published settings: the share of sure keypoints at which the layers end, the
# matchability below which a sure one is dropped, and the probability from which a match counts.
_SURE_SHARE, _MIN_MATCHABILITY, _MIN_PROBABILITY = 0.95, 0.01, 0.1


def sure_confidence(layer: int) -> float:
    """Confidence from which a keypoint is sure after that layer, from 0 on (appendix)."""
    return 0.8 + 0.1 * math.exp(-4 * layer / LAYERS)


def turned(states_HNd: Tensor, angles_Nf: Tensor) -> Tensor:
    """Pairs of neighbouring channels turned by an angle each, the same in every head (equation 4).

    The inner product of two turned vectors depends on the difference of their angles alone.
    """
    even, odd = states_HNd.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles_Nf.cos(), angles_Nf.sin()
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


class PositionAngles(nn.Module):
    """Positions (N, 2) to the angles (N, d / 2) that queries and keys are turned by."""

    def __init__(self) -> None:
        super().__init__()
        self.Wr = nn.Linear(2, _HEAD_WIDTH // 2, bias=False)

    def forward(self, positions_N2: Tensor) -> Tensor:
        """Linear in the positions: differences of angles are those of positions."""
        return self.Wr(positions_N2)


def _feed_forward() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2 * WIDTH, 2 * WIDTH),
        nn.LayerNorm(2 * WIDTH),
        nn.GELU(),
        nn.Linear(2 * WIDTH, WIDTH),
    )


def _joined(message_HNd: Tensor) -> Tensor:
    return message_HNd.transpose(0, 1).flatten(-2)


class SelfAttention(nn.Module):
    """Keypoints of one image attend to one another by content and by relative position."""

    def __init__(self) -> None:
        super().__init__()
        self.Wqkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out_proj = nn.Linear(WIDTH, WIDTH)
        self.ffn = _feed_forward()

    def forward(self, states_NC: Tensor, angles_Nf: Tensor) -> Tensor:
        """The next states (N, C)."""
        # The published order of channels: head, channel of the head, then which of the three.
        all_NHd3 = self.Wqkv(states_NC).unflatten(-1, (_HEADS, _HEAD_WIDTH, 3))
        query, key, value = all_NHd3.permute(3, 1, 0, 2)
        message = functional.scaled_dot_product_attention(
            turned(query, angles_Nf), turned(key, angles_Nf), value
        )
        message_NC = self.out_proj(_joined(message))
        return states_NC + self.ffn(torch.cat([states_NC, message_NC], dim=-1))


class CrossAttention(nn.Module):
    """Keypoints of each image attend to those of the other; queries and keys are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qk = nn.Linear(WIDTH, WIDTH)
        self.to_v = nn.Linear(WIDTH, WIDTH)
        self.to_out = nn.Linear(WIDTH, WIDTH)
        self.ffn = _feed_forward()

    def forward(self, first_NC: Tensor, second_MC: Tensor) -> tuple[Tensor, Tensor]:
        """The next states of both, each made from the former ones."""
        return self._told_by(first_NC, second_MC), self._told_by(second_MC, first_NC)

    def _told_by(self, states_NC: Tensor, source_MC: Tensor) -> Tensor:
        query, key, value = (
            projected.unflatten(-1, (_HEADS, _HEAD_WIDTH)).transpose(0, 1)
            for projected in (self.to_qk(states_NC), self.to_qk(source_MC), self.to_v(source_MC))
        )
        message_NC = self.to_out(
            _joined(functional.scaled_dot_product_attention(query, key, value))
        )
        return states_NC + self.ffn(torch.cat([states_NC, message_NC], dim=-1))


class Assignment(nn.Module):
    """States to how probable it is that two keypoints match (equations 6 to 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.matchability = nn.Linear(WIDTH, 1)
        self.final_proj = nn.Linear(WIDTH, WIDTH)

    def can_match(self, states_NC: Tensor) -> Tensor:
        """Probability (N,) that a keypoint has a match in the other image at all."""
        return self.matchability(states_NC).sigmoid()[:, 0]

    def forward(self, first_NC: Tensor, second_MC: Tensor) -> Tensor:
        """Probabilities (N, M)."""
        similarity_NM = self.final_proj(first_NC) @ self.final_proj(second_MC).T / WIDTH**0.5
        both_NM = self.can_match(first_NC)[:, None] * self.can_match(second_MC)
        return both_NM * similarity_NM.softmax(dim=1) * similarity_NM.softmax(dim=0)


class Confidence(nn.Module):
    """States (N, C) to the probability (N,) that later layers would not change their match."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Sequential(nn.Linear(WIDTH, 1), nn.Sigmoid())

    def forward(self, states_NC: Tensor) -> Tensor:
        """Equation 9."""
        return self.token(states_NC)[:, 0]


class LightGlue(nn.Module):
    """SuperPoint's keypoints of two images to matches."""

    def __init__(self) -> None:
        super().__init__()
        self.posenc = PositionAngles()
        self.self_attn = nn.ModuleList([SelfAttention() for _ in range(LAYERS)])
        self.cross_attn = nn.ModuleList([CrossAttention() for _ in range(LAYERS)])
        self.log_assignment = nn.ModuleList([Assignment() for _ in range(LAYERS)])
        self.token_confidence = nn.ModuleList([Confidence() for _ in range(LAYERS - 1)])

    def forward(self, first: ImageKeypoints, second: ImageKeypoints) -> Matches:
        """Mutual matches; none where an image has no keypoint."""
        matches, _ = self.match_and_count_layers(first, second)
        return matches

    def match_and_count_layers(
        self, first: ImageKeypoints, second: ImageKeypoints
    ) -> tuple[Matches, int]:
        """Matches, and after how many layers it was sure of them."""
        images = (first, second)
        states = [image.descriptors_ND for image in images]
        angles = [self.posenc(image.from_centre(0.5)) for image in images]
        left = [torch.arange(len(image), device=image.keypoints_N2.device) for image in images]
        num_layers = 0
        for layer in range(LAYERS):
            if not all(len(state) for state in states):
                break
            num_layers = layer + 1
            attend = self.self_attn[layer]
            states = [attend(*pair) for pair in zip(states, angles, strict=True)]
            states = list(self.cross_attn[layer](*states))
            if num_layers == LAYERS:
                break
            sure = [self.token_confidence[layer](state) for state in states]
            limit = sure_confidence(layer)
            num_unsure = sum(int((confidence < limit).sum()) for confidence in sure)
            # Dropped keypoints count as sure: they were.
            if 1 - num_unsure / (len(first) + len(second)) > _SURE_SHARE:
                break
            for side, confidence in enumerate(sure):
                assignment = cast(Assignment, self.log_assignment[layer])
                can_match = assignment.can_match(states[side])
                keep = (can_match > _MIN_MATCHABILITY) | (confidence <= limit)
                states[side], angles[side] = states[side][keep], angles[side][keep]
                left[side] = left[side][keep]
        if not all(len(state) for state in states):
            return mutual_matches(states[0].new_zeros(0, 0), _MIN_PROBABILITY), num_layers
        probability_NM = self.log_assignment[num_layers - 1](*states)
        found = mutual_matches(probability_NM, _MIN_PROBABILITY)
        pairs_M2 = torch.stack([left[side][found.pairs_M2[:, side]] for side in range(2)], dim=1)
        return replace(found, pairs_M2=pairs_M2), num_layers
