"""Cameras seen from above: where a scene's views were taken, and where they were put."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reloc.contract import PoseEstimate
from reloc.geometry.rigid3d import Rigid3d
from reloc.scenes.scene import Scene, View
from reloc.viewing.ground_plane import GroundPlane, ground_plane

# A longer step between frames than this many of the usual ones is a cut, not a movement.
_CUT_STEPS = 8.0


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Camera centres in the coordinates of the picture, which are lengths in the scene's unit.

    Attributes:
        paths: each (N, 2): consecutive mapping frames of a video.
        mapping: (N, 2) of all mapping views.
        truth: (M, 2) of the queries.
        estimate: (M, 2) of the same queries; NaN where they were declined.
        labels: row of a query to the letter it goes by on the page.
        unit: of lengths: "m" or "units".
        level: the picture is seen from above; else it lies along the cameras' principal axes.
    """

    paths: Sequence[NDArray[np.float64]]
    mapping: NDArray[np.float64]
    truth: NDArray[np.float64]
    estimate: NDArray[np.float64]
    labels: Mapping[int, str]
    unit: str
    level: bool


def trajectory(
    scene: Scene, estimates: Mapping[str, PoseEstimate], letters: Mapping[str, str]
) -> Trajectory:
    """Of a scene that has queries.

    Args:
        scene: the plane is that of its mapping views, or of the queries where it has none.
        estimates: by the query's name.
        letters: name of a query to the letter it goes by on the page.
    """
    queries = list(scene.queries)
    plane = ground_plane(_poses(scene.mapping or queries))
    return Trajectory(
        paths=[path for frames in _videos(scene.mapping) for path in _paths(plane, frames)],
        mapping=_centers(plane, [view.cam_from_world for view in scene.mapping]),
        truth=_centers(plane, [view.cam_from_world for view in queries]),
        estimate=_centers(plane, [estimates[view.name].cam_from_world for view in queries]),
        labels={i: letters[view.name] for i, view in enumerate(queries) if view.name in letters},
        unit="m" if scene.metric else "units",
        level=plane.level,
    )


def _poses(views: Sequence[View]) -> Rigid3d:
    return Rigid3d.stack([view.cam_from_world for view in views])


def _centers(plane: GroundPlane, poses: Sequence[Rigid3d | None]) -> NDArray[np.float64]:
    """Camera centres in the picture (N, 2); a row of NaN where there is no pose."""
    centers_N2 = np.full((len(poses), 2), np.nan)
    known = [(index, pose) for index, pose in enumerate(poses) if pose is not None]
    if known:
        centers_N3 = Rigid3d.stack([pose for _, pose in known]).inverse().translation
        centers_N2[[index for index, _ in known]] = plane.project(centers_N3).numpy()
    return centers_N2


def _videos(views: Sequence[View]) -> list[list[View]]:
    """Frames by sequence; photos, which belong to none, are left out."""
    videos: dict[str, list[View]] = {}
    for view in views:
        if view.sequence:
            videos.setdefault(view.sequence, []).append(view)
    return list(videos.values())


def _paths(plane: GroundPlane, frames: Sequence[View]) -> list[NDArray[np.float64]]:
    """The path of a camera, cut where frames are missing."""
    centers_N2 = _centers(plane, [view.cam_from_world for view in frames])
    steps_N = np.linalg.norm(np.diff(centers_N2, axis=0), axis=1)
    if not len(steps_N):
        return []
    cuts = np.flatnonzero(steps_N > _CUT_STEPS * np.median(steps_N)) + 1
    return [path for path in np.split(centers_N2, cuts) if len(path) > 1]
