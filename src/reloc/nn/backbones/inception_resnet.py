"""Inception-ResNet-v2; torchvision has none, the names are those of the checkpoints by Cadene.

Source: Szegedy et al., "Inception-v4, Inception-ResNet and the impact of residual connections on
learning", AAAI 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_CLASSES, _LAST = 1001, 1536


class InceptionResNetV2(nn.Module):
    """Images (B, 3, H, W) to logits (B, 1001); the maps before have 1536 channels at stride 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = _Conv(3, 32, 3, stride=2)
        self.conv2d_2a = _Conv(32, 32, 3)
        self.conv2d_2b = _Conv(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = _Conv(64, 80, 1)
        self.conv2d_4a = _Conv(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = _Mixed5b()
        self.repeat = nn.Sequential(*[_Block35(0.17) for _ in range(10)])
        self.mixed_6a = _Mixed6a()
        self.repeat_1 = nn.Sequential(*[_Block17(0.10) for _ in range(20)])
        self.mixed_7a = _Mixed7a()
        self.repeat_2 = nn.Sequential(*[_Block8(0.20) for _ in range(9)])
        self.block8 = _Block8(1.0, active=False)
        self.conv2d_7b = _Conv(2080, _LAST, 1)
        self.last_linear = nn.Linear(_LAST, _CLASSES)

    def features_of(self, rgb_B3HW: Tensor) -> Tensor:
        """Maps (B, 1536, h, w), from pixels normalised as ImageNet's.

        The weights were trained on pixels in [-1, 1]: they are brought there.
        """
        std_3, mean_3 = rgb_B3HW.new_tensor(_STD), rgb_B3HW.new_tensor(_MEAN)
        hidden = 2 * (rgb_B3HW * std_3[:, None, None] + mean_3[:, None, None]) - 1
        for name, part in self.named_children():
            if name != "last_linear":
                hidden = part(hidden)
        return hidden

    def forward(self, rgb_B3HW: Tensor) -> Tensor:
        """Logits (B, 1001); the first is of nothing."""
        return self.last_linear(self.features_of(rgb_B3HW).mean((-2, -1)))


# Of ImageNet's pixels.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Conv(nn.Module):
    """A convolution, normalised."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, map_BChw: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(map_BChw)))


class _Branches(nn.Module):
    """Branches side by side, named branch0, branch1, ..."""

    def _join(self, map_BChw: Tensor) -> Tensor:
        branches = [part for name, part in self.named_children() if name.startswith("branch")]
        return torch.cat([branch(map_BChw) for branch in branches], dim=1)

    def forward(self, map_BChw: Tensor) -> Tensor:
        return self._join(map_BChw)


class _Residual(_Branches):
    """Branches, brought to the channels of the input, scaled and added to it."""

    conv2d: nn.Conv2d

    def __init__(self, scale: float, active: bool = True) -> None:
        super().__init__()
        self._scale, self._active = scale, active

    def forward(self, map_BChw: Tensor) -> Tensor:
        hidden = map_BChw + self._scale * self.conv2d(self._join(map_BChw))
        return functional.relu(hidden) if self._active else hidden


class _Mixed5b(_Branches):
    def __init__(self) -> None:
        super().__init__()
        self.branch0 = _Conv(192, 96, 1)
        self.branch1 = nn.Sequential(_Conv(192, 48, 1), _Conv(48, 64, 5, padding=2))
        self.branch2 = nn.Sequential(
            _Conv(192, 64, 1), _Conv(64, 96, 3, padding=1), _Conv(96, 96, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            nn.AvgPool2d(3, 1, 1, count_include_pad=False), _Conv(192, 64, 1)
        )


class _Block35(_Residual):
    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.branch0 = _Conv(320, 32, 1)
        self.branch1 = nn.Sequential(_Conv(320, 32, 1), _Conv(32, 32, 3, padding=1))
        self.branch2 = nn.Sequential(
            _Conv(320, 32, 1), _Conv(32, 48, 3, padding=1), _Conv(48, 64, 3, padding=1)
        )
        self.conv2d = nn.Conv2d(128, 320, 1)


class _Mixed6a(_Branches):
    def __init__(self) -> None:
        super().__init__()
        self.branch0 = _Conv(320, 384, 3, stride=2)
        self.branch1 = nn.Sequential(
            _Conv(320, 256, 1), _Conv(256, 256, 3, padding=1), _Conv(256, 384, 3, stride=2)
        )
        self.branch2 = nn.MaxPool2d(3, 2)


class _Block17(_Residual):
    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.branch0 = _Conv(1088, 192, 1)
        self.branch1 = nn.Sequential(
            _Conv(1088, 128, 1),
            _Conv(128, 160, (1, 7), padding=(0, 3)),
            _Conv(160, 192, (7, 1), padding=(3, 0)),
        )
        self.conv2d = nn.Conv2d(384, 1088, 1)


class _Mixed7a(_Branches):
    def __init__(self) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(_Conv(1088, 256, 1), _Conv(256, 384, 3, stride=2))
        self.branch1 = nn.Sequential(_Conv(1088, 256, 1), _Conv(256, 288, 3, stride=2))
        self.branch2 = nn.Sequential(
            _Conv(1088, 256, 1), _Conv(256, 288, 3, padding=1), _Conv(288, 320, 3, stride=2)
        )
        self.branch3 = nn.MaxPool2d(3, 2)


class _Block8(_Residual):
    def __init__(self, scale: float, active: bool = True) -> None:
        super().__init__(scale, active)
        self.branch0 = _Conv(2080, 192, 1)
        self.branch1 = nn.Sequential(
            _Conv(2080, 192, 1),
            _Conv(192, 224, (1, 3), padding=(0, 1)),
            _Conv(224, 256, (3, 1), padding=(1, 0)),
        )
        self.conv2d = nn.Conv2d(448, 2080, 1)


def inception_resnet_v2() -> InceptionResNetV2:
    """With the background class of its checkpoints."""
    return InceptionResNetV2()
