"""The codes of an image on the shared encoder, for descriptors that pool them."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.nn.encoder import STRIDE, grey_from_rgb
from reloc.nn.precision import autocast
from reloc.nn.shared_encoder import encoder_of_map, encoder_record, open_encoder
from reloc.nn.weights import EncoderName

# Standard deviation, in grey values, below which an image shows nothing: black, or overexposed.
_MIN_CONTRAST = 1.0
# A longer side is at most so many times the shorter one that was asked for.
_MAX_ASPECT = 4


class ImageCodes:
    """An image to the codes of its cells.

    Args:
        encoder: its name.
        short_side_px: of the image as the encoder sees it.
        state: of codes that something was fitted on before; None: nothing was.

    Raises:
        InputError: the encoder is another one now than the state tells of.
    """

    def __init__(
        self, encoder: EncoderName, short_side_px: int, state: Mapping[str, Tensor] | None = None
    ) -> None:
        self._name: EncoderName = encoder
        # On the processor, whatever the device of a run: one image at a time, so that an answer
        # does not depend on its company.
        if state is None:
            self._encoder = open_encoder(encoder, Run())
        else:
            self._encoder = encoder_of_map(state, encoder, Run())
        self._short_side_px = short_side_px

    @property
    def width(self) -> int:
        """C, the length of a code."""
        return self._encoder.size.code

    @torch.no_grad()
    def __call__(self, image_3HW: Tensor) -> Tensor | None:
        """(N, C) float32 with mean square 1, of an image (3, H, W) uint8 RGB.

        None where the image has no contrast.
        """
        grey_HW = _resized(grey_from_rgb(image_3HW)[0].numpy(), self._short_side_px)
        if grey_HW.std() < _MIN_CONTRAST:
            return None
        grey_11HW = torch.from_numpy(grey_HW)[None, None].float() / 255
        with autocast(Run()):
            codes_1Chw = self._encoder(grey_11HW.contiguous(memory_format=torch.channels_last))
        return codes_1Chw[0].float().flatten(1).T.contiguous()

    def state(self) -> dict[str, Tensor]:
        """Which weights the codes are of."""
        return encoder_record(self._name)


def _resized(grey_HW: np.ndarray, short_side_px: int) -> np.ndarray:
    scale = min(
        short_side_px / min(grey_HW.shape), _MAX_ASPECT * short_side_px / max(grey_HW.shape)
    )
    size = [max(STRIDE, round(side * scale)) for side in grey_HW.shape[::-1]]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(grey_HW, size, interpolation=interpolation)
