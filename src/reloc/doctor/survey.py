"""What is there: counts, sizes, lenses, motion; images that are blurred, broken or there twice."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.doctor.diagnosis import Resolution, Spread, Survey, Trajectory
from reloc.doctor.order import evenly, in_order
from reloc.input_error import InputError
from reloc.scenes.scene import Scene, View

_MAX_IMAGES = 1000
# Sharpness is compared at this size of the longer side, at which noise is mostly gone.
_LONGER_SIDE_PX = 640


@dataclass(frozen=True, eq=False)
class LookedAt:
    """What one image is like; its pixels are not kept.

    Attributes:
        view: that it is of.
        is_query: whether it is asked about.
        problem: why it cannot be read, or "".
        size: width and height; None where it cannot be read.
        sharpness: variance of the Laplacian of the grey image.
        digest: of size and pixels.
    """

    view: View
    is_query: bool
    problem: str = ""
    size: tuple[int, int] | None = None
    sharpness: float = math.nan
    digest: str = ""


def look_at_images(scene: Scene, run: Run) -> list[LookedAt]:
    """Read the images, or an even sample of a thousand where there are more."""
    asked = [(view, False) for view in in_order(scene.mapping)]
    asked += [(view, True) for view in in_order(scene.queries)]
    chosen = evenly(asked, _MAX_IMAGES)
    return [_look(*one) for one in run.progress.track(chosen, "reading images")]


def _look(view: View, is_query: bool) -> LookedAt:
    try:
        # Not read_image: a wrong size is a finding of its own.
        image = view.image_reader()
    except InputError as error:
        return LookedAt(view, is_query, problem=str(error))
    height, width = image.shape[-2:]
    pixels = image.contiguous().numpy()
    digest = hashlib.blake2b(pixels.data, digest_size=16, salt=f"{width}x{height}".encode())
    return LookedAt(view, is_query, "", (width, height), _sharpness(image), digest.hexdigest())


def _sharpness(image: Tensor) -> float:
    gray = cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    shrink = _LONGER_SIDE_PX / max(gray.shape)
    if shrink < 1:
        gray = cv2.resize(gray, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var())


def survey(scene: Scene, images: Sequence[LookedAt]) -> Survey:
    """Counts and spreads."""
    views = [*scene.mapping, *scene.queries]
    read = [image for image in images if image.size is not None]
    sizes = Counter(image.size for image in read if image.size is not None)
    return Survey(
        num_mapping=len(scene.mapping),
        num_queries=len(scene.queries),
        num_sequences=len({view.sequence for view in views}),
        num_read=len(read),
        resolutions=tuple(Resolution(*size, count) for size, count in sizes.most_common()),
        focal_px=spread(float(view.camera.focal[0]) for view in views),
        field_of_view_deg=spread(map(_field_of_view_deg, views)),
        num_guessed_focals=sum(not view.camera.has_prior_focal for view in views),
        num_with_depth=sum(view.depth_reader is not None for view in views),
        trajectory=_trajectory(in_order(views)),
        sharpness=spread(image.sharpness for image in read),
    )


def spread(values: Iterable[float]) -> Spread | None:
    """None where there are no values."""
    known = sorted(values)
    return Spread(known[0], statistics.median(known), known[-1]) if known else None


def blurred(images: Sequence[LookedAt], max_share: float) -> list[str]:
    """Names of images less sharp than `max_share` of the median of their sequence."""
    sequences: dict[str, list[LookedAt]] = {}
    for image in images:
        if image.size is not None:
            sequences.setdefault(image.view.sequence, []).append(image)
    return [
        image.view.name
        for members in sequences.values()
        for image in members
        if image.sharpness < max_share * statistics.median(one.sharpness for one in members)
    ]


def duplicates(images: Sequence[LookedAt]) -> list[tuple[LookedAt, LookedAt]]:
    """Images of the same pixels, each with the first of its kind."""
    first: dict[str, LookedAt] = {}
    return [
        (first[image.digest], image)
        for image in images
        if image.digest and first.setdefault(image.digest, image) is not image
    ]


def _field_of_view_deg(view: View) -> float:
    half_width = view.camera.width / 2
    return 2 * math.degrees(math.atan(half_width / float(view.camera.focal[0])))


def _trajectory(views: Sequence[View]) -> Trajectory | None:
    """Of views in order, sequence by sequence."""
    if not views:
        return None
    centers_N3 = torch.stack([view.center_world for view in views])
    low, high = centers_N3.amin(0), centers_N3.amax(0)
    steps = [
        (float((centers_N3[index + 1] - centers_N3[index]).norm()), view.name, after.name)
        for index, (view, after) in enumerate(pairwise(views))
        if view.sequence == after.sequence
    ]
    longest, *between = max(steps, default=(0.0, "", ""))
    return Trajectory(
        extent=tuple((high - low).tolist()),
        step=statistics.median(step for step, *_ in steps) if steps else 0.0,
        longest_step=longest,
        longest_step_between=(between[0], between[1]),
        path=sum(step for step, *_ in steps),
    )
