"""R2D2: descriptors of every pixel, with how repeatable and how reliable each is.

Source: Revaud et al., "R2D2: repeatable and reliable detector and descriptor", NeurIPS 2019. The
layers and their names are those of the published weights, which are not for commercial use.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 128
# Least repeatability and reliability of a keypoint, as published.
_MIN_SCORE = 0.7
# Of ImageNet, which its training normalised images by.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class R2d2(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to descriptors and scores of every pixel.

    Args:
        width: channels of the first layer; the last has four times as many.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, dilation = 3, 1
        # Output channels, kernel, stride, and whether a normalisation and a rectifier follow. Each
        # stride is a dilation of all later layers instead: the output keeps the image's size.
        for out, kernel, stride, normed, rectified in (
            (width, 3, 1, True, True),
            (width, 3, 1, True, True),
            (2 * width, 3, 2, True, True),
            (2 * width, 3, 1, True, True),
            (4 * width, 3, 2, True, True),
            (4 * width, 3, 1, True, True),
            (4 * width, 2, 2, True, False),
            (4 * width, 2, 2, True, False),
            (4 * width, 2, 2, False, False),
        ):
            padding = (kernel - 1) * dilation // 2
            layers.append(nn.Conv2d(channels, out, kernel, padding=padding, dilation=dilation))
            layers += [nn.BatchNorm2d(out, affine=False)] if normed else []
            layers += [nn.ReLU(inplace=True)] if rectified else []
            channels, dilation = out, dilation * stride
        self.ops = nn.Sequential(*layers)
        self.clf = nn.Conv2d(channels, 2, 1)
        self.sal = nn.Conv2d(channels, 1, 1)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Descriptors (B, C, H, W) of norm 1, repeatability and reliability (B, H, W) in [0, 1]."""
        mean, std = image_B3HW.new_tensor(_MEAN), image_B3HW.new_tensor(_STD)
        hidden = self.ops((image_B3HW - mean[:, None, None]) / std[:, None, None]).float()
        squared = hidden.square()
        reliability_BHW = self.clf(squared).softmax(dim=1)[:, 1]
        salience_BHW = functional.softplus(self.sal(squared))[:, 0]
        repeatability_BHW = salience_BHW / (1 + salience_BHW)
        return functional.normalize(hidden, dim=1), repeatability_BHW, reliability_BHW


def detect(network: R2d2, image_3HW: Tensor, max_keypoints: int) -> tuple[Tensor, Tensor]:
    """Keypoints (N, 2), centre of the top-left pixel (0.5, 0.5), and descriptors (N, C).

    Pixels that are more repeatable than the eight around them, best product of scores first; at one
    scale, that of the image.
    """
    descriptors, repeatability, reliability = network(image_3HW[None])
    peak_HW = functional.max_pool2d(repeatability[:, None], 3, stride=1, padding=1)[0, 0]
    keep_HW = (repeatability[0] == peak_HW) & (repeatability[0] >= _MIN_SCORE)
    keep_HW &= reliability[0] >= _MIN_SCORE
    rows, columns = keep_HW.nonzero(as_tuple=True)
    score_N = (repeatability * reliability)[0, rows, columns]
    order = score_N.argsort(descending=True, stable=True)[:max_keypoints]
    rows, columns = rows[order], columns[order]
    keypoints_N2 = torch.stack([columns, rows], dim=1).float() + 0.5
    return keypoints_N2, descriptors[0, :, rows, columns].T
