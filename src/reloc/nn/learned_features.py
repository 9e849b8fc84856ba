"""Local features of networks: which network, which weights, and its keypoints as all others are."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from reloc.contract import Run
from reloc.nn.encoder import grey_from_rgb
from reloc.nn.features import alike, corners, r2d2, superpoint
from reloc.nn.local_features import LearnedKind, LocalFeatures, quantised
from reloc.nn.precision import autocast
from reloc.nn.shared_encoder import open_encoder
from reloc.nn.weights import with_published_weights

# Images with a shorter side are smaller than what the networks look at.
_MIN_SIDE_PX = 16
# Standard deviation of grey values below which an image shows nothing.
_MIN_CONTRAST = 1.0
WIDTHS = {
    "encoder": corners.WIDTH,
    "alike": alike.WIDTH,
    "r2d2": r2d2.WIDTH,
    "superpoint": superpoint.WIDTH,
}
"""Numbers of a descriptor of each kind."""
# Diameter of what a descriptor looks at, in pixels, roughly: matching does not depend on it.
_DIAMETERS_PX = {"encoder": 64.0, "alike": 32.0, "r2d2": 64.0, "superpoint": 32.0}

Detect = Callable[[Tensor, int], tuple[Tensor, ...]]
"""An image (3, H, W) uint8 and a number, to keypoints (N, 2), descriptors (N, D) and, where the
detector has them, scores (N,)."""


@torch.no_grad()
def extract_learned(image: Tensor, kind: LearnedKind, max_keypoints: int) -> LocalFeatures:
    """Keypoints of an image (3, H, W) uint8 RGB, strongest first.

    An image without contrast, or of a few pixels, has none.

    Raises:
        InputError: the weights are not there.
    """
    detect = _detector(kind)
    found: tuple[Tensor, ...] = (torch.zeros(0, 2), torch.zeros(0, WIDTHS[kind]), torch.zeros(0))
    shows = float(grey_from_rgb(image).float().std(correction=0)) >= _MIN_CONTRAST
    if shows and min(image.shape[-2:]) >= _MIN_SIDE_PX:
        with autocast(Run()):
            found = detect(image, max_keypoints)
    keypoints_N2, vectors_ND, *scores = found
    scales_N = torch.full((len(keypoints_N2),), _DIAMETERS_PX[kind])
    return LocalFeatures(
        keypoints_N2.float(),
        quantised(vectors_ND.float()),
        scales_N,
        scores[0].float() if scores else None,
    )


@lru_cache(maxsize=4)
def _detector(kind: LearnedKind) -> Detect:
    if kind == "encoder":
        encoder = open_encoder("base", Run())
        return lambda image, count: corners.detect(encoder, grey_from_rgb(image)[0].numpy(), count)
    if kind == "superpoint":
        network = with_published_weights(superpoint.SuperPoint, kind)
        return lambda image, count: superpoint.detect(
            network, grey_from_rgb(image).float() / 255, count
        )
    if kind == "r2d2":
        network = with_published_weights(r2d2.R2d2, kind)
        return lambda image, count: r2d2.detect(network, image.float() / 255, count)
    network = with_published_weights(alike.Alike, kind)
    return lambda image, count: alike.detect(network, image.float() / 255, count)
