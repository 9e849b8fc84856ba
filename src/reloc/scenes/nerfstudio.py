"""transforms.json of nerfstudio, instant-ngp and the scenes of NeRF.

`frames` have a file_path and a transform_matrix: camera to world, rows of a 4x4 matrix, in OpenGL
axes. Intrinsics (fl_x fl_y cx cy w h, k1 k2 p1 p2 or k1 k2 k3 k4 with camera_model OPENCV_FISHEYE
or is_fisheye, or camera_angle_x) stand at the top or in a frame, which wins. Where nerfstudio
moved the world (applied_transform), poses stay as the file has them. A scene may have
transforms_train.json and transforms_test.json instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics
from reloc.scenes.images import read_header
from reloc.scenes.layout import Layout
from reloc.scenes.names import natural_key
from reloc.scenes.options import LoadOptions
from reloc.scenes.photos import Photo, build_scene
from reloc.scenes.poses import PoseConvention, pose_from_numbers
from reloc.scenes.scene import Scene
from reloc.scenes.splits import Split
from reloc.scenes.text import read_text, shortened

_CONVENTION = PoseConvention("world_from_cam", "opengl")
_FILE, _TRAIN, _TEST = "transforms.json", "transforms_train.json", "transforms_test.json"
_CAMERA_KEYS = (
    "camera_model", "is_fisheye", "camera_angle_x", "camera_angle_y",
    "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "p1", "p2",
)  # fmt: skip


def _recognises(path: Path) -> bool:
    return (path / _FILE).is_file() or (path / _TRAIN).is_file()


def _load(path: Path, options: LoadOptions) -> Scene:
    notes: list[str] = []
    if (path / _FILE).is_file():
        content = _read_json(path / _FILE)
        photos = _photos(path / _FILE, content, options)
        split = _listed_split(content)
        if "applied_transform" in content:
            notes.append("the world is nerfstudio's: its applied_transform is not undone")
        if any("depth_file_path" in frame for frame in content["frames"]):
            notes.append("the depth maps that the frames name are not read")
    else:
        photos = _photos(path / _TRAIN, _read_json(path / _TRAIN), options)
        split = None
        if (path / _TEST).is_file():
            asked = _photos(path / _TEST, _read_json(path / _TEST), options)
            split = Split(_names(photos), _names(asked))
            photos += asked
    return build_scene(
        photos,
        path,
        LAYOUT.name,
        options,
        ground_truth="given",
        metric=False,
        own_split=split,
        notes=notes,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise InputError(f"{path} has no list of `frames`")
    return content


def _photos(path: Path, content: Mapping[str, Any], options: LoadOptions) -> list[Photo]:
    convention = _CONVENTION.overridden(options)
    shared = _intrinsics(_with_size(content, path), str(path))
    photos = []
    for number, frame in enumerate(content["frames"]):
        where = f"{path}: frame {number}"
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise InputError(f"{where} has no file_path")
        name = _name(frame["file_path"])
        where = f"{where} ({shortened(name)})"
        own = any(key in frame for key in _CAMERA_KEYS)
        photos.append(
            Photo(
                name,
                path.parent / name,
                pose_from_numbers(_matrix(frame, where), convention, where),
                _intrinsics({**content, **frame}, where) if own else shared,
            )
        )
    return sorted(photos, key=lambda photo: natural_key(photo.name))


def _names(photos: Sequence[Photo]) -> tuple[str, ...]:
    return tuple(photo.name for photo in photos)


def _with_size(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """NeRF's own scenes say an angle of view and no size: that of their first image."""
    if "camera_angle_x" not in content or "fl_x" in content or {"w", "h"} & content.keys():
        return content
    first = content["frames"][0] if content["frames"] else None
    if not isinstance(first, dict) or not isinstance(first.get("file_path"), str):
        return content
    header = read_header(path.parent / _name(first["file_path"]))
    return {**content, "w": header.width, "h": header.height}


def _name(file_path: str) -> str:
    """NeRF's scenes leave the ending out."""
    name = PurePosixPath(file_path.replace("\\", "/")).as_posix()
    return name if PurePosixPath(name).suffix or "\0" in name else f"{name}.png"


def _matrix(frame: Mapping[str, Any], where: str) -> list[float]:
    rows = frame.get("transform_matrix")
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise InputError(f"{where} has no transform_matrix of rows")
    return [_number(value, where) for row in rows for value in row]


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {shortened(repr(value))} is no number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _intrinsics(content: Mapping[str, Any], where: str) -> Intrinsics | None:
    """None where there is not even an angle of view."""
    given = {
        key: _number(content[key], where)
        for key in _CAMERA_KEYS[2:]
        if content.get(key) is not None
    }
    size = _size(given, where)
    width, height = size or (0, 0)
    if "fl_x" in given:
        fx = given["fl_x"]
        fy = given.get("fl_y", fx)
    elif "camera_angle_x" in given and size:
        fx = _focal_of_angle(given["camera_angle_x"], width, where)
        fy = (
            _focal_of_angle(given["camera_angle_y"], height, where)
            if "camera_angle_y" in given
            else fx
        )
    elif "camera_angle_x" in given:
        raise InputError(f"{where}: camera_angle_x needs w and h: add them")
    else:
        return None
    if "cx" in given and "cy" in given:
        center = (given["cx"], given["cy"])
    elif size:
        center = (width / 2, height / 2)
    else:
        raise InputError(f"{where}: fl_x needs cx and cy, or w and h: add them")
    model = content.get("camera_model", "OPENCV")
    if content.get("is_fisheye") or model == "OPENCV_FISHEYE":
        distortion = [given.get(key, 0.0) for key in ("k1", "k2", "k3", "k4")]
        return Intrinsics((fx, fy, *center, *distortion), where, "OPENCV_FISHEYE", size)
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE"):
        raise InputError(
            f"{where}: camera_model {shortened(repr(model))} cannot be used: undistort the images"
        )
    if given.get("k3") or given.get("k4"):
        raise InputError(f"{where}: k3 and k4 are for fisheye cameras only: undistort the images")
    distortion = [given.get(key, 0.0) for key in ("k1", "k2", "p1", "p2")]
    if any(distortion):
        return Intrinsics((fx, fy, *center, *distortion), where, "OPENCV", size)
    return Intrinsics((fx, fy, *center), where, "PINHOLE", size)


def _size(given: Mapping[str, float], where: str) -> tuple[int, int] | None:
    if "w" not in given or "h" not in given:
        return None
    width, height = given["w"], given["h"]
    if not (width.is_integer() and height.is_integer()):
        raise InputError(f"{where}: the image size {width:g}x{height:g} is not whole")
    return int(width), int(height)


def _focal_of_angle(angle_rad: float, pixels: int, where: str) -> float:
    if not 0 < angle_rad < math.pi:
        raise InputError(f"{where}: an angle of view of {angle_rad:g} rad is impossible")
    return pixels / 2 / math.tan(angle_rad / 2)


def _listed_split(content: Mapping[str, Any]) -> Split | None:
    """The lists of nerfstudio, where there are any; the test images are asked, else val's."""
    lists = {}
    for key in ("train_filenames", "test_filenames", "val_filenames"):
        names = content.get(key)
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            lists[key] = tuple(_name(name) for name in names)
    queries = lists.get("test_filenames") or lists.get("val_filenames")
    if "train_filenames" not in lists or not queries:
        return None
    return Split(lists["train_filenames"], queries)


LAYOUT = Layout(
    name="nerfstudio",
    summary="transforms.json (nerfstudio, instant-ngp), or transforms_train.json and _test.json",
    recognises=_recognises,
    load=_load,
)
