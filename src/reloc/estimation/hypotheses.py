"""Differentiable RANSAC: hypotheses, scores, a choice among them, refinement; in batches.

What the DSAC line of methods shares. Nothing here loops over hypotheses, or for as long as it takes
to succeed: samples are drawn once, a bounded number of them, and hopeless predictions (equal
points, points that are not finite) cost what good ones cost and give no valid hypothesis.

Shapes: B images, N cells of an image, H hypotheses. Poses have batch shape (B, H). The solvers work
in float64, whatever a network predicts in.

Derivatives of poses are those of the implicit function theorem: a pose that minimises Σ r² over
some cells has the gradient of one Newton step from where it is. No iteration is unrolled, and none
is differentiated by finite differences, as DSAC's own code does.

Sources: Brachmann et al., "DSAC", CVPR 2017 (selection, expectation, SoftAM); Brachmann and Rother,
"Learning less is more", CVPR 2018 (DSAC++: soft inliers, entropy control) and "Visual camera
re-localization from RGB and RGB-D images using DSAC*", TPAMI 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import roma
import torch
from torch import Tensor

from reloc.estimation.observations import (
    MIN_Z,
    Observations,
    gather_cells,
    point_errors,
    unflatten,
)
from reloc.geometry.rigid3d import Rigid3d, skew

# Cells that tell a good sample from a bad one before all of them are looked at.
_NUM_CHECKED = 32
# Steps of Newton after the last step of refinement: from about 1e-3 to the last digit.
_NUM_NEWTON_STEPS = 2
# A pose that turns by more than this for residuals of one pixel, or centimetre, has no derivative
# worth following: of one image with a few such hypotheses, no others would be heard.
_MAX_TURN_RAD = 0.1


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """Poses from minimal samples.

    Attributes:
        cam_from_world: batch (B, H), float64, with gradients where the points have them.
        valid_BH: whether there is a hypothesis; where there is none the identity stands.
    """

    cam_from_world: Rigid3d
    valid_BH: Tensor


@dataclass(frozen=True, eq=False)
class Refined:
    """Poses that fit their inliers best.

    Attributes:
        cam_from_world: batch (B, H), float64, with gradients where the points have them.
        inliers_BHN: bool, the cells that agree with a pose.
        covariance_BH66: of a left perturbation, rotation (rad) then translation, from the Jacobian
            of the inliers and the spread of their residuals.
        valid_BH: whether the inliers fix a pose.
    """

    cam_from_world: Rigid3d
    inliers_BHN: Tensor
    covariance_BH66: Tensor
    valid_BH: Tensor


def draw_hypotheses(
    observations: Observations,
    points_BN3: Tensor,
    usable_BN: Tensor,
    num_hypotheses: int,
    num_draws: int,
    max_error: float,
    seed: int,
) -> Hypotheses:
    """Draw samples of three cells, and keep the poses that most of a few other cells agree with.

    DSAC draws four cells until all four agree with one pose, however long that takes. Here the
    number of draws is fixed, and a few dozen cells in place of the fourth tell the poses of P3P
    apart, and poses from samples with an outlier from others (preemptive scoring, as in Nistér,
    "Preemptive RANSAC", ICCV 2003).

    Args:
        observations: of the cells.
        points_BN3: predictions of the scene points seen there, float64.
        usable_BN: cells to draw from. Those whose points are not finite are not drawn either.
        num_hypotheses: H, kept of each image.
        num_draws: samples drawn of each image, whatever becomes of them.
        max_error: up to which a cell agrees, in the unit of the residuals.
        seed: of the samples. Those of an image depend on its place in the batch.
    """
    usable_BN = usable_BN & points_BN3.isfinite().all(-1)
    safe_BN3 = torch.where(usable_BN[..., None], points_BN3, 0.0)
    sample_BT3 = _draw(usable_BN, num_draws, 3, seed)
    checked_B1C = _draw(usable_BN, 1, _NUM_CHECKED, seed + 1)
    with torch.no_grad():
        poses, valid_BP = observations.poses(safe_BN3, sample_BT3)
        checked_BC3 = gather_cells(safe_BN3, checked_B1C)[:, 0]
        agree_BPC = point_errors(poses, observations.at(checked_B1C), checked_BC3) < max_error
        agree_BPC &= usable_BN.gather(1, checked_B1C[:, 0])[:, None]
        valid_BP = valid_BP & (usable_BN.sum(-1) >= 3)[:, None]
        count_BP = torch.where(valid_BP, agree_BPC.sum(-1), 0)
        kept_BH = count_BP.argsort(dim=-1, descending=True, stable=True)[:, :num_hypotheses]
        valid_BH = count_BP.gather(1, kept_BH) > 0
        poses = poses[torch.arange(len(kept_BH), device=kept_BH.device)[:, None], kept_BH]
    if points_BN3.requires_grad:
        sample_BH3 = gather_cells(sample_BT3, kept_BH // observations.poses_per_sample)
        moved, _ = _newton_step(
            unflatten(poses, (kept_BH.numel(), 1)),
            observations.at(sample_BH3),
            gather_cells(safe_BN3, sample_BH3).flatten(0, 1),
            valid_BH.flatten()[:, None, None].expand(-1, 1, 3),
        )
        poses = unflatten(moved, kept_BH.shape)
    return Hypotheses(poses, valid_BH)


def soft_inlier_score(
    errors_BHN: Tensor,
    usable_BN: Tensor,
    threshold: float,
    alpha: Tensor | float = 100.0,
    beta: Tensor | float | None = None,
) -> Tensor:
    """(B, H): α times the mean over the usable cells of sigmoid(β (threshold - error)).

    Args:
        errors_BHN: from `point_errors`; infinite ones count nothing and have no gradient.
        usable_BN: the cells that have a say.
        threshold: the error at which a cell is half an inlier.
        alpha: scale; how sharply the softmax of the scores tells hypotheses apart.
        beta: softness; 5 / threshold where it is None, as in DSAC*.
    """
    beta = 5 / threshold if beta is None else beta
    seen = usable_BN[:, None] & errors_BHN.isfinite()
    inlier = torch.sigmoid(beta * (threshold - torch.where(seen, errors_BHN, 0.0)))
    count_B1 = usable_BN.sum(-1, keepdim=True).clamp_min(1)
    return alpha * torch.where(seen, inlier, 0.0).sum(-1) / count_B1


def selection_probabilities(scores_BH: Tensor, valid_BH: Tensor) -> Tensor:
    """(B, H): the softmax over the valid hypotheses; all 0 where there are none."""
    lowest = torch.finfo(scores_BH.dtype).min
    chances = scores_BH.masked_fill(~valid_BH, lowest).softmax(-1)
    return torch.where(valid_BH, chances, 0.0)


def best_hypothesis(scores_BH: Tensor, valid_BH: Tensor) -> Tensor:
    """(B,): index of the best score; -1 where no hypothesis is valid."""
    best_B = scores_BH.masked_fill(~valid_BH, -torch.inf).argmax(-1)
    return torch.where(valid_BH.any(-1), best_B, -1)


def draw_selected(probabilities_BH: Tensor, seed: int) -> Tensor:
    """(B,): an index drawn by probability, as DSAC selects; -1 where all probabilities are 0."""
    generator = torch.Generator().manual_seed(seed)
    level_B1 = torch.rand(len(probabilities_BH), 1, generator=generator, dtype=torch.float64)
    cumulative = probabilities_BH.detach().double().cpu().cumsum(-1)
    # Strictly above the level: an index of probability 0 is never drawn.
    index_B = (cumulative <= level_B1 * cumulative[:, -1:]).sum(-1)
    return torch.where(cumulative[:, -1] > 0, index_B, -1).to(probabilities_BH.device)


def expected_loss(probabilities_BH: Tensor, losses_BH: Tensor) -> Tensor:
    """(B,): Σ p loss, DSAC's expectation of the loss under its choice; 0 where nothing is valid."""
    return torch.where(probabilities_BH > 0, probabilities_BH * losses_BH, 0.0).sum(-1)


