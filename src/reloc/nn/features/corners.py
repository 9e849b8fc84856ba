"""Corners described by the codes of the shared encoder: learned features that need no download."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from reloc.nn.encoder import STRIDE
from reloc.nn.features.alike import sample_descriptors
from reloc.nn.shared_encoder import FrozenEncoder

WIDTH = 128
# Least strength of a corner, as a share of the strongest; least distance of two: nearer ones have
# almost the same code.
_MIN_STRENGTH, _MIN_DISTANCE_PX = 0.002, 5.0
_WINDOW = (3, 3)
_REFINEMENT = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 20, 0.03)
# Standard deviation, in grey values, below which an image shows nothing.
_MIN_CONTRAST = 1.0


def detect(
    encoder: FrozenEncoder, grey_HW: np.ndarray, max_keypoints: int
) -> tuple[Tensor, Tensor]:
    """Keypoints (N, 2), centre of the top-left pixel (0.5, 0.5), and descriptors (N, C).

    Source of the corners: Shi and Tomasi, "Good features to track", CVPR 1994, refined between
    pixels.
    """
    corners = None
    if grey_HW.std() >= _MIN_CONTRAST and min(grey_HW.shape) >= 2 * STRIDE:
        corners = cv2.goodFeaturesToTrack(grey_HW, max_keypoints, _MIN_STRENGTH, _MIN_DISTANCE_PX)
    if corners is None or not len(corners):
        return torch.zeros(0, 2), torch.zeros(0, encoder.size.code)
    corners = np.ascontiguousarray(corners, dtype=np.float32).reshape(-1, 1, 2)
    refined = cv2.cornerSubPix(grey_HW, corners.copy(), _WINDOW, (-1, -1), _REFINEMENT)[:, 0]
    start = corners[:, 0]
    # A refinement that runs away has found another corner.
    ran_away = np.abs(refined - start).max(axis=1, keepdims=True) > _WINDOW[0]
    keypoints_N2 = torch.from_numpy(np.where(ran_away, start, refined) + np.float32(0.5))
    grey_11HW = torch.from_numpy(grey_HW)[None, None].float() / 255
    codes_1Chw = encoder(grey_11HW.contiguous(memory_format=torch.channels_last)).float()
    return keypoints_N2, sample_descriptors(codes_1Chw, keypoints_N2, STRIDE)
