"""The mapping cameras in a head's own frame: its origin and unit are theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.clusters import local_extent
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.global_codes import GlobalCodes
from reloc.scenes.scene import View, refuse_guessed_focals


@dataclass(frozen=True, eq=False)
class MappingCameras:
    """Poses of the mapping views in the head's own frame, and what else a loss needs of each.

    Attributes:
        center_3: origin of the head's frame in the world, float64.
        scale: length of the head's unit in the world.
        rotation_V33: cam_from_world, float32.
        translation_V3: from the head's frame, in its unit.
        focal_px_V: of the images as they are resized for encoding.
        global_codes: of the images, for heads that are told them.
    """

    center_3: Tensor
    scale: float
    rotation_V33: Tensor
    translation_V3: Tensor
    focal_px_V: Tensor
    global_codes: GlobalCodes | None = None

    @property
    def centers_V3(self) -> Tensor:
        """Where the cameras are in the head's frame, in its unit."""
        return -(self.rotation_V33.mT @ self.translation_V3[:, :, None])[..., 0]

    def noisy(self, generator: torch.Generator) -> MappingCameras:
        """The same, as a step of training sees them."""
        if self.global_codes is None:
            return self
        return replace(self, global_codes=self.global_codes.noisy(generator))


def mapping_cameras(
    views: Sequence[View], config: CoordinatesConfig, device: str
) -> MappingCameras:
    """Centre and scale of the scene from its cameras: the mean of their centres, and their extent.

    Not of those that are far from the others: one wrong pose would make another unit.

    Raises:
        InputError: all views are taken from one place, which tells no depth, or the focal length of
            some is not known.
    """
    refuse_guessed_focals(views, "scene points would be wrong by as much as it is guessed wrong")
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    centers_V3 = poses.inverse().translation
    center_3 = centers_V3.mean(dim=0)
    scale = local_extent(centers_V3)
    if scale < 1e-9 * max(float(centers_V3.abs().max()), 1.0):
        raise InputError(
            f"all {len(views)} mapping views are taken from one place: their poses tell no depth; "
            "add photos from other places"
        )
    return cameras_in_frame(poses, focals_px(views, config), center_3, scale, device)


def cameras_in_frame(
    cam_from_world: Rigid3d, focal_px_V: Tensor, center_3: Tensor, scale: float, device: str
) -> MappingCameras:
    """Poses (V) in the frame of a head, which has this origin and this unit."""
    rotation_V33 = cam_from_world.rotation
    translation_V3 = (rotation_V33 @ center_3[:, None])[..., 0] + cam_from_world.translation
    return MappingCameras(
        center_3,
        scale,
        rotation_V33.float().to(device),
        (translation_V3 / scale).float().to(device),
        focal_px_V.to(device),
    )


def focal_px(camera: Camera, config: CoordinatesConfig) -> float:
    """Focal length of an image as it is resized for encoding."""
    return float(camera.focal.mean()) * config.short_side_px / min(camera.width, camera.height)


def focals_px(views: Sequence[View], config: CoordinatesConfig) -> Tensor:
    """Focal lengths (V,) of the images as they are resized for encoding."""
    return torch.tensor([focal_px(view.camera, config) for view in views])
