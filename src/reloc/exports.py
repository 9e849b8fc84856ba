"""Estimates in the file formats of other programs, and estimates that others have published."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates, write_new_bytes, write_new_text
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import new_folder
from reloc.scenes.scene import View

# As the Map-free evaluation reads a frame number: the five characters before the ending.
_MAPFREE_FRAME = re.compile(r"\S*\d{5}\.\S{3}")


def true_poses(views: Sequence[View]) -> PoseEstimates:
    """The poses of views in the form of estimates, to be exported likewise."""
    return PoseEstimates({view.name: PoseEstimate(view.cam_from_world) for view in views})


def read_pose_text(path: Path | str, asked: Iterable[str] = ()) -> PoseEstimates:
    """Read lines `name qw qx qy qz tx ty tz` of cam_from_world, in any order.

    The format of visuallocalization.net, of hloc, and of the estimates published with Brachmann et
    al., ICCV 2021. Of the latter, those of DSAC* have two more columns, the errors that their
    authors measured: a line of ten columns is read, and its last two are left out. Nine columns
    are refused: the ninth may be a focal length (then the poses are likely the true ones) or a
    confidence.

    Args:
        path: of the file. Empty lines and lines that begin with # are skipped.
        asked: names of all queries. The format has no line for a query that was declined, so those
            without a line are added as declined.

    Raises:
        InputError: the file is missing, or a line of it is no pose, or a name has two; the message
            names the line.
    """
    path = Path(path)
    lines: dict[str, int] = {}
    values: list[list[float]] = []
    for number, line in enumerate(_read_lines(path), start=1):
        name, *words = line.split() or ["#"]
        if name.startswith("#"):
            continue
        if len(words) not in (7, 9):
            raise InputError(
                f"{path}, line {number} has {1 + len(words)} columns: an estimate has 8 "
                "(`name qw qx qy qz tx ty tz`), or 10 with two errors"
            )
        if name in lines:
            raise InputError(
                f"{path}, line {number}: {name} has a pose in line {lines[name]}: remove one"
            )
        lines[name] = number
        try:
            values.append([float(word) for word in words[:7]])
        except ValueError as error:
            raise InputError(f"{path}, line {number} is no pose: {error}") from error
    if not lines:
        raise InputError(f"{path} has no poses: a line is `name qw qx qy qz tx ty tz`")
    poses = _poses(torch.tensor(values, dtype=torch.float64), list(lines.values()), path)
    rows = zip(lines, poses.rotation, poses.translation, strict=True)
    found = {name: PoseEstimate(Rigid3d(R, t)) for name, R, t in rows}
    declined = {name: PoseEstimate(None) for name in asked if name not in found}
    return PoseEstimates(found | declined)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as poses: {error}") from error


def _poses(values_N7: Tensor, line_numbers: Sequence[int], path: Path) -> Rigid3d:
    """All poses at once, which is fast; one by one to find the line that is wrong."""
    try:
        return Rigid3d.from_quat_wxyz(values_N7[:, :4], values_N7[:, 4:])
    except ValueError:
        for number, values_7 in zip(line_numbers, values_N7, strict=True):
            try:
                Rigid3d.from_quat_wxyz(values_7[:4], values_7[4:])
            except ValueError as error:
                raise InputError(f"{path}, line {number} is no pose: {error}") from error
        raise


def write_pose_text(
    estimates: PoseEstimates, path: Path | str, name_parts: int | None = None
) -> None:
    """Write `name qw qx qy qz tx ty tz` of cam_from_world, for visuallocalization.net.

    A declined query has no line: the benchmark counts what is missing as failed.

    Args:
        estimates: of all queries.
        path: of the new file.
        name_parts: how much of a name's path to keep, counted from its end: the benchmark wants 1
            for Aachen Day-Night and InLoc, 2 (camera and file) for RobotCar Seasons and Extended
            CMU. None: all of it.

    Raises:
        InputError: no query was answered, two names become one, or the file exists.
    """
    lines: dict[str, str] = {}
    for name, cam_from_world in _answered(estimates, estimates.by_name).items():
        kept = name if name_parts is None else "/".join(PurePosixPath(name).parts[-name_parts:])
        if kept in lines:
            raise InputError(
                f"{name} and another query would both be called {kept}: keep more parts"
            )
        lines[kept] = f"{kept} {_numbers(cam_from_world.quat_wxyz, cam_from_world.translation)}"
    write_new_text(Path(path), "\n".join(lines.values()) + "\n")


def write_tum(estimates: PoseEstimates, views: Sequence[View], path: Path | str) -> None:
    """Write `timestamp tx ty tz qx qy qz qw` of world_from_cam, as `evo` and the TUM tools read it.

    `write_tum(true_poses(views), views, ...)` writes the truth to compare with. A declined query
    has no line, so figures of these tools are of the answered ones only.

    Args:
        estimates: of these views.
        views: of one scene. Where one has no timestamp, or two have the same (each sequence has a
            clock of its own), the place in this list stands for the seconds.
        path: of the new file.

    Raises:
        InputError: a view has no estimate, none was answered, or the file exists.
    """
    times_s = {view.name: view.timestamp_s for view in views if view.timestamp_s is not None}
    if len(set(times_s.values())) < len(views):
        times_s = {view.name: float(place) for place, view in enumerate(views)}
    lines = []
    for name, cam_from_world in _answered(estimates, times_s).items():
        world_from_cam = cam_from_world.inverse()
        numbers = _numbers(world_from_cam.translation, world_from_cam.quat_wxyz.roll(-1))
        lines.append((times_s[name], f"{times_s[name]!r} {numbers}"))
    # These tools take the order of lines for the order of time.
    write_new_text(Path(path), "\n".join(line for _, line in sorted(lines)) + "\n")


def write_colmap(estimates: PoseEstimates, views: Sequence[View], folder: Path | str) -> None:
    """Write cameras.txt, images.txt and an empty points3D.txt: a COLMAP model without points.

    An image has the camera that was estimated with its pose, else the view's. A declined query is
    absent, as COLMAP's images that were not registered are.

    Raises:
        InputError: a view has no estimate, none was answered, or the folder exists.
    """
    cameras = {view.name: view.camera for view in views}
    camera_ids: dict[str, int] = {}
    image_lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then POINTS2D (none)"]
    answered = _answered(estimates, cameras)
    for image_id, (name, cam_from_world) in enumerate(answered.items(), start=1):
        text = _camera_text(estimates[name].camera or cameras[name])
        camera_id = camera_ids.setdefault(text, len(camera_ids) + 1)
        numbers = _numbers(cam_from_world.quat_wxyz, cam_from_world.translation)
        image_lines += [f"{image_id} {numbers} {camera_id} {name}", ""]
    camera_lines = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS"]
    camera_lines += [f"{camera_id} {text}" for text, camera_id in camera_ids.items()]
    with new_folder(Path(folder)) as partial:
        write_new_text(partial / "cameras.txt", "\n".join(camera_lines) + "\n")
        write_new_text(partial / "images.txt", "\n".join(image_lines) + "\n")
        write_new_text(partial / "points3D.txt", "")


def _camera_text(camera: Camera) -> str:
    return f"{camera.model} {camera.width} {camera.height} {_numbers(camera.params)}"


def write_mapfree(scenes: Sequence[PoseEstimates], path: Path | str) -> None:
    """Write a Map-free submission: a zip file with `pose_<scene>.txt` for each scene.

    A line is `name qw qx qy qz tx ty tz confidence`. The benchmark ranks frames by confidence over
    all scenes: it is the estimates' own, or the inlier count where not all of them have one. A
    declined query has no line: the benchmark counts what is missing as failed.

    Raises:
        InputError: a scene comes twice or has no name, none of its queries was answered, a name
            does not end in a frame number, an answer has neither confidence nor inlier count, or
            the file exists.
    """
    answers = [answer for scene in scenes for answer in scene.by_name.values()]
    answers = [answer for answer in answers if answer.cam_from_world is not None]
    by_confidence = all(answer.confidence is not None for answer in answers)
    if not by_confidence and any(answer.num_inliers is None for answer in answers):
        raise InputError(
            "an answer has neither a confidence nor an inlier count, and Map-free ranks frames by "
            "it: choose a method that says how sure it is"
        )
    texts: dict[str, str] = {}
    for scene in scenes:
        if not re.fullmatch(r"[\w-]+", scene.scene) or scene.scene in texts:
            raise InputError(
                "a Map-free submission has each scene once, under its name (as s00525), not under "
                f"{scene.scene!r}: localize each scene's own folder"
            )
        lines = []
        for name, cam_from_world in _answered(scene, scene.by_name).items():
            if not _MAPFREE_FRAME.fullmatch(name):
                raise InputError(f"{name} is no Map-free frame: these end as frame_00000.jpg")
            answer = scene[name]
            score = answer.confidence if by_confidence else answer.num_inliers
            numbers = _numbers(cam_from_world.quat_wxyz, cam_from_world.translation)
            lines.append(f"{name} {numbers} {score}")
        texts[scene.scene] = "\n".join(lines) + "\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for scene_name, text in texts.items():
            # A fixed date: the same estimates give the same file.
            archive.writestr(zipfile.ZipInfo(f"pose_{scene_name}.txt"), text)
    write_new_bytes(Path(path), buffer.getvalue())


def _answered(estimates: PoseEstimates, names: Iterable[str]) -> dict[str, Rigid3d]:
    """Poses of those of `names` that were answered, in this order.

    Raises:
        InputError: one has no estimate, none was answered, or a name would break up in a text.
    """
    poses: dict[str, Rigid3d] = {}
    for name in names:
        if name not in estimates.by_name:
            raise InputError(f"query {name} has no estimate: export the views that were localized")
        if len(name.split()) != 1:
            raise InputError(
                f"image {name!r} has a blank in its name, which no pose file allows: rename"
            )
        pose = estimates[name].cam_from_world
        if pose is not None:
            poses[name] = pose
    if not poses:
        raise InputError("no query was answered: there is no pose to export")
    return poses


def _numbers(*tensors: Tensor) -> str:
    """Values, separated by blanks, with all the digits that they have."""
    return " ".join(repr(value) for tensor in tensors for value in tensor.tolist())
