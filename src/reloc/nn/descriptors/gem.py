"""GeM: generalised means of an image's codes, between their mean and their maximum.

Source: Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation",
TPAMI 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run
from reloc.nn.descriptors.codes import ImageCodes
from reloc.nn.descriptors.descriptor import Descriptor, DescriptorKind, describe_views
from reloc.nn.descriptors.whitening import Whitening, fit_whitening
from reloc.nn.weights import EncoderName
from reloc.scenes.scene import View


@dataclass(frozen=True)
class GemConfig:
    """Settings of GeM."""

    encoder: EncoderName = "base"
    """The shared encoder."""
    short_side_px: int = 240
    """Images are resized to this shorter side."""
    power: float = 3.0
    """Of the mean; 1 is the mean, infinity the maximum."""
    num_dimensions: int = 128
    """Of the vectors, after whitening; at most two for three mapping images."""

    def __post_init__(self) -> None:
        for name in ("short_side_px", "power", "num_dimensions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Gem:
    """GeM with the whitening of a scene."""

    def __init__(self, codes: ImageCodes, whitening: Whitening, power: float) -> None:
        self._codes = codes
        self._whitening = whitening
        self._power = power

    def describe(self, image_3HW: Tensor) -> Tensor:
        """(D,) float32 of norm 1; zeros where the image has no contrast."""
        return self._whitening(self.raw(image_3HW))

    def raw(self, image_3HW: Tensor) -> Tensor:
        """(2 C,): the means of the codes' positive and of their negative parts, of norm 1.

        The paper's network ends in a rectifier; these codes have both signs.
        """
        codes_NC = self._codes(image_3HW)
        if codes_NC is None:
            return torch.zeros(2 * self._codes.width)
        both_N2C = torch.cat([codes_NC, -codes_NC], dim=1).clamp_min(0)
        means_2C = both_N2C.pow(self._power).mean(0).pow(1 / self._power)
        return functional.normalize(means_2C, dim=0)

    def describe_known(self, image_3HW: Tensor) -> Tensor:
        """`describe` times how much of the image is like mapping images at all, in [0, 1]."""
        return self._whitening.known(self.raw(image_3HW))

    def state(self) -> dict[str, Tensor]:
        """Whitening, and which encoder."""
        return {**self._whitening.state(), **self._codes.state()}


def fit(views: Sequence[View], config: GemConfig, run: Run) -> tuple[Descriptor, Tensor]:
    """Learn a whitening from the images of the views."""
    codes = ImageCodes(config.encoder, config.short_side_px)
    raw = Gem(codes, fit_whitening(torch.zeros(1, 1), 0), config.power).raw
    raw_NL = describe_views(raw, views, run)
    whitening = fit_whitening(raw_NL, config.num_dimensions)
    return Gem(codes, whitening, config.power), whitening(raw_NL)


def open_state(state: Mapping[str, Tensor], config: GemConfig) -> Descriptor:
    """GeM with the whitening of a map."""
    codes = ImageCodes(config.encoder, config.short_side_px, state)
    return Gem(codes, Whitening.from_state(state), config.power)


KIND = DescriptorKind(GemConfig, fit, open_state)
