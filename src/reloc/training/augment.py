"""Other looks of a mapping image: turned, nearer or further, in another exposure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far an image is changed; ACE's by default."""

    max_turn_deg: float = 15.0
    """Largest turn in the image plane."""
    min_scale: float = 2 / 3
    """Smallest change of scale."""
    max_scale: float = 1.5
    """Largest change of scale."""
    jitter: float = 0.1
    """Largest relative change of brightness, and of contrast."""

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(f"scales from {self.min_scale} to {self.max_scale} are none")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter is {self.jitter}; it must be in [0, 1)")


def augment(
    grey_HW: NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Another look of an image.

    Returns:
        The image (H', W') uint8, and the affine map (2, 3) float64 original_from_augmented of
        pixels, for which the centre of the top-left pixel is (0.5, 0.5).
    """
    height, width = grey_HW.shape
    scale = math.exp(
        rng.uniform(math.log(augmentation.min_scale), math.log(augmentation.max_scale))
    )
    turn = math.radians(rng.uniform(-1, 1) * augmentation.max_turn_deg)
    size = np.maximum(np.rint(np.array([width, height]) * scale), 8).astype(int)
    rotation = (
        np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]) / scale
    )
    original_from_augmented = np.column_stack(
        [rotation, np.array([width, height]) / 2 - rotation @ (size / 2)]
    )
    # OpenCV's pixel centres are whole numbers: x' - 0.5 = A (x + 0.5) + b - 0.5.
    warp = original_from_augmented.copy()
    warp[:, 2] += rotation @ [0.5, 0.5] - 0.5
    # Bilinear sampling alone would alias where the image shrinks.
    source = cv2.GaussianBlur(grey_HW, (0, 0), 0.4 / scale) if scale < 0.8 else grey_HW
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        source, warp, size.tolist(), flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )
    contrast, brightness = 1 + augmentation.jitter * rng.uniform(-1, 1, 2)
    middle = float(warped.mean())
    jittered = cv2.convertScaleAbs(
        warped, alpha=contrast * brightness, beta=middle * brightness * (1 - contrast)
    )
    return torch.from_numpy(jittered), torch.from_numpy(original_from_augmented)
