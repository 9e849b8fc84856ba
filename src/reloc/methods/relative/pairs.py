"""Pairs of mapping views to learn from: which, and what their matches say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.contract import Run
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.relative.correlation import (
    NUM_CHANNELS,
    Guess,
    Matches,
    beliefs,
    channels_of,
    guess_pose,
    match_both_ways,
    mean_belief,
)
from reloc.methods.relative.frames import Frames

# Cells of the pairs whose volumes are made at once.
_CELLS_AT_ONCE = 10_000


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a query and a reference, P of them.

    Attributes:
        query_P: int64, which frame is the query.
        reference_P: int64, and which the reference.
        guess: the poses query_from_reference by the matches alone, batch (P,).
        channels_PChw: float16, what a network sees of a pair.
        belief_P: mean belief of the matches.
    """

    query_P: Tensor
    reference_P: Tensor
    guess: Guess
    channels_PChw: Tensor
    belief_P: Tensor

    def __len__(self) -> int:
        return len(self.query_P)


def nearest_frames(vectors_ND: Tensor, vector_D: Tensor, count: int) -> Tensor:
    """Indices of the `count` frames whose vectors are most alike, the best first."""
    similarity_N = vectors_ND @ vector_D
    return similarity_N.argsort(descending=True, stable=True)[:count]


def choose_pairs(
    vectors_ND: Tensor,
    coarse_NLP: Tensor,
    grid: tuple[int, int],
    per_frame: int,
    seed: int,
    run: Run,
) -> Tensor:
    """Pairs (P, 2) of frames, i < j, to learn from: each with such as are asked for it.

    Args:
        vectors_ND: of the frames.
        coarse_NLP: their coarse codes.
        grid: of these.
        per_frame: pairs of a frame, before those are struck that come twice: half of them the most
            believed of the most similar, half drawn from the others of these.
        seed: of the drawing.
        run: its progress.
    """
    generator = torch.Generator().manual_seed(seed)
    similarity_NN = vectors_ND @ vectors_ND.T
    similarity_NN.fill_diagonal_(-torch.inf)
    count = min(4 * per_frame, len(vectors_ND) - 1)
    ranked_NK = similarity_NN.argsort(dim=1, descending=True, stable=True)[:, :count]
    near = -(-per_frame // 2)
    chosen = []
    for row in run.progress.track(range(len(vectors_ND)), "choosing pairs"):
        ranked_K = ranked_NK[row]
        belief_K = beliefs(coarse_NLP[row], coarse_NLP[ranked_K], grid)
        ranked_K = ranked_K[belief_K.argsort(descending=True, stable=True)]
        # Of those that show nothing in common, there is nothing to learn.
        rest = ranked_K[near : 2 * per_frame]
        drawn = rest[torch.randperm(len(rest), generator=generator)[: per_frame - near]]
        others = torch.cat([ranked_K[:near], drawn])
        chosen.append(torch.stack([torch.full_like(others, row), others], dim=1))
    return torch.cat(chosen).sort(dim=1).values.unique(dim=0)


def match_pairs(
    frames: Frames, pairs_P2: Tensor, grid: tuple[int, int], run: Run, consensus: bool = False
) -> Pairs:
    """Both directions of pairs (P, 2) of frames: 2 P pairs. For `consensus`, see `correlation`."""
    rows, columns = grid
    total = 2 * len(pairs_P2)
    channels = torch.empty(total, NUM_CHANNELS, rows, columns, dtype=torch.float16)
    turns, headings, belief = torch.empty(total, 3, 3), torch.empty(total, 3), torch.empty(total)
    done = 0
    parts = list(pairs_P2.split(max(1, _CELLS_AT_ONCE // (rows * columns))))
    for first_K, second_K in (
        part.unbind(1) for part in run.progress.track(parts, "matching pairs")
    ):
        codes = [frames.codes(index).to(run.device) for index in (first_K, second_K)]
        rays = [frames.rays(index).to(run.device) for index in (first_K, second_K)]
        both = match_both_ways(codes[0], codes[1], rays[0], rays[1], grid, consensus)
        for matches, own_codes, own_rays in zip(both, codes, rays, strict=True):
            part = slice(done, done + len(first_K))
            guess, channels_KChw = look(matches, own_rays, grid)
            channels[part], turns[part] = channels_KChw.half().cpu(), guess.turn_B33.cpu()
            headings[part] = guess.heading_B3.cpu()
            belief[part] = mean_belief(matches.weight_BL, own_codes).cpu()
            done += len(first_K)
    # The order in which they were made: a batch one way round, then the other.
    query, reference = [], []
    for part in parts:
        query += [part[:, 0], part[:, 1]]
        reference += [part[:, 1], part[:, 0]]
    guess = Guess(turns, headings)
    return Pairs(torch.cat(query), torch.cat(reference), guess, channels, belief)


def look(matches: Matches, rays_BL2: Tensor, grid: tuple[int, int]) -> tuple[Guess, Tensor]:
    """Guesses, and channels (B, 7, h, w), of matches of queries in references."""
    guess = guess_pose(matches, rays_BL2)
    return guess, channels_of(matches, rays_BL2, guess, grid)


def targets(pairs: Pairs, index_B: Tensor, cam_from_world: Rigid3d, unit: float) -> Rigid3d:
    """True poses (B,) float32 of pairs, with the turn taken off and in the map's unit."""
    query, reference = pairs.query_P[index_B], pairs.reference_P[index_B]
    true = cam_from_world[query] @ cam_from_world[reference].inverse()
    left = true.rotation @ pairs.guess.turn_B33[index_B].double().mT
    return Rigid3d(left.float(), (true.translation / unit).float())
