"""Descriptors of two sets to correspondences, by nearest neighbours."""

from __future__ import annotations

import faiss
import numpy as np
import torch
from torch import Tensor


def match_mutual(
    descriptors_ND: Tensor, descriptors_MD: Tensor, max_ratio: float = 0.8
) -> Tensor:
    """Pairs (K, 2) int64 of mutual nearest neighbours, as indices into the two sets.

    A pair is kept where the nearest distance is at most `max_ratio` times the second nearest (Lowe 2004),
    seen from the first set. 128 columns of uint8 are compared by L2, 32 columns (ORB) by Hamming distance.
    """
    first = descriptors_ND.contiguous().numpy()
    second = descriptors_MD.contiguous().numpy()
    if len(first) < 1 or len(second) < 2:
        return torch.zeros(0, 2, dtype=torch.int64)
    distances_N2, neighbours_N2 = _nearest(first, second, 2)
    _, back_M1 = _nearest(second, first, 1)
    rows = np.arange(len(first))
    keep = back_M1[neighbours_N2[:, 0], 0] == rows
    keep &= distances_N2[:, 0] <= max_ratio * distances_N2[:, 1]
    pairs = np.stack([rows[keep], neighbours_N2[keep, 0]], axis=1)
    return torch.from_numpy(pairs.astype(np.int64))


def _nearest(queries: np.ndarray, base: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices (N, count) of the nearest rows of `base`; L2 or Hamming."""
    if queries.shape[1] == 32:
        index = faiss.IndexBinaryFlat(8 * base.shape[1])
        index.add(base)  # pyright: ignore[reportCallIssue]
        distances, neighbours = index.search(queries, count)  # pyright: ignore[reportCallIssue]
        return distances.astype(np.float32), neighbours
    squared, neighbours = faiss.knn(
        queries.astype(np.float32), base.astype(np.float32), count
    )
    return np.sqrt(np.maximum(squared, 0)), neighbours
