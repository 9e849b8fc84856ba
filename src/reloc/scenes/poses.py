"""Numbers in files to poses: the one place where other conventions become cam_from_world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.options import Axes, Direction, LoadOptions, QuaternionOrder

# OpenGL's camera looks along -z with y up; ours looks along z with y down.
_OPENCV_FROM_OPENGL = Rigid3d(
    torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)),
    torch.zeros(3, dtype=torch.float64),
)


@dataclass(frozen=True)
class PoseConvention:
    """How a file writes poses.

    Attributes:
        direction: of the rotation, and of the translation unless `gives_center`.
        axes: of the camera.
        quaternion: its order.
        gives_center: the three numbers are the camera centre, whichever way the rotation goes.
    """

    direction: Direction = "cam_from_world"
    axes: Axes = "opencv"
    quaternion: QuaternionOrder = "wxyz"
    gives_center: bool = False

    def overridden(self, options: LoadOptions) -> PoseConvention:
        """The convention as a person corrects it."""
        return replace(
            self,
            direction=options.poses or self.direction,
            axes=options.axes or self.axes,
            quaternion=options.quaternion or self.quaternion,
        )


def pose_from_numbers(numbers: Sequence[float], convention: PoseConvention, where: str) -> Rigid3d:
    """cam_from_world, float64, in OpenCV axes.

    Args:
        numbers: 7 (a quaternion, then three of translation or centre), or the rows of a 3x4 or 4x4
            matrix.
        convention: how to read them.
        where: file and line, for messages.

    Raises:
        InputError: a number is not finite, the count is none of these, or it is no rotation.
    """
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"{where}: the pose has a value that is not finite: mend or remove it")
    values = torch.tensor(numbers, dtype=torch.float64)
    try:
        if len(numbers) == 7:
            quaternion = values[:4].roll(1) if convention.quaternion == "xyzw" else values[:4]
            transform = Rigid3d.from_quat_wxyz(quaternion, values[4:])
        elif len(numbers) in (12, 16):
            matrix = values.reshape(-1, 4)
            if not _is_last_row(numbers[12:]):
                raise InputError(
                    f"{where}: the last row of the matrix is not 0 0 0 1: write it row by row"
                )
            transform = Rigid3d.from_matrix(matrix[:3])
        else:
            raise InputError(f"{where}: a pose has 7, 12 or 16 numbers, not {len(numbers)}")
    except ValueError as error:
        raise InputError(f"{where}: no pose: {error}") from error
    if convention.gives_center and convention.direction == "cam_from_world":
        center = transform.translation
        transform = Rigid3d(transform.rotation, -(transform.rotation @ center))
    if convention.direction == "world_from_cam":
        transform = transform.inverse()
    if convention.axes == "opengl":
        transform = _OPENCV_FROM_OPENGL @ transform
    return transform


def _is_last_row(numbers: Sequence[float]) -> bool:
    expected = (0.0, 0.0, 0.0, 1.0)
    return all(abs(a - b) < 1e-6 for a, b in zip(numbers, expected, strict=False))
