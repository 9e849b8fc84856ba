"""Losses that more than one network is trained with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(
    codes_a_NC: Tensor, codes_b_NC: Tensor, ignored_NN: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE in both directions, every other row of the batch being a negative.

    Args:
        codes_a_NC: one code per correspondence, of any length.
        codes_b_NC: of the same points in the other image.
        ignored_NN: pairs of rows that are neither the same point nor surely another one.
        temperature: of the softmax over cosines.

    Returns:
        The loss, and the share of points of a whose nearest code in b is the right one.

    Source: van den Oord et al., "Representation learning with contrastive predictive coding", 2018.
    """
    unit_a_NC = functional.normalize(codes_a_NC, dim=1) / temperature
    logits_NN = (unit_a_NC @ functional.normalize(codes_b_NC, dim=1).T).float()
    logits_NN = logits_NN.masked_fill(ignored_NN, -1e4)
    target_N = torch.arange(len(logits_NN), device=logits_NN.device)
    loss = functional.cross_entropy(logits_NN, target_N) + functional.cross_entropy(
        logits_NN.T, target_N
    )
    with torch.no_grad():
        hits = (logits_NN.argmax(dim=1) == target_N).float().mean()
    return loss / 2, hits
