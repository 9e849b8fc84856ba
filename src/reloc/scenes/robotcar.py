"""Oxford RobotCar with the splits of MapNet (Brahmbhatt et al., CVPR 2018).

A scene is a folder, loop say, with train_split.txt and test_split.txt, whose lines name drives,
and for each drive DRIVE/stereo/centre/TIMESTAMP.png (or stereo/centre_processed) and
DRIVE/gps/ins.csv. Images are to be demosaiced and undistorted, by the dataset's own kit; any size
will do. The pose of an image is that of the inertial unit, interpolated to the image's time
(microseconds). With the kit's `extrinsics` folder in the scene's folder or beside it, poses are
moved from the inertial unit to the camera.

World: x north, y east, z down, in metres from the first mapping image.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics
from reloc.scenes.images import read_header
from reloc.scenes.layout import Layout
from reloc.scenes.names import image_name
from reloc.scenes.options import LoadOptions
from reloc.scenes.photos import Photo, build_scene, left_out_note
from reloc.scenes.poses import PoseConvention, pose_from_numbers
from reloc.scenes.scene import Scene
from reloc.scenes.splits import Split
from reloc.scenes.text import numbers, read_lines, read_text

_LISTS = ("train_split.txt", "test_split.txt")
_IMAGE_FOLDERS = ("stereo/centre_processed", "stereo/centre")
# The kit's camera model stereo_narrow_left, of undistorted images of this size.
_SIZE = (1280, 960)
_PINHOLE = (964.828979, 964.828979, 643.788025, 484.407990)
_COLUMNS = ("timestamp", "northing", "easting", "down", "roll", "pitch", "yaw")
# The kit's frames are x forward, y right, z down.
_CAM_FROM_BODY = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


def _recognises(path: Path) -> bool:
    return all((path / name).is_file() for name in _LISTS) and (
        next(path.glob("*/gps/ins.csv"), None) is not None
    )


def _load(path: Path, options: LoadOptions) -> Scene:
    camera_from_ins = _camera_from_ins(path)
    convention = PoseConvention("world_from_cam").overridden(options)
    offset_us = 1e6 * (options.time_offset_s or 0.0)
    origin: np.ndarray | None = None
    photos, outside, parts = [], [], []
    for name in _LISTS:
        names = []
        for line in read_lines(path / name):
            track = _read_track(path / line.text / "gps" / "ins.csv")
            images = _images(path / line.text, line.where)
            intrinsics = _intrinsics(images[0])
            for image in images:
                pose = track.at(int(image.stem) + offset_us)
                if pose is None:
                    outside.append(image_name(image, path))
                    continue
                rotation, position = pose
                origin = position if origin is None else origin
                body = np.eye(4)
                body[:3, :3], body[:3, 3] = rotation, position - origin
                matrix = body @ np.linalg.inv(camera_from_ins)
                photo = Photo(
                    image_name(image, path),
                    image,
                    pose_from_numbers(matrix.ravel().tolist(), convention, str(image)),
                    intrinsics,
                    sequence=line.text,
                    timestamp_s=int(image.stem) * 1e-6,
                )
                photos.append(photo)
                names.append(photo.name)
        parts.append(tuple(names))
    notes = left_out_note(outside, "their times are outside of ins.csv")
    if origin is not None:
        north, east, down = origin
        notes.append(
            f"the world's origin is northing {north:.3f}, easting {east:.3f}, down {down:.3f}"
        )
    if _extrinsics_folder(path) is None:
        notes.append(
            "there is no `extrinsics` folder of the dataset's kit: positions are those of the "
            "inertial unit, which lies metres from the camera"
        )
    return build_scene(
        photos,
        path,
        LAYOUT.name,
        options,
        ground_truth="ins",
        metric=True,
        own_split=Split(*parts),
        left_out=outside,
        notes=notes,
    )


@dataclass(frozen=True, eq=False)
class _Track:
    """A drive: times (N,) in µs, positions (N, 3) and rotations world_from_ins."""

    times_us: np.ndarray
    positions: np.ndarray
    slerp: Slerp

    def at(self, time_us: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Rotation (3, 3) and position (3,); None outside of the drive."""
        if not self.times_us[0] <= time_us <= self.times_us[-1]:
            return None
        columns = self.positions.T
        position = np.array([np.interp(time_us, self.times_us, column) for column in columns])
        return self.slerp(time_us).as_matrix(), position


def _read_track(path: Path) -> _Track:
    rows = csv.DictReader(io.StringIO(read_text(path)))
    if not set(_COLUMNS) <= set(rows.fieldnames or ()):
        raise InputError(f"{path} must have the columns {', '.join(_COLUMNS)}")
    table = [
        numbers([str(row[column]) for column in _COLUMNS], f"{path}:{rows.line_num}")
        for row in rows
    ]
    values = np.array(table, dtype=np.float64).reshape(-1, len(_COLUMNS))
    if len(values) < 2 or not np.isfinite(values).all():
        raise InputError(f"{path} has fewer than two rows, or values that are not finite")
    times_us = values[:, 0]
    if (np.diff(times_us) <= 0).any():
        raise InputError(f"{path}: times must increase")
    return _Track(times_us, values[:, 1:4], Slerp(times_us, _rotations(values[:, 4:])))


def _rotations(roll_pitch_yaw: np.ndarray) -> Rotation:
    """Rz(yaw) Ry(pitch) Rx(roll), as the kit has them."""
    return Rotation.from_euler("ZYX", roll_pitch_yaw[..., ::-1])


def _images(drive: Path, where: str) -> list[Path]:
    for folder in _IMAGE_FOLDERS:
        images = [path for path in (drive / folder).glob("*.png") if path.stem.isdecimal()]
        if images:
            return sorted(images, key=lambda path: int(path.stem))
    raise InputError(f"{where}: there is no image in {drive / _IMAGE_FOLDERS[1]}")


def _intrinsics(image: Path) -> Intrinsics:
    """Of the size that the images of a drive were brought to."""
    header = read_header(image)
    x_scale, y_scale = header.width / _SIZE[0], header.height / _SIZE[1]
    params = tuple(np.array(_PINHOLE) * [x_scale, y_scale, x_scale, y_scale])
    return Intrinsics(params, str(image), "PINHOLE", header.size)


def _extrinsics_folder(path: Path) -> Path | None:
    for folder in (path / "extrinsics", path / "../extrinsics"):
        if (folder / "ins.txt").is_file() and (folder / "stereo.txt").is_file():
            return folder
    return None


def _camera_from_ins(path: Path) -> np.ndarray:
    """4x4. ins.txt and stereo.txt are vehicle_from_ins and camera_from_vehicle, in body axes."""
    mount = np.eye(4)
    mount[:3, :3] = _CAM_FROM_BODY
    folder = _extrinsics_folder(path)
    if folder is None:
        return mount
    return mount @ _read_extrinsics(folder / "stereo.txt") @ _read_extrinsics(folder / "ins.txt")


def _read_extrinsics(path: Path) -> np.ndarray:
    values = numbers(read_text(path).split(), str(path))
    if len(values) != 6 or not np.isfinite(values).all():
        raise InputError(f"{path} must have x y z roll pitch yaw")
    matrix = np.eye(4)
    matrix[:3, :3] = _rotations(np.array(values[3:])).as_matrix()
    matrix[:3, 3] = values[:3]
    return matrix


LAYOUT = Layout(
    name="robotcar",
    summary="train_split.txt, test_split.txt, DRIVE/stereo/centre/TIMESTAMP.png, DRIVE/gps/ins.csv",
    recognises=_recognises,
    load=_load,
    options=frozenset({"time_offset_s"}),
)
