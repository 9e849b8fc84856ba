"""Differentiable RANSAC beside PoseLib on the same correspondences: speed, and how far from truth.

python benchmarks/hypotheses.py --cells 4800 --outliers 0.5

Times are of the processor, alternating between the two, on one thread; the median of the runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional

from reloc.estimation.absolute import estimate_absolute_pose
from reloc.estimation.hypotheses import (
    best_hypothesis,
    draw_hypotheses,
    expected_loss,
    refine,
    selection_probabilities,
    soft_inlier_score,
)
from reloc.estimation.observations import Rays, point_errors
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d

_FOCAL_PX, _MAX_ERROR_PX = 525.0, 10.0


@dataclass(frozen=True)
class Arguments:
    cells: int = 4800
    """Correspondences: 4800 is an image of 640x480."""
    outliers: float = 0.5
    """Share of them that is wrong."""
    noise: float = 0.01
    """Of the others' points, in metres, two to five metres away."""
    hypotheses: int = 64
    draws: int = 2048
    runs: int = 15


@dataclass(frozen=True)
class _Image:
    truth: Rigid3d
    pixels_N2: Tensor
    rays_N2: Tensor
    points_N3: Tensor


def _image(arguments: Arguments, seed: int, camera: Camera) -> _Image:
    generator = torch.Generator().manual_seed(seed)
    count = arguments.cells

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    truth = Rigid3d.exp(uniform(6) - 0.5)
    pixels_N2 = uniform(count, 2) * torch.tensor([camera.width, camera.height])
    rays_N2 = camera.cam_from_img(pixels_N2)
    points_cam_N3 = functional.pad(rays_N2, (0, 1), value=1.0) * (2 + 3 * uniform(count, 1))
    points_N3 = truth.inverse() @ points_cam_N3
    noise_N3 = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    points_N3 = points_N3 + arguments.noise * noise_N3
    wrong = torch.randperm(count, generator=generator)[: round(arguments.outliers * count)]
    points_N3[wrong] = points_N3[wrong[torch.randperm(len(wrong), generator=generator)]]
    return _Image(truth, pixels_N2, rays_N2, points_N3)


def _ours(image: _Image, arguments: Arguments, *, learn: bool) -> Rigid3d | None:
    points_BN3 = image.points_N3[None].clone().requires_grad_(learn)
    seen = Rays(image.rays_N2[None], torch.tensor([_FOCAL_PX], dtype=torch.float64))
    usable_BN = torch.ones(1, arguments.cells, dtype=torch.bool)
    drawn = draw_hypotheses(
        seen, points_BN3, usable_BN, arguments.hypotheses, arguments.draws, _MAX_ERROR_PX, seed=0
    )
    errors_BHN = point_errors(drawn.cam_from_world, seen, points_BN3)
    scores_BH = soft_inlier_score(errors_BHN, usable_BN, _MAX_ERROR_PX)
    best = int(best_hypothesis(scores_BH, drawn.valid_BH))
    if best < 0:
        return None
    chances_BH = selection_probabilities(scores_BH, drawn.valid_BH)
    kept = chances_BH[0].topk(8).indices if learn else torch.tensor([best])
    refined = refine(drawn.cam_from_world[:, kept], seen, points_BN3, usable_BN, _MAX_ERROR_PX)
    if learn:
        losses_BH = refined.cam_from_world.translation.norm(dim=-1)
        expected_loss(chances_BH[:, kept], losses_BH).sum().backward()
    return refined.cam_from_world[0, 0] if bool(refined.valid_BH[0, 0]) else None


def _error_mm(pose: Rigid3d | None, image: _Image) -> float:
    if pose is None:
        return float("inf")
    offset = pose.inverse().translation - image.truth.inverse().translation
    return 1e3 * float(offset.detach().norm())


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    camera = Camera.simple_pinhole(_FOCAL_PX, 640, 480)

    def by_poselib(image: _Image) -> Rigid3d | None:
        found = estimate_absolute_pose(image.pixels_N2, image.points_N3, camera, _MAX_ERROR_PX)
        return found.cam_from_world if found else None

    solvers: dict[str, Callable[[_Image], Rigid3d | None]] = {
        "PoseLib, with covariance": by_poselib,
        "ours, an answer": lambda image: _ours(image, arguments, learn=False),
        "ours, a step of training": lambda image: _ours(image, arguments, learn=True),
    }
    time_ms: dict[str, list[float]] = {name: [] for name in solvers}
    error_mm: dict[str, list[float]] = {name: [] for name in solvers}
    for seed in range(arguments.runs):
        image = _image(arguments, seed, camera)
        for name, solve in solvers.items():
            started = time.thread_time()
            pose = solve(image)
            time_ms[name].append(1e3 * (time.thread_time() - started))
            error_mm[name].append(_error_mm(pose, image))
    unit_ms = np.median(time_ms["PoseLib, with covariance"])
    for name in solvers:
        median_ms = np.median(time_ms[name])
        print(
            f"{name:26} {median_ms:7.1f} ms, {median_ms / unit_ms:5.2f} of PoseLib's; "
            f"error {np.median(error_mm[name]):.2f} mm, at most {np.max(error_mm[name]):.2f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
