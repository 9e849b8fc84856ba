"""Correlation volumes of two images' codes, and what they say: which cell shows what.

The volume is closed form and the codes are frozen, so what comes of a pair is computed once and
learned from many times.
"""

from __future__ import annotations

from dataclasses import dataclass

import roma
import torch
from torch import Tensor
from torch.nn import functional

# A match is refined on the cells round the best one, at this temperature of cosines.
_RADIUS, _TEMPERATURE = 2, 0.05
# Standard deviation, in cells, of the way back: a match that leads elsewhere is doubted.
_CYCLE_CELLS = 1.5
# Angle, as the length of a chord, at which a match no longer pulls at the rotation.
_ROTATION_SCALE, _ROTATION_STEPS = 0.05, 6
_MAX_PARALLAX = 0.6
# Of which this one is the belief.
NUM_CHANNELS, BELIEF = 7, 5
# Epipolar errors, as sines, beyond which a match no longer pulls; how strongly the turn is held.
_EPIPOLAR_SCALE, _GUESS_STEPS, _TURN_PRIOR = 0.01, 5, 1e-3


@dataclass(frozen=True, eq=False)
class Matches:
    """For each cell of a first image, where a second image shows the same.

    Attributes:
        rays_BL2: of the second image, float32.
        score_BL: cosine of the best match.
        weight_BL: how much it is believed, in [0, 1]: 1 where the way back leads to the same cell.
    """

    rays_BL2: Tensor
    score_BL: Tensor
    weight_BL: Tensor


def match_both_ways(
    codes0_BLP: Tensor,
    codes1_BLP: Tensor,
    rays0_BL2: Tensor,
    rays1_BL2: Tensor,
    grid: tuple[int, int],
) -> tuple[Matches, Matches]:
    """Matches of the first images in the second ones, and of the second in the first."""
    volume_BLL = codes0_BLP @ codes1_BLP.mT
    score0_BL, best0_BL = volume_BLL.max(2)
    score1_BL, best1_BL = volume_BLL.max(1)
    first = _matches(volume_BLL, score0_BL, best0_BL, best1_BL, rays1_BL2, grid)
    second = _matches(volume_BLL.mT, score1_BL, best1_BL, best0_BL, rays0_BL2, grid)
    return first, second


