"""What tells good pose hypotheses from bad ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reloc.estimation.hypotheses import entropy_loss, soft_inlier_score


class Scorer(nn.Module):
    """Scores hypotheses by the errors of their cells."""

    def forward(self, errors_BHN: Tensor, usable_BN: Tensor, shape: tuple[int, int]) -> Tensor:
        """Scores (B, H), from errors of N = rows x columns = `shape` cells."""
        raise NotImplementedError

    def control(self, scores_BH: Tensor, valid_BH: Tensor) -> Tensor:
        """A loss of the scorer's own beside the expectation of the poses' loss."""
        del valid_BH
        return scores_BH.new_zeros(())


class SoftInliers(Scorer):
    """α times the share of cells that are inliers, by sigmoid(β (threshold - error)).

    Args:
        threshold: error at which a cell is half an inlier.
        softness: β times the threshold.
        scale: α; of one that learns, at first.
        target_bits: entropy of the choice that α learns to keep (DSAC++); None: α is fixed.
    """

    # The parameter is the logarithm of α over so much: α learns so many times faster than the
    # network that the optimizer trains beside it.
    _GAIN = 100.0

    def __init__(
        self, threshold: float, softness: float, scale: float, target_bits: float | None = None
    ) -> None:
        super().__init__()
        self._threshold, self._softness, self._scale = threshold, softness, scale
        self._target_bits = target_bits
        if target_bits is not None:
            self.log_gain = nn.Parameter(torch.zeros(()))

    def forward(self, errors_BHN: Tensor, usable_BN: Tensor, shape: tuple[int, int]) -> Tensor:
        """Scores (B, H); the gradient goes to the errors alone."""
        del shape
        # The expectation of the loss would move α to hide bad hypotheses, not to mend them.
        return self._alpha().detach() * self._shares(errors_BHN, usable_BN)

    def control(self, scores_BH: Tensor, valid_BH: Tensor) -> Tensor:
        """How far the entropy of the choice is from its target, in bits."""
        if self._target_bits is None:
            return super().control(scores_BH, valid_BH)
        alpha = self._alpha()
        return entropy_loss(scores_BH / alpha.detach(), valid_BH, alpha, self._target_bits).sum()

    def _shares(self, errors_BHN: Tensor, usable_BN: Tensor) -> Tensor:
        beta = self._softness / self._threshold
        return soft_inlier_score(errors_BHN, usable_BN, self._threshold, alpha=1.0, beta=beta)

    def _alpha(self) -> Tensor:
        if self._target_bits is None:
            return torch.tensor(self._scale)
        return self._scale * (self._GAIN * self.log_gain).exp()
