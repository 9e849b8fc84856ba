"""Does a method know when it is right? Confidences against what came true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Reliability:
    """Answers sorted into bins of equal width by their confidence.

    Attributes:
        edges: (B + 1,) of the bins, from 0 to 1.
        counts: (B,) answers in each.
        mean_confidence: (B,) what was claimed; NaN where the bin is empty.
        fraction_correct: (B,) what came true; NaN where the bin is empty.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    mean_confidence: NDArray[np.float64]
    fraction_correct: NDArray[np.float64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean of |claimed - came true| over the answers, in [0, 1] (Guo et al., ICML 2017)."""
        filled = self.counts > 0
        gap = np.abs(self.mean_confidence - self.fraction_correct)[filled]
        return float(np.average(gap, weights=self.counts[filled]))


def reliability(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], num_bins: int = 10
) -> Reliability | None:
    """The reliability table of N answers.

    Args:
        confidence: (N,) in [0, 1]; NaN where the method gave none, or declined.
        correct: (N,) whether the answer was right.
        num_bins: of equal width.

    Returns:
        None where there is no confidence at all.
    """
    given = ~np.isnan(confidence)
    if not given.any():
        return None
    confidence, correct = confidence[given], correct[given]
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(bins, confidence, num_bins) / counts
        fraction_correct = np.bincount(bins, correct.astype(float), num_bins) / counts
    return Reliability(edges, counts, mean_confidence, fraction_correct)


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """What remains right as less sure answers are admitted. One entry for each distinct score.

    Attributes:
        recall: (K,) rising: answers admitted over all queries, those without an answer included.
        precision: (K,) right answers over the admitted.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area below the steps, in [0, 1]."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))


def precision_recall(
    score: NDArray[np.float64], correct: NDArray[np.bool_]
) -> PrecisionRecall | None:
    """Precision over recall as the Map-free benchmark draws it: N queries ranked by their score.

    Args:
        score: (N,) any measure of being sure, larger is surer; NaN where there is no answer: such a
            query is never admitted, and stays in the denominator of recall.
        correct: (N,) whether the answer was right.

    Returns:
        None where there is no score at all.
    """
    given = ~np.isnan(score)
    if not given.any():
        return None
    order = np.argsort(-score[given], kind="stable")
    sorted_score, sorted_correct = score[given][order], correct[given][order]
    # Equal scores are admitted together: their order is an accident.
    last = np.flatnonzero(np.append(np.diff(sorted_score) != 0, True))
    admitted = last + 1
    return PrecisionRecall(admitted / len(score), np.cumsum(sorted_correct)[last] / admitted)
