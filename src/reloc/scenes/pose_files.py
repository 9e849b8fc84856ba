"""Poses files that a person or a script wrote: a line for each image, and a comment that says how.

Lines are `name qw qx qy qz tx ty tz`, with a focal length in pixels behind where it is known, or
`name` and the rows of a 3x4 or 4x4 matrix; columns may be named, in any order, in a comment or in
the first line of a CSV file. Comments (`#`) say the rest, in these words or the equal ones:

    # convention: cam_from_world (world-to-camera, w2c) | world_from_cam (camera-to-world, c2w)
    # axes: opencv | opengl        # quaternion: wxyz | xyzw        # metric: yes | no
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics
from reloc.scenes.options import Axes, Direction, LoadOptions, QuaternionOrder
from reloc.scenes.poses import PoseConvention, pose_from_numbers
from reloc.scenes.text import Line, numbers, read_lines, shortened

Word = TypeVar("Word")

_DIRECTIONS: dict[str, Direction] = {
    "cam_from_world": "cam_from_world",
    "world_to_camera": "cam_from_world",
    "world_to_cam": "cam_from_world",
    "w2c": "cam_from_world",
    "world_from_cam": "world_from_cam",
    "camera_to_world": "world_from_cam",
    "cam_to_world": "world_from_cam",
    "c2w": "world_from_cam",
}
_AXES: dict[str, Axes] = {"opencv": "opencv", "opengl": "opengl"}
_ORDERS: dict[str, QuaternionOrder] = {"wxyz": "wxyz", "xyzw": "xyzw"}
_METRIC = {"metric_yes": True, "metric_true": True, "metric_no": False, "metric_false": False}
_METRIC_WORDS = tuple(word.removeprefix("metric_") for word in _METRIC)
_NAME_COLUMNS = {"name", "image", "image_name", "file", "filename", "file_name", "path"}
_QUATERNION, _TRANSLATION = ("qw", "qx", "qy", "qz"), ("tx", "ty", "tz")
_SYNONYMS = {"x": "tx", "y": "ty", "z": "tz", "focal": "f", "w": "qw"}


@dataclass(frozen=True, eq=False)
class NamedPose:
    """A line of a poses file; `intrinsics` has its focal length, where it says one."""

    name: str
    cam_from_world: Rigid3d
    intrinsics: Intrinsics | None


@dataclass(frozen=True, eq=False)
class PoseFile:
    """A poses file; `metric` is None where it does not say."""

    poses: Sequence[NamedPose]
    metric: bool | None


def read_pose_file(
    path: Path, options: LoadOptions, direction: Direction | None = None
) -> PoseFile:
    """Read a poses file.

    Args:
        path: of the file.
        options: what they say of the convention wins over what the file says.
        direction: of the poses, where neither says.

    Raises:
        InputError: nobody says what the poses are, or a line is no pose.
    """
    every_line = read_lines(path, comments=True)
    comments = [line.text for line in every_line if line.text.startswith("#")]
    lines = [line for line in every_line if not line.text.startswith("#")]
    columns = next(filter(None, map(_columns, comments)), None)
    if columns is None and lines and (columns := _columns(lines[0].text)):
        lines = lines[1:]
    _refuse_unknown(comments, path)
    words = set(_words(comments))
    said = _one_of(_DIRECTIONS, words, path) or direction or options.poses
    if said is None:
        raise InputError(
            f"{path} does not say what its poses are: put `# convention: cam_from_world` (or "
            "world_from_cam) into its first line, or pass --poses"
        )
    axes = _one_of(_AXES, words, path) or "opencv"
    order = _one_of(_ORDERS, words, path) or "wxyz"
    if columns is not None and options.quaternion not in (None, "wxyz"):
        raise InputError(
            f"{path} names its columns, which say the order of its quaternions: leave --quaternion "
            "out"
        )
    if columns is not None:
        order = "wxyz"
    convention = PoseConvention(said, axes, order).overridden(options)
    poses = [_pose(line, columns, convention) for line in lines]
    return PoseFile(poses, _one_of(_METRIC, words, path))


def _pose(line: Line, columns: Sequence[str] | None, convention: PoseConvention) -> NamedPose:
    if columns is None:
        name, values = line.named_numbers((7, 8, 12, 13, 16, 17))
        has_focal = len(values) in (8, 13, 17)
        focal = values.pop() if has_focal else None
    else:
        fields = line.fields()
        if len(fields) != len(columns):
            raise InputError(
                f"{line.where}: {len(fields)} fields, but {len(columns)} columns are named"
            )
        name = fields[columns.index("name")]
        said = dict(zip(columns[1:], numbers(fields[1:], line.where), strict=True))
        values = [said[column] for column in (*_QUATERNION, *_TRANSLATION)]
        focal = said.get("f")
    intrinsics = None if focal is None else Intrinsics((focal,), line.where)
    return NamedPose(name, pose_from_numbers(values, convention, line.where), intrinsics)


def _columns(text: str) -> list[str] | None:
    """Names of columns, where a line names them: `# name qw qx qy qz tx ty tz f   and words`."""
    fields = re.split(r"[\s,]+", text.lstrip("#").strip().lower())
    if fields[0] not in _NAME_COLUMNS:
        return None
    columns = ["name"]
    for field in fields[1:]:
        column = _SYNONYMS.get(field, field)
        if column not in (*_QUATERNION, *_TRANSLATION, "f") or column in columns:
            break
        columns.append(column)
    return columns if {*_QUATERNION, *_TRANSLATION} <= set(columns) else None


def _refuse_unknown(comments: Sequence[str], path: Path) -> None:
    """Complain of `key: value` whose value is none that is known.

    Raises:
        InputError: there is one: poses would be read otherwise than it says.
    """
    known = {"axes": tuple(_AXES), "quaternion": tuple(_ORDERS), "metric": _METRIC_WORDS}
    said = re.findall(r"\b(axes|quaternion|metric)\s*[:=]\s*([^\s,;]+)", " ".join(comments).lower())
    for key, value in said:
        if value not in known[key]:
            raise InputError(
                f"{path}: `# {key}: {shortened(value)}` is not understood: write "
                f"{' or '.join(known[key])}"
            )


def _words(comments: Sequence[str]) -> list[str]:
    """In lower case; world-to-camera as world_to_camera, `metric: no` as metric_no."""
    text = " ".join(comments).lower()
    text = re.sub(r"(world|cam|camera)[-_ ](to|from)[-_ ](world|camera|cam)", r"\1_\2_\3", text)
    text = re.sub(r"metric\s*[:=]\s*", "metric_", text)
    return re.findall(r"[a-z0-9_]+", text)


def _one_of(meanings: dict[str, Word], words: set[str], path: Path) -> Word | None:
    """What the words mean; None where none of them is there.

    Raises:
        InputError: they contradict each other.
    """
    found = {meaning: word for word, meaning in meanings.items() if word in words}
    if len(found) > 1:
        raise InputError(f"{path} says both {' and '.join(found.values())} in its comments")
    return next(iter(found), None)
