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
        amount: by how much, where that is to be said.
    """

    name: str
    what: str
    mending: str
    amount: str = ""


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
FOCAL_LENGTH = "focal length"
_OTHER_AXES = Rigid3d(
    torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)),
    torch.zeros(3, dtype=torch.float64),
)


@dataclass(frozen=True)
class PoseMending:
    """Undoes some mistakes with poses, none of them twice.

    Attributes:
        mistakes: that it undoes; empty for poses as they are.
        mend: cam_from_world as loaded to cam_from_world as it should be, of any batch shape.
    """

    mistakes: tuple[Mistake, ...]
    mend: Callable[[Rigid3d], Rigid3d]


def pose_mendings() -> list[PoseMending]:
    """Direction with axes and a turn, or with the order of quaternions: every combination."""
    mendings = []
    for inverse, axes, turn in product((False, True), (False, True), range(4)):
        mistakes = [INVERSE] if inverse else []
        mistakes += [AXES] if axes else []
        mistakes += [TURNS[turn]] if turn else []
        mend = _Reread(inverse=inverse, axes=axes, turn=turn)
        mendings.append(PoseMending(tuple(mistakes), mend))
    for inverse, was_inverted, (order, roll) in product(
        (False, True), (False, True), ((X_FIRST, 1), (W_FIRST, -1))
    ):
        mistakes = [order, INVERSE] if inverse else [order]
        mend = _Reread(inverse=inverse, quaternion_roll=roll, was_inverted=was_inverted)
        mendings.append(PoseMending(tuple(mistakes), mend))
    return mendings


@dataclass(frozen=True)
class _Reread:
    """Reads again, in another way, what a file must have held.

    Attributes:
        inverse: take the poses the other way round.
        axes: take the camera axes of the other convention.
        turn: quarter turns, clockwise, from the picture that the pose is of to the image.
        quaternion_roll: places by which the numbers of the quaternion, w first, are to be moved on.
        was_inverted: the loader has inverted what it read: the order of quaternions depends on it.
    """

    inverse: bool = False
    axes: bool = False
    turn: int = 0
    quaternion_roll: int = 0
    was_inverted: bool = False

    def __call__(self, cam_from_world: Rigid3d) -> Rigid3d:
        stored = cam_from_world.inverse() if self.was_inverted else cam_from_world
        if self.quaternion_roll:
            quat_wxyz = stored.quat_wxyz.roll(self.quaternion_roll, -1)
            stored = Rigid3d.from_quat_wxyz(quat_wxyz, stored.translation)
        reread = stored.inverse() if self.was_inverted != self.inverse else stored
        reread = _OTHER_AXES @ reread if self.axes else reread
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
                f"times {self.factor:.3g}",
            )
        focals_px = [float(camera.focal.mean()) for camera in cameras]
        given_px, best_px = focals_px[0], focals_px[0] * self.factor
        if max(focals_px) - min(focals_px) > 1e-3 * given_px:
            return Mistake(
                FOCAL_LENGTH,
                f"the focal lengths are wrong: {self.factor:.3g} times them fits the images",
                f"multiply the focal lengths by {self.factor:.3g} where they are stored",
                f"times {self.factor:.3g}",
            )
        return Mistake(
            FOCAL_LENGTH,
            f"the focal length is wrong: it is {given_px:.5g} px, and {best_px:.0f} px fits",
            f"--focal {best_px:.0f}",
            f"{best_px:.0f} px",
        )


AS_GIVEN = IntrinsicsMending()


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
        unit = "frame" if self.unit == "frames" and abs(self.amount) == 1 else self.unit
        size = f"{abs(self.amount):.3g} {unit}"
        late = "later" if self.amount > 0 else "earlier"
        mending = f"--time-offset-s {self.amount:.3g}"
        if self.unit == "frames":
            mending = f"give each image the pose that is stored {size} {late}"
        what = f"the poses are not of the images' times: those of {size} {late} fit"
        return Mistake("time offset", what, mending, f"{size} {late}")