def soft_argmax_pose(cam_from_world: Rigid3d, probabilities_BH: Tensor) -> Rigid3d:
    """(B,): the mean pose, DSAC's SoftAM: of camera centres, and of rotations by their chords.

    DSAC averages rotation vectors and translations, which depends on where the world's origin is.
    """
    weights = probabilities_BH[..., None]
    center_B3 = (weights * cam_from_world.inverse().translation).sum(1)
    chord_B33 = (weights[..., None] * cam_from_world.rotation).sum(1)
    rotation_B33 = cast(Tensor, roma.special_procrustes(chord_B33))
    return Rigid3d(rotation_B33, -(rotation_B33 @ center_B3[..., None])[..., 0])


def entropy_bits(probabilities_BH: Tensor) -> Tensor:
    """(B,): the entropy of the choice: 0 where it is certain, log2 H where all are alike."""
    safe = torch.where(probabilities_BH > 0, probabilities_BH, 1.0)
    return -(safe * safe.log()).sum(-1) / math.log(2)


def entropy_loss(scores_BH: Tensor, valid_BH: Tensor, scale: Tensor, target_bits: float) -> Tensor:
    """(B,): how far the entropy of softmax(scale · scores) is from a target: DSAC++'s control.

    Only the scale learns from it: too broad a choice averages good and bad hypotheses, too narrow a
    one learns from a single hypothesis.
    """
    chances = selection_probabilities(scale * scores_BH.detach(), valid_BH)
    # What the valid hypotheses can reach: two of them have one bit at most.
    most_bits = valid_BH.sum(-1).clamp_min(1).log2()
    return (entropy_bits(chances) - most_bits.clamp_max(target_bits)).abs()


