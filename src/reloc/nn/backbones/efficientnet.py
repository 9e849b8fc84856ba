"""EfficientNet-B0.

Source: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML
2019.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_CLASSES = 1000
# Expansion, kernel, stride, channels in and out, blocks.
_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
_LAST = 1280


class EfficientNet(nn.Module):
    """Images (B, 3, H, W) to logits (B, 1000); the maps before have 1280 channels at stride 32."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, stride=2)]
        for expansion, kernel, stride, channels_in, channels, count in _STAGES:
            blocks = []
            for index in range(count):
                first = index == 0
                blocks.append(
                    _Block(
                        expansion,
                        kernel,
                        stride if first else 1,
                        channels_in if first else channels,
                        channels,
                    )
                )
            layers.append(nn.Sequential(*blocks))
        layers.append(_conv(_STAGES[-1][4], _LAST, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(_LAST, _CLASSES))

    def features_of(self, rgb_B3HW: Tensor) -> Tensor:
        """Maps (B, 1280, h, w), from pixels normalised as ImageNet's."""
        return self.features(rgb_B3HW)

    def forward(self, rgb_B3HW: Tensor) -> Tensor:
        """Logits (B, 1000)."""
        return self.classifier(self.features_of(rgb_B3HW).mean((-2, -1)))


class _Squeeze(nn.Module):
    """Each channel is weighted by what all channels are on average."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.fc2 = nn.Conv2d(inner, channels, 1)

    def forward(self, map_BChw: Tensor) -> Tensor:
        mean = map_BChw.mean((-2, -1), keepdim=True)
        return map_BChw * self.fc2(functional.silu(self.fc1(mean))).sigmoid()


class _Block(nn.Module):
    """More channels, a filter for each, and fewer again."""

    def __init__(
        self, expansion: int, kernel: int, stride: int, channels_in: int, channels: int
    ) -> None:
        super().__init__()
        inner = expansion * channels_in
        layers: list[nn.Module] = [_conv(channels_in, inner, 1)] if expansion > 1 else []
        layers += [
            _conv(inner, inner, kernel, stride, groups=inner),
            _Squeeze(inner, max(1, channels_in // 4)),
            _conv(inner, channels, 1, active=False),
        ]
        self.block = nn.Sequential(*layers)
        self._skips = stride == 1 and channels_in == channels

    def forward(self, map_BChw: Tensor) -> Tensor:
        hidden = self.block(map_BChw)
        return hidden + map_BChw if self._skips else hidden


def _conv(
    channels_in: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    active: bool = True,
) -> nn.Sequential:
    """A convolution, normalised."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]
    return nn.Sequential(*layers, nn.SiLU()) if active else nn.Sequential(*layers)


def efficientnet_b0() -> EfficientNet:
    """As in torchvision."""
    return EfficientNet()
