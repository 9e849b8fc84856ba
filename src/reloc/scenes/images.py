"""Image files: headers, pixels, depth maps, and a single photo as a query.

EXIF orientation: the camera says which. An image whose size as stored is the camera's is taken as
stored; one whose size after the turn that EXIF asks for is the camera's is turned upright. Where no
intrinsics are given, images are turned upright.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.scenes.scene import Query

IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
# "35 mm equivalent" compares diagonals with that of 36 mm x 24 mm film.
_FILM_DIAGONAL_MM = math.hypot(36, 24)
_MM_PER_RESOLUTION_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}
# How to mend intrinsics of another size where they were said for a photo, not for a scene.
PHOTO_MENDING = "width and height included"
# A focal length outside of these, over the image's diagonal, is a wrong tag: 170° to 2° of view.
_PLAUSIBLE_FOCAL_RATIO = (0.05, 30.0)


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of an image before its pixels.

    Attributes:
        width: in pixels, as stored.
        height: in pixels, as stored.
        orientation: EXIF's, 1 to 8; 1 is upright, 5 to 8 swap width and height.
        focal: in pixels, from EXIF; None where it does not tell.
    """

    width: int
    height: int
    orientation: int = 1
    focal: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored."""
        return self.width, self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after the turn that EXIF asks for."""
        return (self.height, self.width) if self.orientation >= 5 else self.size

    def camera(self) -> Camera:
        """Of the upright image: with EXIF's focal length, else a guess to be estimated."""
        if self.focal is None:
            return Camera.guess(*self.upright_size)
        return Camera.simple_pinhole(self.focal, *self.upright_size)


def read_header(path: Path) -> ImageHeader:
    """Size, orientation and focal length, without decoding.

    A TIFF is turned by whoever reads it: its size is that of the upright image, its orientation 1.

    Raises:
        InputError: the file is missing or no image.
    """
    try:
        # Pillow warns of damaged tags, which then are as good as absent.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            width, height = image.size
            is_turned = image.format == "TIFF"
            exif = image.getexif()
            tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except FileNotFoundError:
        raise InputError(f"image {path} is missing") from None
    # Pillow raises what its many parsers happen to raise on damaged files.
    except Exception as error:
        if path.suffix.lower() in (".heic", ".heif"):
            raise InputError(f"{path} is HEIC, which is not read: convert it to JPEG") from error
        raise InputError(f"{path} is no image, or is damaged: replace or remove it") from error
    # Whoever reads a TIFF turns it, asked or not: Pillow its size, OpenCV its pixels.
    orientation = 1 if is_turned else tags.get(ExifTags.Base.Orientation, 1)
    return ImageHeader(
        width,
        height,
        orientation if orientation in range(1, 9) else 1,
        _focal_from_exif(tags, width, height),
    )


def _focal_from_exif(tags: Mapping[int, Any], width: int, height: int) -> float | None:
    """Focal length in pixels: from the 35 mm equivalent, else from the density of the sensor."""
    diagonal = math.hypot(width, height)
    equivalent_mm = _positive(tags.get(ExifTags.Base.FocalLengthIn35mmFilm))
    focal_mm = _positive(tags.get(ExifTags.Base.FocalLength))
    density = _positive(tags.get(ExifTags.Base.FocalPlaneXResolution))
    unit_mm = _MM_PER_RESOLUTION_UNIT.get(tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    if equivalent_mm:
        focal = equivalent_mm / _FILM_DIAGONAL_MM * diagonal
    elif focal_mm and density and unit_mm:
        # The density is that of the picture as it was taken, which may have been resized since.
        taken = [
            _positive(tags.get(tag))
            for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)
        ]
        # Longer sides: its pixels may have been turned since, and not the sides in its tags.
        ratio = width / (taken[0] or width)
        if taken[0] and taken[1]:
            ratio = max(width, height) / max(taken[0], taken[1])
        focal = focal_mm * density / unit_mm * ratio
    else:
        return None
    low, high = _PLAUSIBLE_FOCAL_RATIO
    return focal if low < focal / diagonal < high else None


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def read_image(path: Path, upright: bool = True) -> Tensor:
    """(3, H, W) uint8 RGB; grey, 16-bit and transparent images become that.

    Args:
        path: of the file.
        upright: turn it as EXIF asks, else take it as stored.

    Raises:
        InputError: the file is missing, cut short or no image.
    """
    data = _read_bytes(path)
    if not _is_whole(data):
        raise InputError(f"image {path} is cut short: replace or remove it")
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = _decode(data, flags, path)
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).contiguous()


