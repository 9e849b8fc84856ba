"""Which way is up, by how people hold cameras."""

from __future__ import annotations

import torch
from torch import Tensor

# Cameras that all look one way have parallel x axes: these then say nothing about one direction.
_MIN_SPREAD = 0.02
_MAX_TILT_TO_SPREAD = 0.25
_MIN_AGREEMENT = 0.5


def up_of_cameras(cam_from_world_N33: Tensor) -> Tensor | None:
    """Where "up" is in the world if people hold cameras level (3,); None where they do not agree.

    The x axes of level cameras lie in the ground plane however the cameras are pitched (Szeliski,
    Image Alignment and Stitching, 2006, section 5); the mean of their upward axes is pitched as
    they are.
    """
    mean_up_3 = -cam_from_world_N33[:, 1].mean(0)
    if float(mean_up_3.norm()) < _MIN_AGREEMENT:
        return None
    x_axes_N3 = cam_from_world_N33[:, 0]
    values_3, vectors_33 = torch.linalg.eigh(x_axes_N3.T @ x_axes_N3 / len(x_axes_N3))
    up_3 = vectors_33[:, 0] * (vectors_33[:, 0] @ mean_up_3).sign()
    tilt, spread = float(values_3[0]), float(values_3[1])
    agrees = float(up_3 @ mean_up_3) > _MIN_AGREEMENT * float(mean_up_3.norm())
    if agrees and spread > _MIN_SPREAD and tilt < _MAX_TILT_TO_SPREAD * spread:
        return up_3
    return mean_up_3 / mean_up_3.norm()
