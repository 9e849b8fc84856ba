"""An image to the features that the matching family works with."""

from __future__ import annotations

import cv2
import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.methods.matching.config import MatchingConfig
from reloc.nn.local_features import LocalFeatures, extract_features


def describe(image: Tensor, camera: Camera, config: MatchingConfig) -> tuple[Camera, LocalFeatures]:
    """Features of an image (3, H, W) uint8 RGB, reduced to `config.max_side_px`.

    Returns:
        The camera of the reduced image, whose pixels the keypoints are in, and the features.
    """
    width, height = reduced_size(camera, config)
    if (width, height) != (camera.width, camera.height):
        pixels = image.permute(1, 2, 0).numpy()
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        image, camera = torch.from_numpy(pixels).permute(2, 0, 1), camera.resized(width, height)
    return camera, extract_features(image, config.features, config.max_keypoints)


def reduced_size(camera: Camera, config: MatchingConfig) -> tuple[int, int]:
    """Width and height that an image of a camera is reduced to, if it is larger."""
    scale = min(1.0, config.max_side_px / max(camera.width, camera.height))
    width, height = (max(1, round(side * scale)) for side in (camera.width, camera.height))
    return width, height
