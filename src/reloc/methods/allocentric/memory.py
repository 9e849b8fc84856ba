"""The memory: what is kept of each cell of the ground, and how views are written into it.

A cell's vector has a part for each band of heights: what lies on the floor is not what hangs above
it. How codes become vectors, and how a view changes a cell, is learned or fixed (`Update`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.methods.allocentric.grid import Grid, correlate

Update = Literal["mean", "gru"]
# Points that count for nothing, in each cell: what was seen once is no certainty.
_SHRINKAGE = 1.0
_MIN_VARIANCE = 1e-6
_FIRST_SHARPNESS = 60.0


@dataclass(frozen=True, eq=False)
class Written:
    """A mapping view, as it is written.

    Attributes:
        codes_NC: of the encoder.
        places_N3: float64, in the level frame.
    """

    codes_NC: Tensor
    places_N3: Tensor


@dataclass(frozen=True, eq=False)
class Asked:
    """A query, as it is matched.

    Attributes:
        codes_NC: of the encoder.
        points_N3: float64, from the camera, in the frame with z up in which it looks along x.
    """

    codes_NC: Tensor
    points_N3: Tensor


class SpatialMemory(nn.Module):
    """Writes views into a memory (M, X, Y), and matches queries against it.

    Args:
        code: numbers of a code.
        features: numbers of a vector, for each band.
        bands: of heights.
        band_height: distance between the middles of two bands.
        update: how a view is written: "mean" keeps running means of the cells; "gru" lets a gated
            recurrent unit change each cell that the view sees (Cho et al., EMNLP 2014).
    """

    mean: Tensor
    eye_height: Tensor

    def __init__(
        self, code: int, features: int, bands: int, band_height: float, update: Update
    ) -> None:
        super().__init__()
        self.bands, self.band_height = bands, band_height
        self.register_buffer("mean", torch.zeros(code))
        # Height of the cameras: bands are counted from it.
        self.register_buffer("eye_height", torch.zeros(()))
        self.projection = nn.Linear(code, features, bias=False)
        self.log_sharpness = nn.Parameter(torch.tensor(_FIRST_SHARPNESS).log())
        width = features * bands
        self.cell = nn.GRUCell(width, width) if update == "gru" else None

    def start(self, codes_NC: Tensor, eye_height: float) -> None:
        """Begin with the principal components of codes, halfway to equal variances."""
        mean_C = codes_NC.mean(0)
        values_C, vectors_CC = torch.linalg.eigh((codes_NC - mean_C).double().T.cov())
        kept = slice(-self.projection.out_features, None)
        scale_F = values_C[kept].clamp_min(_MIN_VARIANCE).rsqrt().sqrt()
        with torch.no_grad():
            self.mean.copy_(mean_C)
            self.eye_height.fill_(eye_height)
            self.projection.weight.copy_((vectors_CC[:, kept] * scale_F).T)
            if self.cell is not None:
                _start_as_average(self.cell)

    def vectors(self, codes_NC: Tensor, height_N: Tensor) -> Tensor:
        """Vectors (N, M) of points at a height above the cameras'."""
        features_NF = functional.normalize(self.projection(codes_NC - self.mean), dim=1)
        top = self.bands - 1
        band_N = (height_N.float() / self.band_height + top / 2).clamp(0, top)
        share_NB = 1 - (band_N[:, None] - torch.arange(self.bands, device=band_N.device)).abs()
        return (share_NB.clamp_min(0)[:, :, None] * features_NF[:, None]).flatten(1)

    def write(self, grid: Grid, views: Sequence[Written]) -> Tensor:
        """The memory (M, X, Y) after views, one after the other."""
        sums, kept = None, None
        for view in views:
            height_N = view.places_N3[:, 2] - self.eye_height
            vectors_NM = self.vectors(view.codes_NC, height_N)
            ones_N1 = torch.ones_like(vectors_NM[:, :1])
            both_NV = torch.cat([vectors_NM, ones_N1], dim=1)
            seen = grid.splat(view.places_N3[:, :2], both_NV)
            if self.cell is None:
                sums = seen if sums is None else sums + seen
                continue
            means_MXY = seen[:-1] / (seen[-1:] + _SHRINKAGE)
            kept = torch.zeros_like(means_MXY) if kept is None else kept
            kept = _changed(self.cell, kept, means_MXY, seen[-1] > 0)
        if self.cell is None:
            assert sums is not None
            return sums[:-1] / (sums[-1:] + _SHRINKAGE)
        assert kept is not None
        return kept

    def logits(
        self, grid: Grid, memory_MXY: Tensor, asked: Asked, headings_rad_R: Tensor
    ) -> Tensor:
        """Log-likelihoods (R, X, Y), up to a constant, of a camera with a heading over a cell."""
        vectors_NM = self.vectors(asked.codes_NC, asked.points_N3[:, 2])
        copies = grid.copies(asked.points_N3[:, :2], vectors_NM, headings_rad_R)
        scores_RXY = correlate(memory_MXY, copies) / len(vectors_NM)
        return self.log_sharpness.exp() * scores_RXY


def _changed(cell: nn.GRUCell, kept_MXY: Tensor, means_MXY: Tensor, seen_XY: Tensor) -> Tensor:
    """The memory after a view: cells that it sees are changed, the others stay."""
    before_SM, now_SM = kept_MXY[:, seen_XY].T, means_MXY[:, seen_XY].T
    after_MXY = kept_MXY.clone()
    after_MXY[:, seen_XY] = cell(now_SM, before_SM).T
    return after_MXY


def _start_as_average(cell: nn.GRUCell) -> None:
    """A unit that at first takes a third of what it sees, and keeps two thirds of what it had."""
    width = cell.hidden_size
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    nn.init.eye_(cell.weight_ih[2 * width :])
    nn.init.constant_(cell.bias_ih[width : 2 * width], 0.7)