def read_depth(path: Path, unit_m: float) -> np.ndarray:
    """(H, W) float32 metres, 0 where unknown: stored 0 and 65535 both say so.

    Raises:
        InputError: the file is missing, or no image of one 16-bit channel.
    """
    stored = _decode(_read_bytes(path), cv2.IMREAD_UNCHANGED, path)
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise InputError(f"{path} is no depth map: it must have one channel of 16 bits")
    depth = stored.astype(np.float32) * np.float32(unit_m)
    depth[stored == np.iinfo(np.uint16).max] = 0
    return depth


def query_from_image(path: Path, camera: Camera | None = None, focal: float | None = None) -> Query:
    """A photo as a query, named by its path.

    Args:
        path: of the photo.
        camera: its intrinsics; from EXIF, or to be estimated, where it is None.
        focal: its focal length in pixels, where nothing more is known: the photo is turned upright
            as it is without it.

    Raises:
        InputError: the file cannot be read, its size is not the camera's or not what its header
            says, or the focal length is not positive.
    """
    header = read_header(path)
    if camera is None:
        camera = header.camera()
        upright = True
    else:
        upright = is_turned_for(camera, header, path, PHOTO_MENDING)
    if focal is not None:
        try:
            camera = camera.with_focal(focal)
        except ValueError as error:
            raise InputError(f"image {path} cannot have focal length {focal:g}: {error}") from error
    image = read_image(path, upright)
    height, width = image.shape[1:]
    if (width, height) != (camera.width, camera.height):
        # As for an AVIF that EXIF asks to turn: OpenCV does not.
        raise InputError(
            f"image {path} should be {camera.width}x{camera.height} pixels by its header but is "
            f"read as {width}x{height}: turn it upright and save it as PNG or JPEG"
        )
    return Query(str(path), image, camera)


def is_turned_for(
    camera: Camera,
    header: ImageHeader,
    path: Path,
    mending: str = "--intrinsics-scale",
    scale: float = 1.0,
) -> bool:
    """Whether an image is to be turned upright to be the camera's.

    Args:
        camera: as it was said for the image.
        header: of the image.
        path: of the image, for the complaint.
        mending: where to multiply intrinsics that belong to another size of it.
        scale: by which they were multiplied already.

    Raises:
        InputError: it is not the camera's either way.
    """
    if (camera.width, camera.height) == header.size:
        return False
    if (camera.width, camera.height) == header.upright_size:
        return True
    # Of the image as it lies or as it is seen, whichever has the camera's shape.
    shapes = (header.size, header.upright_size)
    width, _ = min(shapes, key=lambda size: abs(size[0] * camera.height - size[1] * camera.width))
    raise InputError(
        f"image {path} is {header.width}x{header.height} pixels but its intrinsics are for "
        f"{camera.width}x{camera.height}: if they belong to another size of it, multiply them by "
        f"{scale * width / camera.width:.4g} ({mending})"
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"image {path} is missing") from None
    except OSError as error:
        raise InputError(f"image {path} cannot be read: {error.strerror}") from error


def _decode(data: bytes, flags: int, path: Path) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags) if data else None
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{path} is no image, or is damaged: replace or remove it")
    return image


def _is_whole(data: bytes) -> bool:
    """False for a JPEG or PNG without its end: OpenCV may fill what is missing with grey."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data
    if not data.startswith(b"\xff\xd8"):
        return True
    position = 2
    # Segments before the picture can hold a whole small JPEG: skip them by their lengths.
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == b"\xda":
            return data.find(b"\xff\xd9", position) >= 0
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 1 if marker == b"\xff" else 2 + length
    return False
