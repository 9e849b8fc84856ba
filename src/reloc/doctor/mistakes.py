"""The usual mistakes with poses and cameras, each as what undoes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import turned_from_cam


@dataclass(frozen=True)
class Mistake:
    """A usual mistake.

    Attributes:
        name: short, for tables.
        what: a sentence for people, without its full stop.
        mending: the option that mends it, or what to do where no option does.
    """

    name: str
    what: str
    mending: str


INVERSE = Mistake(
    "inverse poses",
    "the poses are the inverse of what they were read as",
    "--poses world_from_cam (--poses cam_from_world if that is how they were read)",
)
AXES = Mistake(
    "OpenGL axes",
    "the camera axes are not those that were assumed: y and z point the other way",
    "--axes opengl (--axes opencv if they were read as opengl)",
)
X_FIRST = Mistake(
    "quaternion x first", "the quaternions are x first but were read w first", "--quaternion xyzw"
)
W_FIRST = Mistake(
    "quaternion w first", "the quaternions are w first but were read x first", "--quaternion wxyz"
)
TURNS = {
    1: Mistake(
        "quarter turn clockwise",
        "the images are turned by 90 degrees clockwise against their poses",
        "turn the images by 90 degrees counterclockwise, or remove their EXIF orientation",
    ),
    2: Mistake(
        "half turn", "the images are turned by 180 degrees against their poses", "--half-turn"
    ),
    3: Mistake(
        "quarter turn counterclockwise",
        "the images are turned by 90 degrees counterclockwise against their poses",
        "turn the images by 90 degrees clockwise, or remove their EXIF orientation",
    ),
}
_OTHER_AXES = Rigid3d(
    torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)),
    torch.zeros(3, dtype=torch.float64),
)


@dataclass(frozen=True, eq=False)
class PoseMending:
    """Undoes some mistakes with poses, none of them twice.

    Attributes:
        mistakes: that it undoes; empty for poses as they are.
        mend: cam_from_world as loaded to cam_from_world as it should be, of any batch shape.
    """

    mistakes: tuple[Mistake, ...]
    mend: Callable[[Rigid3d], Rigid3d]


def pose_mendings() -> list[PoseMending]:
    """Every combination of direction, axes and a turn, or of direction, axes and quaternion order."""
    mendings = []
    for inverse, axes, turn in product((False, True), (False, True), range(4)):
        mistakes = (INVERSE,) * inverse + (AXES,) * axes + ((TURNS[turn],) if turn else ())
        mendings.append(PoseMending(mistakes, _Reread(inverse=inverse, axes=axes, turn=turn)))
    for order, inverse, *read_as in product((X_FIRST, W_FIRST), *[(False, True)] * 3):
        mistakes = (order,) + (INVERSE,) * inverse
        roll = 1 if order is X_FIRST else -1
        mendings.append(
            PoseMending(
                mistakes, _Reread(inverse=inverse, quaternion_roll=roll, read_as=tuple(read_as))
            )
        )
    return mendings


@dataclass(frozen=True)
class _Reread:
    """Reads again, in another way, what a file must have held.

    Attributes:
        inverse: take the poses the other way round.
        axes: take the axes of the other convention.
        turn: quarter turns, clockwise, from the pose's picture to the image.
        quaternion_roll: by which the numbers of the quaternion are moved on.
        read_as: whether the loader inverted the poses that it read, and changed their axes. Only the
            order of a quaternion depends on it.
    """

    inverse: bool = False
    axes: bool = False
    turn: int = 0
    quaternion_roll: int = 0
    read_as: tuple[bool, ...] = (False, False)

    def __call__(self, cam_from_world: Rigid3d) -> Rigid3d:
        inverted, changed_axes = self.read_as
        stored = _OTHER_AXES @ cam_from_world if changed_axes else cam_from_world
        stored = stored.inverse() if inverted else stored
        if self.quaternion_roll:
            quat_wxyz = stored.quat_wxyz.roll(self.quaternion_roll, -1)
            stored = Rigid3d.from_quat_wxyz(quat_wxyz, stored.translation)
        reread = stored.inverse() if inverted != self.inverse else stored
        reread = _OTHER_AXES @ reread if changed_axes != self.axes else reread
        return turned_from_cam(self.turn) @ reread


@dataclass(frozen=True)
class IntrinsicsMending:
    """Multiplies the focal lengths, or focal lengths and principal point together.

    Attributes:
        kind: what is multiplied.
        factor: 1.0 leaves the cameras as they are.
    """

    kind: Literal["focal", "scale"] = "focal"
    factor: float = 1.0

    def mend(self, camera: Camera) -> Camera:
        """The camera as it should be. Its width and height are left alone."""
        num_scaled = len(camera.params) - len(camera.distortion) - 2 * (self.kind == "focal")
        params = camera.params.clone()
        params[:num_scaled] *= self.factor
        return replace(camera, params=params)

    def mistake(self, cameras: Sequence[Camera]) -> Mistake:
        """What was wrong, in words."""
        if self.kind == "scale":
            return Mistake(
                "intrinsics of another size",
                f"the intrinsics are for images {1 / self.factor:.3g} times as large",
                f"--intrinsics-scale {self.factor:.4g}",
            )
        focals_px = {round(float(camera.focal.mean()), 2) for camera in cameras}
        if len(focals_px) > 1:
            return Mistake(
                "focal length",
                f"the focal lengths are wrong: {self.factor:.3g} times them fits the images",
                f"multiply the focal lengths by {self.factor:.3g} where they are stored",
            )
        focal_px = focals_px.pop()
        best_px = focal_px * self.factor
        return Mistake(
            "focal length",
            f"the focal length is wrong: {focal_px:.5g} px was given, {best_px:.0f} px fits the images",
            f"--focal {best_px:.0f}",
        )


@dataclass(frozen=True)
class TimeShift:
    """Gives each image the pose of another time.

    Attributes:
        amount: later than the image's own, in `unit`.
        unit: "s" where views have timestamps, else "frames".
    """

    amount: float
    unit: Literal["s", "frames"]

    def mistake(self) -> Mistake:
        """What was wrong, in words."""
        late = "later" if self.amount > 0 else "earlier"
        size = abs(self.amount)
        if self.unit == "s":
            what, mending = f"{size:.3g} s", f"--time-offset-s {self.amount:.3g}"
        else:
            what = f"{size:.3g} frame{'s' if size != 1 else ''}"
            mending = (
                f"move the poses by {what}: each image has the pose of one that comes {what} {late}"
            )
        return Mistake(
            "time offset", f"the pose that fits an image is that of {what} {late}", mending
        )


AS_GIVEN = IntrinsicsMending()
