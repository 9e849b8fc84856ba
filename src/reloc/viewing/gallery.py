"""Queries worth looking at, beside what the camera would see from where it was put."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.scenes.scene import Scene, View

_LONGER_SIDE_PX = 480
_JPEG_QUALITY = 78
_WORST = ("worst", "second worst", "third worst")
_NUM_DECLINED = 3
# A view from a tenth of the scene's extent away differs about as much as one turned by this angle.
_TURN_LIKE_TENTH_OF_EXTENT_DEG = 15.0


@dataclass(frozen=True)
class Picture:
    """An image on the page.

    Attributes:
        caption: plain text.
        uri: `data:image/jpeg;base64,...`; "" where the image cannot be read: the caption says why.
        width: in pixels of what is shown.
        height: likewise.
    """

    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class NearestView:
    """The mapping view nearest to a pose.

    Attributes:
        view: of the mapping views.
        distance: of the camera centres, in the scene's unit.
        angle_deg: between the two rotations.
    """

    view: View
    distance: float
    angle_deg: float


def choose(names: Sequence[str], error: NDArray[np.float64]) -> list[tuple[str, str]]:
    """What to show of N queries: (why it is shown, its name), none of them twice.

    The median is that of all queries, as in a report: there is none where it was declined.

    Args:
        names: of the queries.
        error: (N,) to rank by; infinite where the query was declined.
    """
    ranked = [names[int(index)] for index in np.argsort(error, kind="stable")]
    answered = ranked[: int(np.isfinite(error).sum())]
    declined = [name for name, value in zip(names, error, strict=True) if np.isinf(value)]
    chosen: dict[str, str] = {}
    if answered:
        chosen[answered[0]] = "best"
    if (len(names) - 1) // 2 < len(answered):
        chosen.setdefault(ranked[(len(names) - 1) // 2], "median")
    for why, name in zip(_WORST, reversed(answered), strict=False):
        chosen.setdefault(name, why)
    # Neighbours in a video fail for one reason: those that are shown are far apart.
    shown = np.linspace(0, len(declined) - 1, min(_NUM_DECLINED, len(declined))).round().astype(int)
    chosen |= {declined[index]: "declined" for index in shown}
    return [(why, name) for name, why in chosen.items()]


def nearest_view(scene: Scene, cam_from_world: Rigid3d) -> NearestView | None:
    """The mapping view that sees about what a camera in this pose would see; None without any."""
    if not scene.mapping:
        return None
    mapping_N = Rigid3d.stack([view.cam_from_world for view in scene.mapping])
    centers_N3 = mapping_N.inverse().translation
    distance_N = (centers_N3 - cam_from_world.inverse().translation).norm(dim=-1)
    angle_deg_N = angle_between_rad(mapping_N.rotation, cam_from_world.rotation).rad2deg()
    near = 0.1 * scene.extent or 1.0
    index = int((distance_N / near + angle_deg_N / _TURN_LIKE_TENTH_OF_EXTENT_DEG).argmin())
    return NearestView(scene.mapping[index], float(distance_N[index]), float(angle_deg_N[index]))


def picture_of(view: View, caption: str) -> Picture:
    """The image of a view; where it cannot be read, the reason."""
    try:
        return encode(view.read_image(), caption)
    except InputError as error:
        return Picture(f"{caption}. The image cannot be shown: {error}")


def encode(image_3HW: Tensor, caption: str) -> Picture:
    """A (3, H, W) uint8 RGB image as a JPEG inside the page, made smaller where it is large."""
    image_HW3 = np.ascontiguousarray(
        image_3HW.detach().cpu().to(torch.uint8).permute(1, 2, 0).numpy()
    )
    height, width = image_HW3.shape[:2]
    scale = min(1.0, _LONGER_SIDE_PX / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small = cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    uri = "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
    return Picture(caption, uri, *size)
