"""Rotations: the angle between two, and the quarter turns of a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d


def angle_between_rad(rotation_a: Tensor, rotation_b: Tensor) -> Tensor:
    """The angle (...) in [0, π] of the rotation between (..., 3, 3) and (..., 3, 3).

    By atan2 of the sine and the cosine: acos((trace - 1) / 2) is exactly 0 below 0.02° in float32
    and has no gradient there.
    """
    relative = rotation_a @ rotation_b.mT
    vee = torch.stack(
        [
            relative[..., 2, 1] - relative[..., 1, 2],
            relative[..., 0, 2] - relative[..., 2, 0],
            relative[..., 1, 0] - relative[..., 0, 1],
        ],
        dim=-1,
    )
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(vee.norm(dim=-1), trace - 1)


def turned_from_cam(quarter_turns: int) -> Rigid3d:
    """The frame of a picture turned clockwise by `quarter_turns` times 90°, from the frame before.

    A point to the right of the picture's middle is below it after one clockwise turn.
    """
    angle = quarter_turns * math.pi / 2
    cos, sin = round(math.cos(angle)), round(math.sin(angle))
    rotation = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
    return Rigid3d(rotation, torch.zeros(3, dtype=torch.float64))
