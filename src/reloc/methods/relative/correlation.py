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
_ROTATION_SCALE, _ROTATION_STEPS, _MAX_CHORD = 0.05, 6, 0.2
_MAX_PARALLAX = 0.6
# With fewer cells than this, none are put together.
_MIN_FINE_CELLS = 600
# Of which this one is the belief.
NUM_CHANNELS, BELIEF = 7, 5
# Epipolar errors, as sines, beyond which a match no longer pulls; how strongly what the matches do
# not tell is held; and the longest step.
_EPIPOLAR_SCALE, _PRIOR, _MAX_STEP, _GUESS_STEPS = 0.01, 1e-6, 0.2, 8


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
    consensus: bool = False,
) -> tuple[Matches, Matches]:
    """Matches of the first images in the second ones, and of the second in the first.

    Args:
        codes0_BLP: of unit length; zeros of a cell that is to match nothing.
        codes1_BLP: likewise.
        rays0_BL2: of the cells of the first images.
        rays1_BL2: of the second.
        grid: rows and columns.
        consensus: hold matches less likely whose neighbours match elsewhere.
    """
    volume_BLL = codes0_BLP @ codes1_BLP.mT
    if consensus:
        volume_BLL = volume_BLL * _agreement(codes0_BLP, codes1_BLP, grid)
    score0_BL, best0_BL = volume_BLL.max(2)
    score1_BL, best1_BL = volume_BLL.max(1)
    first = _matches(volume_BLL, score0_BL, best0_BL, best1_BL, rays1_BL2, grid)
    second = _matches(volume_BLL.mT, score1_BL, best1_BL, best0_BL, rays0_BL2, grid)
    return first, second


