"""GIST: how much of each direction and scale there is in each of the parts of an image.

Source: Oliva and Torralba, "Modeling the shape of the scene: a holistic representation of the
spatial envelope", IJCV 2001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.nn.descriptors.descriptor import Descriptor, DescriptorKind, describe_views
from reloc.nn.descriptors.whitening import Whitening, fit_whitening
from reloc.nn.encoder import grey_from_rgb
from reloc.scenes.scene import View

# Standard deviation, in grey levels, below which an image shows nothing.
_MIN_CONTRAST = 1.0
# Cycles in an image up to which brightness is evened out, and the contrast (of logarithms of grey
# values) below which it is not blown up.
_LOW_CYCLES, _FLAT_CONTRAST = 4.0, 0.2
# Of the finest scale, in cycles a pixel; each next one is an octave coarser.
_FINEST_FREQUENCY = 0.3
# Sigma of a filter along its frequency, in octaves.
_BANDWIDTH_OCTAVES = 0.55


@dataclass(frozen=True)
class GistConfig:
    """Settings of GIST, the paper's by default."""

    size_px: int = 128
    """Images are resized to a square of this side."""
    num_scales: int = 4
    """Octaves of the filters."""
    num_directions: int = 8
    """Directions of the filters at each scale."""
    grid: int = 4
    """Parts of the image along each side."""
    num_dimensions: int = 128
    """Of the vectors, after whitening; at most two for three mapping images. 0: no whitening."""

    def __post_init__(self) -> None:
        for name in ("num_scales", "num_directions", "grid"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.size_px < 8 * self.grid or self.size_px % self.grid:
            raise ValueError(
                f"size_px is {self.size_px}; it must be a multiple of grid and 8 times as much"
            )
        if self.num_dimensions < 0:
            raise ValueError(f"num_dimensions is {self.num_dimensions}; it cannot be negative")


class Gist:
    """GIST with the whitening of a scene."""

    def __init__(self, whitening: Whitening, config: GistConfig) -> None:
        self._whitening = whitening
        self._config = config

    def describe(self, image_3HW: Tensor) -> Tensor:
        """(D,) float32 of norm 1; zeros where the image has no contrast."""
        return self._whitening(raw_gist(image_3HW, self._config))

    def describe_known(self, image_3HW: Tensor) -> Tensor:
        """`describe` times how much of the image is like mapping images at all, in [0, 1]."""
        return self._whitening.known(raw_gist(image_3HW, self._config))

    def state(self) -> dict[str, Tensor]:
        """The whitening."""
        return self._whitening.state()


def fit(views: Sequence[View], config: GistConfig, run: Run) -> tuple[Descriptor, Tensor]:
    """Learn a whitening from the images of the views."""
    raw_NL = describe_views(lambda image: raw_gist(image, config), views, run)
    whitening = fit_whitening(raw_NL, config.num_dimensions)
    return Gist(whitening, config), whitening(raw_NL)


def open_state(state: Mapping[str, Tensor], config: GistConfig) -> Descriptor:
    """GIST with the whitening of a map."""
    return Gist(Whitening.from_state(state), config)


def raw_gist(image_3HW: Tensor, config: GistConfig) -> Tensor:
    """(scales * directions * grid * grid,) float32 of norm 1: roots of the filters' shares."""
    size = config.size_px
    grey = cv2.resize(
        grey_from_rgb(image_3HW)[0].numpy(), (size, size), interpolation=cv2.INTER_AREA
    )
    num_filters = config.num_scales * config.num_directions
    if grey.std() < _MIN_CONTRAST:
        return torch.zeros(num_filters * config.grid**2)
    even = _even_brightness(np.log1p(grey.astype(np.float64)))
    spectrum = np.fft.fft2(even)
    filters = _filters(size, config.num_scales, config.num_directions)
    strength = np.abs(np.fft.ifft2(spectrum * filters))
    part = size // config.grid
    cells = strength.reshape(num_filters, config.grid, part, config.grid, part).mean((2, 4))
    # Roots of shares, as RootSIFT has them: a strong edge must not outweigh all the rest.
    return torch.from_numpy(np.sqrt(cells / cells.sum()).ravel().astype(np.float32))


def _even_brightness(log_grey: np.ndarray) -> np.ndarray:
    """Without slow changes of brightness, and with about the same contrast everywhere."""
    sigma = log_grey.shape[0] / (2 * np.pi * _LOW_CYCLES)
    even = log_grey - cv2.GaussianBlur(log_grey, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    spread = cv2.GaussianBlur(even * even, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return even / (_FLAT_CONTRAST + np.sqrt(np.maximum(spread, 0)))


@lru_cache(maxsize=4)
def _filters(size: int, num_scales: int, num_directions: int) -> np.ndarray:
    """Gabor filters (scales * directions, size, size) by their transfer functions, one-sided."""
    x, y = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))
    radius = np.hypot(x, y)
    radius[0, 0] = 1.0
    angle = np.arctan2(y, x)
    filters = []
    for scale in range(num_scales):
        octaves = np.log2(radius / (_FINEST_FREQUENCY / 2**scale))
        along = np.exp(-0.5 * (octaves / _BANDWIDTH_OCTAVES) ** 2)
        for direction in range(num_directions):
            turn = angle - np.pi * direction / num_directions
            turn = (turn + np.pi) % (2 * np.pi) - np.pi
            filters.append(along * np.exp(-0.5 * (turn * num_directions / (0.9 * np.pi) * 2) ** 2))
    bank = np.stack(filters)
    bank[:, 0, 0] = 0.0
    return bank


KIND = DescriptorKind(GistConfig, fit, open_state)
