"""Bag of words: how often each visual word is in an image, the rare ones counting more.

Source: Sivic and Zisserman, "Video Google: a text retrieval approach to object matching in videos",
ICCV 2003, with the square roots of Jégou, Douze and Schmid, "On the burstiness of visual elements",
CVPR 2009.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.nn.descriptors.descriptor import (
    Descriptor,
    DescriptorKind,
    describe_views,
    spread_over,
)
from reloc.nn.descriptors.vlad import learn_vocabulary
from reloc.nn.local_features import ClassicalKind, as_vectors, extract_features
from reloc.scenes.scene import View

# Views, and features in all, from which the vocabulary is learned.
_VOCABULARY_VIEWS, _VOCABULARY_FEATURES = 150, 60_000
# Features of a word that its centre is the mean of: fewer would be a feature, not a word.
_FEATURES_PER_WORD = 8
# A word that all images have still tells how many there are.
_LEAST_RARITY = 0.1


@dataclass(frozen=True)
class BowConfig:
    """Settings of a bag of words."""

    features: ClassicalKind = "sift"
    """Detector and descriptor."""
    max_side_px: int = 640
    """Larger images are reduced to this longer side."""
    max_keypoints: int = 1000
    """Strongest keypoints of an image."""
    num_words: int = 1024
    """Words of the vocabulary; fewer where the mapping images have few features."""

    def __post_init__(self) -> None:
        for name in ("max_side_px", "max_keypoints", "num_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


class BagOfWords:
    """Bag of words with the vocabulary of a scene.

    Args:
        vocabulary_KC: float16 words.
        rarity_K: float32 inverse document frequency of each word.
        config: of the features.
    """

    def __init__(self, vocabulary_KC: Tensor, rarity_K: Tensor, config: BowConfig) -> None:
        self._vocabulary_KC = vocabulary_KC
        self._index = faiss.IndexFlatL2(vocabulary_KC.shape[1])
        self._index.add(vocabulary_KC.float().numpy())  # pyright: ignore[reportCallIssue]
        self._rarity_K = rarity_K
        self._config = config

    def describe(self, image_3HW: Tensor) -> Tensor:
        """(K,) float32 of norm 1; zeros where the image has no keypoint."""
        return self.weighted(self.roots_of_counts(image_3HW))

    def describe_known(self, image_3HW: Tensor) -> Tensor:
        """As `describe`: words in common count in full, and others not at all."""
        return self.describe(image_3HW)

    def weighted(self, roots: Tensor) -> Tensor:
        """Vectors (..., K) of norm 1 from square roots of counts (..., K)."""
        return functional.normalize(roots * self._rarity_K, dim=-1)

    def roots_of_counts(self, image_3HW: Tensor) -> Tensor:
        """(K,): square roots of how often each word is there."""
        found_NC = _features(image_3HW, self._config)
        counts_K = torch.zeros(len(self._vocabulary_KC))
        if len(found_NC):
            _, words_N1 = self._index.search(found_NC.numpy(), 1)  # pyright: ignore[reportCallIssue]
            counts_K = torch.from_numpy(
                np.bincount(words_N1[:, 0], minlength=len(counts_K)).astype(np.float32)
            )
        return counts_K.sqrt()

    def state(self) -> dict[str, Tensor]:
        """Vocabulary and rarities."""
        return {"vocabulary": self._vocabulary_KC, "rarity": self._rarity_K}


def fit(views: Sequence[View], config: BowConfig, run: Run) -> tuple[Descriptor, Tensor]:
    """Learn a vocabulary, and how rare its words are, from the images of the views."""
    chosen = spread_over(len(views), _VOCABULARY_VIEWS)
    rng = np.random.default_rng(run.seed)
    features = []
    for index in chosen:
        found_NC = _features(views[index].read_image(), config)
        count = min(len(found_NC), _VOCABULARY_FEATURES // len(chosen))
        features.append(found_NC[rng.permutation(len(found_NC))[:count]])
    features_NC = torch.cat(features)
    if not len(features_NC):
        raise InputError("no mapping image has a single keypoint: they lack texture or are black")
    num_words = min(config.num_words, max(1, len(features_NC) // _FEATURES_PER_WORD))
    vocabulary_KC = learn_vocabulary(features_NC, num_words, run.seed).half()
    unweighted = BagOfWords(vocabulary_KC, torch.ones(num_words), config)
    roots_NK = describe_views(unweighted.roots_of_counts, views, run)
    num_with_K = (roots_NK > 0).sum(0)
    rarity_K = ((1 + len(views)) / (1 + num_with_K)).log() + _LEAST_RARITY
    descriptor = BagOfWords(vocabulary_KC, rarity_K, config)
    return descriptor, descriptor.weighted(roots_NK)


def open_state(state: Mapping[str, Tensor], config: BowConfig) -> Descriptor:
    """Bag of words with the vocabulary of a map."""
    return BagOfWords(state["vocabulary"], state["rarity"], config)


def _features(image_3HW: Tensor, config: BowConfig) -> Tensor:
    """Descriptors (N, C) float32 of about unit length."""
    scale = config.max_side_px / max(image_3HW.shape[-2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image_3HW.shape[:0:-1]]
        pixels = image_3HW.permute(1, 2, 0).contiguous().numpy()
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        image_3HW = torch.from_numpy(pixels).permute(2, 0, 1)
    found = extract_features(image_3HW, config.features, config.max_keypoints)
    return as_vectors(found.descriptors_ND)


KIND = DescriptorKind(BowConfig, fit, open_state)
