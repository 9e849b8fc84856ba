"""Principal components of image vectors, evened out: small vectors that tell more.

What all images of a place share says nothing about where one was taken; what few of them share
does. With the few hundred images of a room, whitening all the way makes the noise of the last
components as loud as the rest; halfway there finds more, on mapping views that were held back.

Source: Jégou and Chum, "Negative evidences and co-occurrences in image retrieval: the benefit of
PCA and whitening", ECCV 2012.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reloc.nn.descriptors.descriptor import spread_over

# Fewer images than this have no statistics: their vectors stay as they are.
_MIN_IMAGES = 24
# A component needs more than an image to be known.
_IMAGES_PER_COMPONENT = 1.5
# By which variances are evened out: -1/2 whitens.
_POWER = -0.25
# Images from which components are learned: the Gram matrix of more takes longer than it gives.
_MAX_IMAGES = 3000
# Added to each variance, as a share of the largest kept one.
_FLOOR = 1e-3
_MEAN, _PROJECTION, _SCALE = "whitening_mean", "whitening_projection", "whitening_scale"


@dataclass(frozen=True, eq=False)
class Whitening:
    """Vectors (..., L) to vectors (..., D) of norm 1.

    Attributes:
        mean_L: float16; empty where vectors are only normalised.
        projection_LD: float16; its columns are orthogonal.
        scale_D: float32, their lengths.
    """

    mean_L: Tensor
    projection_LD: Tensor
    scale_D: Tensor

    def __call__(self, raw: Tensor) -> Tensor:
        """Of raw vectors of zeros, which show nothing, zeros."""
        if not len(self.mean_L):
            return functional.normalize(raw, dim=-1)
        shows = (raw != 0).any(dim=-1, keepdim=True)
        whitened = (raw - self.mean_L.float()) @ self.projection_LD.float()
        return functional.normalize(whitened, dim=-1) * shows

    def known(self, raw: Tensor) -> Tensor:
        """As `__call__`, times how much of what is not the mean lies in the components, in [0, 1].

        That is near 1 for the images that they were learned from, and small for images of other
        places, whose directions whitening would make as long as any.
        """
        if not len(self.mean_L):
            return functional.normalize(raw, dim=-1)
        centred = raw - self.mean_L.float()
        projected = centred @ self.projection_LD.float()
        inside = (projected / self.scale_D).norm(dim=-1, keepdim=True)
        share = (inside / centred.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp(0, 1)
        return self(raw) * share

    def state(self) -> dict[str, Tensor]:
        """Tensors for a map."""
        return {_MEAN: self.mean_L, _PROJECTION: self.projection_LD, _SCALE: self.scale_D}

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> Whitening:
        """The inverse of `state`."""
        return Whitening(state[_MEAN], state[_PROJECTION], state[_SCALE])


def fit_whitening(raw_NL: Tensor, num_dimensions: int) -> Whitening:
    """The whitening of raw vectors (N, L) to at most `num_dimensions`.

    Rows of zeros play no part; a few images, or 0 dimensions, are only normalised.
    """
    shown_NL = raw_NL[raw_NL.any(dim=1)]
    shown_NL = shown_NL[list(spread_over(len(shown_NL), _MAX_IMAGES))]
    num_kept = min(num_dimensions, int(len(shown_NL) / _IMAGES_PER_COMPONENT), raw_NL.shape[1])
    if num_dimensions < 1 or len(shown_NL) < _MIN_IMAGES:
        empty = torch.zeros(0, dtype=torch.float16)
        return Whitening(empty, empty.reshape(0, 0), torch.zeros(0))
    mean_L = shown_NL.mean(0)
    # Of the Gram matrix: there are far fewer images than numbers in a vector.
    centred_NL = (shown_NL - mean_L).double()
    variance_N, images_NN = torch.linalg.eigh(centred_NL @ centred_NL.T)
    variance_D, images_ND = variance_N.flip(0)[:num_kept], images_NN.flip(1)[:, :num_kept]
    directions_LD = functional.normalize(centred_NL.T @ images_ND, dim=0)
    scale_D = (variance_D / variance_D[0] + _FLOOR).pow(_POWER)
    # Ones on average, so that half precision is as fine as it can be.
    scale_D /= (directions_LD * scale_D).square().mean().sqrt()
    return Whitening(mean_L.half(), (directions_LD * scale_D).half(), scale_D.float())
