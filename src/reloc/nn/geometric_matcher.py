"""Two sets of points in the plane to those that are of the same thing, by how they lie alone.

A set is bearings: where keypoints of a picture, or scene points moved into the frame of a camera,
meet the plane at distance 1. No appearance is looked at. Each point is told by its neighbours how
they lie about it, and then by the other set's points in turn; layer by layer a partial assignment
comes of it; a last part looks at all matches together and says which are wrong.

Source: Zhou, Agostinho, Ošep and Leal-Taixé, "Is Geometry Enough for Matching in Visual
Localization?", ECCV 2022 (GoMatch). What is as there: bearings, one encoder for both sets, a graph
of neighbours within a set, attention across the sets, a classifier of matches with context
normalisation. What is not: softmax both ways with a probability of having a match at all
(Lindenberger et al., "LightGlue", ICCV 2023) in place of Sinkhorn's iterations; every layer says an
assignment and is taught by it; and the known set is moved, so that what is compared lies near:
first by the shift that brings most pairs of points together, then between layers as the assignment
so far agrees on, by an affine map and smoothly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.input_error import InputError
from reloc.nn.bearings import Bearings, distances, moved, neighbours_of, rows_of, shifted
from reloc.nn.matchers.keypoints import Matches
from reloc.nn.matchers.lightglue import turned
from reloc.nn.unfilled import unfilled
from reloc.nn.weights import weights_sha256

_HEADS = 4
# Half the logarithm of the weight of a squared distance, of which each point says a half: at most,
# and at first half of that.
_MAX_NEARNESS = 4.0
_LEAST = -1e4


@dataclass(frozen=True, eq=False)
class Assigned:
    """What a layer says of two sets.

    Attributes:
        log_BNM: logarithms of the probability that two points match.
        log_none_BN: of the probability that a point of the first set has no match.
        log_none_BM: the same of the second.
        moved_BM2: the second set, moved by what the layers before agreed on.
    """

    log_BNM: Tensor
    log_none_BN: Tensor
    log_none_BM: Tensor
    moved_BM2: Tensor


@dataclass(frozen=True, eq=False)
class Judged:
    """Mutual matches, and how likely they are right when looked at together.

    Attributes:
        column_BN: int64, the point of the second set of each of the first.
        mutual_BN: whether it is a match at all: each is the other's most probable one.
        logit_BN: of being right.
    """

    column_BN: Tensor
    mutual_BN: Tensor
    logit_BN: Tensor


class Neighbourhood(nn.Module):
    """What a point's neighbours tell it: the mean over edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.other = nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(3, width, bias=False)
        self.last = nn.Linear(width, width)

    def forward(self, states_BNC: Tensor, near_BNK: Tensor, edges_BNK3: Tensor) -> Tensor:
        """Messages (B, N, C)."""
        others_BNKC = rows_of(self.other(states_BNC), near_BNK)
        hidden = self.own(states_BNC)[:, :, None] + others_BNKC + self.edge(edges_BNK3)
        return self.last(functional.relu(hidden).mean(2))


