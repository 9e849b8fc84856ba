"""Which views of a scene may show the same, and which cannot: by their poses alone."""

from __future__ import annotations

import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad


def is_within(cam_from_world: Rigid3d, share: float, angle_deg: float) -> Tensor:
    """(V, V) bool: pairs of views that are near each other and look the same way.

    Args:
        cam_from_world: batch (V,).
        share: largest distance, as a share of the diagonal of the box round the camera centres.
        angle_deg: largest angle of the rotation between two.
    """
    centers_V3 = cam_from_world.inverse().translation
    extent = float((centers_V3.amax(0) - centers_V3.amin(0)).norm())
    rotation_V33 = cam_from_world.rotation
    angle_deg_VV = angle_between_rad(rotation_V33[:, None], rotation_V33[None]).rad2deg()
    return (torch.cdist(centers_V3, centers_V3) <= share * extent) & (angle_deg_VV <= angle_deg)
