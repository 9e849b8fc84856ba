"""Queries worth looking at, beside what the camera would see from where it was put."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reloc.contract import PoseEstimate
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.scenes.scene import Scene, View

_LONGER_SIDE_PX = 480
_JPEG_QUALITY = 78
_NUM_WORST, _NUM_DECLINED = 3, 3
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


def choose(
    names: tuple[str, ...], error: NDArray[np.float64], estimates: Mapping[str, PoseEstimate]
) -> list[tuple[str, str]]:
    """What to show of the queries: (why it is shown, its name).

    Args:
        names: (N) of the queries.
        error: (N,) to rank by; infinite where the query declined.
        estimates: by the query's name.
    """
    declined = [name for name in names if estimates[name].cam_from_world is None]
    answered = [
        names[index] for index in np.argsort(error, kind="stable") if names[index] not in declined
    ]
    chosen: dict[str, str] = {}
    if answered:
        worst = answered[::-1][:_NUM_WORST]
        chosen[answered[0]] = "best"
        chosen.setdefault(answered[(len(answered) - 1) // 2], "median")
        for place, name in enumerate(worst):
            chosen.setdefault(name, "worst" if place == 0 else f"{_ordinal(place + 1)} worst")
    spread = (
        np.linspace(0, len(declined) - 1, min(_NUM_DECLINED, len(declined))).round().astype(int)
    )
    chosen |= {declined[index]: "declined" for index in spread}
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


def _ordinal(place: int) -> str:
    return {2: "second", 3: "third"}.get(place, f"{place}th")
