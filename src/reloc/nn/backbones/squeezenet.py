"""SqueezeNet 1.0.

Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_CLASSES = 1000


class SqueezeNet(nn.Module):
    """Images (B, 3, H, W) to logits (B, 1000); the maps before have 512 channels at stride 16."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _Fire(96, 16, 64),
            _Fire(128, 16, 64),
            _Fire(128, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _Fire(256, 32, 128),
            _Fire(256, 48, 192),
            _Fire(384, 48, 192),
            _Fire(384, 64, 256),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(512, _CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def features_of(self, rgb_B3HW: Tensor) -> Tensor:
        """Maps (B, 512, h, w), from pixels normalised as ImageNet's."""
        return self.features(rgb_B3HW)

    def forward(self, rgb_B3HW: Tensor) -> Tensor:
        """Logits (B, 1000)."""
        return self.classifier(self.features_of(rgb_B3HW)).flatten(1)


class _Fire(nn.Module):
    """Few channels, then many by 1x1 and 3x3 filters side by side."""

    def __init__(self, channels_in: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels_in, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, map_BChw: Tensor) -> Tensor:
        squeezed = functional.relu(self.squeeze(map_BChw))
        return functional.relu(torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], 1))


def squeezenet1_0() -> SqueezeNet:
    """As in torchvision."""
    return SqueezeNet()
