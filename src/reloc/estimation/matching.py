"""Descriptors of two sets to correspondences, by nearest neighbours.

128 columns of uint8 (SIFT) are compared by L2, 32 columns (the bits of ORB) by Hamming distance.
"""

from __future__ import annotations

import faiss
import numpy as np
import torch
from torch import Tensor

_BINARY_COLUMNS = 32


def match_mutual(descriptors_ND: Tensor, descriptors_MD: Tensor, max_ratio: float = 0.8) -> Tensor:
    """Pairs (K, 2) int64 of mutual nearest neighbours, as indices into the two sets.

    A pair is kept where the nearest distance is at most `max_ratio` times the second nearest (Lowe
    2004), seen from the first set.
    """
    pairs_K2 = match_nearest(descriptors_ND, descriptors_MD, max_ratio)
    _, back_M1 = _nearest(descriptors_MD, descriptors_ND, 1)
    mutual_K = torch.from_numpy(back_M1[:, 0])[pairs_K2[:, 1]] == pairs_K2[:, 0]
    return pairs_K2[mutual_K]


def match_nearest(descriptors_ND: Tensor, descriptors_MD: Tensor, max_ratio: float = 0.8) -> Tensor:
    """Pairs (K, 2) int64: each of the first set with its nearest of the second, by ratio test."""
    if len(descriptors_ND) < 1 or len(descriptors_MD) < 2:
        return torch.zeros(0, 2, dtype=torch.int64)
    distances_N2, neighbours_N2 = _nearest(descriptors_ND, descriptors_MD, 2)
    rows_K = np.flatnonzero(distances_N2[:, 0] <= max_ratio * distances_N2[:, 1])
    return torch.from_numpy(np.stack([rows_K, neighbours_N2[rows_K, 0]], axis=1))


def descriptor_distance(first: Tensor, second: Tensor) -> Tensor:
    """Distances (...) of descriptors (..., D) that broadcast: L2, or how many bits differ."""
    if first.shape[-1] == _BINARY_COLUMNS:
        differing = torch.bitwise_xor(first, second).numpy()
        return torch.from_numpy(np.bitwise_count(differing)).sum(-1).float()
    return (first.float() - second.float()).norm(dim=-1)


def _nearest(queries: Tensor, base: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances float32 and indices int64 (N, count) of the nearest rows of `base`."""
    if queries.shape[1] == _BINARY_COLUMNS:
        index = faiss.IndexBinaryFlat(8 * _BINARY_COLUMNS)
        index.add(base.numpy())  # pyright: ignore[reportCallIssue]
        distances, neighbours = index.search(queries.numpy(), count)  # pyright: ignore[reportCallIssue]
        return distances.astype(np.float32), neighbours
    squared, neighbours = faiss.knn(queries.float().numpy(), base.float().numpy(), count)
    return np.sqrt(np.maximum(squared, 0)), neighbours
