"""A small blurred picture of the whole image: the plainest image descriptor."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

# Luma of ITU-R BT.601, as everywhere in OpenCV.
_LUMA_OF_RGB = (0.299, 0.587, 0.114)
# Standard deviation in grey levels of 255: what varies less is sensor noise and rounding.
_MIN_CONTRAST = 0.5


def describe_thumbnail(
    image: Tensor, size: tuple[int, int] = (40, 30), blur_px: float = 2.5
) -> Tensor | None:
    """The image small, grey and blurred, with mean 0 and norm 1: (width * height,) float32.

    The inner product of two of them is their normalised cross-correlation, in which brightness and
    contrast play no part.

    Args:
        image: (3, H, W) uint8 RGB. Where its aspect is not that of `size`, its middle is used.
        size: width and height of the thumbnail.
        blur_px: standard deviation of the Gaussian blur, in pixels of the thumbnail; 0 for none.

    Returns:
        None where the image has no contrast.

    Source: Klein and Murray, "Improving the agility of keyframe-based SLAM", ECCV 2008.
    """
    middle = _middle(image, size[0] / size[1])
    gray = np.zeros(size[::-1], dtype=np.float32)
    # Channel by channel: reordering the pixels for OpenCV would take longer than all the rest.
    for channel, weight in zip(middle.numpy(), _LUMA_OF_RGB, strict=True):
        gray += weight * cv2.resize(channel, size, interpolation=cv2.INTER_AREA)
    if blur_px > 0:
        gray = cv2.GaussianBlur(gray, (0, 0), blur_px)
    if gray.std() < _MIN_CONTRAST:
        return None
    gray -= gray.mean()
    return torch.from_numpy(gray / np.linalg.norm(gray)).flatten()


def _middle(image: Tensor, aspect: float) -> Tensor:
    """The largest centred part of an image whose width is `aspect` times its height."""
    height, width = image.shape[-2:]
    part_width = max(1, min(width, round(height * aspect)))
    part_height = max(1, min(height, round(width / aspect)))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    return image[:, top : top + part_height, left : left + part_width]
