"""Procedural rooms: scenes that need no data, with exact poses and depth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import Scene, View
from reloc.scenes.synthetic.develop import Sensor
from reloc.scenes.synthetic.layout import KINDS
from reloc.scenes.synthetic.render import Lighting
from reloc.scenes.synthetic.room import Room
from reloc.scenes.synthetic.walk import take_walk

__all__ = ["KINDS", "Lighting", "Room", "Sensor", "synthetic_scene"]

_FOCAL_OVER_LONGER_SIDE = 525 / 640
_FRAMES_PER_SECOND = 3.0
# Of the first walk, so that neighbouring views overlap.
_MAX_STEP_M = 0.22


def synthetic_scene(
    seed: int = 0,
    num_mapping: int = 60,
    num_queries: int = 30,
    width: int = 640,
    height: int = 480,
    *,
    camera: Camera | None = None,
    query_lighting: Lighting | None = None,
    photos: Sequence[Tensor] = (),
) -> Scene:
    """A furnished room, seen on two walks: one to map it, one to ask.

    Pictures are rendered when they are read, and kept. Each depends on the seed and its place in
    its walk only.

    Args:
        seed: of the room and the walks.
        num_mapping: pictures of the first walk.
        num_queries: pictures of the second walk, another path at another height.
        width: of the pictures.
        height: of the pictures; more than the width for portrait.
        camera: of all pictures, instead of a pinhole camera of the size above.
        query_lighting: what shines on the second walk; by default the same as on the first.
        photos: see `Room`.

    Raises:
        InputError: a number is out of range, or embreex is not installed.
    """
    if num_mapping < 1 or num_queries < 0:
        raise InputError(
            f"a synthetic scene of {num_mapping} mapping views and {num_queries} queries is none: "
            "ask for at least 1 and 0"
        )
    if camera is None:
        camera = Camera.simple_pinhole(_FOCAL_OVER_LONGER_SIDE * max(width, height), width, height)
    room = Room(seed, photos)
    map_rng, query_rng = np.random.default_rng([seed, 1]).spawn(2)
    map_height_m, query_height_m = (
        float(map_rng.uniform(1.5, 1.65)),
        float(query_rng.uniform(1.25, 1.4)),
    )
    mapping = take_walk(room, num_mapping, map_height_m, map_rng, max_step_m=_MAX_STEP_M)
    mapped_N2 = np.array([pose.inverse().translation[:2].tolist() for pose in mapping])
    queries = take_walk(room, num_queries, query_height_m, query_rng, beside_N2=mapped_N2)
    return Scene(
        name=f"room-{seed}",
        mapping=_views("mapping", mapping, room, camera, Lighting()),
        queries=_views("query", queries, room, camera, query_lighting or Lighting()),
        ground_truth="synthetic",
        metric=True,
        layout="synthetic",
        render=lambda camera, cam_from_world: room.render(camera, cam_from_world)[0],
    )


def _views(
    walk: str, poses: Sequence[Rigid3d], room: Room, camera: Camera, lighting: Lighting
) -> list[View]:
    return [
        _view(f"{walk}/{number:04d}", number, walk, pose, room, camera, lighting)
        for number, pose in enumerate(poses)
    ]


def _view(
    name: str, number: int, walk: str, pose: Rigid3d, room: Room, camera: Camera, lighting: Lighting
) -> View:
    noise_seed = np.random.SeedSequence([room.seed, number, *walk.encode()]).generate_state(1)[0]
    hand = np.random.default_rng(noise_seed)
    sensor = Sensor(motion=float(hand.uniform(0, 1.5)) * camera.width / 640)

    @cache
    def taken() -> tuple[Tensor, Tensor]:
        return room.render(camera, pose, lighting, sensor, int(noise_seed))

    # Copies: a caller may write into what it was given.
    def read_image() -> Tensor:
        return taken()[0].clone()

    def read_depth() -> Tensor:
        return taken()[1].clone()

    def read_labels() -> Tensor:
        return room.kinds(camera, pose)

    seconds = number / _FRAMES_PER_SECOND
    return View(name, camera, pose, read_image, read_depth, walk, seconds, read_labels)
