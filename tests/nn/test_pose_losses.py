from __future__ import annotations

import itertools
import math
from functools import partial
from typing import get_args

import pytest
import roma
import torch
from torch import Tensor

from reloc.nn.pose_losses import (
    DistanceName,
    NormName,
    PoseLoss,
    PoseLossConfig,
    PredictedPose,
    RelativeLoss,
    Weighting,
    neighbours,
    reprojection_residual,
    rotation_residual,
)
from reloc.nn.rotations import PARAMETRIZATIONS, RotationName

NAMES: list[RotationName] = list(PARAMETRIZATIONS)


def turned(count: int, angle_rad: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rotations, and each turned by an angle about a random axis."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    rotation = roma.rotvec_to_rotmat(vectors[0])
    axis = vectors[1] / vectors[1].norm(dim=-1, keepdim=True)
    return rotation, rotation @ roma.rotvec_to_rotmat(angle_rad * axis)


@pytest.mark.parametrize(
    ("name", "distance", "norm"),
    [
        case
        for case in itertools.product(NAMES, get_args(DistanceName), get_args(NormName))
        if case[0] != "euler-bins" or case[1] == "raw"
    ],
)
def test_the_right_rotation_costs_nothing_and_others_more(
    name: RotationName, distance: DistanceName, norm: NormName
) -> None:
    config = PoseLossConfig(norm=norm, distance=distance)
    row = PARAMETRIZATIONS[name]
    rotation, other = turned(30, 0.3)
    right = rotation_residual(row.from_matrix(rotation), rotation, name, config)
    wrong = rotation_residual(row.from_matrix(other), rotation, name, config)
    if name == "euler-bins":
        assert bool((right < wrong).all())
    else:
        assert float(right.abs().max()) < 1e-4
        assert float(wrong.min()) > 1e-3
    numbers = row.from_matrix(other).requires_grad_()
    rotation_residual(numbers, rotation, name, config).sum().backward()
    assert numbers.grad is not None
    assert bool(numbers.grad.isfinite().all())


@pytest.mark.parametrize("angle_rad", [1e-3, 0.5, 2.0, 3.0])
def test_distances_are_what_their_names_say(angle_rad: float) -> None:
    rotation, other = turned(20, angle_rad)
    quaternion = PARAMETRIZATIONS["quaternion"].from_matrix(other)

    def of(distance: DistanceName) -> Tensor:
        config = PoseLossConfig(norm="l2", distance=distance)
        return rotation_residual(quaternion, rotation, "quaternion", config)

    expected = {
        "angular": angle_rad,
        "quaternion-error": angle_rad / 2,
        "chordal": 2 * math.sqrt(2) * math.sin(angle_rad / 2),
        "quaternion": 2 * math.sin(angle_rad / 4),
    }
    for distance, value in expected.items():
        torch.testing.assert_close(
            of(distance), torch.full((20,), value, dtype=torch.float64), rtol=1e-3, atol=1e-5
        )


def test_the_nearer_of_both_signs_is_a_choice_of_the_distance_quaternion_alone() -> None:
    """Żurad's NH is the plain distance, without that choice."""
    rotation, _ = turned(20, 0.0)
    other_sign = -PARAMETRIZATIONS["quaternion"].from_matrix(rotation)
    for distance, expected in (("raw", 2.0), ("quaternion", 0.0)):
        config = PoseLossConfig(norm="l2", distance=distance)  # type: ignore[arg-type]
        # Of any length: what is predicted is brought to length 1.
        off = rotation_residual(3 * other_sign, rotation, "quaternion", config)
        torch.testing.assert_close(
            off, torch.full((20,), expected, dtype=torch.float64), rtol=0, atol=1e-5
        )


def test_all_but_the_difference_of_logarithms_ignore_how_the_world_is_turned() -> None:
    rotation, other = turned(20, 1.0)
    world, _ = turned(1, 0.0, seed=5)
    for distance in ("quaternion", "quaternion-error", "angular", "chordal", "log-quaternion"):
        config = PoseLossConfig(norm="l2", distance=distance)
        before, after = (
            rotation_residual(
                PARAMETRIZATIONS["quaternion"].from_matrix(turn @ other),
                turn @ rotation,
                "quaternion",
                config,
            )
            for turn in (torch.eye(3, dtype=torch.float64), world[0])
        )
        alike = torch.allclose(before, after, atol=1e-6)
        assert alike == (distance != "log-quaternion")


def test_learned_weights_settle_where_the_log_of_the_residuals_is() -> None:
    weighting = Weighting(PoseLossConfig(weights="learned"))
    optimizer = torch.optim.Adam(weighting.parameters(), lr=1e-2)
    position, rotation = torch.tensor(2.0), torch.tensor(0.05)
    for _ in range(300):
        optimizer.zero_grad()
        weighting(position, rotation).backward()
        optimizer.step()
    expected = torch.tensor([math.log(2.0), math.log(0.05)])
    torch.testing.assert_close(weighting.log_variance_2.detach(), expected, rtol=0, atol=0.02)


def test_fixed_and_largest_weights() -> None:
    position, rotation = torch.tensor(2.0), torch.tensor(0.5)
    assert float(Weighting(PoseLossConfig(weights="fixed", beta=3.0))(position, rotation)) == 3.5
    assert float(Weighting(PoseLossConfig(weights="max", beta=3.0))(position, rotation)) == 2.0
    assert float(Weighting(PoseLossConfig(weights="max", beta=6.0))(position, rotation)) == 3.0


def test_auxiliary_heads_count_by_their_weight() -> None:
    loss = PoseLoss(PoseLossConfig(norm="l1", weights="fixed", auxiliary=0.3), "9d")
    rotation = torch.eye(3).expand(4, 3, 3)
    position = torch.zeros(4, 3)
    right = PredictedPose(position, rotation.flatten(1))
    off = PredictedPose(position + 1, rotation.flatten(1))
    assert float(loss(right, position, rotation)) == 0
    both = PredictedPose(off.position_B3, off.rotation_BK, (off, right))
    assert float(loss(both, position, rotation)) == pytest.approx(3 + 0.3 * 3)


@pytest.mark.parametrize("kind", ["difference", "frame"])
def test_steps_along_a_path_that_is_only_elsewhere_cost_nothing(kind: str) -> None:
    rotation, _ = turned(6, 0.0)
    rotation = rotation.float()
    position = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    pairs = neighbours(2, 3, torch.device("cpu"))
    assert pairs[0].tolist() == [0, 1, 3, 4]
    assert pairs[1].tolist() == [1, 2, 4, 5]
    config = PoseLossConfig(norm="l1", weights="fixed")
    relative = RelativeLoss(config, "9d", kind)  # type: ignore[arg-type]
    # Steps are small: with weights of its own it would drown the loss of the poses.
    assert not list(relative.parameters())
    loss = partial(relative, weighting=Weighting(config))
    elsewhere = PredictedPose(position + 5, rotation.flatten(1))
    assert float(loss(elsewhere, position, rotation, *pairs)) < 1e-3
    stretched = PredictedPose(1.5 * position, rotation.flatten(1))
    assert float(loss(stretched, position, rotation, *pairs)) > 0.1
    # In the frames of the cameras, a path that is turned as a whole is the same path.
    turn = roma.rotvec_to_rotmat(torch.tensor([0.3, -0.2, 0.5]))
    whole = PredictedPose(position @ turn.mT, (turn @ rotation).flatten(1))
    assert (float(loss(whole, position, rotation, *pairs)) < 1e-2) == (kind == "frame")


def test_reprojection_is_zero_at_the_true_pose_and_ignores_points_behind() -> None:
    rotation, other = turned(3, 0.1)
    generator = torch.Generator().manual_seed(3)
    position = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    in_cam = torch.rand(3, 10, 3, generator=generator, dtype=torch.float64) + torch.tensor(
        [-0.5, -0.5, 2.0]
    )
    points = in_cam @ rotation.mT + position[:, None]
    pixels = in_cam[..., :2] / in_cam[..., 2:]
    assert float(reprojection_residual(position, rotation, points, pixels, 1.0)) < 1e-9
    off = float(reprojection_residual(position, other, points, pixels, 1.0))
    assert off > 0.01
    # One more point, behind the predicted camera, and one that is unknown.
    behind = position[:, None] - 3 * rotation[:, None, :, 2]
    more = torch.cat([points, behind, torch.full_like(behind, torch.nan)], dim=1)
    padded = torch.cat([pixels, torch.full((3, 2, 2), torch.nan, dtype=torch.float64)], dim=1)
    again = float(reprojection_residual(position, other, more, padded, 1.0))
    assert again == pytest.approx(off)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        PoseLossConfig(beta=-1.0)
    with pytest.raises(ValueError, match="no gradient"):
        rotation_residual(
            torch.zeros(1, 180),
            torch.eye(3)[None],
            "euler-bins",
            PoseLossConfig(distance="angular"),
        )
