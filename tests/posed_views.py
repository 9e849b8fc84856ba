"""Scenes of views without images, for tests that are about poses only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.scenes.scene import Scene, View

CAMERA = Camera.simple_pinhole(500.0, 640, 480)


def random_poses(count: int, seed: int = 0, spread: float = 2.0) -> Rigid3d:
    """`count` transforms whose rotations and translations have nothing special."""
    generator = torch.Generator().manual_seed(seed)
    tangents = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return Rigid3d.exp(tangents * torch.tensor([1.0, 1.0, 1.0, spread, spread, spread]))


def no_image() -> Tensor:
    raise AssertionError("this reads no image")


def views_of(cam_from_world: Rigid3d, names: Sequence[str] = (), prefix: str = "q") -> list[View]:
    """A view for each pose, called q0.jpg, q1.jpg, ..."""
    count = len(cam_from_world.translation)
    names = names or [f"{prefix}{index}.jpg" for index in range(count)]
    return [View(names[i], CAMERA, cam_from_world[i], no_image) for i in range(count)]


def scene_of(cam_from_world: Rigid3d, *, metric: bool = True, name: str = "walk") -> Scene:
    """These poses are asked about; two others, 10 apart, are the map."""
    ends = torch.tensor([[0.0, 0.0, 0.0], [0.0, -6.0, -8.0]], dtype=torch.float64)
    mapping = Rigid3d(torch.eye(3, dtype=torch.float64).expand(2, 3, 3), ends)
    return Scene(name, views_of(mapping, prefix="m"), views_of(cam_from_world), "sfm", metric)
