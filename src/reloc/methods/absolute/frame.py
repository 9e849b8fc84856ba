"""The frame that poses are regressed in, and the poses that networks predict in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import roma
import torch
from torch import Tensor

from reloc.contract import Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import View


@dataclass(frozen=True, eq=False)
class Frame:
    """A rigid frame and a unit of length, from the mapping poses alone.

    Its origin is the mean of the mapping cameras' centres, its axes are those of their mean
    rotation, and its unit is the root mean square distance of the centres from the origin: poses
    are about zero and one, and a rotation's numbers stay away from where they jump, wherever the
    world has its origin and however it is turned.

    Attributes:
        frame_from_world: rigid; lengths are those of the world.
        scale: the unit, in the world's.
    """

    frame_from_world: Rigid3d
    scale: float

    @staticmethod
    def of(cam_from_world: Rigid3d) -> Frame:
        """The frame of mapping poses (N).

        Raises:
            InputError: all cameras are in one place.
        """
        world_from_cam = cam_from_world.inverse()
        centers_N3 = world_from_cam.translation
        center_3 = centers_N3.mean(0)
        scale = float((centers_N3 - center_3).square().sum(-1).mean().sqrt())
        if scale < 1e-9 * max(float(centers_N3.abs().max()), 1.0):
            raise InputError(
                f"all {len(centers_N3)} mapping views are taken from one place: there is no "
                "position to learn; add photos from other places"
            )
        mean_33 = cast(Tensor, roma.special_procrustes(world_from_cam.rotation.sum(0)))
        return Frame(Rigid3d(mean_33, center_3).inverse(), scale)

    @staticmethod
    def from_views(views: Sequence[View]) -> Frame:
        """The frame of mapping views.

        Raises:
            InputError: all cameras are in one place.
        """
        return Frame.of(Rigid3d.stack([view.cam_from_world for view in views]))

    @staticmethod
    def from_tensors(tensors: Tensors) -> Frame:
        """The inverse of `tensors`."""
        frame_from_world = Rigid3d(tensors["frame_rotation"], tensors["frame_translation"])
        return Frame(frame_from_world, float(tensors["frame_scale"]))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """For a map."""
        return {
            "frame_rotation": self.frame_from_world.rotation,
            "frame_translation": self.frame_from_world.translation,
            "frame_scale": torch.tensor(self.scale, dtype=torch.float64),
        }

    def poses(self, cam_from_world: Rigid3d) -> tuple[Tensor, Tensor]:
        """Camera centres (N, 3) in the unit, and rotations frame_from_cam (N, 3, 3); float32."""
        frame_from_cam = self.frame_from_world @ cam_from_world.inverse()
        return (frame_from_cam.translation / self.scale).float(), frame_from_cam.rotation.float()

    def cam_from_world(self, position_N3: Tensor, rotation_N33: Tensor) -> Rigid3d:
        """The inverse of `poses`, float64, its rotations made orthonormal."""
        rotation_N33 = cast(Tensor, roma.special_procrustes(rotation_N33.double().cpu()))
        frame_from_cam = Rigid3d(rotation_N33, position_N3.double().cpu() * self.scale)
        return frame_from_cam.inverse() @ self.frame_from_world


def mean_pose(cam_from_world: Rigid3d) -> Rigid3d:
    """The mean of poses (S): of the camera centres, and of the rotations as chords."""
    world_from_cam = cam_from_world.inverse()
    rotation_33 = cast(Tensor, roma.special_procrustes(world_from_cam.rotation.sum(0)))
    return Rigid3d(rotation_33, world_from_cam.translation.mean(0)).inverse()


def spread(samples: Rigid3d, mean: Rigid3d) -> Tensor:
    """Covariance (6, 6) of samples (S) of cam_from_world, as left perturbations of `mean`."""
    count = len(samples.translation)
    errors_S6 = (samples @ Rigid3d.stack([mean] * count).inverse()).log()
    covariance_66 = errors_S6.T @ errors_S6 / (count - 1)
    # Symmetric, but for rounding.
    return (covariance_66 + covariance_66.T) / 2
