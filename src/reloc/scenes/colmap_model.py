"""Cameras and images of a COLMAP model, text or binary; its points are not read.

Read here and not by pycolmap, which goes through a count of millions that a cut-off binary file
seems to have, for hours, and cannot say in which line a text file is wrong. Formats: COLMAP's
documentation, "Output format"; also the files of versions with rigs hold each image's own pose.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics
from reloc.scenes.text import Line, numbers, read_lines, read_text, shortened

# COLMAP's numbers of the models, and how many parameters each has.
_MODELS = (
    ("SIMPLE_PINHOLE", 3),
    ("PINHOLE", 4),
    ("SIMPLE_RADIAL", 4),
    ("RADIAL", 5),
    ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12),
    ("FOV", 5),
    ("SIMPLE_RADIAL_FISHEYE", 4),
    ("RADIAL_FISHEYE", 5),
    ("THIN_PRISM_FISHEYE", 12),
)
_BYTES_OF_A_POINT = 24


@dataclass(frozen=True)
class ModelImage:
    """An image of a model.

    Attributes:
        name: its path below the folder of images.
        camera_id: number of its camera.
        pose: quaternion, w first, and translation of cam_from_world.
        where: file and line, for messages.
    """

    name: str
    camera_id: int
    pose: Sequence[float]
    where: str


@dataclass(frozen=True)
class Model:
    """Cameras by their numbers, and images in the file's order."""

    cameras: Mapping[int, Intrinsics]
    images: Sequence[ModelImage]


def model_folder(path: Path) -> Path | None:
    """Where the model of a scene's folder is; None where there is none."""
    for name in ("sparse/0", "sparse", "colmap/sparse/0", "."):
        for ending in ("bin", "txt"):
            if all((path / name / f"{file}.{ending}").is_file() for file in ("cameras", "images")):
                return path / name
    return None


def read_model(folder: Path) -> Model:
    """Read the binary files, or the text files where there are no binary ones.

    Raises:
        InputError: a file is damaged, or a camera's model is none of `Camera.MODELS`.
    """
    if (folder / "cameras.bin").is_file():
        cameras = dict(_binary_cameras(_Bytes(folder / "cameras.bin")))
        images = list(_binary_images(_Bytes(folder / "images.bin")))
    else:
        cameras = dict(map(_text_camera, read_lines(folder / "cameras.txt")))
        images = list(_text_images(folder / "images.txt"))
    for image in images:
        if image.camera_id not in cameras:
            raise InputError(f"{image.where}: there is no camera {image.camera_id}")
    return Model(cameras, images)


def _intrinsics(
    model: str, size: tuple[int, int], params: Sequence[float], where: str
) -> Intrinsics:
    if model not in Camera.MODELS:
        raise InputError(
            f"{where}: a camera of the model {shortened(model)} cannot be used: undistort the "
            "images with `colmap image_undistorter`"
        )
    intrinsics = Intrinsics(tuple(params), where, model, size)
    intrinsics.camera(size)
    return intrinsics


def _text_camera(line: Line) -> tuple[int, Intrinsics]:
    """`CAMERA_ID MODEL WIDTH HEIGHT PARAMS...`."""
    fields = line.text.split()
    if len(fields) < 5:
        raise InputError(f"{line.where}: a camera has a number, a model, a size and parameters")
    number, width, height = _integers([fields[0], *fields[2:4]], line.where)
    params = numbers(fields[4:], line.where)
    return number, _intrinsics(fields[1], (width, height), params, line.where)


def _text_images(path: Path) -> Iterator[ModelImage]:
    """`IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME`, each with a line of points behind."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    for number, text in lines:
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        where = f"{path}:{number}"
        fields = text.split(maxsplit=9)
        if len(fields) != 10:
            raise InputError(f"{where}: an image has 10 fields, not {len(fields)}")
        camera_id = _integers(fields[8:9], where)[0]
        yield ModelImage(fields[9].strip(), camera_id, numbers(fields[1:8], where), where)
        # Its points, three numbers each: an empty line where there are none. Where a script left it
        # out, the next image would be taken for it.
        _, points = next(lines, (0, ""))
        if len(points.split()) % 3:
            raise InputError(
                f"{path}:{number + 1}: the line of points of {shortened(fields[9])} is missing: an "
                "empty one will do"
            )


def _integers(fields: Sequence[str], where: str) -> list[int]:
    for field in fields:
        if not field.isdecimal() or len(field) > 18:
            raise InputError(f"{where}: {shortened(field)!r} is no whole number")
    return [int(field) for field in fields]


class _Bytes:
    """A binary file, read from its beginning on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        self._position = 0

    def take(self, layout: str) -> tuple[float, ...]:
        """The next values, as `struct` lays them out."""
        begin = self._skip(struct.calcsize(f"<{layout}"))
        return struct.unpack_from(f"<{layout}", self._data, begin)

    def take_text(self) -> str:
        """The next characters, up to a zero."""
        end = self._data.find(b"\0", self._position)
        begin = self._skip(end + 1 - self._position)
        try:
            return self._data[begin:end].decode()
        except UnicodeDecodeError:
            raise self._damaged() from None

    def skip_points(self) -> None:
        """Go behind a count and as many points."""
        (count,) = self.take("Q")
        self._skip(int(count) * _BYTES_OF_A_POINT)

    def _skip(self, length: int) -> int:
        begin = self._position
        if length < 0 or begin + length > len(self._data):
            raise self._damaged()
        self._position += length
        return begin

    def _damaged(self) -> InputError:
        return InputError(f"{self.path} is damaged or cut short: copy it again")


def _binary_cameras(file: _Bytes) -> Iterator[tuple[int, Intrinsics]]:
    (count,) = file.take("Q")
    for _ in range(int(count)):
        number, model, width, height = map(int, file.take("IiQQ"))
        where = f"{file.path}: camera {number}"
        if not 0 <= model < len(_MODELS):
            raise InputError(f"{where} has the unknown model {model}")
        name, num_params = _MODELS[model]
        params = file.take(f"{num_params}d")
        yield number, _intrinsics(name, (width, height), params, where)


def _binary_images(file: _Bytes) -> Iterator[ModelImage]:
    (count,) = file.take("Q")
    for _ in range(int(count)):
        _, *pose, camera_id = file.take("I7dI")
        name = file.take_text()
        file.skip_points()
        yield ModelImage(name, int(camera_id), pose, f"{file.path}: image {shortened(name)}")
