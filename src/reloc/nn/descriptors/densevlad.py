"""DenseVLAD: SIFT on a dense grid at several scales, aggregated to one vector of an image.

Source: Torii et al., "24/7 place recognition by view synthesis", CVPR 2015.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.nn.descriptors.descriptor import (
    Descriptor,
    DescriptorKind,
    describe_views,
    spread_over,
)
from reloc.nn.descriptors.vlad import aggregate, learn_vocabulary
from reloc.nn.descriptors.whitening import Whitening, fit_whitening
from reloc.nn.encoder import grey_from_rgb
from reloc.scenes.scene import View

# Views, and features in all, from which the vocabulary is learned.
_VOCABULARY_VIEWS, _VOCABULARY_FEATURES = 100, 60_000
# Bins along a side of a feature, and of its histograms of directions.
_SIDE, _NUM_DIRECTIONS = 4, 8
# Sigma of the window over a feature, in bins; largest share of one bin (both Lowe 2004).
_WINDOW_SIGMA, _MAX_SHARE = 2.0, 0.2
# Mean gradient, in grey levels a pixel, below which a feature shows noise only.
_MIN_GRADIENT = 0.7


@dataclass(frozen=True)
class DenseVladConfig:
    """Settings of DenseVLAD.

    The paper's are 640 px, a grid of 2 px, and 4096 dimensions learned from the images of a city.
    """

    max_side_px: int = 320
    """Images are resized to this longer side."""
    grid_px: int = 4
    """Distance of the features."""
    bins_px: tuple[int, ...] = (4, 6, 8, 10)
    """Sides of a bin, even; a feature is four bins wide."""
    num_words: int = 128
    """Words of the vocabulary."""
    num_dimensions: int = 256
    """Of the vectors, after whitening; at most two for three mapping images."""

    def __post_init__(self) -> None:
        for name in ("max_side_px", "grid_px", "num_words", "num_dimensions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.bins_px or any(side < 2 or side % 2 for side in self.bins_px):
            raise ValueError(f"bins_px is {self.bins_px}; each must be even and at least 2")


class DenseVlad:
    """DenseVLAD with the vocabulary and the whitening of a scene."""

    def __init__(
        self, vocabulary_KC: Tensor, whitening: Whitening, config: DenseVladConfig
    ) -> None:
        self._vocabulary_KC = vocabulary_KC
        self._whitening = whitening
        self._config = config

    def describe(self, image_3HW: Tensor) -> Tensor:
        """(D,) float32 of norm 1; zeros where no part of the image has contrast."""
        return self._whitening(_raw(image_3HW, self._vocabulary_KC, self._config))

    def describe_known(self, image_3HW: Tensor) -> Tensor:
        """`describe` times how much of the image is like mapping images at all, in [0, 1]."""
        return self._whitening.known(_raw(image_3HW, self._vocabulary_KC, self._config))

    def state(self) -> dict[str, Tensor]:
        """Vocabulary and whitening."""
        return {"vocabulary": self._vocabulary_KC, **self._whitening.state()}


def fit(views: Sequence[View], config: DenseVladConfig, run: Run) -> tuple[Descriptor, Tensor]:
    """Learn a vocabulary and a whitening from the images of the views."""
    chosen = spread_over(len(views), _VOCABULARY_VIEWS)
    rng = np.random.default_rng(run.seed)
    features = []
    for index in chosen:
        found_NC = dense_sift(views[index].read_image(), config)
        count = min(len(found_NC), _VOCABULARY_FEATURES // len(chosen))
        features.append(found_NC[rng.permutation(len(found_NC))[:count]])
    features_NC = torch.cat(features)
    if not len(features_NC):
        raise InputError(
            f"none of the {len(views)} mapping images (from {views[0].name} on) has any contrast: "
            "look at them, are they black?"
        )
    vocabulary_KC = learn_vocabulary(features_NC, config.num_words, run.seed)
    raw_NL = describe_views(lambda image: _raw(image, vocabulary_KC, config), views, run)
    whitening = fit_whitening(raw_NL, config.num_dimensions)
    return DenseVlad(vocabulary_KC, whitening, config), whitening(raw_NL)


def open_state(state: Mapping[str, Tensor], config: DenseVladConfig) -> Descriptor:
    """DenseVLAD with the vocabulary and whitening of a map."""
    return DenseVlad(state["vocabulary"], Whitening.from_state(state), config)


def _raw(image_3HW: Tensor, vocabulary_KC: Tensor, config: DenseVladConfig) -> Tensor:
    return aggregate(dense_sift(image_3HW, config), vocabulary_KC)


def dense_sift(image_3HW: Tensor, config: DenseVladConfig) -> Tensor:
    """RootSIFT (N, 128) float32 of norm 1 on a grid, upright; features without contrast left out.

    Histograms of all bins come from one filtering of the gradients of each direction, with the
    triangle by which SIFT interpolates between bins.
    """
    grey_HW = _resized(grey_from_rgb(image_3HW)[0].numpy(), config.max_side_px)
    found = []
    for bin_px in config.bins_px:
        if min(grey_HW.shape) < _SIDE * bin_px:
            continue
        # Coarser features of a coarser picture: as smooth as a keypoint of that size sees it.
        smooth_HW = cv2.GaussianBlur(grey_HW, (0, 0), bin_px / 6)
        found.append(_features(smooth_HW, bin_px, config.grid_px))
    return torch.from_numpy(np.concatenate(found) if found else np.zeros((0, 128), np.float32))


def _resized(grey_HW: np.ndarray, max_side_px: int) -> np.ndarray:
    scale = max_side_px / max(grey_HW.shape)
    if scale == 1:
        return grey_HW.astype(np.float32)
    size = [max(1, round(side * scale)) for side in grey_HW.shape[::-1]]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(grey_HW, size, interpolation=interpolation).astype(np.float32)


def _features(grey_HW: np.ndarray, bin_px: int, grid_px: int) -> np.ndarray:
    x_HW = cv2.Sobel(grey_HW, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)
    y_HW = cv2.Sobel(grey_HW, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)
    strength_HW, angle_HW = cv2.cartToPolar(x_HW, y_HW)
    # Each gradient is shared by the two directions that it lies between.
    place_HW = angle_HW * np.float32(_NUM_DIRECTIONS / (2 * np.pi))
    planes = []
    for direction in range(_NUM_DIRECTIONS):
        off_HW = np.abs(place_HW - direction)
        off_HW = np.minimum(off_HW, _NUM_DIRECTIONS - off_HW)
        planes.append(strength_HW * np.maximum(1 - off_HW, 0))
    triangle = 1 - np.abs(np.arange(1 - bin_px, bin_px, dtype=np.float32)) / bin_px
    triangle /= triangle.sum()
    height, width = grey_HW.shape
    half = 3 * bin_px // 2
    rows = np.arange(2 * bin_px, height - 2 * bin_px + 1, grid_px)
    columns = np.arange(2 * bin_px, width - 2 * bin_px + 1, grid_px)
    offsets = np.arange(-half, half + 1, bin_px)
    window = np.exp(-0.5 * ((np.arange(_SIDE) - 1.5) / _WINDOW_SIGMA) ** 2).astype(np.float32)
    found = np.empty((len(rows), len(columns), _SIDE, _SIDE, _NUM_DIRECTIONS), np.float32)
    for direction, plane_HW in enumerate(planes):
        summed_HW = cv2.sepFilter2D(plane_HW, cv2.CV_32F, triangle, triangle)
        for i in range(_SIDE):
            for j in range(_SIDE):
                taken = summed_HW[np.ix_(rows + offsets[i] - 1, columns + offsets[j] - 1)]
                found[:, :, i, j, direction] = taken * (window[i] * window[j])
    return _root_sift(found.reshape(-1, _SIDE * _SIDE * _NUM_DIRECTIONS))


def _root_sift(histograms: np.ndarray) -> np.ndarray:
    """Clipped as SIFT is, and compared by the root of its shares (Arandjelović 2012)."""
    histograms = histograms[histograms.sum(axis=1) > _MIN_GRADIENT * _SIDE * _SIDE * 0.6]
    histograms = histograms / np.linalg.norm(histograms, axis=1, keepdims=True)
    histograms = np.minimum(histograms, _MAX_SHARE)
    return np.sqrt(histograms / histograms.sum(axis=1, keepdims=True))


KIND = DescriptorKind(DenseVladConfig, fit, open_state)
