"""What matchers get of an image, and what they give for two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reloc.input_error import InputError
from reloc.nn.local_features import LocalFeatures, as_vectors


@dataclass(frozen=True, eq=False)
class ImageKeypoints:
    """The keypoints of an image, as a matcher looks at them.

    Attributes:
        keypoints_N2: float32 pixels; the centre of the top-left pixel is (0.5, 0.5).
        descriptors_ND: float32, of norm 1.
        scores_N: float32, how sure the detector is of each, in [0, 1].
        size: width and height of the image in the same pixels.
    """

    keypoints_N2: Tensor
    descriptors_ND: Tensor
    scores_N: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keypoints_N2)

    @staticmethod
    def of(features: LocalFeatures, size: tuple[int, int]) -> ImageKeypoints:
        """The local features of an image of that width and height.

        Raises:
            InputError: they are of a detector that gives no scores.
        """
        if features.scores_N is None:
            raise InputError("matchers need keypoints with scores: take the features superpoint")
        return ImageKeypoints(
            features.keypoints_N2, as_vectors(features.descriptors_ND), features.scores_N, size
        )

    def to(self, device: str) -> ImageKeypoints:
        """The same on another device."""
        return ImageKeypoints(
            self.keypoints_N2.to(device),
            self.descriptors_ND.to(device),
            self.scores_N.to(device),
            self.size,
        )

    def from_centre(self, reach: float) -> Tensor:
        """Keypoints (N, 2) from the image's centre, in units of `reach` times its longer side."""
        size_2 = self.keypoints_N2.new_tensor(self.size)
        # Published weights count pixels from the centre of the top-left one, and halve the size.
        return (self.keypoints_N2 - 0.5 - size_2 / 2) / (reach * size_2.max())


@dataclass(frozen=True, eq=False)
class Matches:
    """Keypoints of two images that are of the same thing, each in one pair at most.

    Attributes:
        pairs_M2: int64, indices into the first and the second image's keypoints.
        probability_M: float32, in the order of the pairs.
    """

    pairs_M2: Tensor
    probability_M: Tensor

    def __len__(self) -> int:
        return len(self.pairs_M2)


class Match(Protocol):
    """Keypoints of two images to those that match."""

    def __call__(self, first: ImageKeypoints, second: ImageKeypoints) -> Matches:
        """The matches, in the order of the first image's keypoints."""
        ...


def mutual_matches(probability_NM: Tensor, least: float) -> Matches:
    """Pairs that are each other's most probable one, and more probable than `least`."""
    if not probability_NM.numel():
        return Matches(
            torch.zeros(0, 2, dtype=torch.int64, device=probability_NM.device),
            probability_NM.new_zeros(0),
        )
    best_N, column_N = probability_NM.max(dim=1)
    row_M = probability_NM.argmax(dim=0)
    row_N = torch.arange(len(column_N), device=column_N.device)
    good_N = (row_M[column_N] == row_N) & (best_N > least)
    return Matches(torch.stack([row_N, column_N], dim=1)[good_N], best_N[good_N])
