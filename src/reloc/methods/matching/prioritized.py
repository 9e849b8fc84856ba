"""Prioritised search: a query's features are matched in the order of how cheap that is.

No image is retrieved. A feature is compared with the points of its visual word only, those with the
fewest points first; where one is found, the points round it that its views saw are looked for in
the query, among the features of their coarse word. It ends as soon as there are enough matches.

Source: Sattler, Leibe and Kobbelt, "Efficient and effective prioritized matching for large-scale
image-based localization", TPAMI 2017.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.spatial import KDTree
from torch import Tensor

from reloc.methods.matching.point_map import PointMap
from reloc.nn.local_features import LocalFeatures, as_vectors
from reloc.scenes.scene import Query

_FEATURE, _POINT = 0, 1


@dataclass(frozen=True)
class SearchLimits:
    """When a match counts, and when the search ends.

    Attributes:
        max_ratio: nearest over second nearest distance of a feature's points.
        max_back_ratio: the same of a point's features, which are few.
        max_matches: at which the search ends.
        num_near: points round a match that are looked for.
    """

    max_ratio: float
    max_back_ratio: float
    max_matches: int
    num_near: int


class PrioritizedSearch:
    """First matches of a map of points.

    Args:
        point_map: the map.
        fine_KD: words, float32, that features are compared within.
        coarse_K: the coarse word of each of these.
        limits: of the search.
    """

    def __init__(
        self, point_map: PointMap, fine_KD: Tensor, coarse_K: Tensor, limits: SearchLimits
    ) -> None:
        self._vectors = as_vectors(point_map.descriptors_ND).numpy()
        self._fine = faiss.IndexFlatL2(fine_KD.shape[1])
        self._fine.add(fine_KD.numpy())  # pyright: ignore[reportCallIssue]
        self._coarse_K = coarse_K.numpy()
        self._limits = limits
        words_N = self._words(self._vectors)
        self._points_of_word = _groups(words_N, len(self._coarse_K))
        self._coarse_of_point = self._coarse_K[words_N]
        self._tree = KDTree(point_map.points_N3.numpy())
        num_views = len(point_map.view_names)
        view_S = np.repeat(np.arange(num_views), point_map.num_seen_V.numpy())
        seen_S = point_map.seen_S.numpy()
        shape = (len(self._vectors), num_views)
        self._seen = csr_array((np.ones(len(seen_S), np.int32), (seen_S, view_S)), shape=shape)

    def __call__(self, query: Query, features: LocalFeatures) -> Iterator[Tensor]:
        """Matches up to the limit; and then, asked once more, all that there are."""
        del query
        for max_matches in (self._limits.max_matches, len(features)):
            yield self._search(as_vectors(features.descriptors_ND).numpy(), max_matches)

    def _words(self, vectors: np.ndarray) -> np.ndarray:
        return self._fine.search(vectors, 1)[1][:, 0]  # pyright: ignore[reportCallIssue]

    def _search(self, vectors: np.ndarray, max_matches: int) -> Tensor:
        if not len(vectors):
            return torch.zeros(0, 2, dtype=torch.int64)
        words_F = self._words(vectors)
        features_of_coarse = _groups(self._coarse_K[words_F], int(self._coarse_K.max()) + 1)
        heap = [
            (len(self._points_of_word[word]), _FEATURE, feature)
            for feature, word in enumerate(words_F)
            if len(self._points_of_word[word])
        ]
        heapq.heapify(heap)
        feature_of: dict[int, int] = {}
        point_of: dict[int, tuple[int, float]] = {}
        looked_for: set[int] = set()
        while heap and len(feature_of) < max_matches:
            _, kind, index = heapq.heappop(heap)
            if kind == _FEATURE:
                candidates = self._points_of_word[words_F[index]]
                found = _best(vectors[index], self._vectors[candidates], self._limits.max_ratio)
                feature, point = index, int(candidates[found[0]])
            else:
                candidates = features_of_coarse[self._coarse_of_point[index]]
                found = _best(
                    self._vectors[index], vectors[candidates], self._limits.max_back_ratio
                )
                feature, point = int(candidates[found[0]]), index
            _, distance, distinctive = found
            if not distinctive or point in feature_of:
                continue
            if feature in point_of:
                # Of two points for a feature, the one that looks more like it.
                other, other_distance = point_of[feature]
                if other_distance <= distance:
                    continue
                del feature_of[other]
            feature_of[point], point_of[feature] = feature, (point, distance)
            if kind == _FEATURE:
                for near in self._near(point):
                    cost = len(features_of_coarse[self._coarse_of_point[near]])
                    if near not in looked_for and cost:
                        looked_for.add(near)
                        heapq.heappush(heap, (cost, _POINT, near))
        pairs = sorted((feature, point) for point, feature in feature_of.items())
        return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)

    def _near(self, point: int) -> list[int]:
        """The nearest points that share a view with a point."""
        count = min(self._limits.num_near + 1, len(self._vectors))
        _, near = self._tree.query(self._tree.data[point], k=count)
        near = np.atleast_1d(near)
        shared = (self._seen[near] @ self._seen[[point]].T).toarray()[:, 0] > 0
        return [int(other) for other in near[shared] if other != point]


def _groups(values_N: np.ndarray, num_groups: int) -> list[np.ndarray]:
    """Indices of each value below `num_groups`."""
    order = np.argsort(values_N, kind="stable")
    ends = np.cumsum(np.bincount(values_N, minlength=num_groups))
    return np.split(order, ends[:-1])


def _best(vector: np.ndarray, others: np.ndarray, max_ratio: float) -> tuple[int, float, bool]:
    """Index and distance of the nearest of a few, and whether it is much nearer than the next.

    A single one has nothing to be told apart from, and does not count.
    """
    squared = ((others - vector) ** 2).sum(axis=1)
    best = int(squared.argmin())
    if len(squared) < 2:
        return best, float(squared[best]), False
    second = float(np.partition(squared, 1)[1])
    return best, float(squared[best]), bool(squared[best] <= max_ratio**2 * second)
