"""Maps of points made small: the points that are needed, and descriptors of a few bytes.

Points are chosen so that every view keeps enough of them (Li, Snavely and Huttenlocher, "Location
recognition using prioritized feature matching", ECCV 2010); descriptors are product quantised, and
of a few points kept whole (Camposeco, Cohen, Pollefeys and Sattler, "Hybrid scene compression for
visual localization", CVPR 2019).
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import faiss
import numpy as np
import torch
from torch import Tensor

from reloc.contract import Tensors
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.point_map import PointMap

_CODES, _BOOKS, _FULL = "descriptor_codes", "descriptor_books", "full_descriptors"
# Values of a byte; descriptors that they are learned from, and the least number of these.
_NUM_VALUES, _MAX_SAMPLES, _MIN_SAMPLES = 256, 20_000, 512
_STEPS = 12


def pack(point_map: PointMap, config: MatchingConfig, seed: int) -> Tensors:
    """The tensors of a map, as small as its config says."""
    num_full = len(point_map.points_N3)
    if config.points_per_view is not None:
        point_map, num_full = chosen_points(point_map, config)
    tensors = dict(point_map.tensors())
    num_points = len(point_map.points_N3)
    if config.descriptor_bytes is None or num_points < _MIN_SAMPLES:
        return tensors
    if config.points_per_view is None:
        num_full = 0
    descriptors_ND = tensors.pop("descriptors_ND")
    codes_NM, books_MVd = _quantise(descriptors_ND.float(), config.descriptor_bytes, seed)
    return {
        **tensors,
        _CODES: codes_NM[num_full:],
        _BOOKS: books_MVd,
        # Cloned: a part of a tensor would be written with the whole.
        _FULL: descriptors_ND[:num_full].clone(),
    }


def unpack(tensors: Tensors) -> PointMap:
    """The map of tensors that `pack` made; descriptors are what their codes stand for."""
    tensors = dict(tensors)
    if _CODES in tensors:
        codes_NM, books_MVd, full_FD = (tensors.pop(name) for name in (_CODES, _BOOKS, _FULL))
        parts = torch.arange(codes_NM.shape[1])
        decoded_ND = books_MVd.float()[parts, codes_NM.long()].flatten(1).round()
        limits = torch.iinfo(full_FD.dtype)
        decoded_ND = decoded_ND.clamp(limits.min, limits.max).to(full_FD.dtype)
        tensors["descriptors_ND"] = torch.cat([full_FD, decoded_ND])
    return PointMap.from_tensors(tensors)


def cover(views_of_point: list[list[int]], num_views: int, wanted: int, done: list[int]) -> None:
    """Add points to `done` until each view sees `wanted` of them, or all that it ever saw.

    Greedy: next is always a point that most views which still lack points see. Points seen by the
    same number are taken in order.
    """
    lacking = np.full(num_views, wanted)
    for point in done:
        lacking[views_of_point[point]] -= 1
    taken = set(done)
    heap = [(-len(views), point) for point, views in enumerate(views_of_point)]
    heapq.heapify(heap)
    while heap and bool((lacking > 0).any()):
        gain, point = heapq.heappop(heap)
        if point in taken:
            continue
        now = -int((lacking[views_of_point[point]] > 0).sum())
        if now == 0:
            continue
        # Gains only shrink: one that is still as large as it was is the largest.
        if now != gain:
            heapq.heappush(heap, (now, point))
            continue
        taken.add(point)
        done.append(point)
        lacking[views_of_point[point]] -= 1


def chosen_points(point_map: PointMap, config: MatchingConfig) -> tuple[PointMap, int]:
    """The map with the points that cover its views, and how many of these come first, in full."""
    assert config.points_per_view is not None
    num_points, num_views = len(point_map.points_N3), len(point_map.view_names)
    view_S = torch.repeat_interleave(torch.arange(num_views), point_map.num_seen_V)
    views_of_point: list[list[int]] = [[] for _ in range(num_points)]
    for point, view in zip(point_map.seen_S.tolist(), view_S.tolist(), strict=True):
        views_of_point[point].append(view)
    order: list[int] = []
    cover(views_of_point, num_views, config.full_points_per_view, order)
    num_full = len(order)
    cover(views_of_point, num_views, config.points_per_view, order)
    place_N = torch.full((num_points,), -1)
    place_N[order] = torch.arange(len(order))
    kept_S = place_N[point_map.seen_S.long()] >= 0
    return replace(
        point_map,
        points_N3=point_map.points_N3[order],
        descriptors_ND=point_map.descriptors_ND[order],
        num_seen_V=torch.bincount(view_S[kept_S], minlength=num_views),
        seen_S=place_N[point_map.seen_S[kept_S].long()].int(),
        view_keypoints=point_map.view_keypoints and point_map.view_keypoints.only_seen(kept_S),
    ), num_full


def _quantise(vectors_ND: Tensor, num_bytes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Codes (N, M) uint8, and what each value of each stands for: (M, 256, D / M) float16."""
    vectors = np.ascontiguousarray(vectors_ND.numpy(), dtype=np.float32)
    quantiser = faiss.ProductQuantizer(vectors.shape[1], num_bytes, 8)
    quantiser.cp.seed, quantiser.cp.niter = seed + 1, _STEPS
    quantiser.cp.min_points_per_centroid = 1
    chosen = np.random.default_rng(seed).permutation(len(vectors))[:_MAX_SAMPLES]
    quantiser.train(vectors[np.sort(chosen)])  # pyright: ignore[reportCallIssue]
    codes = quantiser.compute_codes(vectors)  # pyright: ignore[reportCallIssue]
    books = faiss.vector_to_array(quantiser.centroids).reshape(num_bytes, _NUM_VALUES, -1)
    return torch.from_numpy(codes), torch.from_numpy(books.copy()).half()