def _matches(
    volume_BLL: Tensor,
    score_BL: Tensor,
    best_BL: Tensor,
    back_BL: Tensor,
    rays_BL2: Tensor,
    grid: tuple[int, int],
) -> Matches:
    rows, columns = grid
    offset = torch.arange(-_RADIUS, _RADIUS + 1, device=best_BL.device)
    row_BLK = (best_BL // columns)[..., None] + offset.repeat_interleave(len(offset))
    column_BLK = (best_BL % columns)[..., None] + offset.repeat(len(offset))
    inside_BLK = (row_BLK >= 0) & (row_BLK < rows) & (column_BLK >= 0) & (column_BLK < columns)
    near_BLK = row_BLK.clamp(0, rows - 1) * columns + column_BLK.clamp(0, columns - 1)
    logits_BLK = volume_BLL.gather(2, near_BLK) / _TEMPERATURE
    share_BLK = logits_BLK.masked_fill(~inside_BLK, -torch.inf).softmax(-1)
    batch = torch.arange(len(best_BL), device=best_BL.device)[:, None, None]
    refined_BL2 = (share_BLK[..., None] * rays_BL2[batch, near_BLK]).sum(2)
    return Matches(refined_BL2, score_BL, _weights(score_BL, best_BL, back_BL, columns))


def _weights(score_BL: Tensor, best_BL: Tensor, back_BL: Tensor, columns: int) -> Tensor:
    home_BL = back_BL.gather(1, best_BL)
    here_L = torch.arange(best_BL.shape[1], device=best_BL.device)
    away_BL = (home_BL // columns - here_L // columns).square() + (
        home_BL % columns - here_L % columns
    ).square()
    return score_BL.clamp_min(0) * (-away_BL / (2 * _CYCLE_CELLS**2)).exp()


def beliefs(codes_LP: Tensor, codes_KLP: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much the matches of a frame with others are believed (K,), in the mean over its cells.

    Vectors of whole images say what is similar; this says where the same is seen.
    """
    volume_KLL = codes_LP @ codes_KLP.mT
    score_KL, best_KL = volume_KLL.max(2)
    return _weights(score_KL, best_KL, volume_KLL.argmax(1), grid[1]).mean(1)


@dataclass(frozen=True, eq=False)
class Guess:
    """A relative pose in closed form, without a length; batch (B,).

    Attributes:
        turn_B33: rotation query_from_reference.
        heading_B3: direction of its translation, a unit vector.
    """

    turn_B33: Tensor
    heading_B3: Tensor


def guess_pose(matches: Matches, rays0_BL2: Tensor) -> Guess:
    """What the matches alone say of the poses of the first cameras from the second.

    The rotation that brings most rays together (Wahba, "A least squares estimate of satellite
    attitude", SIAM review 1965, reweighted); then, by turns, the direction of the translation and
    small corrections of the rotation that least squares of the epipolar errors give.
    """
    seen_BL3, matched_BL3 = _unit(rays0_BL2), _unit(matches.rays_BL2)
    weight_BL = matches.weight_BL.square() + 1e-6
    rotation_B33 = _procrustes(seen_BL3, matched_BL3, weight_BL)
    for _ in range(_ROTATION_STEPS):
        chord_BL = (seen_BL3 - matched_BL3 @ rotation_B33.mT).norm(dim=-1)
        pull_BL = weight_BL / (1 + (chord_BL / _ROTATION_SCALE).square())
        rotation_B33 = _procrustes(seen_BL3, matched_BL3, pull_BL)
    first_B33, pull_BL = rotation_B33, weight_BL
    eye_33 = torch.eye(3, device=rotation_B33.device)
    for step in range(_GUESS_STEPS + 1):
        turned_BL3 = matched_BL3 @ rotation_B33.mT
        normal_BL3 = torch.linalg.cross(seen_BL3, turned_BL3)
        scatter_B33 = (pull_BL[..., None] * normal_BL3).mT @ normal_BL3
        heading_B3 = torch.linalg.eigh(scatter_B33.double())[1][..., 0].to(rotation_B33)
        forward_B = ((pull_BL[..., None] * (seen_BL3 - turned_BL3)).sum(1) * heading_B3).sum(
            -1, keepdim=True
        )
        heading_B3 = heading_B3 * torch.where(forward_B < 0, -1.0, 1.0)
        if step == _GUESS_STEPS:
            break
        error_BL = (normal_BL3 * heading_B3[:, None]).sum(-1)
        pull_BL = weight_BL / (1 + (error_BL / _EPIPOLAR_SCALE).square())
        # h . (q x (d x r)) = d . (r x (h x q)), the change of the error with the turn d.
        slope_BL3 = torch.linalg.cross(
            turned_BL3, torch.linalg.cross(heading_B3[:, None].expand_as(seen_BL3), seen_BL3)
        )
        held = _TURN_PRIOR * pull_BL.sum(1)[:, None, None] * eye_33
        normal_B33 = (pull_BL[..., None] * slope_BL3).mT @ slope_BL3 + held
        right_B3 = (pull_BL * error_BL)[:, None] @ slope_BL3
        turn_B3 = -torch.linalg.solve(normal_B33, right_B3[:, 0])
        rotation_B33 = roma.rotvec_to_rotmat(turn_B3.clamp(-0.1, 0.1)) @ rotation_B33
    lost_B = ~(rotation_B33.isfinite().flatten(1).all(1) & heading_B3.isfinite().all(1))
    rotation_B33 = torch.where(lost_B[:, None, None], first_B33, rotation_B33)
    ahead_3 = torch.tensor([0.0, 0.0, 1.0], device=heading_B3.device)
    return Guess(rotation_B33, torch.where(lost_B[:, None], ahead_3, heading_B3))


def channels_of(matches: Matches, rays0_BL2: Tensor, guess: Guess, grid: tuple[int, int]) -> Tensor:
    """What a network sees of pairs: (B, 7, h, w) on the grid of the first images.

    Ray of the cell (2), how far its match lies from it once the second camera is turned as guessed
    (2), how far along the guessed translation (1): length over depth; belief and score.
    """
    turned_BL3 = functional.pad(matches.rays_BL2, (0, 1), value=1.0) @ guess.turn_B33.mT
    plane_BL2 = turned_BL3[..., :2] / turned_BL3[..., 2:].clamp_min(0.1)
    parallax_BL2 = (rays0_BL2 - plane_BL2).clamp(-_MAX_PARALLAX, _MAX_PARALLAX)
    # A translation h of length 1 moves the ray of a point at depth 1 so far.
    heading_B13 = guess.heading_B3[:, None]
    moved_BL2 = heading_B13[..., :2] - rays0_BL2 * heading_B13[..., 2:]
    along_BL1 = (parallax_BL2 * moved_BL2).sum(-1, keepdim=True)
    along_BL1 = along_BL1 / (moved_BL2.square().sum(-1, keepdim=True) + 0.05)
    believed_BL1 = matches.weight_BL[..., None]
    channels_BL7 = torch.cat(
        [
            rays0_BL2,
            # Of a match that is not believed only noise would come through.
            10 * parallax_BL2 * believed_BL1,
            10 * along_BL1 * believed_BL1,
            believed_BL1,
            matches.score_BL[..., None],
        ],
        dim=-1,
    )
    return channels_BL7.mT.unflatten(-1, grid)


def _procrustes(seen_BL3: Tensor, matched_BL3: Tensor, weight_BL: Tensor) -> Tensor:
    return roma.special_procrustes((weight_BL[..., None] * seen_BL3).mT @ matched_BL3)  # type: ignore[return-value]


def _unit(rays: Tensor) -> Tensor:
    return functional.normalize(functional.pad(rays, (0, 1), value=1.0), dim=-1)
