"""SuperPoint: a shared encoder with a head for keypoints and one for descriptors.

Source: DeTone, Malisiewicz and Rabinovich, "SuperPoint: self-supervised interest point detection
and description", CVPR workshops 2018. The layers and their names are those of the published
weights, which are for research only; they were not at hand when this was written.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.nn.features.alike import sample_descriptors

WIDTH = 256
_CELL = 8
_MIN_SCORE, _RADIUS, _BORDER = 0.005, 4, 4


class SuperPoint(nn.Module):
    """Grey images (B, 1, H, W) in [0, 1] to scores of pixels and descriptors of 8x8 cells."""

    def __init__(self) -> None:
        super().__init__()

        def conv(channels: int, out: int, kernel: int = 3) -> nn.Conv2d:
            return nn.Conv2d(channels, out, kernel, padding=kernel // 2)

        self.conv1a, self.conv1b = conv(1, 64), conv(64, 64)
        self.conv2a, self.conv2b = conv(64, 64), conv(64, 64)
        self.conv3a, self.conv3b = conv(64, 128), conv(128, 128)
        self.conv4a, self.conv4b = conv(128, 128), conv(128, 128)
        self.convPa, self.convPb = conv(128, 256), conv(256, _CELL**2 + 1, 1)
        self.convDa, self.convDb = conv(128, 256), conv(256, WIDTH, 1)

    def forward(self, grey_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors (B, C, H // 8, W // 8) of norm 1 and scores (B, 8 (H // 8), 8 (W // 8))."""
        hidden = grey_B1HW
        for first, second in (
            (self.conv1a, self.conv1b),
            (self.conv2a, self.conv2b),
            (self.conv3a, self.conv3b),
        ):
            hidden = functional.relu(second(functional.relu(first(hidden))))
            hidden = functional.max_pool2d(hidden, 2)
        hidden = functional.relu(self.conv4b(functional.relu(self.conv4a(hidden))))
        # The last of a cell's shares is that of there being no keypoint.
        share = self.convPb(functional.relu(self.convPa(hidden))).float().softmax(dim=1)[:, :-1]
        scores_BHW = functional.pixel_shuffle(share, _CELL)[:, 0]
        descriptors = self.convDb(functional.relu(self.convDa(hidden))).float()
        return functional.normalize(descriptors, dim=1), scores_BHW


def detect(
    network: SuperPoint, grey_1HW: Tensor, max_keypoints: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoints (N, 2), descriptors (N, C) and scores (N,) in (0, 1), strongest first.

    The centre of the top-left pixel is (0.5, 0.5).
    """
    descriptors, score_1HW = network(grey_1HW[None])
    side = 2 * _RADIUS + 1
    peak_HW = functional.max_pool2d(score_1HW[:, None], side, stride=1, padding=_RADIUS)[0, 0]
    score_HW = score_1HW[0]
    keep_HW = (score_HW == peak_HW) & (score_HW > _MIN_SCORE)
    inside_HW = torch.zeros_like(keep_HW)
    inside_HW[_BORDER : keep_HW.shape[0] - _BORDER, _BORDER : keep_HW.shape[1] - _BORDER] = True
    rows, columns = (keep_HW & inside_HW).nonzero(as_tuple=True)
    score_N = score_HW[rows, columns]
    order = score_N.argsort(descending=True, stable=True)[:max_keypoints]
    keypoints_N2 = torch.stack([columns[order], rows[order]], dim=1).float() + 0.5
    return keypoints_N2, sample_descriptors(descriptors, keypoints_N2, _CELL), score_N[order]
