"""12-Scenes (Valentin et al., "Learning to navigate the energy landscape", 3DV 2016).

A scene is a folder, apt1/kitchen say, with data/frame-000000.{color.jpg,depth.png,pose.txt},
info.txt and split.txt. Poses are camera to world of the colour camera, which the depth is
registered to; frames whose tracking was lost have poses that are not finite. The first sequence of
split.txt is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import cv2
import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics
from reloc.scenes.images import read_depth
from reloc.scenes.layout import Layout
from reloc.scenes.names import image_name
from reloc.scenes.options import LoadOptions
from reloc.scenes.photos import Photo, build_scene, left_out_note
from reloc.scenes.poses import PoseConvention
from reloc.scenes.pseudo_truth import find_pseudo_truth, read_matrix_pose
from reloc.scenes.scene import Scene
from reloc.scenes.splits import Split
from reloc.scenes.text import Line, numbers, read_lines

_NUM_TEST_FRAMES = re.compile(r"\[frames=([0-9]+)\]")


def _recognises(path: Path) -> bool:
    return (path / "info.txt").is_file() and next(
        path.glob("data/frame-*.color.*"), None
    ) is not None


def _load(path: Path, options: LoadOptions) -> Scene:
    if options.ground_truth == "raw":
        raise InputError("12-Scenes has no raw ground truth: its depth is registered to the colour")
    scene = path.resolve()
    key = f"{scene.parent.name}_{scene.name}"
    truth = find_pseudo_truth(path, key, "12scenes", options)
    ground_truth = truth.ground_truth if truth else "d-slam"
    info = {
        line.text.partition("=")[0].strip(): Line(line.text.partition("=")[2].strip(), line.where)
        for line in read_lines(path / "info.txt")
    }
    intrinsics = _intrinsics(info, path)
    (depth_shift,) = _numbers(info, "m_depthShift", 1, path)
    convention = PoseConvention("world_from_cam").overridden(options)
    photos, invalid, unknown = [], [], []
    for image in sorted(path.glob("data/frame-*.color.*")):
        name = image_name(image, path)
        stem = image.name.split(".")[0]
        if truth is not None:
            found = truth.pose(f"data/{stem}", options)
            if found is None:
                unknown.append(name)
                continue
            cam_from_world, focal, where = found
            its_intrinsics = Intrinsics((focal,), where, size=intrinsics.size)
        else:
            pose = read_matrix_pose(image.with_name(f"{stem}.pose.txt"), convention)
            if pose is None:
                invalid.append(name)
                continue
            cam_from_world, its_intrinsics = pose, intrinsics
        depth = image.with_name(f"{stem}.depth.png")
        reader = partial(_read_resized, depth, 1 / depth_shift) if depth.is_file() else None
        photos.append(Photo(name, image, cam_from_world, its_intrinsics, depth=reader))
    notes = [
        *left_out_note(invalid, "their poses are not finite"),
        *left_out_note(unknown, f"the {ground_truth} ground truth has no pose of them"),
    ]
    return build_scene(
        photos,
        path,
        LAYOUT.name,
        options,
        name=key,
        ground_truth=ground_truth,
        metric=True,
        own_split=_official_split(path, photos),
        left_out=(*invalid, *unknown),
        notes=notes,
    )


def _numbers(info: Mapping[str, Line], key: str, count: int, path: Path) -> list[float]:
    if key not in info:
        raise InputError(f"{path / 'info.txt'} has no {key}")
    values = numbers(info[key].fields(), info[key].where)
    if len(values) != count or not all(0 <= value < 1e6 for value in values):
        raise InputError(f"{info[key].where}: {key} must be {count} sensible numbers")
    if count == 1 and not values[0]:
        raise InputError(f"{info[key].where}: {key} is 0")
    return values


def _intrinsics(info: Mapping[str, Line], path: Path) -> Intrinsics:
    (width,), (height,) = (
        _numbers(info, key, 1, path) for key in ("m_colorWidth", "m_colorHeight")
    )
    matrix = _numbers(info, "m_calibrationColorIntrinsic", 16, path)
    params = (matrix[0], matrix[5], matrix[2], matrix[6])
    where = info["m_calibrationColorIntrinsic"].where
    return Intrinsics(params, where, "PINHOLE", (int(width), int(height)))


def _official_split(path: Path, photos: list[Photo]) -> Split | None:
    """split.txt begins `sequence0 [frames=357] ...`: frames 0 to 356 are asked."""
    file = path / "split.txt"
    if not file.is_file():
        return None
    lines = read_lines(file)
    found = _NUM_TEST_FRAMES.search(lines[0].text) if lines else None
    if found is None:
        raise InputError(f"{file}: the first line is no line like 'sequence0 [frames=357]'")
    num_test = int(found[1])
    mapping, queries = [], []
    for photo in photos:
        digits = photo.path.name.split(".")[0].removeprefix("frame-")
        if not digits.isdecimal():
            raise InputError(f"image {photo.path} has no number: 12-Scenes calls it frame-000000")
        (queries if int(digits) < num_test else mapping).append(photo.name)
    return Split(tuple(mapping), tuple(queries))


def _read_resized(path: Path, unit_m: float, camera: Camera) -> Tensor:
    """Depth has fewer pixels than the colour it is registered to: each takes the one it lies in."""
    size = (camera.width, camera.height)
    resized = cv2.resize(read_depth(path, unit_m), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return torch.from_numpy(resized)


LAYOUT = Layout(
    name="12scenes",
    summary="data/frame-000000.{color.jpg,depth.png,pose.txt}, info.txt, split.txt",
    recognises=_recognises,
    load=_load,
    options=frozenset({"ground_truth", "pgt", "quaternion"}),
)
