"""Pairs from rooms: points that both images show, and none that something hides."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.training import room_pairs
from reloc.training.correspondences import CollageConfig, Correspondences
from reloc.training.room_pairs import RenderedRoom, room_pair

CAMERA = Camera.simple_pinhole(260.0, 320, 240)
WALL_Z, SCREEN_Z = 3.0, 1.5


def _room() -> RenderedRoom:
    """A wall whose grey is a smooth function of the place, half of it behind a black screen."""
    generator = torch.Generator().manual_seed(1)
    tangents = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    cam_from_world = Rigid3d.exp(tangents * torch.tensor([0.1, 0.1, 0.2, 0.3, 0.2, 0.2]))
    y, x = torch.meshgrid(torch.arange(240) + 0.5, torch.arange(320) + 0.5, indexing="ij")
    plane = CAMERA.cam_from_img(torch.stack([x, y], -1).double().reshape(-1, 2))
    rays = torch.cat([plane, torch.ones(len(plane), 1)], 1)
    greys, depths = [], []
    for index in range(6):
        world_from_cam = cam_from_world[index].inverse()
        direction, origin = rays @ world_from_cam.rotation.mT, world_from_cam.translation
        to_screen = (SCREEN_Z - origin[2]) / direction[:, 2]
        to_wall = (WALL_Z - origin[2]) / direction[:, 2]
        hidden = (origin + to_screen[:, None] * direction)[:, 0] > 0.2
        place = origin + to_wall[:, None] * direction
        wall = 140 + 50 * torch.sin(2 * place[:, 0]) + 50 * torch.cos(3 * place[:, 1])
        greys.append(torch.where(hidden, 0.0, wall).round().byte().reshape(240, 320))
        depths.append(torch.where(hidden, to_screen, to_wall).reshape(240, 320).half())
    return RenderedRoom(torch.stack(greys), torch.stack(depths), cam_from_world, CAMERA)


def test_corresponding_points_show_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_pairs, "disturb", lambda image, _rng: image)
    room, differences, chance = _room(), [], []
    for seed in range(12):
        pair = room_pair([room], np.random.default_rng(seed), CollageConfig())
        greys = []
        for images, points in (
            (pair.images_a_B1HW, pair.points_a_N2),
            (pair.images_b_B1HW, pair.points_b_N2),
        ):
            grid = (points / 112 - 1)[None, None]
            sampled = torch.nn.functional.grid_sample(images.float(), grid, align_corners=False)
            greys.append(sampled.flatten())
        differences.append((greys[0] - greys[1]).abs())
        chance.append((greys[0] - greys[1].flip(0)).abs())
    assert sum(map(len, differences)) > 500
    assert float(torch.cat(differences).quantile(0.95)) < 5
    assert float(torch.cat(chance).median()) > 15


def test_points_of_a_pair_lie_on_surfaces_of_its_room() -> None:
    room = _room()
    far = RenderedRoom(
        room.grey_VHW,
        room.depth_VHW,
        room.cam_from_world @ Rigid3d(torch.eye(3).double(), torch.tensor([0.0, 0, -9]).double()),
        CAMERA,
    )
    rooms_seen = set()
    for seed in range(8):
        pair = room_pair([room, far], np.random.default_rng(seed), CollageConfig())
        assert pair.room_B is not None
        assert pair.world_N3 is not None
        number = int(pair.room_B)
        rooms_seen.add(number)
        # Depth is kept in half precision: millimetres.
        z_N = pair.world_N3[:, 2] - 9 * number
        assert bool((((z_N - WALL_Z).abs() < 5e-3) | ((z_N - SCREEN_Z).abs() < 5e-3)).all())
    assert rooms_seen == {0, 1}


def test_what_only_rooms_have_is_joined_only_where_all_pairs_have_it() -> None:
    pair = room_pair([_room()], np.random.default_rng(0), CollageConfig())
    joined = Correspondences.join([pair, pair])
    assert joined.room_B is not None
    assert joined.world_N3 is not None
    assert joined.room_B.tolist() == [0, 0]
    assert len(joined.world_N3) == len(joined.pair_N)
    mixed = Correspondences.join([pair, replace(pair, room_B=None, world_N3=None)])
    assert mixed.room_B is None
    assert mixed.world_N3 is None
