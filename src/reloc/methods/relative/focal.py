"""Focal lengths that nobody has said: those of the mapping cameras that are known."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.scenes.scene import View


def focal_ratio(cameras: Sequence[Camera]) -> float | None:
    """Median focal length of cameras, in parts of the longer side; None where none is known."""
    ratios = [
        float(camera.focal.mean()) / max(camera.width, camera.height)
        for camera in cameras
        if camera.has_prior_focal
    ]
    return median(ratios) if ratios else None


def with_focal(camera: Camera, ratio: float | None) -> Camera:
    """The camera; one without a known focal length gets that of a ratio, where there is one."""
    if camera.has_prior_focal or ratio is None:
        return camera
    return camera.with_focal(ratio * max(camera.width, camera.height), has_prior_focal=False)


def known_focal_ratio(views: Sequence[View], run: Run) -> float:
    """The ratio of mapping views; what is not known of some is named in the log.

    Raises:
        InputError: the focal length of no view is known.
    """
    guessed = [view.name for view in views if not view.camera.has_prior_focal]
    ratio = focal_ratio([view.camera for view in views])
    if ratio is None:
        raise InputError(
            f"none of the {len(views)} mapping views, the first is {guessed[0]}, has a known focal "
            "length, and relative poses rest on it: pass --focal, or add intrinsics"
        )
    if guessed:
        run.log.warning(
            "%d of %d mapping views, the first is %s, have no known focal length: they are taken "
            "to have that of the others",
            len(guessed),
            len(views),
            guessed[0],
        )
    return ratio
