"""Laws of differentiable RANSAC: derivatives, agreement with PoseLib, bounded cost, determinism."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import poselib
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional

from reloc.estimation import hypotheses
from reloc.estimation.observations import MeasuredPoints, Observations, Rays, point_errors
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad

FOCAL_PX, MAX_ERROR = 500.0, 12.0
KINDS = ("rays", "measured")


def _images(
    kind: str, num_images: int = 1, num_cells: int = 40, outliers: float = 0.2, noise: float = 0.01
) -> tuple[Rigid3d, Observations, Tensor, Tensor]:
    """True poses (B, 1), what images tell, noisy predictions (B, N, 3), and outliers (B, N)."""
    generator = torch.Generator().manual_seed(7)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    truth = Rigid3d.exp(uniform(num_images, 1, 6) - 0.5)
    rays = 1.2 * uniform(num_images, num_cells, 2) - 0.6
    points_cam = functional.pad(rays, (0, 1), value=1.0) * (1 + 2 * uniform(*rays.shape[:2], 1))
    points = (truth.inverse() @ points_cam[:, None])[:, 0]
    points = points + noise * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    wrong = torch.arange(num_cells).expand(num_images, -1) < outliers * num_cells
    points = torch.where(wrong[..., None], points + uniform(*points.shape) + 0.5, points)
    if kind == "measured":
        return truth, MeasuredPoints(points_cam), points, wrong
    return truth, Rays(rays, torch.full((num_images,), FOCAL_PX).double()), points, wrong


def _all(points_BN3: Tensor) -> Tensor:
    return torch.ones(points_BN3.shape[:2], dtype=torch.bool)


def _draw(
    seen: Observations, points: Tensor, count: int = 6, num_draws: int = 128, seed: int = 1
) -> hypotheses.Hypotheses:
    return hypotheses.draw_hypotheses(seen, points, _all(points), count, num_draws, MAX_ERROR, seed)


# ------------------------------------------------------------------------------ derivatives


def _check_gradient(function: Callable[..., Any], *inputs: Tensor) -> None:
    """Against finite differences, along random directions: entry by entry takes minutes."""
    leaves = tuple(entry.clone().requires_grad_() for entry in inputs)
    for seed in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            assert gradcheck(function, leaves, eps=1e-7, atol=1e-4, rtol=1e-4, fast_mode=True)


def _check_each_pose(poses: Callable[[Tensor], Rigid3d], points: Tensor, valid_BH: Tensor) -> int:
    """The derivative of each valid pose against differences along a random direction.

    Returns the number of poses that have a derivative: one that cells hardly fix has none.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    leaf = points.clone().requires_grad_()
    matrices = poses(leaf).matrix.flatten(0, 1).flatten(1)
    weights = torch.randn(matrices.shape, generator=generator, dtype=torch.float64)
    step = 1e-7
    ahead, behind = (
        poses(points + side * step * direction).matrix.flatten(0, 1).flatten(1) for side in (1, -1)
    )
    differences = ((ahead - behind) / (2 * step) * weights).sum(-1)
    count = 0
    for number, value in enumerate((matrices * weights).sum(-1)):
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        if bool(valid_BH.flatten()[number] and gradient.any()):
            along = float((gradient * direction).sum())
            assert along == pytest.approx(float(differences[number]), rel=1e-4, abs=1e-4)
            count += 1
    return count


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_hypotheses(kind: str) -> None:
    _, seen, points, _ = _images(kind, num_images=2)
    valid_BH = _draw(seen, points, count=12).valid_BH
    poses = lambda points: _draw(seen, points, count=12).cam_from_world  # noqa: E731
    assert _check_each_pose(poses, points, valid_BH) >= 20


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_refined_poses(kind: str) -> None:
    """At a minimum whose residuals are far from 0, where Gauss-Newton's Hessian is wrong."""
    _, seen, points, _ = _images(kind, num_images=2, noise=0.03)
    start = _draw(seen, points).cam_from_world

    def refined(points: Tensor) -> hypotheses.Refined:
        return hypotheses.refine(start, seen, points, _all(points), MAX_ERROR)

    found = refined(points)
    errors = point_errors(found.cam_from_world, seen, points)
    assert float(errors[found.inliers_BHN].mean()) > 2
    count = _check_each_pose(lambda points: refined(points).cam_from_world, points, found.valid_BH)
    assert count == int(found.valid_BH.sum()) >= 6


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_the_expected_loss_and_of_the_mean_pose(kind: str) -> None:
    truth, seen, points, _ = _images(kind, outliers=0.1, noise=0.003)

    def outcome(points: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        drawn = _draw(seen, points, count=4)
        errors = point_errors(drawn.cam_from_world, seen, points)
        scores = hypotheses.soft_inlier_score(errors, _all(points), MAX_ERROR, scale, 0.3)
        chances = hypotheses.selection_probabilities(scores, drawn.valid_BH)
        refined = hypotheses.refine(drawn.cam_from_world, seen, points, _all(points), MAX_ERROR)
        losses = (refined.cam_from_world.translation - truth.translation).norm(dim=-1)
        losses = losses + (drawn.cam_from_world.translation - truth.translation).norm(dim=-1)
        mean = hypotheses.soft_argmax_pose(drawn.cam_from_world, chances)
        return hypotheses.expected_loss(chances, losses), mean.matrix, scores

    scale = torch.tensor(6.0, dtype=torch.float64)
    _check_gradient(outcome, points, scale)


def test_derivative_of_the_entropy_loss_is_that_of_the_scale_alone() -> None:
    scores = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores.requires_grad_()
    valid = torch.ones(3, 8, dtype=torch.bool)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda scale: hypotheses.entropy_loss(scores, valid, scale, 2.0), scale)
    hypotheses.entropy_loss(scores, valid, scale, 2.0).sum().backward()
    assert scores.grad is None


