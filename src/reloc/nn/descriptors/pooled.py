"""What the cells of an image have in common: mean and spread of their codes."""

from __future__ import annotations

import torch
from torch import Tensor


def pool_codes(codes_NC: Tensor) -> Tensor:
    """Mean and standard deviation of each number of the codes: (2 C,) float32."""
    codes_NC = codes_NC.float()
    return torch.cat([codes_NC.mean(dim=0), codes_NC.std(dim=0, correction=0)])