class Across(nn.Module):
    """What the other set's points tell a point, by content and by where they lie from it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.compare = nn.Linear(width, width)
        self.tell = nn.Linear(width, width)
        self.merge = nn.Linear(width, width)

    def forward(
        self, states: list[Tensor], angles: list[Tensor], masks: list[Tensor]
    ) -> list[Tensor]:
        """Messages to both sets."""
        keys = [
            turned(_heads(self.compare(state)), angle[:, None])
            for state, angle in zip(states, angles, strict=True)
        ]
        values = [_heads(self.tell(state)) for state in states]
        return [
            self.merge(
                functional.scaled_dot_product_attention(
                    keys[side], keys[1 - side], values[1 - side], masks[1 - side]
                )
                .transpose(1, 2)
                .flatten(2)
            )
            for side in range(2)
        ]


class Layer(nn.Module):
    """A turn of telling within the sets, and one across them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.within = Neighbourhood(width)
        self.across = Across(width)
        self.after_within, self.after_across = _update(width), _update(width)
        self.angles = nn.Linear(2, width // _HEADS // 2, bias=False)
        nn.init.normal_(self.angles.weight, std=6.0)
        self.final = nn.Linear(width, width)
        self.can_match = nn.Linear(width, 1)
        # How near a point's match must be: the surer of the motion, the nearer.
        self.nearness = nn.Linear(width, 1)
        nn.init.zeros_(self.nearness.weight)
        nn.init.zeros_(self.nearness.bias)
        self.weight = nn.Parameter(torch.tensor(1.5))

    def forward(
        self, states: list[Tensor], positions: list[Tensor], graphs: list[tuple[Tensor, Tensor]],
        masks: list[Tensor],
    ) -> list[Tensor]:  # fmt: skip
        """The next states of both sets."""
        states = [
            state + self.after_within(torch.cat([state, self.within(state, *graph)], dim=-1))
            for state, graph in zip(states, graphs, strict=True)
        ]
        messages = self.across(states, [self.angles(place) for place in positions], masks)
        return [
            state + self.after_across(torch.cat([state, message], dim=-1))
            for state, message in zip(states, messages, strict=True)
        ]

    def assign(
        self, states: list[Tensor], positions: list[Tensor], valid: list[Tensor]
    ) -> Assigned:
        """The assignment that the states say."""
        first, second = (self.final(state) for state in states)
        apart_BNM = distances(positions[0], positions[1]).square()
        nearness = [_MAX_NEARNESS * self.nearness(state).sigmoid() for state in states]
        apart_BNM = apart_BNM * nearness[0].exp() * nearness[1].exp().mT
        # Cauchy's: a match that is far away, against what was expected, must not cost all.
        scores_BNM = first @ second.mT / first.shape[-1] ** 0.5 - self.weight * apart_BNM.log1p()
        scores_BNM = scores_BNM.masked_fill(~valid[1][:, None], _LEAST)
        scores_BNM = scores_BNM.masked_fill(~valid[0][..., None], _LEAST)
        can = [self.can_match(state)[..., 0] for state in states]
        log_can_BNM = (
            functional.logsigmoid(can[0])[..., None] + functional.logsigmoid(can[1])[:, None]
        )
        log_BNM = log_can_BNM + scores_BNM.log_softmax(1) + scores_BNM.log_softmax(2)
        log_BNM = log_BNM.masked_fill(~(valid[0][..., None] & valid[1][:, None]), _LEAST)
        none = [functional.logsigmoid(-logit) for logit in can]
        return Assigned(log_BNM, none[0], none[1], positions[1])


class MatchJudge(nn.Module):
    """Matches, looked at together, to whether each is right."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * width + 7, width)
        self.blocks = nn.ModuleList([_update(width) for _ in range(3)])
        self.last = nn.Linear(width, 1)

    def forward(self, seen_BNF: Tensor, mutual_BN: Tensor) -> Tensor:
        """Logits (B, N); those of rows that are no match mean nothing."""
        state = self.first(seen_BNF)
        weight = mutual_BN[..., None] / mutual_BN.sum(1)[:, None, None].clamp_min(1)
        for block in self.blocks:
            # Context normalisation: each is seen among all.
            mean = (weight * state).sum(1, keepdim=True)
            spread = (weight * (state - mean).square()).sum(1, keepdim=True).add(1e-3).sqrt()
            state = state + block(torch.cat([state, (state - mean) / spread], dim=-1))
        return self.last(state)[..., 0]


class GeometricMatcher(nn.Module):
    """Bearings of a query and of a known view to matches.

    Args:
        width: of the states.
        num_layers: turns of telling.
    """

    def __init__(self, width: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        self.waves = nn.Linear(2, width)
        nn.init.normal_(self.waves.weight, std=4.0)
        self.encode = nn.Sequential(nn.Linear(width + 2, width), nn.ReLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList([Layer(width) for _ in range(num_layers)])
        self.judge = MatchJudge(width)

    def forward(self, first: Bearings, second: Bearings) -> tuple[list[Assigned], list[Tensor]]:
        """What each layer says, and the last states of both sets."""
        valid = [first.valid_BN, second.valid_BN]
        positions = [first.points_BN2, shifted(first, second)]
        graphs = [neighbours_of(*pair) for pair in zip(positions, valid, strict=True)]
        masks = [one[:, None, None] for one in valid]
        states = [
            self.encode(torch.cat([place, self.waves(place).sin()], dim=-1)) for place in positions
        ]
        said: list[Assigned] = []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            if said:
                positions = [positions[0], moved(positions[0], positions[1], said[-1].log_BNM)]
            states = layer(states, positions, graphs, masks)
            said.append(layer.assign(states, positions, valid))
        return said, states

    def judge_matches(
        self, first: Bearings, second: Bearings, last: Assigned, states: list[Tensor]
    ) -> Judged:
        """Which of the mutual matches of the last layer are right."""
        best_BN, column_BN = last.log_BNM.max(2)
        back_BN = last.log_BNM.argmax(1).gather(1, column_BN)
        rows_N = torch.arange(back_BN.shape[1], device=back_BN.device)
        mutual_BN = (back_BN == rows_N) & first.valid_BN & (best_BN > 0.5 * _LEAST)
        moved_BM2 = moved(first.points_BN2, last.moved_BM2, last.log_BNM)
        there_BN2 = rows_of(last.moved_BM2, column_BN)
        off_BN2 = rows_of(moved_BM2, column_BN) - first.points_BN2
        seen = [states[0], rows_of(states[1], column_BN), first.points_BN2, there_BN2, 10 * off_BN2,
                best_BN[..., None].clamp_min(-20) / 5]  # fmt: skip
        return Judged(column_BN, mutual_BN, self.judge(torch.cat(seen, dim=-1), mutual_BN))

    @torch.inference_mode()
    def match(self, first: Bearings, second: Bearings, least: float) -> list[Matches]:
        """Matches of each pair of sets that are right with a probability of at least `least`."""
        said, states = self(first, second)
        judged = self.judge_matches(first, second, said[-1], states)
        probability_BN = judged.logit_BN.sigmoid()
        found = []
        for probability_N, column_N, mutual_N in zip(
            probability_BN, judged.column_BN, judged.mutual_BN, strict=True
        ):
            (row_K,) = (mutual_N & (probability_N >= least)).nonzero(as_tuple=True)
            found.append(
                Matches(torch.stack([row_K, column_N[row_K]], dim=1), probability_N[row_K])
            )
        return found


def _update(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2 * width, 2 * width),
        nn.LayerNorm(2 * width),
        nn.GELU(),
        nn.Linear(2 * width, width),
    )


def _heads(states_BNC: Tensor) -> Tensor:
    """(B, H, N, C / H)."""
    return states_BNC.unflatten(-1, (_HEADS, -1)).transpose(1, 2)


def matcher_sha256(path: Path) -> str:
    """What a map names the matcher in a file by.

    Raises:
        InputError: the file cannot be read.
    """
    return weights_sha256(path, "the matcher", "install reloc again, or give another file")


def load_matcher(path: Path) -> GeometricMatcher:
    """The matcher in a file that `reloc pretrain gomatch` wrote, ready to use.

    Raises:
        InputError: the file is missing, or holds no matcher.
    """
    try:
        state = safetensors.torch.load_file(path)
        width = len(state["waves.weight"])
        layers = {key.split(".")[1] for key in state if key.startswith("layers.")}
        with unfilled():
            matcher = GeometricMatcher(width, len(layers))
        matcher.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no matcher of bearings ({reason})") from error
    return matcher.eval().requires_grad_(False)
