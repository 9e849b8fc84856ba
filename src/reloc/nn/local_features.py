"""Local features: keypoints and descriptors of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

ClassicalKind = Literal["sift", "orb"]
LearnedKind = Literal["encoder", "alike", "r2d2", "superpoint"]
FeatureKind = Literal[ClassicalKind, LearnedKind]
LEARNED_SCALE = 256
"""Learned descriptors are stored as int8: so many times vectors of norm 1."""
# Below this contrast a SIFT extremum is noise; half of OpenCV's default keeps dim indoor corners.
_SIFT_CONTRAST_THRESHOLD = 0.02


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """Keypoints of one image, strongest first.

    Attributes:
        keypoints_N2: float32 pixels; the centre of the top-left pixel is (0.5, 0.5).
        descriptors_ND: SIFT: RootSIFT times 512 as uint8, D = 128, compared by L2. ORB: 256 bits in
            D = 32 bytes, uint8, compared by Hamming distance. Learned ones: int8, 256 times vectors
            of norm 1, compared by L2.
        scales_N: float32, diameter of the described region in pixels.
        scores_N: float32, how sure the detector is of each, in [0, 1], as matchers need it; None
            where it does not tell.
    """

    keypoints_N2: Tensor
    descriptors_ND: Tensor
    scales_N: Tensor
    scores_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keypoints_N2)


def extract_features(image: Tensor, kind: FeatureKind, max_keypoints: int) -> LocalFeatures:
    """Detect and describe the strongest keypoints of an image (3, H, W) uint8 RGB.

    Sources: Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004, with the
    square root of Arandjelović and Zisserman, "Three things everyone should know to improve object
    retrieval", CVPR 2012; Rublee et al., "ORB", ICCV 2011. Both as OpenCV has them.

    An image without texture, or smaller than a descriptor's window, has no keypoints.

    Raises:
        InputError: a learned kind needs weights that are not there.
    """
    if kind not in ("sift", "orb"):
        # Imported here: classical features need no network.
        from reloc.nn.learned_features import extract_learned

        return extract_learned(image, kind, max_keypoints)
    gray = cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    if kind == "sift":
        detector = cv2.SIFT.create(
            nfeatures=max_keypoints, contrastThreshold=_SIFT_CONTRAST_THRESHOLD
        )
    else:
        detector = cv2.ORB.create(nfeatures=max_keypoints)
    keypoints, descriptors = detector.detectAndCompute(gray, None)
    if descriptors is None or not len(keypoints):
        empty = torch.zeros(0)
        width = 128 if kind == "sift" else 32
        return LocalFeatures(empty.new_zeros(0, 2), torch.zeros(0, width, dtype=torch.uint8), empty)
    strongest = np.argsort([-keypoint.response for keypoint in keypoints], kind="stable")
    strongest = strongest[:max_keypoints]
    # OpenCV's pixel centres are whole numbers, COLMAP's are halves.
    points = np.array([keypoints[index].pt for index in strongest], dtype=np.float32) + 0.5
    sizes = np.array([keypoints[index].size for index in strongest], dtype=np.float32)
    descriptors = descriptors[strongest]
    if kind == "sift":
        descriptors = _root_sift(descriptors)
    return LocalFeatures(
        torch.from_numpy(points), torch.from_numpy(descriptors), torch.from_numpy(sizes)
    )


def as_vectors(descriptors_ND: Tensor) -> Tensor:
    """Descriptors as float32 vectors (N, C) of about unit length, to compare by L2."""
    if descriptors_ND.dtype == torch.int8:
        return descriptors_ND.float() / LEARNED_SCALE
    if descriptors_ND.shape[1] == 128:
        return descriptors_ND.float() / 512
    bits = np.unpackbits(descriptors_ND.numpy(), axis=1).astype(np.float32)
    return torch.from_numpy(bits / 16)


def mean_descriptors(descriptors_TD: Tensor, group_T: Tensor, num_groups: int) -> Tensor:
    """The middle (num_groups, D) of each group of descriptors: mean, or majority of bits.

    Args:
        descriptors_TD: of the observations.
        group_T: int64, the group of each; every group has at least one.
        num_groups: how many groups there are.
    """
    vectors = as_vectors(descriptors_TD)
    sums = vectors.new_zeros(num_groups, vectors.shape[1]).index_add_(0, group_T, vectors)
    if descriptors_TD.dtype == torch.int8:
        return quantised(torch.nn.functional.normalize(sums))
    if descriptors_TD.shape[1] == 128:
        return (512 * torch.nn.functional.normalize(sums)).round().clamp(max=255).to(torch.uint8)
    count = torch.bincount(group_T, minlength=num_groups)
    majority = sums * 16 > count[:, None] / 2
    return torch.from_numpy(np.packbits(majority.numpy(), axis=1))


def quantised(vectors_ND: Tensor) -> Tensor:
    """Learned descriptors (N, D) of norm 1 as int8."""
    return (LEARNED_SCALE * vectors_ND).round().clamp(-127, 127).to(torch.int8)


def _root_sift(descriptors: np.ndarray) -> np.ndarray:
    """L1-normalise, take the square root, store as uint8 times 512, as COLMAP does."""
    total = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6)
    return np.minimum(np.rint(512 * np.sqrt(descriptors / total)), 255).astype(np.uint8)
