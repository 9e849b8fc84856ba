"""Laws of the minimal solvers: the true pose is found, no other that does not fit, and no NaN."""

import math

import poselib
import pytest
import roma
import torch
from torch import Tensor
from torch.nn import functional

from reloc.estimation.minimal_solvers import kabsch, p3p
from reloc.geometry.rigid3d import Rigid3d


def _triangles(count: int, seed: int = 0) -> tuple[Rigid3d, Tensor, Tensor]:
    """Poses, rays (M, 3, 3) of any length, and the points (M, 3, 3) seen along them."""
    generator = torch.Generator().manual_seed(seed)
    pose = Rigid3d.exp(torch.randn(count, 6, generator=generator, dtype=torch.float64))
    plane = 1.2 * torch.rand(count, 3, 2, generator=generator, dtype=torch.float64) - 0.6
    rays = functional.pad(plane, (0, 1), value=1.0)
    depth = 1 + 4 * torch.rand(count, 3, 1, generator=generator, dtype=torch.float64)
    return pose, rays, pose.inverse() @ (rays * depth)


def _misfit(poses: Rigid3d, rays_M33: Tensor, points_M33: Tensor) -> Tensor:
    """(M, 4): the largest angle, as a sine, between a ray and where its point is seen."""
    seen = functional.normalize(poses @ points_M33[:, None], dim=-1)
    along = functional.normalize(rays_M33, dim=-1)[:, None].expand_as(seen)
    # Opposite to the ray is as wrong as can be.
    sine = torch.linalg.cross(seen, along).norm(dim=-1)
    return torch.where((seen * along).sum(-1) > 0, sine, 1.0).amax(-1)


def test_the_true_pose_is_among_the_solutions_and_all_of_them_fit() -> None:
    pose, rays, points = _triangles(2000)
    found, valid = p3p(rays, points)
    error = (found.matrix - pose.matrix[:, None]).abs().amax((-1, -2))
    assert float(error.masked_fill(~valid, torch.inf).amin(1).max()) < 1e-6
    assert float(_misfit(found, rays, points)[valid].max()) < 1e-9


def test_there_are_as_many_solutions_as_poselib_finds() -> None:
    _, rays, points = _triangles(300, seed=1)
    _, valid = p3p(rays, points)
    directions = functional.normalize(rays, dim=-1)
    theirs = [
        len(poselib.p3p(y.numpy(), x.numpy())) for y, x in zip(directions, points, strict=True)
    ]
    assert valid.sum(1).tolist() == theirs


@pytest.mark.parametrize(
    "points_cam",
    [
        # Equilateral and square on the optical axis, at one depth: the ratios of depths are 1.
        [[math.cos(a), math.sin(a), 2.0] for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)],
        [[0.0, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 1.0, 2.0]],
        # A ray along the axis; two points as far as one another; right angles between all rays.
        [[0.0, 0.0, 3.0], [1.0, 0.0, 2.0], [-1.0, 0.5, 2.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    ],
)
def test_arrangements_that_people_make_are_solved(points_cam: list[list[float]]) -> None:
    cam = torch.tensor([points_cam], dtype=torch.float64)
    pose = Rigid3d.exp(torch.tensor([[0.2, -0.1, 0.3, 1.0, 2.0, 3.0]], dtype=torch.float64))
    found, valid = p3p(cam, pose.inverse() @ cam)
    error = (found.matrix - pose.matrix[:, None]).abs().amax((-1, -2))
    assert float(error[valid].min()) < 1e-6


def _spoiled(points: Tensor) -> dict[str, Tensor]:
    line = points[:, :1] + torch.arange(3.0)[:, None] * (points[:, 1:2] - points[:, :1])
    return {
        "equal": points[:, :1].expand_as(points).contiguous(),
        "two equal": points[:, [0, 1, 1]],
        "in a line": line,
        "at the origin": torch.zeros_like(points),
        "not a number": torch.full_like(points, torch.nan),
        "one infinite": torch.where(torch.arange(3)[:, None] == 0, torch.inf, points),
        "huge": points[:, :1].expand_as(points) * 1e200,
    }


@pytest.mark.parametrize("kind", list(_spoiled(torch.ones(1, 3, 3))))
def test_samples_that_fix_no_pose_say_so_in_finite_numbers(kind: str) -> None:
    _, rays, points = _triangles(50, seed=2)
    spoiled = _spoiled(points)[kind]
    for found, valid in (p3p(rays, spoiled), kabsch(rays, spoiled)):
        assert not bool(valid.any())
        assert bool(found.matrix.isfinite().all())
    found, valid = p3p(_spoiled(rays)[kind], points)
    assert bool(found.matrix.isfinite().all())
    # Rays in a plane are as good as any, and two points on one ray are where they are.
    assert kind in ("in a line", "two equal") or not bool(valid.any())


def test_kabsch_is_the_least_squares_and_never_a_reflection() -> None:
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(200, 5, 3, generator=generator, dtype=torch.float64)
    moved = torch.randn(200, 5, 3, generator=generator, dtype=torch.float64)
    found, valid = kabsch(moved, points)
    rotation, translation = roma.rigid_points_registration(points, moved)
    assert bool(valid.all())
    torch.testing.assert_close(found.rotation, rotation)
    torch.testing.assert_close(found.translation, translation)
    mirrored, _ = kabsch(points * torch.tensor([1.0, 1.0, -1.0]), points)
    assert float(torch.linalg.det(mirrored.rotation).min()) > 0


def test_kabsch_of_three_exact_points_is_their_pose() -> None:
    pose, _, points = _triangles(500, seed=4)
    found, valid = kabsch(pose @ points, points)
    assert bool(valid.all())
    assert float((found.matrix - pose.matrix).abs().max()) < 1e-8
