"""Seen from above means from above."""

from __future__ import annotations

import math

import pytest
import torch

from reloc.geometry.rigid3d import Rigid3d
from reloc.viewing.ground_plane import ground_plane


def cameras(headings_rad: torch.Tensor, pitch_rad: float, centers_N3: torch.Tensor) -> Rigid3d:
    """Level cameras in a world whose z axis is up, pitched down."""
    heading, pitch = headings_rad, torch.full_like(headings_rad, pitch_rad)
    zero = torch.zeros_like(heading)
    forward = torch.stack(
        [heading.cos() * pitch.cos(), heading.sin() * pitch.cos(), -pitch.sin()], dim=-1
    )
    right = torch.stack([heading.sin(), -heading.cos(), zero], dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-2)
    return Rigid3d(rotation, -(rotation @ centers_N3[..., None])[..., 0])


@pytest.fixture
def centers_N3() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([4.0, 1.0, 2.0], dtype=torch.float64)
    return torch.randn(40, 3, generator=generator, dtype=torch.float64) * spread


def test_up_is_found_from_pitched_cameras_in_any_world(centers_N3: torch.Tensor) -> None:
    headings = torch.linspace(0.0, 2.0, 40, dtype=torch.float64)
    tilted_from_world = Rigid3d.exp(torch.tensor([0.7, -1.1, 0.4, 3.0, -2.0, 5.0]).double())
    poses = cameras(headings, 0.5, centers_N3) @ tilted_from_world.inverse()
    plane = ground_plane(poses)
    assert plane.level
    up_3 = torch.linalg.cross(plane.axes_23[0], plane.axes_23[1])
    torch.testing.assert_close(up_3, tilted_from_world.rotation[:, 2], atol=1e-9, rtol=0)
    # Distances along the ground are kept; the picture is not mirrored.
    flat_N3 = centers_N3 * torch.tensor([1.0, 1.0, 0.0])
    picture_N2 = plane.project(tilted_from_world @ centers_N3)
    torch.testing.assert_close(torch.cdist(picture_N2, picture_N2), torch.cdist(flat_N3, flat_N3))
    turn = (picture_N2[1:3] - picture_N2[0]).det()
    assert turn.sign() == (flat_N3[1:3, :2] - flat_N3[0, :2]).det().sign()


def test_the_longer_side_lies_across(centers_N3: torch.Tensor) -> None:
    headings = torch.linspace(0.0, 2.0, 40, dtype=torch.float64)
    picture_N2 = ground_plane(cameras(headings, 0.2, centers_N3)).project(centers_N3)
    spread_2 = picture_N2.std(0)
    assert spread_2[0] > 3 * spread_2[1]


def test_one_heading_falls_back_on_the_mean_of_up(centers_N3: torch.Tensor) -> None:
    plane = ground_plane(cameras(torch.zeros(40).double(), 0.1, centers_N3))
    up_3 = torch.linalg.cross(plane.axes_23[0], plane.axes_23[1])
    assert plane.level and math.degrees(math.acos(float(up_3[2]))) == pytest.approx(5.7, abs=0.1)


def test_cameras_that_do_not_agree_are_not_said_to_be_level(centers_N3: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    turns = torch.randn(40, 6, generator=generator, dtype=torch.float64) * 3
    plane = ground_plane(Rigid3d(Rigid3d.exp(turns).rotation, centers_N3))
    assert not plane.level


@pytest.mark.parametrize("count", [1, 3])
def test_cameras_in_one_place(count: int) -> None:
    poses = cameras(torch.linspace(0, 2, count).double(), 0.3, torch.ones(count, 3).double())
    plane = ground_plane(poses)
    torch.testing.assert_close(plane.axes_23 @ plane.axes_23.T, torch.eye(2).double())
    torch.testing.assert_close(plane.project(torch.ones(1, 3).double()), torch.zeros(1, 2).double())
