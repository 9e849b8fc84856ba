"""Vectors of locally aggregated descriptors: one for an image, made of its local features."""

from __future__ import annotations

import faiss
import torch
from torch import Tensor


def learn_vocabulary(descriptors_ND: Tensor, num_words: int, seed: int) -> Tensor:
    """k-means centres (num_words, D) float32 of descriptors (N, D) float32.

    Fewer than `num_words` descriptors give that many words.
    """
    num_words = min(num_words, len(descriptors_ND))
    kmeans = faiss.Kmeans(
        descriptors_ND.shape[1], num_words, niter=15, seed=seed + 1, min_points_per_centroid=1
    )
    kmeans.train(descriptors_ND.contiguous().numpy())
    assert kmeans.centroids is not None
    return torch.from_numpy(kmeans.centroids.reshape(num_words, -1).copy())


def aggregate(descriptors_ND: Tensor, vocabulary_KD: Tensor) -> Tensor:
    """The image's vector (K * D,) float32, of unit length; zeros where there is no descriptor.

    Residuals to the nearest word are summed and normalised word by word, so that no repeated
    texture outweighs the rest (Jégou et al., "Aggregating local descriptors into a compact image
    representation", CVPR 2010; Arandjelović and Zisserman, "All about VLAD", CVPR 2013).
    """
    residuals_KD = torch.zeros_like(vocabulary_KD)
    if len(descriptors_ND):
        words_N = torch.cdist(descriptors_ND, vocabulary_KD).argmin(dim=1)
        residuals_KD.index_add_(0, words_N, descriptors_ND - vocabulary_KD[words_N])
    normalised_KD = torch.nn.functional.normalize(residuals_KD, dim=1)
    return torch.nn.functional.normalize(normalised_KD.flatten(), dim=0)
