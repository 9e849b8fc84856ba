"""Views that show the same things, found by their pixels alone: poses are what is on trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import faiss
import numpy as np
import poselib
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.doctor.order import in_order
from reloc.estimation.matching import match_mutual
from reloc.input_error import InputError
from reloc.nn.local_features import LocalFeatures, extract_features
from reloc.scenes.scene import Scene, View

# Views looked at: runs of neighbours in time, spread evenly; a smaller scene is looked at whole.
_MAPPING_RUNS, _QUERY_RUNS, _RUN_OFFSETS = 10, 3, (0, 5, 15, 35)
# Features are found at this size of the longer side; thresholds "at 640" are for that size.
_LONGER_SIDE_PX = 640
_MAX_KEYPOINTS = 600
_VOTING_KEYPOINTS, _VOTES_EACH, _MIN_VOTES = 150, 12, 8
_PARTNERS, _MAX_CANDIDATES = 4, 100
_MIN_MATCHES, _MIN_INLIER_SHARE, _MAX_EPIPOLAR_ERROR_PX_AT_640 = 30, 0.5, 2.0
# Where the picture hardly moves, any poses agree with it.
_MIN_MOTION_PX_AT_640 = 10.0
_MATCHES_EACH = 40


@dataclass(frozen=True, eq=False)
class MatchedPairs:
    """Pairs of views with matches that one epipolar geometry explains, whichever it is.

    Attributes:
        views: that were looked at (V).
        is_query_V: which of them are queries.
        num_textured: views with enough keypoints to match.
        longer_sides_px_V: of the images, whatever size their cameras are for.
        views_2P: int64, the first and the second view of each of the P pairs, as indices.
        pixels_2PM2: float64, M matches of each pair.
        attainable_px_P: median distance of a pair's matches from the epipolar lines of its own best
            fundamental matrix: what no pose can beat by much.
    """

    views: Sequence[View]
    is_query_V: Tensor
    num_textured: int
    longer_sides_px_V: Tensor
    views_2P: Tensor
    pixels_2PM2: Tensor
    attainable_px_P: Tensor

    def __len__(self) -> int:
        return self.views_2P.shape[1]

    @property
    def image_over_camera(self) -> float:
        """Size of the images over the size that their cameras are for, median."""
        cameras = [view.camera for view in self.views]
        expected_px_V = torch.tensor([float(max(one.width, one.height)) for one in cameras])
        return float((self.longer_sides_px_V / expected_px_V).median())


def match_pairs(scene: Scene, run: Run) -> MatchedPairs:
    """Match views of a scene without looking at their poses. Unreadable images are passed over."""
    asked = [(view, False) for view in _runs(in_order(scene.mapping), _MAPPING_RUNS)]
    asked += [(view, True) for view in _runs(in_order(scene.queries), _QUERY_RUNS)]
    looked = []
    for view, is_query in run.progress.track(asked, "finding features"):
        try:
            # Not read_image: an image of another size than its camera's is to be tested, too.
            image = view.image_reader()
        except InputError:
            continue
        looked.append(_Looked(view, is_query, max(image.shape[-2:]), _features(image)))
    pairs, pixels, attainable_px = [], [], []
    generator = torch.Generator().manual_seed(run.seed)
    for first, second in run.progress.track(_candidates(looked), "matching views"):
        found = _consistent_matches(looked[first], looked[second])
        if found is None:
            continue
        pixels_2N2, distance_px = found
        order_N = torch.randperm(pixels_2N2.shape[1], generator=generator)
        pairs.append((first, second))
        # The few that have fewer matches give some of them twice.
        pixels.append(pixels_2N2[:, order_N[torch.arange(_MATCHES_EACH) % len(order_N)]])
        attainable_px.append(distance_px)
    return MatchedPairs(
        views=[one.view for one in looked],
        is_query_V=torch.tensor([one.is_query for one in looked], dtype=torch.bool),
        num_textured=sum(len(one.features) >= _MIN_MATCHES for one in looked),
        longer_sides_px_V=torch.tensor([float(one.longer_side_px) for one in looked]),
        views_2P=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T,
        pixels_2PM2=torch.stack(pixels, dim=1) if pairs else torch.zeros(2, 0, _MATCHES_EACH, 2),
        attainable_px_P=torch.tensor(attainable_px, dtype=torch.float64),
    )


@dataclass(frozen=True, eq=False)
class _Looked:
    """A view whose image was read."""

    view: View
    is_query: bool
    longer_side_px: int
    features: LocalFeatures


def _runs(views: Sequence[View], num_runs: int) -> list[View]:
    """Runs of a few neighbours, spread over the views; all views where they are few."""
    if len(views) <= num_runs * len(_RUN_OFFSETS):
        return list(views)
    starts = np.linspace(0, len(views) - 1 - _RUN_OFFSETS[-1], num_runs).round().clip(min=0)
    chosen = {int(start) + offset for start in starts for offset in _RUN_OFFSETS}
    return [views[index] for index in sorted(chosen) if index < len(views)]


def _features(image: Tensor) -> LocalFeatures:
    """Of the image made smaller, in pixels of the image as it is."""
    height, width = image.shape[-2:]
    shrink = min(1.0, _LONGER_SIDE_PX / max(height, width))
    small_size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = cv2.resize(image.permute(1, 2, 0).numpy(), small_size, interpolation=cv2.INTER_AREA)
    found = extract_features(torch.from_numpy(small).permute(2, 0, 1), "sift", _MAX_KEYPOINTS)
    scale = torch.tensor([width / small_size[0], height / small_size[1]])
    return LocalFeatures(found.keypoints_N2 * scale, found.descriptors_ND, found.scales_N)


def _candidates(looked: Sequence[_Looked]) -> list[tuple[int, int]]:
    """Pairs of views whose strongest keypoints look alike, the most alike first."""
    strongest = [one.features.descriptors_ND[:_VOTING_KEYPOINTS].numpy() for one in looked]
    owner = np.repeat(np.arange(len(looked)), [len(rows) for rows in strongest])
    if len(owner) == 0:
        return []
    pool = np.concatenate(strongest).astype(np.float32)
    _, neighbours = faiss.knn(pool, pool, min(_VOTES_EACH, len(pool)))
    votes = np.zeros((len(looked), len(looked)), dtype=np.int64)
    np.add.at(votes, (owner[:, None], owner[neighbours]), 1)
    votes += votes.T
    np.fill_diagonal(votes, 0)
    partners = np.argsort(-votes, axis=1, kind="stable")[:, :_PARTNERS]
    pairs = {
        (min(first, second), max(first, second))
        for first, row in enumerate(partners.tolist())
        for second in row
        if votes[first, second] >= _MIN_VOTES
    }
    return sorted(pairs, key=lambda pair: (-votes[pair], pair))[:_MAX_CANDIDATES]


def _consistent_matches(first: _Looked, second: _Looked) -> tuple[Tensor, float] | None:
    """Matches (2, N, 2) that one fundamental matrix explains, and their median distance from it.

    None where the two views share too little, or the picture hardly moves between them.
    """
    features = first.features, second.features
    matches_N2 = match_mutual(features[0].descriptors_ND, features[1].descriptors_ND)
    if len(matches_N2) < _MIN_MATCHES:
        return None
    pixels_2N2 = torch.stack(
        [found.keypoints_N2[matches_N2[:, side]] for side, found in enumerate(features)]
    ).double()
    px_at_640 = first.longer_side_px / _LONGER_SIDE_PX
    options = {"max_epipolar_error": _MAX_EPIPOLAR_ERROR_PX_AT_640 * px_at_640, "seed": 0}
    fundamental, found = poselib.estimate_fundamental(
        pixels_2N2[0].numpy(), pixels_2N2[1].numpy(), options, {}
    )
    inliers = torch.tensor(found["inliers"], dtype=torch.bool)
    if inliers.sum() < max(_MIN_MATCHES, _MIN_INLIER_SHARE * len(inliers)):
        return None
    pixels_2N2 = pixels_2N2[:, inliers]
    motion_px = float((pixels_2N2[1] - pixels_2N2[0]).norm(dim=-1).median())
    if motion_px < _MIN_MOTION_PX_AT_640 * px_at_640:
        return None
    return pixels_2N2, _median_line_distance_px(torch.from_numpy(fundamental), pixels_2N2)


def _median_line_distance_px(fundamental: Tensor, pixels_2N2: Tensor) -> float:
    first_N3, second_N3 = torch.cat([pixels_2N2, torch.ones_like(pixels_2N2[..., :1])], dim=-1)
    lines_second, lines_first = first_N3 @ fundamental.T, second_N3 @ fundamental
    offset_N = (lines_second * second_N3).sum(-1).abs()
    slopes = torch.stack([lines_first, lines_second])[..., :2].norm(dim=-1)
    return float((offset_N * (1 / slopes).mean(0)).median())
