"""VGG-16, without batch normalisation.

Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
recognition", ICLR 2015.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_CLASSES, _GRID = 1000, 7
# Channels of the convolutions of each block; after each block, a pooling.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Vgg(nn.Module):
    """Images (B, 3, H, W) to logits (B, 1000); the maps before have 512 channels at stride 32."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels_in = 3
        for block in _BLOCKS:
            for channels in block:
                layers += [nn.Conv2d(channels_in, channels, 3, padding=1), nn.ReLU()]
                channels_in = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels_in * _GRID**2, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, _CLASSES),
        )

    def features_of(self, rgb_B3HW: Tensor) -> Tensor:
        """Maps (B, 512, h, w), from pixels normalised as ImageNet's."""
        return self.features(rgb_B3HW)

    def forward(self, rgb_B3HW: Tensor) -> Tensor:
        """Logits (B, 1000)."""
        grid = functional.adaptive_avg_pool2d(self.features_of(rgb_B3HW), _GRID)
        return self.classifier(grid.flatten(1))


def vgg16() -> Vgg:
    """As in torchvision."""
    return Vgg()