# ------------------------------------------------------------------------------ poses


def test_refinement_ends_where_poselib_ends_on_the_same_inliers() -> None:
    _, seen, points, _ = _images("rays", num_cells=300, outliers=0.4)
    assert isinstance(seen, Rays)
    drawn = _draw(seen, points, count=8)
    found = hypotheses.refine(drawn.cam_from_world, seen, points, _all(points), MAX_ERROR)
    camera = {"model": "SIMPLE_PINHOLE", "width": 1, "height": 1, "params": [FOCAL_PX, 0.0, 0.0]}
    assert int(found.valid_BH.sum()) >= 4
    for number in found.valid_BH[0].nonzero()[:, 0].tolist():
        inliers = found.inliers_BHN[0, number]
        ours = found.cam_from_world[0, number]
        start = poselib.CameraPose()
        start.R, start.t = ours.rotation.numpy(), ours.translation.numpy() + 0.01
        theirs, _ = poselib.refine_absolute_pose(
            FOCAL_PX * seen.rays_BN2[0, inliers].numpy(),
            points[0, inliers].numpy(),
            start,
            camera,
            {"loss_type": "TRIVIAL", "max_iterations": 100},
        )
        np.testing.assert_allclose(ours.rotation, theirs.R, atol=1e-5)
        np.testing.assert_allclose(ours.translation, theirs.t, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_hypothesis_refined_is_the_true_pose_within_its_covariance(kind: str) -> None:
    truth, seen, points, wrong = _images(kind, num_images=12, num_cells=300, outliers=0.5)
    drawn = _draw(seen, points, count=32, num_draws=1024)
    errors = point_errors(drawn.cam_from_world, seen, points)
    scores = hypotheses.soft_inlier_score(errors, _all(points), MAX_ERROR)
    best = hypotheses.best_hypothesis(scores, drawn.valid_BH)
    start = drawn.cam_from_world[torch.arange(12), best][:, None]
    found = hypotheses.refine(start, seen, points, _all(points), MAX_ERROR)
    assert bool(found.valid_BH.all())
    assert not bool((found.inliers_BHN[:, 0] & wrong).any())
    difference = (truth @ found.cam_from_world.inverse()).log()
    squared = torch.einsum(
        "bhi,bhij,bhj->b", difference, torch.linalg.inv(found.covariance_BH66), difference
    )
    # Chi-square with six degrees of freedom: its mean, of twelve; 99.9 % lie below 22.5.
    assert 2 < float(squared.mean()) < 12
    assert float(squared.max()) < 22.5
    if kind == "rays":
        # Better than PoseLib's, or within what both do not know.
        assert isinstance(seen, Rays)
        theirs, _ = poselib.estimate_absolute_pose(
            FOCAL_PX * seen.rays_BN2[0].numpy(),
            points[0].numpy(),
            {"model": "SIMPLE_PINHOLE", "width": 1, "height": 1, "params": [FOCAL_PX, 0, 0]},
            {"max_reproj_error": MAX_ERROR},
            {},
        )
        ours = found.cam_from_world[0, 0]
        assert float(angle_between_rad(ours.rotation, torch.tensor(theirs.R))) < 5e-3
        assert float((ours.translation - torch.tensor(theirs.t)).norm()) < 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_refinement_never_makes_the_truncated_squares_larger(kind: str) -> None:
    _, seen, points, _ = _images(kind, num_images=4, num_cells=60, outliers=0.5)
    drawn = _draw(seen, points, count=16)

    def cost(pose: Rigid3d) -> Tensor:
        return point_errors(pose, seen, points).clamp_max(MAX_ERROR).square().sum(-1)

    found = hypotheses.refine(drawn.cam_from_world, seen, points, _all(points), MAX_ERROR)
    ahead, before = cost(found.cam_from_world), cost(drawn.cam_from_world)
    assert bool((ahead <= before * (1 + 1e-9))[found.valid_BH].all())
    assert float((ahead < before)[found.valid_BH].double().mean()) > 0.9


# ------------------------------------------------------------------------------ bad predictions


def _hopeless(points: Tensor, seen: Observations) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    return {
        "equal": torch.ones_like(points),
        "not a number": torch.full_like(points, torch.nan),
        "infinite": torch.full_like(points, torch.inf),
        "in a line": points[..., :1] * torch.tensor([1.0, 2.0, 3.0]),
        # The mirror image of the scene, behind the camera: every ray is right, the other way.
        "behind": -points,
        "noise": noise,
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "what", ["equal", "not a number", "infinite", "in a line", "behind", "noise"]
)
def test_hopeless_predictions_are_declined_with_finite_gradients(kind: str, what: str) -> None:
    _, seen, points, _ = _images(kind, num_cells=100, outliers=0.0)
    bad = _hopeless(points, seen)[what].requires_grad_()
    drawn = _draw(seen, bad, count=16, num_draws=256)
    errors = point_errors(drawn.cam_from_world, seen, bad)
    scores = hypotheses.soft_inlier_score(errors, _all(bad), MAX_ERROR)
    chances = hypotheses.selection_probabilities(scores, drawn.valid_BH)
    found = hypotheses.refine(drawn.cam_from_world, seen, bad, _all(bad), MAX_ERROR)
    assert bool(found.cam_from_world.matrix.isfinite().all())
    if what in ("equal", "not a number", "infinite", "in a line"):
        assert not bool(drawn.valid_BH.any())
        assert hypotheses.best_hypothesis(scores, drawn.valid_BH).tolist() == [-1]
        assert hypotheses.draw_selected(chances, 0).tolist() == [-1]
    # By chance a pose fits a handful of points: no share of inliers that is worth an answer.
    agreeing = found.inliers_BHN.sum(-1)[found.valid_BH & drawn.valid_BH]
    assert not len(agreeing) or int(agreeing.max()) < 25
    loss = hypotheses.expected_loss(chances, found.cam_from_world.translation.norm(dim=-1))
    loss.sum().backward()
    assert bad.grad is not None
    assert bool(bad.grad.isfinite().all())


@pytest.mark.parametrize("what", ["equal", "not a number", "behind", "noise"])
def test_hopeless_predictions_cost_no_more_than_good_ones(what: str) -> None:
    _, seen, points, _ = _images("rays", num_cells=500)

    def seconds(points: Tensor) -> float:
        def once() -> float:
            started = time.thread_time()
            drawn = _draw(seen, points, count=32, num_draws=512)
            errors = point_errors(drawn.cam_from_world, seen, points)
            scores = hypotheses.soft_inlier_score(errors, _all(points), MAX_ERROR)
            best = int(hypotheses.best_hypothesis(scores, drawn.valid_BH))
            if best >= 0:
                start = drawn.cam_from_world[:, [best]]
                hypotheses.refine(start, seen, points, _all(points), MAX_ERROR)
            return time.thread_time() - started

        return min(once() for _ in range(5))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert seconds(_hopeless(points, seen)[what]) < 1.5 * seconds(points)
    finally:
        torch.set_num_threads(threads)


def test_a_sample_has_different_usable_cells_and_each_as_often() -> None:
    usable = torch.arange(9) % 2 == 0
    drawn = hypotheses._draw(usable[None], 2000, 4, seed=0)[0]
    assert bool(usable[drawn].all())
    assert all(len(set(sample)) == 4 for sample in drawn.tolist())
    share = torch.bincount(drawn.flatten(), minlength=9)[usable] / len(drawn)
    torch.testing.assert_close(share, torch.full((5,), 0.8), atol=0.05, rtol=0)


def test_cells_that_are_not_usable_have_no_say() -> None:
    _, seen, points, _ = _images("rays", num_cells=60)
    usable = torch.arange(60)[None] % 3 > 0
    spoiled = torch.where(usable[..., None], points, torch.nan)
    answers = []
    for given in (points, spoiled):
        drawn = hypotheses.draw_hypotheses(seen, given, usable, 6, 128, MAX_ERROR, 0)
        errors = point_errors(drawn.cam_from_world, seen, given)
        scores = hypotheses.soft_inlier_score(errors, usable, MAX_ERROR)
        found = hypotheses.refine(drawn.cam_from_world, seen, given, usable, MAX_ERROR)
        answers.append((scores, found.cam_from_world.matrix, found.inliers_BHN))
    assert all(map(torch.equal, *answers))


# ------------------------------------------------------------------------------ choices


def test_a_seed_decides_the_hypotheses_and_the_process_decides_nothing() -> None:
    _, seen, points, _ = _images("rays")
    state = torch.get_rng_state()
    first = _draw(seen, points, seed=1).cam_from_world.matrix
    torch.manual_seed(99)
    assert torch.equal(_draw(seen, points, seed=1).cam_from_world.matrix, first)
    assert not torch.equal(_draw(seen, points, seed=2).cam_from_world.matrix, first)
    torch.set_rng_state(state)
    _draw(seen, points)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_index_is_drawn_as_often_as_it_is_probable() -> None:
    chances = torch.tensor([[0.1, 0.0, 0.6, 0.3], [0.0, 0.0, 0.0, 0.0]])
    drawn = [hypotheses.draw_selected(chances, seed).tolist() for seed in range(1000)]
    assert all(last == -1 for _, last in drawn)
    shares = [sum(index == first for first, _ in drawn) / 1000 for index in range(4)]
    assert shares[1] == 0
    np.testing.assert_allclose(shares, [0.1, 0.0, 0.6, 0.3], atol=0.05)


def test_the_score_counts_inliers_softly() -> None:
    errors = torch.tensor([[[0.0, MAX_ERROR, 1000.0, torch.inf], [MAX_ERROR] * 4]])
    usable = torch.tensor([[True, True, True, True]])
    scores = hypotheses.soft_inlier_score(errors, usable, MAX_ERROR, alpha=4.0)
    inlier = float(torch.sigmoid(torch.tensor(5.0)))
    torch.testing.assert_close(scores, torch.tensor([[inlier + 0.5, 2.0]]))


def _entropy(chances: list[float]) -> float:
    return float(hypotheses.entropy_bits(torch.tensor([chances])))


def test_entropy_is_in_bits() -> None:
    assert _entropy([0.25] * 4) == pytest.approx(2)
    assert _entropy([1.0, 0.0, 0.0, 0.0]) == 0
    assert _entropy([0.0, 0.0]) == 0


def test_entropy_control_finds_the_scale() -> None:
    scores = torch.linspace(0, 1, 64, dtype=torch.float64)[None]
    valid = torch.ones(1, 64, dtype=torch.bool)

    def settled(valid: Tensor, target_bits: float) -> float:
        log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([log_scale], lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            hypotheses.entropy_loss(scores, valid, log_scale.exp(), target_bits).sum().backward()
            optimizer.step()
        chances = hypotheses.selection_probabilities(log_scale.exp() * scores, valid)
        return float(hypotheses.entropy_bits(chances.detach()))

    assert settled(valid, 3.0) == pytest.approx(3.0, abs=0.1)
    # Two hypotheses have one bit together: a target beyond does not push the scale to nothing.
    two = torch.arange(64)[None] < 2
    assert float(hypotheses.entropy_loss(scores, two, torch.tensor(1e-9), 6.0)) < 1e-6


def test_the_mean_pose_is_that_of_centres_wherever_the_origin_is() -> None:
    generator = torch.Generator().manual_seed(3)
    poses = Rigid3d.exp(0.3 * torch.randn(1, 5, 6, generator=generator, dtype=torch.float64))
    chances = torch.rand(1, 5, generator=generator, dtype=torch.float64)
    chances = chances / chances.sum()
    other_from_world = Rigid3d.exp(torch.randn(6, generator=generator, dtype=torch.float64) * 3)
    mean = hypotheses.soft_argmax_pose(poses, chances)
    moved = hypotheses.soft_argmax_pose(poses @ other_from_world.inverse()[None, None], chances)
    torch.testing.assert_close((mean @ other_from_world.inverse()).matrix, moved.matrix)


def _differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    step = 1e-5
    columns = []
    for axis in range(at.shape[-1]):
        offset = torch.zeros_like(at)
        offset[..., axis] = step
        columns.append((function(at + offset) - function(at - offset)) / (2 * step))
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_and_curvatures_are_those_of_the_residuals(kind: str) -> None:
    _, seen, points, _ = _images(kind, num_cells=10)
    points_cam = points[:, None] + torch.tensor([0.0, 0.0, 4.0])
    jacobian = seen.jacobian(points_cam)
    torch.testing.assert_close(
        jacobian, _differences(seen.residuals, points_cam), rtol=1e-6, atol=1e-4
    )
    residuals = seen.residuals(points_cam)
    curvature = _differences(
        lambda points: (seen.jacobian(points) * residuals[..., None]).sum(-2), points_cam
    )
    torch.testing.assert_close(seen.curvature(points_cam).clone(), curvature, rtol=1e-4, atol=1e-2)
