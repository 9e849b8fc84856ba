"""Points measured from the camera, and guesses of where they are in the world, to a pose.

For queries with depth: three points fix a pose, their distances tell most wrong guesses at once,
and the length of a residual needs no camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.estimation.minimal_solvers import kabsch
from reloc.geometry.rigid3d import Rigid3d, skew

# Three points fix a pose; fewer than this many agree with any pose by chance.
MIN_INLIERS = 6
# Pairs of guesses that are drawn, how many that keep their distance are enough, third guesses that
# are drawn for each of these, and how many of such samples are enough. So a right pair, which may
# be rare, meets many thirds, and hopeless input costs what any other does.
_NUM_PAIRS, _MAX_PAIRS, _NUM_THIRDS, _MAX_HYPOTHESES = 1 << 15, 1024, 32, 512
# Sides of a sample's triangle, over the error that is allowed: shorter ones fix no rotation.
_MIN_SIDE = 3.0
# Points that all hypotheses are compared on first; the better half is compared on twice as many.
_FIRST_BLOCK = 64
# Once so few are left, hypotheses are refined before they are compared.
_MAX_REFINED = 32
_MAX_STEPS = 12


@dataclass(frozen=True, eq=False)
class RigidAlignment:
    """A pose that guesses agree on.

    Attributes:
        cam_from_world: float64.
        inliers_N: bool, which points have a guess that agrees.
        guess_N: int64, the guess of each point that is nearest to where the pose puts it.
        covariance: (6, 6) of a left perturbation, rotation (rad) then translation, from the
            Jacobian of the inliers and the spread of their residuals.
    """

    cam_from_world: Rigid3d
    inliers_N: Tensor
    guess_N: Tensor
    covariance: Tensor

    @property
    def num_inliers(self) -> int:
        """Points that agree."""
        return int(self.inliers_N.sum())

    @property
    def inlier_ratio(self) -> float:
        """Their share of all points."""
        return self.num_inliers / len(self.inliers_N)


def estimate_rigid_alignment(
    points_cam_N3: Tensor,
    guesses_world_NM3: Tensor,
    weights_NM: Tensor,
    max_error: float,
    seed: int = 0,
) -> RigidAlignment | None:
    """Robust pose of points of which each has several guesses where it is in the world.

    Preemptive RANSAC: samples of three guesses that keep their distances become poses (Kabsch);
    all are compared on a few points, the better half on more, until one is left. A point counts by
    its nearest guess. Scale is never estimated.

    Source: Shotton et al., "Scene coordinate regression forests", CVPR 2013, section 3.2, after
    Nistér, "Preemptive RANSAC", ICCV 2003; the test of distances as in Cavallari et al.,
    "On-the-fly adaptation of regression forests", CVPR 2017.

    Args:
        points_cam_N3: as measured.
        guesses_world_NM3: relative to an origin near by: they are compared in float32.
        weights_NM: how much is thought of a guess; 0: it is none.
        max_error: distance up to which a guess agrees, in the unit of the points.
        seed: of the sampling.

    Returns:
        None where fewer than `MIN_INLIERS` points agree, or they fix no pose.
    """
    usable_N = points_cam_N3.isfinite().all(-1) & (weights_NM > 0).any(-1)
    if int(usable_N.sum()) < MIN_INLIERS:
        return None
    generator = torch.Generator().manual_seed(seed)
    order = usable_N.nonzero()[:, 0]
    order = order[torch.randperm(len(order), generator=generator)]
    # A guess that is none is too far off to be the nearest.
    guesses = guesses_world_NM3.float().masked_fill((weights_NM <= 0)[..., None], 1e9)
    guessed = _Guesses(points_cam_N3[order].float(), guesses[order], max_error)
    hypotheses = _draw(guessed, weights_NM[order].float(), generator)
    if hypotheses is None:
        return None
    best = _refined(_preempted(hypotheses, guessed), guessed, _MAX_STEPS)
    nearest_1N, near_1N = guessed.nearest(best)
    inliers = near_1N[0] < 1
    if int(inliers.sum()) < MIN_INLIERS:
        return None
    _, information, squared = _normal_equations(best, guessed, nearest_1N, (near_1N < 1).double())
    degrees_of_freedom = 3 * int(inliers.sum()) - 6
    covariance, failed = torch.linalg.inv_ex(information[0] * degrees_of_freedom / squared[0])
    if bool(failed) or not bool(covariance.isfinite().all() & (covariance.diagonal() > 0).all()):
        return None
    inliers_N, guess_N = torch.zeros_like(usable_N), torch.zeros(len(usable_N), dtype=torch.int64)
    inliers_N[order], guess_N[order] = inliers, nearest_1N[0]
    return RigidAlignment(best[0], inliers_N, guess_N, (covariance + covariance.mT) / 2)


@dataclass(frozen=True, eq=False)
class _Guesses:
    """Points (N, 3) from the camera, guesses (N, M, 3) of them in the world, both float32."""

    points_cam_N3: Tensor
    guesses_NM3: Tensor
    max_error: float

    def __getitem__(self, index: slice) -> _Guesses:
        return _Guesses(self.points_cam_N3[index], self.guesses_NM3[index], self.max_error)

    def nearest(self, cam_from_world: Rigid3d) -> tuple[Tensor, Tensor]:
        """For poses (H,), which guess of each point is the nearest, and how far it is, both (H, N).

        The distance is squared and in units of the allowed error: below 1 a guess agrees.
        """
        world_from_cam = cam_from_world.inverse().to(torch.float32)
        points_HN3 = world_from_cam @ self.points_cam_N3
        offsets_HNM3 = points_HN3[:, :, None] - self.guesses_NM3
        squared_HN, nearest_HN = offsets_HNM3.square().sum(-1).min(-1)
        return nearest_HN, squared_HN / self.max_error**2


def _draw(guessed: _Guesses, weights_NM: Tensor, generator: torch.Generator) -> Rigid3d | None:
    """Poses (H,) of samples that keep their distances; None where there is none."""
    num_guesses = weights_NM.shape[1]
    guesses_C3 = guessed.guesses_NM3.flatten(0, 1)
    cumulative_C = weights_NM.flatten().double().cumsum(0)

    def draw(*shape: int) -> Tensor:
        """Guesses, by number, as often as their weights say."""
        level = torch.rand(shape, generator=generator, dtype=torch.float64) * cumulative_C[-1]
        return torch.searchsorted(cumulative_C, level, right=True).clamp_max(len(guesses_C3) - 1)

    def keep_distance(first: Tensor, second: Tensor) -> Tensor:
        """Whether guesses are as far from each other as their points, and far enough."""
        in_world = (guesses_C3[first] - guesses_C3[second]).norm(dim=-1)
        points = guessed.points_cam_N3
        in_cam = (points[first // num_guesses] - points[second // num_guesses]).norm(dim=-1)
        differ = (in_world - in_cam).abs()
        return (in_cam > _MIN_SIDE * guessed.max_error) & (differ < guessed.max_error)

    first, second = draw(_NUM_PAIRS, 2).unbind(-1)
    pair = keep_distance(first, second).nonzero()[:_MAX_PAIRS, 0]
    # A third for every pair, then another one for every pair, and so on.
    first, second = (side[pair].repeat(_NUM_THIRDS) for side in (first, second))
    third = draw(_NUM_THIRDS * len(pair))
    kept = (keep_distance(first, third) & keep_distance(second, third)).nonzero()[:, 0]
    sample_H3 = torch.stack([first, second, third], dim=-1)[kept[:_MAX_HYPOTHESES]]
    poses, valid_H = kabsch(
        guessed.points_cam_N3[sample_H3 // num_guesses].double(), guesses_C3[sample_H3].double()
    )
    return poses[valid_H] if bool(valid_H.any()) else None


def _preempted(hypotheses: Rigid3d, guessed: _Guesses) -> Rigid3d:
    """The best (1,) of the hypotheses, each half compared on fresh points."""
    num_points = len(guessed.points_cam_N3)
    start, size = 0, _FIRST_BLOCK
    cost_H = torch.zeros(len(hypotheses.translation))
    while (count := len(cost_H)) > 1:
        # Who is left when the points are used up is compared on the last ones again.
        block = guessed[slice(max(0, min(start, num_points - size)), start + size)]
        if count <= _MAX_REFINED:
            hypotheses = _refined(hypotheses, block, 2)
            cost_H = torch.zeros_like(cost_H)
        _, distance_HN = block.nearest(hypotheses)
        cost_H = cost_H + distance_HN.clamp_max(1).sum(-1)
        kept = cost_H.argsort(stable=True)[: count // 2]
        hypotheses, cost_H = hypotheses[kept], cost_H[kept]
        start, size = start + size, 2 * size
    return hypotheses


def _refined(cam_from_world: Rigid3d, guessed: _Guesses, steps: int) -> Rigid3d:
    """Poses (H,) after steps of Gauss-Newton on the nearest guesses, far ones with less weight."""
    for _ in range(steps):
        nearest_HN, near_HN = guessed.nearest(cam_from_world)
        # Tukey's biweight: no weight beyond the allowed error.
        weights_HN = (1 - near_HN.double()).clamp_min(0).square()
        gradient_H6, information_H66, _ = _normal_equations(
            cam_from_world, guessed, nearest_HN, weights_HN
        )
        step_H6, failed_H = torch.linalg.solve_ex(information_H66, -gradient_H6)
        sound_H1 = (failed_H[:, None] == 0) & step_H6.isfinite().all(-1, keepdim=True)
        step_H6 = torch.where(sound_H1, step_H6, 0.0)
        cam_from_world = Rigid3d.exp(step_H6) @ cam_from_world
    return cam_from_world


def _normal_equations(
    cam_from_world: Rigid3d, guessed: _Guesses, guess_HN: Tensor, weights_HN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient (H, 6), Gauss-Newton matrix (H, 6, 6) and weighted sum (H,) of squared residuals."""
    world_HN3 = guessed.guesses_NM3[torch.arange(guess_HN.shape[1]), guess_HN].double()
    moved_HN3 = cam_from_world @ world_HN3
    residuals_HN3 = moved_HN3 - guessed.points_cam_N3.double()
    # d exp(ξ) x / dξ at ξ = 0 is [-[x]×, I].
    eye = torch.eye(3, dtype=torch.float64).expand(*moved_HN3.shape, 3)
    jacobian = torch.cat([-skew(moved_HN3), eye], dim=-1)
    weighted = jacobian * weights_HN[..., None, None]
    gradient_H6 = torch.einsum("hnij,hni->hj", weighted, residuals_HN3)
    information_H66 = torch.einsum("hnij,hnik->hjk", weighted, jacobian)
    return gradient_H6, information_H66, (weights_HN * residuals_HN3.square().sum(-1)).sum(-1)
