"""Saliency: which pixels the numbers that a network predicts hang on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from reloc.scenes.scene import Query


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a predicted pose hangs on.

    Attributes:
        picture_hw3: what the network was shown, uint8 RGB.
        position_hw: how much each pixel moves the position, not negative.
        rotation_hw: how much it turns the camera.
    """

    picture_hw3: Tensor
    position_hw: Tensor
    rotation_hw: Tensor


@runtime_checkable
class Explaining(Protocol):
    """A localizer whose answers can be differentiated."""

    def explain(self, query: Query, num_samples: int) -> Explanation | None:
        """What the answer to a query hangs on; None where it is declined."""
        ...


def smooth_gradient(
    outputs_of: Callable[[Tensor], Tensor],
    rgb_13HW: Tensor,
    num_samples: int,
    noise: float,
    generator: torch.Generator,
) -> Tensor:
    """Root mean square (H, W) of the gradients of outputs by the pixels, under noise.

    Each sample is differentiated along a random direction of the outputs: the mean of the squares
    is, up to a factor, the sum over all outputs, at the price of one.

    Args:
        outputs_of: pictures (1, 3, H, W) in [0, 1] to numbers (1, K).
        rgb_13HW: the picture.
        num_samples: of the noise.
        noise: its standard deviation; 0 for the plain gradient.
        generator: of noise and directions.

    Sources: Simonyan et al., "Deep inside convolutional networks", ICLR Workshop 2014; Smilkov et
    al., "SmoothGrad: removing noise by adding noise", 2017.
    """
    total_HW = torch.zeros(rgb_13HW.shape[-2:], device=rgb_13HW.device)
    for _ in range(num_samples):
        shake = torch.randn(rgb_13HW.shape, generator=generator).to(rgb_13HW.device)
        noisy = (rgb_13HW + noise * shake).detach().requires_grad_()
        with torch.enable_grad():
            outputs_1K = outputs_of(noisy)
            direction_1K = torch.randn(outputs_1K.shape, generator=generator)
            along = (outputs_1K * direction_1K.to(outputs_1K.device)).sum()
        (gradient,) = torch.autograd.grad(along, noisy)
        total_HW += gradient[0].square().sum(0)
    return (total_HW / num_samples).sqrt()
