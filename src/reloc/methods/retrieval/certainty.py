"""How sure retrieval is: what similarity means in a scene, learned from its mapping views alone.

Each view is asked for twice: among the other views but its immediate neighbours, where one near by
is the right answer, and among those of other places only, where any answer is wrong, as for a photo
of a place that is not in the map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from reloc.geometry.near_views import is_within
from reloc.geometry.rigid3d import Rigid3d
from reloc.nn.descriptors.descriptor import spread_over

# Shares of the scene's extent, and degrees: up to which a view is of the same moment, and no
# answer; of the same place, and right; and beyond which it is of another place.
_SAME, _NEAR, _FAR = (0.02, 5.0), (0.12, 35.0), (0.3, 60.0)
# Views asked for, and least number of right and of wrong answers to learn from.
_MAX_TRIALS, _MIN_ANSWERS = 1000, 20


@dataclass(frozen=True)
class Certainty:
    """Similarity to the probability that the most similar view is of the same place.

    Attributes:
        half_sure: similarity at which it is one half.
        slope: of its logit.
    """

    half_sure: float
    slope: float

    def __call__(self, similarity: float) -> float:
        """The probability."""
        return 1 / (1 + math.exp(min(50.0, -self.slope * (similarity - self.half_sure))))

    @staticmethod
    def to_tensor(certainty: Certainty | None) -> Tensor:
        """(2,) float64 for a map; (0,) where there is none."""
        values = [] if certainty is None else [certainty.half_sure, certainty.slope]
        return torch.tensor(values, dtype=torch.float64)

    @staticmethod
    def from_tensor(values: Tensor) -> Certainty | None:
        """The inverse of `to_tensor`."""
        return Certainty(*values.tolist()) if len(values) else None


def learn_certainty(vectors_ND: Tensor, cam_from_world: Rigid3d) -> Certainty | None:
    """From the vectors of mapping views and their poses; None where there is too little to learn.

    Args:
        vectors_ND: of norm 1.
        cam_from_world: batch (N,).
    """
    chosen = list(spread_over(len(vectors_ND), _MAX_TRIALS))
    vectors_ND, poses = vectors_ND[chosen], cam_from_world[chosen]
    similarity_NN = vectors_ND @ vectors_ND.T
    same_NN, near_NN = is_within(poses, *_SAME), is_within(poses, *_NEAR)
    far_NN = ~is_within(poses, *_FAR)
    known = _best(similarity_NN, ~same_NN, near_NN, (near_NN & ~same_NN).any(1))
    unknown = _best(similarity_NN, far_NN, near_NN, far_NN.any(1))
    similarity = torch.cat([known[0], unknown[0]])
    right = torch.cat([known[1], unknown[1]])
    if min(int(right.sum()), int((~right).sum())) < _MIN_ANSWERS:
        return None
    mean, spread = float(similarity.mean()), float(similarity.std())
    if spread == 0:
        return None
    scaled = ((similarity - mean) / spread).double().numpy()
    is_right = right.numpy()

    def loss(parameters: np.ndarray) -> float:
        logit = parameters[0] * scaled + parameters[1]
        # The ridge keeps the slope finite where the two are told apart without fail.
        wrong_way = np.logaddexp(0, np.where(is_right, -logit, logit)).sum()
        return float(wrong_way + 0.5 * parameters[0] ** 2)

    steepness, offset = minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    slope = float(steepness) / spread
    if slope <= 0:
        return None
    return Certainty(mean - float(offset) / slope, slope)


def _best(
    similarity_NN: Tensor, allowed_NN: Tensor, right_NN: Tensor, asked_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each view asked for: similarity of the best view allowed, and whether that is right."""
    best = similarity_NN.masked_fill(~allowed_NN, -torch.inf).max(dim=1)
    right_N = right_NN.gather(1, best.indices[:, None])[:, 0]
    return best.values[asked_N], right_N[asked_N]
