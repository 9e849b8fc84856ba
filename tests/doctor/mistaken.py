"""Usual mistakes, made with sound scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from reloc.doctor.order import in_order
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import turned_from_cam
from reloc.scenes.scene import Scene, View

OPENGL_FROM_OPENCV = Rigid3d(
    torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)),
    torch.zeros(3, dtype=torch.float64),
)


def with_views(scene: Scene, change: Callable[[View], View]) -> Scene:
    return replace(
        scene,
        mapping=[change(view) for view in scene.mapping],
        queries=[change(view) for view in scene.queries],
    )


def with_poses(scene: Scene, change: Callable[[Rigid3d], Rigid3d]) -> Scene:
    return with_views(scene, lambda view: replace(view, cam_from_world=change(view.cam_from_world)))


def with_cameras(scene: Scene, change: Callable[[Camera], Camera]) -> Scene:
    return with_views(scene, lambda view: replace(view, camera=change(view.camera)))


def inverted(scene: Scene) -> Scene:
    """World_from_cam, read as cam_from_world."""
    return with_poses(scene, lambda pose: pose.inverse())


def opengl_as_opencv(scene: Scene) -> Scene:
    return with_poses(scene, lambda pose: OPENGL_FROM_OPENCV @ pose)


def opengl_inverted(scene: Scene) -> Scene:
    """World_from_cam in OpenGL axes, read as cam_from_world in OpenCV's."""
    return with_poses(scene, lambda pose: (OPENGL_FROM_OPENCV @ pose).inverse())


def quaternions_rolled(scene: Scene, roll: int, *, inverted: bool = False) -> Scene:
    """-1: x first, read as w first; 1: w first, read as x first. `inverted` by the loader."""

    def read(pose: Rigid3d) -> Rigid3d:
        stored = pose.inverse() if inverted else pose
        stored = Rigid3d.from_quat_wxyz(stored.quat_wxyz.roll(roll, -1), stored.translation)
        return stored.inverse() if inverted else stored

    return with_poses(scene, read)


def scaled(camera: Camera, focal: float, middle: float, size: float) -> Camera:
    num_focal = len(camera.params) - len(camera.distortion) - 2
    params = camera.params.clone()
    params[:num_focal] *= focal
    params[num_focal : num_focal + 2] *= middle
    return replace(
        camera,
        params=params,
        width=round(size * camera.width),
        height=round(size * camera.height),
    )


def turned(scene: Scene, quarter_turns: int) -> Scene:
    """The pose is of the picture before its turn."""
    return with_poses(scene, lambda pose: turned_from_cam(-quarter_turns % 4) @ pose)


def shifted(scene: Scene, frames: int) -> Scene:
    """Each image has the pose of the one that comes `frames` later in its sequence."""
    order = in_order([*scene.mapping, *scene.queries])
    places = [min(max(place + frames, 0), len(order) - 1) for place in range(len(order))]
    poses = {
        view.name: order[place].cam_from_world for view, place in zip(order, places, strict=True)
    }
    return with_views(scene, lambda view: replace(view, cam_from_world=poses[view.name]))


def cameras_scaled(focal: float, middle: float, size: float) -> Callable[[Scene], Scene]:
    change = partial(scaled, focal=focal, middle=middle, size=size)
    return partial(with_cameras, change=change)


# Name: the mistake, and the options of `Finding.mending` that must be named, in their order.
MISTAKES: dict[str, tuple[Callable[[Scene], Scene], tuple[str, ...]]] = {
    "inverse": (inverted, ("--poses world_from_cam",)),
    "axes": (opengl_as_opencv, ("--axes opengl",)),
    "double size": (cameras_scaled(2, 2, 2), ("--intrinsics-scale 0.5",)),
    "double intrinsics": (cameras_scaled(2, 2, 1), ("--intrinsics-scale 0.5",)),
    "x first": (partial(quaternions_rolled, roll=-1), ("--quaternion xyzw",)),
}
MORE_MISTAKES: dict[str, tuple[Callable[[Scene], Scene], tuple[str, ...]]] = {
    "inverse and axes": (opengl_inverted, ("--poses world_from_cam", "--axes opengl")),
    "x first, inverted": (
        partial(quaternions_rolled, roll=-1, inverted=True),
        ("--quaternion xyzw",),
    ),
    "w first": (partial(quaternions_rolled, roll=1), ("--quaternion wxyz",)),
    "w first, inverted": (
        partial(quaternions_rolled, roll=1, inverted=True),
        ("--quaternion wxyz",),
    ),
    "half intrinsics": (cameras_scaled(0.5, 0.5, 1), ("--intrinsics-scale 2",)),
    "focal": (cameras_scaled(585 / 525, 1, 1), ("--focal",)),
    "focal twice": (cameras_scaled(2, 1, 1), ("--focal",)),
    "inverse and focal": (
        lambda scene: inverted(cameras_scaled(1.2, 1, 1)(scene)),
        ("--poses world_from_cam", "--focal"),
    ),
    "half turn": (partial(turned, quarter_turns=2), ("--half-turn",)),
    "turned clockwise": (
        partial(turned, quarter_turns=1),
        ("turn the images by 90 degrees counterclockwise",),
    ),
    "turned counterclockwise": (
        partial(turned, quarter_turns=3),
        ("turn the images by 90 degrees clockwise",),
    ),
    "3 later": (partial(shifted, frames=3), ("stored 3 frames earlier",)),
    "1 earlier": (partial(shifted, frames=-1), ("stored 1 frame later",)),
}
