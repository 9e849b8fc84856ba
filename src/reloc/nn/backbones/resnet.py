"""ResNet-18, -34 and -50.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016; the stride of a
bottleneck is at its 3x3 convolution, as in torchvision.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_CLASSES = 1000


class _Basic(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, map_BChw: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(map_BChw)))
        beside = map_BChw if self.downsample is None else self.downsample(map_BChw)
        return functional.relu(self.bn2(self.conv2(hidden)) + beside)


class _Bottleneck(nn.Module):
    """1x1, 3x3 on fewer channels, 1x1."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        out = self.expansion * channels
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = _shortcut(channels_in, out, stride)

    def forward(self, map_BChw: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(map_BChw)))
        hidden = functional.relu(self.bn2(self.conv2(hidden)))
        beside = map_BChw if self.downsample is None else self.downsample(map_BChw)
        return functional.relu(self.bn3(self.conv3(hidden)) + beside)


class ResNet(nn.Module):
    """Images (B, 3, H, W) to logits (B, 1000); the maps before are at stride 32."""

    def __init__(self, block: type[_Basic | _Bottleneck], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels_in = 64
        for number, count in enumerate(blocks, start=1):
            channels, stages = 32 * 2**number, []
            for index in range(count):
                stride = 2 if index == 0 and number > 1 else 1
                stages.append(block(channels_in, channels, stride))
                channels_in = block.expansion * channels
            self.add_module(f"layer{number}", nn.Sequential(*stages))
        self.fc = nn.Linear(channels_in, _CLASSES)

    def features_of(self, rgb_B3HW: Tensor) -> Tensor:
        """Maps (B, 512 or 2048, h, w), from pixels normalised as ImageNet's."""
        hidden = functional.relu(self.bn1(self.conv1(rgb_B3HW)))
        hidden = functional.max_pool2d(hidden, 3, 2, 1)
        for number in range(1, 5):
            hidden = self.get_submodule(f"layer{number}")(hidden)
        return hidden

    def forward(self, rgb_B3HW: Tensor) -> Tensor:
        """Logits (B, 1000)."""
        return self.fc(self.features_of(rgb_B3HW).mean((-2, -1)))


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Sequential | None:
    """What brings the input of a block to the shape of its output; None where it has it."""
    if stride == 1 and channels_in == channels:
        return None
    conv = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def resnet18() -> ResNet:
    """As in torchvision."""
    return ResNet(_Basic, (2, 2, 2, 2))


def resnet34() -> ResNet:
    """As in torchvision."""
    return ResNet(_Basic, (3, 4, 6, 3))


def resnet50() -> ResNet:
    """As in torchvision."""
    return ResNet(_Bottleneck, (3, 4, 6, 3))