def coarse_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """Half as many rows and columns, where that leaves enough."""
    rows, columns = grid
    return (rows // 2, columns // 2) if rows * columns >= _MIN_FINE_CELLS else grid


def coarse_codes(codes_NLP: Tensor, grid: tuple[int, int]) -> Tensor:
    """Codes (N, L', P) of unit length on the coarse grid."""
    if coarse_grid(grid) == grid:
        return codes_NLP
    rows, columns = coarse_grid(grid)
    codes = codes_NLP.mT.unflatten(-1, grid)[:, :, : 2 * rows, : 2 * columns]
    return functional.normalize(functional.avg_pool2d(codes, 2).flatten(2).mT, dim=-1)


def _agreement(codes0_BLP: Tensor, codes1_BLP: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, L, L) between 1/2 and 1: how far neighbours on the coarse grid agree with a match.

    Rocco et al., "Neighbourhood consensus networks", NeurIPS 2018: mutual matching, a filter in
    four dimensions, mutual matching. Their filter is learned; this one is the sum over the nine
    neighbours that are moved alike, to which nothing needs to be taught.
    """
    coarse = [coarse_codes(codes, grid) for codes in (codes0_BLP, codes1_BLP)]
    rows, columns = coarse_grid(grid)
    volume = _mutual((coarse[0] @ coarse[1].mT).clamp_min(0))
    padded = functional.pad(
        volume.unflatten(2, (rows, columns)).unflatten(1, (rows, columns)), (1, 1, 1, 1, 1, 1, 1, 1)
    )
    summed = torch.zeros_like(padded[:, 1:-1, 1:-1, 1:-1, 1:-1])
    for y in range(3):
        for x in range(3):
            summed = (
                summed + padded[:, y : y + rows, x : x + columns, y : y + rows, x : x + columns]
            )
    agreed = _mutual(summed.flatten(3).flatten(1, 2))
    agreed = agreed / agreed.amax(2, keepdim=True).clamp_min(1e-9)
    if (rows, columns) != grid:
        coarse_L = _coarse_cell(grid).to(agreed.device)
        agreed = agreed[:, coarse_L][:, :, coarse_L]
    return (1 + agreed) / 2


def _mutual(volume_BLL: Tensor) -> Tensor:
    """Each entry times how near it is to the best of its row and of its column."""
    best = volume_BLL.amax(1, keepdim=True) * volume_BLL.amax(2, keepdim=True)
    return volume_BLL.pow(3) / best.clamp_min(1e-9)


def _coarse_cell(grid: tuple[int, int]) -> Tensor:
    """The cell (L,) of the coarse grid that each cell lies in; the nearest, beyond its border."""
    rows, columns = coarse_grid(grid)
    row, column = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    cell = (row // 2).clamp(max=rows - 1) * columns + (column // 2).clamp(max=columns - 1)
    return cell.flatten()


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


def mean_belief(weight_BL: Tensor, codes_BLP: Tensor) -> Tensor:
    """The mean (B,) of weights over cells that have a code; of those without, they are zeros."""
    usable_B = codes_BLP.any(-1).sum(-1)
    return weight_BL.mean(-1) * (weight_BL.shape[-1] / usable_B.clamp_min(1))


def beliefs(codes_LP: Tensor, codes_KLP: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much the matches of a frame with others are believed (K,), in the mean over its cells.

    Vectors of whole images say what is similar; this says where the same is seen.
    """
    volume_KLL = codes_LP @ codes_KLP.mT
    score_KL, best_KL = volume_KLL.max(2)
    weight_KL = _weights(score_KL, best_KL, volume_KLL.argmax(1), grid[1])
    return mean_belief(weight_KL, codes_LP)


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
    attitude", SIAM review 1965, reweighted); from there, with the direction of the translation, by
    least squares of the epipolar errors.
    """
    seen_BL3, matched_BL3 = _unit(rays0_BL2), _unit(matches.rays_BL2)
    weight_BL = matches.weight_BL.square() + 1e-6
    rotation_B33 = _procrustes(seen_BL3, matched_BL3, weight_BL)
    for _ in range(_ROTATION_STEPS):
        chord_BL = (seen_BL3 - matched_BL3 @ rotation_B33.mT).norm(dim=-1)
        pull_BL = weight_BL / (1 + (chord_BL / _ROTATION_SCALE).square())
        rotation_B33 = _procrustes(seen_BL3, matched_BL3, pull_BL)
    first_B33 = rotation_B33
    # What is very far off is no point so near, but a wrong match, and would outweigh the rest.
    chord_BL = (seen_BL3 - matched_BL3 @ rotation_B33.mT).norm(dim=-1)
    weight_BL = weight_BL / (1 + (chord_BL / _MAX_CHORD).square()).square()
    normal_BL3 = torch.linalg.cross(seen_BL3, matched_BL3 @ rotation_B33.mT)
    scatter_B33 = (weight_BL[..., None] * normal_BL3).mT @ normal_BL3
    heading_B3 = torch.linalg.eigh(scatter_B33.double())[1][..., 0].to(rotation_B33)
    for step in range(_GUESS_STEPS):
        # From afar all pull: the first errors are those of the start.
        scale = _EPIPOLAR_SCALE * max(1.0, 16.0 * 0.5**step)
        rotation_B33, heading_B3 = _newton_step(
            seen_BL3, matched_BL3, weight_BL, rotation_B33, heading_B3, scale
        )
    # Near points are seen shifted along the translation, not against it.
    shift_BL3 = seen_BL3 - matched_BL3 @ rotation_B33.mT
    forward_B1 = ((weight_BL[..., None] * shift_BL3).sum(1) * heading_B3).sum(-1, keepdim=True)
    heading_B3 = heading_B3 * torch.where(forward_B1 < 0, -1.0, 1.0)
    lost_B = ~(rotation_B33.isfinite().flatten(1).all(1) & heading_B3.isfinite().all(1))
    rotation_B33 = torch.where(lost_B[:, None, None], first_B33, rotation_B33)
    ahead_3 = torch.tensor([0.0, 0.0, 1.0], device=heading_B3.device)
    return Guess(rotation_B33, torch.where(lost_B[:, None], ahead_3, heading_B3))


def _newton_step(
    seen_BL3: Tensor,
    matched_BL3: Tensor,
    weight_BL: Tensor,
    rotation_B33: Tensor,
    heading_B3: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Turn and heading after a step of least squares of the epipolar errors h . (q x R r)."""
    turned_BL3 = matched_BL3 @ rotation_B33.mT
    normal_BL3 = torch.linalg.cross(seen_BL3, turned_BL3)
    error_BL = (normal_BL3 * heading_B3[:, None]).sum(-1)
    pull_BL = weight_BL / (1 + (error_BL / scale).square())
    # h . (q x (d x r)) = d . (r x (h x q)): the change of the error with a small turn d.
    slope_BL3 = torch.linalg.cross(
        turned_BL3, torch.linalg.cross(heading_B3[:, None].expand_as(seen_BL3), seen_BL3)
    )
    slope_BL6 = torch.cat([slope_BL3, normal_BL3], dim=-1).double()
    total_B11 = pull_BL.double().sum(1)[:, None, None]
    # Held: the length of the heading, and a little all that the matches do not tell.
    along_B6 = functional.pad(heading_B3, (3, 0)).double()
    held_B66 = total_B11 * (
        _PRIOR * torch.eye(6, dtype=torch.float64, device=seen_BL3.device)
        + along_B6[:, :, None] * along_B6[:, None, :]
    )
    weighted_BL6 = pull_BL.double()[..., None] * slope_BL6
    right_B61 = weighted_BL6.mT @ error_BL.double()[..., None]
    step_B6 = -torch.linalg.solve_ex(weighted_BL6.mT @ slope_BL6 + held_B66, right_B61)[0][..., 0]
    step_B6 = step_B6.clamp(-_MAX_STEP, _MAX_STEP).to(heading_B3)
    turned_B33 = roma.rotvec_to_rotmat(step_B6[:, :3]) @ rotation_B33
    return turned_B33, functional.normalize(heading_B3 + step_B6[:, 3:], dim=-1)


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