def refine(
    cam_from_world: Rigid3d,
    observations: Observations,
    points_BN3: Tensor,
    usable_BN: Tensor,
    max_error: float,
    max_steps: int = 20,
) -> Refined:
    """Levenberg-Marquardt on the cells that agree with a pose, until none of it changes.

    Minimises Σ min(error², max_error²), which falls with every step that is taken, so that the set
    of inliers cannot run in circles; then Newton's steps on the last set. The gradient is that of
    the minimum with its set, which is the derivative almost everywhere.

    Args:
        cam_from_world: batch (B, H), where to begin.
        observations: of the cells.
        points_BN3: predictions, float64.
        usable_BN: cells that may agree.
        max_error: in the unit of the residuals.
        max_steps: at most.
    """
    usable_BN = usable_BN & points_BN3.isfinite().all(-1)
    safe_BN3 = torch.where(usable_BN[..., None], points_BN3, 0.0)
    with torch.no_grad():
        pose, inliers_BHN = _levenberg_marquardt(
            cam_from_world, observations, safe_BN3, usable_BN, max_error, max_steps
        )
        for _ in range(_NUM_NEWTON_STEPS - 1):
            pose, _ = _newton_step(pose, observations, safe_BN3, inliers_BHN)
    pose, covariance = _newton_step(pose, observations, safe_BN3, inliers_BHN)
    with torch.no_grad():
        valid_BH = pose.translation.isfinite().all(-1) & covariance.isfinite().all(-1).all(-1)
        valid_BH &= inliers_BHN.sum(-1) > 3
    return Refined(pose, inliers_BHN, covariance, valid_BH)


