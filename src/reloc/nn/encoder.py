"""A dense encoder: one code for each 8x8 cell of a grey image, stable across views of a place.

Fully convolutional and small enough for a processor. Trained by `reloc pretrain encoder`, and never
on the place that is mapped with it: what a scene needs beyond it lies in the scene's head.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 8
# Grey values of photos, roughly: what makes them zero mean and unit variance.
GREY_MEAN, GREY_STD = 0.45, 0.25


@dataclass(frozen=True)
class EncoderSize:
    """Widths of the network.

    Attributes:
        stem: channels at strides 2 and 4.
        width: channels at stride 8.
        inner: channels inside a residual block.
        num_blocks: residual blocks; each adds 32 px to the receptive field of 30 px.
        code: length of a code.
    """

    stem: tuple[int, int] = (16, 32)
    width: int = 128
    inner: int = 96
    num_blocks: int = 4
    code: int = 128


SIZES = {
    "base": EncoderSize(),
    "small": EncoderSize(width=64, inner=40),
}


class Encoder(nn.Module):
    """Grey images (B, 1, H, W) to codes (B, C, H // 8, W // 8)."""

    def __init__(self, size: EncoderSize = SIZES["base"]) -> None:
        super().__init__()
        self.size = size
        half, quarter = size.stem
        # Even kernels: cell (i, j) is centred on the pixels that it stands for, 8 j ... 8 j + 7.
        self.stem = nn.Sequential(
            nn.Conv2d(1, half, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, quarter, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(quarter, quarter, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(quarter, size.width, 4, stride=2, padding=1),
        )
        self.blocks = nn.Sequential(
            *[_Block(size.width, size.inner) for _ in range(size.num_blocks)]
        )
        self.project = nn.Conv2d(size.width, size.code, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        for block in self.blocks:
            # Without normalisation layers, blocks that begin small keep the variance in bounds.
            nn.init.normal_(block.second.weight, std=1e-2)  # pyright: ignore

    @property
    def device(self) -> torch.device:
        """Where its weights are, and images have to be."""
        return self.project.weight.device

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        """Codes (B, C, H // 8, W // 8) with mean square 1, from grey values in [0, 1]."""
        hidden = self.blocks(self.stem((grey_B1HW - GREY_MEAN) / GREY_STD))
        code = self.project(functional.relu(hidden)).float()
        return functional.normalize(code, dim=1) * self.size.code**0.5


class _Block(nn.Module):
    """A residual block with the activation first."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, inner, 3, padding=1)
        self.second = nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.second(functional.relu(self.first(functional.relu(hidden))))


def grey_from_rgb(image_3HW: Tensor) -> Tensor:
    """(3, H, W) uint8 RGB to (1, H, W) uint8 luma (ITU-R BT.601)."""
    grey = cv2.cvtColor(image_3HW.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    return torch.from_numpy(grey)[None]


def cell_centers(height: int, width: int) -> Tensor:
    """Pixels (height * width, 2) at the middle of the cells of a (height, width) map of codes."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return STRIDE * (torch.stack([x, y], dim=-1).reshape(-1, 2).float() + 0.5)
