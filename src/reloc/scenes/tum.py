"""TUM RGB-D (Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012).

A sequence is a folder with rgb.txt and depth.txt (`timestamp file`) and groundtruth.txt
(`timestamp tx ty tz qx qy qz qw`, camera to world, metres, by motion capture). An image takes the
pose and the depth map nearest in time, within 20 ms. Depth is registered to the colour; 5000 is a
metre.

Without an intrinsics.txt (docs/data.md) the colour camera is what the authors recommend: f = 525
and no distortion; freiburg3 sequences, which are undistorted, have their own calibration.
"""

from __future__ import annotations

import bisect
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics, read_intrinsics
from reloc.scenes.images import read_depth
from reloc.scenes.layout import Layout
from reloc.scenes.options import LoadOptions
from reloc.scenes.photos import Photo, build_scene, left_out_note
from reloc.scenes.poses import PoseConvention, pose_from_numbers
from reloc.scenes.scene import Scene
from reloc.scenes.text import Line, numbers, read_lines

_CONVENTION = PoseConvention("world_from_cam", quaternion="xyzw")
_MAX_DIFFERENCE_S = 0.020
_DEPTH_UNIT_M = 1 / 5000
# The authors count pixels from the centre of the first, we from its corner: half a pixel more.
_DEFAULT = (525.0, 525.0, 319.5 + 0.5, 239.5 + 0.5)
_FREIBURG3 = (535.4, 539.2, 320.1 + 0.5, 247.6 + 0.5)
_SIZE = (640, 480)


def _recognises(path: Path) -> bool:
    return (path / "rgb.txt").is_file() and (path / "groundtruth.txt").is_file()


def _load(path: Path, options: LoadOptions) -> Scene:
    convention = _CONVENTION.overridden(options)
    poses = _timed(path / "groundtruth.txt")
    depths = _timed(path / "depth.txt") if (path / "depth.txt").is_file() else []
    intrinsics_file = path / "intrinsics.txt"
    listed = read_intrinsics(intrinsics_file) if intrinsics_file.is_file() else None
    sequence = path.resolve().name
    default = _default_intrinsics(sequence)
    photos, unposed = [], []
    for time_s, line in _timed(path / "rgb.txt"):
        name = _file(line)
        found = _nearest(poses, time_s + (options.time_offset_s or 0.0))
        if found is None:
            unposed.append(name)
            continue
        values = numbers(found.fields()[1:], found.where)
        if len(values) != 7:
            raise InputError(
                f"{found.where}: a pose is tx ty tz qx qy qz qw, not {len(values)} numbers"
            )
        depth = _nearest(depths, time_s)
        photos.append(
            Photo(
                name,
                path / name,
                pose_from_numbers([*values[3:], *values[:3]], convention, found.where),
                listed.of(name) if listed else default,
                depth=partial(_read_depth, path / _file(depth)) if depth else None,
                sequence=sequence,
                timestamp_s=time_s,
            )
        )
    notes = left_out_note(unposed, f"no pose is within {1e3 * _MAX_DIFFERENCE_S:.0f} ms of them")
    if listed is None:
        notes.append(
            f"without an intrinsics.txt the focal length is taken to be {default.params[0]}"
        )
    return build_scene(
        photos,
        path,
        LAYOUT.name,
        options,
        ground_truth="mocap",
        metric=True,
        left_out=unposed,
        notes=notes,
    )


def _default_intrinsics(sequence: str) -> Intrinsics:
    params = _FREIBURG3 if "freiburg3" in sequence else _DEFAULT
    return Intrinsics(params, "the intrinsics of TUM RGB-D", "PINHOLE", _SIZE)


def _timed(path: Path) -> list[tuple[float, Line]]:
    """Lines in order of the time they begin with."""
    timed = []
    for line in read_lines(path):
        (time_s,) = numbers(line.fields()[:1], line.where)
        if not abs(time_s) < float("inf"):
            raise InputError(f"{line.where}: the time is not finite")
        timed.append((time_s, line))
    return sorted(timed, key=lambda entry: entry[0])


def _nearest(timed: list[tuple[float, Line]], time_s: float) -> Line | None:
    after = bisect.bisect_left(timed, time_s, key=lambda entry: entry[0])
    near = timed[max(after - 1, 0) : after + 1]
    if not near:
        return None
    time_found_s, line = min(near, key=lambda entry: abs(entry[0] - time_s))
    return line if abs(time_found_s - time_s) <= _MAX_DIFFERENCE_S else None


def _file(line: Line) -> str:
    fields = line.fields()
    if len(fields) != 2:
        raise InputError(f"{line.where}: a line has a time and a file, not {len(fields)} fields")
    return fields[1]


def _read_depth(path: Path, camera: Camera) -> Tensor:
    depth = torch.from_numpy(read_depth(path, _DEPTH_UNIT_M))
    if depth.shape != (camera.height, camera.width):
        raise InputError(f"{path} is {depth.shape[1]}x{depth.shape[0]}, not as large as its image")
    return depth


LAYOUT = Layout(
    name="tum",
    summary="rgb.txt, depth.txt, groundtruth.txt, rgb/, depth/",
    recognises=_recognises,
    load=_load,
    options=frozenset({"quaternion", "time_offset_s"}),
)