def _levenberg_marquardt(
    cam_from_world: Rigid3d,
    observations: Observations,
    points_BN3: Tensor,
    usable_BN: Tensor,
    max_error: float,
    max_steps: int,
) -> tuple[Rigid3d, Tensor]:
    """The pose at the minimum of the truncated squares, and its inliers (B, H, N)."""

    def look(pose: Rigid3d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inliers, truncated squares, and normal equations at a pose."""
        points_cam = pose @ points_BN3[:, None]
        residuals = observations.residuals(points_cam)
        squares = residuals.square().sum(-1)
        inliers = (squares < max_error**2) & (points_cam[..., 2] > MIN_Z) & usable_BN[:, None]
        cost = torch.where(inliers, squares, max_error**2).sum(-1)
        jacobian = _pose_jacobian(points_cam, observations) * inliers[..., None, None]
        flat = jacobian.flatten(-3, -2)
        slope = (flat.mT @ residuals.flatten(-2)[..., None])[..., 0]
        return inliers, cost, slope, flat.mT @ flat

    pose = Rigid3d(cam_from_world.rotation.detach(), cam_from_world.translation.detach())
    state = look(pose)
    damping = torch.full_like(state[1], 1e-4)
    eye = torch.eye(6, dtype=damping.dtype, device=damping.device)
    for _ in range(max_steps):
        _, cost, slope, normal = state
        diagonal = normal.diagonal(dim1=-2, dim2=-1)
        raised = diagonal * (1 + damping[..., None]) + 1e-12 * diagonal.amax(-1, True) + 1e-300
        damped = torch.where(eye > 0, torch.diag_embed(raised), normal)
        step, _ = torch.linalg.solve_ex(damped, -slope)
        step = step.nan_to_num(0.0, 0.0, 0.0)
        tried = Rigid3d.exp(step) @ pose
        seen = look(tried)
        better = seen[1] < cost
        pose = Rigid3d(
            torch.where(better[..., None, None], tried.rotation, pose.rotation),
            torch.where(better[..., None], tried.translation, pose.translation),
        )
        state = tuple(
            torch.where(better.view(*better.shape, *[1] * (new.dim() - 2)), new, old)
            for new, old in zip(seen, state, strict=True)
        )
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-10, 1e6)
        if not bool((better & (cost - seen[1] > 1e-9 * cost)).any()):
            break
    return pose, state[0]


def _newton_step(
    cam_from_world: Rigid3d, observations: Observations, points_BN3: Tensor, used_BHN: Tensor
) -> tuple[Rigid3d, Tensor]:
    """One step of Newton on Σ r² / 2 over the used cells: at a minimum, it stays, with a gradient.

    At the minimum the slope g(pose, points) is 0, so d pose = -H⁻¹ ∂g/∂points d points with the
    whole Hessian H: that is the derivative of -H⁻¹ g with H held.

    Returns:
        The poses, and (B, H, 6, 6) their covariance: H⁻¹ times the variance of the residuals. A
        pose that the cells hardly fix stays where it is, without a gradient, and its covariance is
        NaN.
    """
    pose = Rigid3d(cam_from_world.rotation.detach(), cam_from_world.translation.detach())
    points_cam = pose @ points_BN3[:, None]
    # Unused cells are taken far from the singularity before the arithmetic, not after it.
    points_cam = torch.where(used_BHN[..., None], points_cam, 1.0)
    residuals = observations.residuals(points_cam) * used_BHN[..., None]
    jacobian = _pose_jacobian(points_cam, observations)
    slope = torch.einsum("bhnri,bhnr->bhi", jacobian, residuals)
    with torch.no_grad():
        hessian = _hessian(points_cam, residuals, jacobian, observations, used_BHN)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        eye = torch.eye(6, dtype=hessian.dtype, device=hessian.device)
        factor = torch.where((failed == 0)[..., None, None], factor, eye)
        inverse = torch.cholesky_inverse(factor)
        turn_rad = inverse.diagonal(dim1=-2, dim2=-1)[..., :3].amax(-1).sqrt()
        sound = (failed == 0) & (turn_rad < _MAX_TURN_RAD)
        num_free = (used_BHN.sum(-1) * residuals.shape[-1] - 6).clamp_min(1)
        variance = residuals.square().sum((-1, -2)) / num_free
        covariance = inverse * variance[..., None, None]
        covariance = covariance.masked_fill(~sound[..., None, None], torch.nan)
    step = -(inverse @ slope[..., None])[..., 0]
    step = torch.where(sound[..., None], step, 0.0)
    return Rigid3d.exp(step) @ pose, covariance


def _hessian(
    points_cam: Tensor,
    residuals: Tensor,
    jacobian: Tensor,
    observations: Observations,
    used_BHN: Tensor,
) -> Tensor:
    """(B, H, 6, 6): of Σ r² / 2 by a left perturbation exp((ω, ρ)) of the pose.

    A point p moves to p + ω×p + ρ + (ω×(ω×p) + ω×ρ) / 2 + ..., and r depends on it by `jacobian`
    and `curvature`.
    """
    used = used_BHN[..., None, None].to(points_cam)
    flat = (jacobian * used).flatten(-3, -2)
    hessian = flat.mT @ flat
    by_pose = torch.cat(
        [-skew(points_cam), torch.eye(3).to(points_cam).expand(*points_cam.shape, 3)], dim=-1
    )
    hessian = hessian + torch.einsum(
        "bhnki,bhnkl,bhnlj->bhij", by_pose, observations.curvature(points_cam) * used, by_pose
    )
    pull = torch.einsum("bhnrk,bhnr->bhnk", observations.jacobian(points_cam), residuals)
    outer = torch.einsum("bhni,bhnj->bhij", pull, points_cam)
    twist = skew(pull.sum(-2)) / 2
    trace = outer.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    hessian[..., :3, :3] += (outer + outer.mT) / 2 - trace * torch.eye(3).to(points_cam)
    hessian[..., :3, 3:] -= twist
    hessian[..., 3:, :3] += twist
    return hessian


def _pose_jacobian(points_cam: Tensor, observations: Observations) -> Tensor:
    """(B, H, N, R, 6): d residuals by a left perturbation, rotation then translation."""
    x, y, z = points_cam[..., None, :].unbind(-1)
    a, b, c = observations.jacobian(points_cam).unbind(-1)
    # Turning by ω moves a point p by ω × p, and changes a residual by (p × its row) · ω.
    return torch.stack([y * c - z * b, z * a - x * c, x * b - y * a, a, b, c], dim=-1)


def _draw(usable_BN: Tensor, num_draws: int, size: int, seed: int) -> Tensor:
    """(B, T, K): different usable cells; any cells where an image has too few."""
    generator = torch.Generator().manual_seed(seed)
    level_BTK = torch.rand(
        len(usable_BN), num_draws, size, generator=generator, dtype=torch.float64
    ).to(usable_BN.device)
    count_B1 = usable_BN.sum(-1, keepdim=True)
    drawn_BTK = torch.empty(len(usable_BN), num_draws, 0, dtype=torch.int64).to(usable_BN.device)
    for number in range(size):
        place_BT = (level_BTK[..., number] * (count_B1 - number).clamp_min(1)).long()
        # Past each of those drawn before, from the first on.
        for before_BT in drawn_BTK.sort(-1).values.unbind(-1):
            place_BT = place_BT + (place_BT >= before_BT)
        drawn_BTK = torch.cat([drawn_BTK, place_BT[..., None]], dim=-1)
    # The usable cells first, in order: a number below their count is one of them.
    usable_first = usable_BN.byte().argsort(dim=-1, descending=True, stable=True)
    last = usable_BN.shape[1] - 1
    return usable_first.gather(1, drawn_BTK.flatten(1).clamp_max(last)).view(drawn_BTK.shape)
