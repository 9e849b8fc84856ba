"""Intrinsics in files to cameras of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.scenes.images import ImageHeader, is_turned_for
from reloc.scenes.names import spellings
from reloc.scenes.options import LoadOptions
from reloc.scenes.text import Line, numbers, read_lines


@dataclass(frozen=True)
class Intrinsics:
    """What a file says of a camera.

    Attributes:
        params: COLMAP's parameters of `model`; or one focal length alone, for the principal point
            in the middle and no distortion.
        where: file and line, for messages. Equal intrinsics of one line are of one camera.
        model: one of `Camera.MODELS`.
        size: width and height of the images they are for; None where the file does not say.
    """

    params: tuple[float, ...]
    where: str
    model: str = "SIMPLE_PINHOLE"
    size: tuple[int, int] | None = None

    def camera(self, size: tuple[int, int], scale: float = 1.0) -> Camera:
        """The camera of an image of `size`, with focal length and principal point times `scale`.

        Raises:
            InputError: they are no intrinsics.
        """
        try:
            if len(self.params) == 1:
                return Camera.simple_pinhole(scale * self.params[0], *size)
            camera = Camera.of(self.model, *size, self.params)
            num_pixels = len(self.params) - len(camera.distortion)
            in_pixels, distortion = self.params[:num_pixels], self.params[num_pixels:]
            return Camera.of(self.model, *size, [*(scale * p for p in in_pixels), *distortion])
        except ValueError as error:
            raise InputError(f"{self.where}: {error}") from error

    def with_focal(self, focal: float, where: str) -> Intrinsics:
        """The same with another focal length (both, where it has two), which `where` says."""
        num_other = 2 + len(self.camera((1, 1)).distortion)
        others = self.params[-num_other:]
        params = (*[focal] * (len(self.params) - num_other), *others)
        return replace(self, params=params, where=where)


def camera_of_image(
    intrinsics: Intrinsics | None, header: ImageHeader, options: LoadOptions, path: Path
) -> tuple[Camera, bool]:
    """The camera of an image, and whether the image is to be turned upright for it.

    Raises:
        InputError: the intrinsics are none, or those of another size.
    """
    scale = options.intrinsics_scale or 1.0
    if intrinsics is None:
        if options.intrinsics_scale is not None:
            raise InputError(f"--intrinsics-scale: image {path} has no intrinsics to multiply")
        camera, upright = header.camera(), True
    elif intrinsics.size is None:
        camera, upright = intrinsics.camera(header.upright_size, scale), True
    else:
        size = intrinsics.size
        # The size is that of the intrinsics, unless it is the image's already.
        if size not in (header.size, header.upright_size):
            size = (round(scale * size[0]), round(scale * size[1]))
        camera = intrinsics.camera(size, scale)
        upright = is_turned_for(camera, header, path, scale=scale)
    if options.focal is not None:
        camera = camera.with_focal(options.focal)
    return camera, upright


@dataclass(frozen=True)
class IntrinsicsFile:
    """Intrinsics of many images: one for all, or one each.

    Attributes:
        path: of the file.
        shared: of all images; None where each has its own.
        by_name: of each image, under the names of the file.
    """

    path: Path
    shared: Intrinsics | None
    by_name: Mapping[str, Intrinsics]

    def of(self, name: str) -> Intrinsics:
        """Of one image.

        Raises:
            InputError: the file has none.
        """
        if self.shared is not None:
            return self.shared
        for spelling in (name, *spellings(name)):
            if spelling in self.by_name:
                return self.by_name[spelling]
        raise InputError(f"{self.path} has no intrinsics of {name}: add a line")


def read_intrinsics(path: Path) -> IntrinsicsFile:
    """One line `MODEL width height params...` for all images, or `name MODEL width ...` for each.

    Raises:
        InputError: the file is missing or empty, or has another line.
    """
    lines = read_lines(path)
    if not lines:
        raise InputError(f"{path} is empty: write MODEL width height and the model's parameters")
    if lines[0].fields()[0] in Camera.MODELS:
        if len(lines) > 1:
            raise InputError(
                f"{lines[1].where}: one camera was said for all images already: begin each line "
                "with the name of its image, or leave one line"
            )
        return IntrinsicsFile(path, _parsed(lines[0], lines[0].fields()), {})
    by_name = {}
    for line in lines:
        name, *rest = line.fields()
        by_name[name] = _parsed(line, rest)
    return IntrinsicsFile(path, None, by_name)


def _parsed(line: Line, fields: list[str]) -> Intrinsics:
    if len(fields) < 4 or fields[0] not in Camera.MODELS:
        raise InputError(
            f"{line.where}: intrinsics are MODEL width height params..., with a model of "
            f"{', '.join(Camera.MODELS)}"
        )
    width, height, *params = numbers(fields[1:], line.where)
    if not (width.is_integer() and height.is_integer()):
        raise InputError(f"{line.where}: the image size {width:g}x{height:g} is not whole")
    intrinsics = Intrinsics(tuple(params), line.where, fields[0], (int(width), int(height)))
    intrinsics.camera((1, 1))
    return intrinsics
