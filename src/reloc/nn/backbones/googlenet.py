"""GoogLeNet, with its two auxiliary classifiers.

Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015; normalised, and with 3x3 in the
place of 5x5 filters, as in torchvision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_CLASSES = 1000
# Channels: 1x1; before and after 3x3; before and after the larger filter; after the pooling.
_INCEPTIONS = {
    "3a": (192, 64, (96, 128), (16, 32), 32),
    "3b": (256, 128, (128, 192), (32, 96), 64),
    "4a": (480, 192, (96, 208), (16, 48), 64),
    "4b": (512, 160, (112, 224), (24, 64), 64),
    "4c": (512, 128, (128, 256), (24, 64), 64),
    "4d": (512, 112, (144, 288), (32, 64), 64),
    "4e": (528, 256, (160, 320), (32, 128), 128),
    "5a": (832, 256, (160, 320), (32, 128), 128),
    "5b": (832, 384, (192, 384), (48, 128), 128),
}


class GoogLeNet(nn.Module):
    """Images (B, 3, H, W) to logits (B, 1000); the maps before have 1024 channels at stride 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _Conv(3, 64, 7, stride=2)
        self.conv2 = _Conv(64, 64, 1)
        self.conv3 = _Conv(64, 192, 3)
        for name, sizes in _INCEPTIONS.items():
            self.add_module(f"inception{name}", _Inception(*sizes))
        self.aux1, self.aux2 = _Auxiliary(512), _Auxiliary(528)
        self.fc = nn.Linear(1024, _CLASSES)

    def maps_of(self, rgb_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the two auxiliary classifiers see, and what the last one does."""
        hidden = _halved(self.conv1(rgb_B3HW))
        hidden = _halved(self.conv3(self.conv2(hidden)))
        seen = {}
        for name in _INCEPTIONS:
            hidden = self.get_submodule(f"inception{name}")(hidden)
            seen[name] = hidden
            if name == "3b":
                hidden = _halved(hidden)
            elif name == "4e":
                hidden = functional.max_pool2d(hidden, 2, ceil_mode=True)
        return seen["4a"], seen["4d"], hidden

    def features_of(self, rgb_B3HW: Tensor) -> Tensor:
        """Maps (B, 1024, h, w), from pixels normalised as ImageNet's.

        The official weights were trained on pixels in [-1, 1]: they are brought there.
        """
        std_3, mean_3 = rgb_B3HW.new_tensor(_STD), rgb_B3HW.new_tensor(_MEAN)
        in_unit = rgb_B3HW * std_3[:, None, None] + mean_3[:, None, None]
        return self.maps_of(2 * in_unit - 1)[-1]

    def forward(self, rgb_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, 1000) of both auxiliary classifiers and of the last."""
        first, second, last = self.maps_of(rgb_B3HW)
        return self.aux1(first), self.aux2(second), self.fc(last.mean((-2, -1)))


# Of ImageNet's pixels.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Conv(nn.Module):
    """A convolution, normalised."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, map_BChw: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(map_BChw)))


class _Inception(nn.Module):
    """Four branches side by side."""

    def __init__(
        self, channels_in: int, one: int, three: tuple[int, int], larger: tuple[int, int], pool: int
    ) -> None:
        super().__init__()
        self.branch1 = _Conv(channels_in, one, 1)
        self.branch2 = nn.Sequential(_Conv(channels_in, three[0], 1), _Conv(*three, 3))
        self.branch3 = nn.Sequential(_Conv(channels_in, larger[0], 1), _Conv(*larger, 3))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, 1, 1, ceil_mode=True), _Conv(channels_in, pool, 1)
        )

    def forward(self, map_BChw: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(map_BChw) for branch in branches], dim=1)


class _Auxiliary(nn.Module):
    """A classifier at an inner map."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.conv = _Conv(channels_in, 128, 1)
        self.fc1 = nn.Linear(128 * 16, 1024)
        self.fc2 = nn.Linear(1024, _CLASSES)

    def forward(self, map_BChw: Tensor) -> Tensor:
        grid = self.conv(functional.adaptive_avg_pool2d(map_BChw, 4)).flatten(1)
        return self.fc2(functional.dropout(functional.relu(self.fc1(grid)), 0.7, self.training))


def _halved(map_BChw: Tensor) -> Tensor:
    return functional.max_pool2d(map_BChw, 3, 2, ceil_mode=True)


def googlenet() -> GoogLeNet:
    """As in torchvision."""
    return GoogLeNet()
