"""ALIKE: light features whose keypoints are found between pixels.

Source: Zhao et al., "ALIKE: accurate and lightweight keypoint detection and descriptor extraction",
IEEE Transactions on Multimedia 2022. The layers and their names are those of the published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of the published sizes, the smallest.
_TINY = (8, 16, 32, 64)
WIDTH = 64
# Half the window in which a keypoint is the best, and sharpness of the mean of places in it.
_RADIUS, _TEMPERATURE = 2, 0.1
_MIN_SCORE = 0.2
_MULTIPLE = 32


class _Block(nn.Module):
    """Two convolutions, and a shortcut where `shortcut`."""

    def __init__(self, channels: int, out: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = nn.Conv2d(channels, out, 1) if shortcut else None

    def forward(self, hidden: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(hidden)))
        inner = self.bn2(self.conv2(inner))
        if self.downsample is not None:
            inner = inner + self.downsample(hidden)
        return functional.relu(inner)


class Alike(nn.Module):
    """Images (1, 3, H, W) in [0, 1] to descriptors and scores of every pixel."""

    def __init__(self, channels: tuple[int, int, int, int] = _TINY, width: int = WIDTH) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.block1 = _Block(3, first, shortcut=False)
        self.block2 = _Block(first, second, shortcut=True)
        self.block3 = _Block(second, third, shortcut=True)
        self.block4 = _Block(third, fourth, shortcut=True)
        self.conv1 = nn.Conv2d(first, width // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(second, width // 4, 1, bias=False)
        self.conv3 = nn.Conv2d(third, width // 4, 1, bias=False)
        self.conv4 = nn.Conv2d(fourth, width // 4, 1, bias=False)
        self.convhead2 = nn.Conv2d(width, width + 1, 1, bias=False)

    def forward(self, image_13HW: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors (1, C, H, W) and scores (1, H, W) in [0, 1]."""
        height, width = image_13HW.shape[-2:]
        padding = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
        full = self.block1(functional.pad(image_13HW, padding))
        half = self.block2(functional.max_pool2d(full, 2))
        eighth = self.block3(functional.max_pool2d(half, 4))
        last = self.block4(functional.max_pool2d(eighth, 4))
        parts = [functional.relu(self.conv1(full))]
        for layer, hidden in ((self.conv2, half), (self.conv3, eighth), (self.conv4, last)):
            part = functional.relu(layer(hidden))
            size = full.shape[-2:]
            parts.append(functional.interpolate(part, size, mode="bilinear", align_corners=True))
        out = self.convhead2(torch.cat(parts, dim=1))[:, :, :height, :width].float()
        return functional.normalize(out[:, :-1], dim=1), out[:, -1].sigmoid()


def detect(network: Alike, image_3HW: Tensor, max_keypoints: int) -> tuple[Tensor, Tensor]:
    """Keypoints (N, 2), centre of the top-left pixel (0.5, 0.5), and descriptors (N, C).

    The best pixels of their neighbourhoods, moved to the mean of the places round them, weighted by
    the softmax of the scores (the paper's equation 4).
    """
    descriptors, score_1HW = network(image_3HW[None])
    side = 2 * _RADIUS + 1
    peak_HW = functional.max_pool2d(score_1HW[:, None], side, stride=1, padding=_RADIUS)[0, 0]
    score_HW = score_1HW[0]
    keep_HW = (score_HW == peak_HW) & (score_HW > _MIN_SCORE)
    # At the border the neighbourhood is cut, and the mean would be drawn inwards.
    inside_HW = torch.zeros_like(keep_HW)
    inside_HW[_RADIUS : keep_HW.shape[0] - _RADIUS, _RADIUS : keep_HW.shape[1] - _RADIUS] = True
    rows, columns = (keep_HW & inside_HW).nonzero(as_tuple=True)
    order = score_HW[rows, columns].argsort(descending=True, stable=True)[:max_keypoints]
    rows, columns = rows[order], columns[order]
    steps = torch.arange(-_RADIUS, _RADIUS + 1)
    offsets_W2 = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 2)
    around_NW = score_HW[rows[:, None] + offsets_W2[:, 1], columns[:, None] + offsets_W2[:, 0]]
    share_NW = (around_NW / _TEMPERATURE).softmax(dim=1)
    at_N2 = torch.stack([columns, rows], dim=1) + share_NW @ offsets_W2.float()
    return at_N2 + 0.5, sample_descriptors(descriptors, at_N2 + 0.5, 1)


def sample_descriptors(descriptors_1Chw: Tensor, keypoints_N2: Tensor, stride: int) -> Tensor:
    """Descriptors (N, C) of norm 1 between cells of `stride` pixels, bilinearly.

    Args:
        descriptors_1Chw: cell (0, 0) is centred on pixel (stride / 2, stride / 2).
        keypoints_N2: pixels.
        stride: of the cells.
    """
    size = torch.tensor([descriptors_1Chw.shape[-1], descriptors_1Chw.shape[-2]]) * stride
    grid_11N2 = (2 * keypoints_N2 / size - 1)[None, None]
    sampled = functional.grid_sample(
        descriptors_1Chw, grid_11N2, padding_mode="border", align_corners=False
    )
    return functional.normalize(sampled[0, :, 0].T, dim=1)
