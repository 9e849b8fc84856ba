"""Two photos to the pose of one in the frame of the other, by local features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import cv2
import torch
from torch import Tensor

from reloc.estimation.matching import match_mutual
from reloc.estimation.relative import (
    MIN_INLIERS,
    Correspondences,
    RelativePose,
    RelativeSolver,
    estimate_relative_pose,
)
from reloc.nn.local_features import (
    FeatureKind,
    LearnedKind,
    LocalFeatures,
    extract_features,
)
from reloc.nn.matchers import ImageKeypoints, MatcherChoice, check_matcher, load_matcher
from reloc.scenes.scene import Query

# Learned descriptors are less apart from their second nearest than SIFT's.
_LEARNED_RATIO = 0.95
# R2D2's dilated layers at full resolution cost seconds a photo.
_SLOW_SIDE_PX: Mapping[FeatureKind, int] = {"r2d2": 480}


@dataclass(frozen=True)
class TwoPhotosConfig:
    """How two photos are matched.

    Attributes:
        features: detector and descriptor.
        max_side_px: larger photos are reduced to this longer side.
        max_keypoints: strongest keypoints of each.
        max_ratio: nearest over second nearest distance up to which a match counts.
        max_error_px: of the reduced photos, up to which a match agrees with a pose.
        solver: None: PnP where a photo has depth, else the essential matrix; see `relate_photos`.
        matcher: nearest neighbours, or a network for the features superpoint.
    """

    features: FeatureKind = "sift"
    max_side_px: int = 1600
    max_keypoints: int = 4000
    max_ratio: float = 0.8
    max_error_px: float = 1.5
    solver: RelativeSolver | None = None
    matcher: MatcherChoice = "nearest"

    def __post_init__(self) -> None:
        check_matcher(self.matcher, self.features)


def usual_config(features: FeatureKind, max_side_px: int) -> TwoPhotosConfig:
    """What suits a kind of features; `max_side_px` is of those that are not slow."""
    side_px = min(max_side_px, _SLOW_SIDE_PX.get(features, max_side_px))
    ratio = _LEARNED_RATIO if features in get_args(LearnedKind) else TwoPhotosConfig.max_ratio
    return TwoPhotosConfig(features=features, max_side_px=side_px, max_ratio=ratio)


@dataclass(frozen=True, eq=False)
class DescribedPhoto:
    """A photo reduced to its keypoints.

    Attributes:
        features: keypoints in pixels of the photo as it is.
        depth_N: at the keypoints, NaN where unknown; None: it is known at none.
        query: the photo.
        pixel: of the reduced photo, in pixels of the photo.
    """

    features: LocalFeatures
    depth_N: Tensor | None
    query: Query
    pixel: float


def describe_photo(photo: Query, config: TwoPhotosConfig) -> DescribedPhoto:
    """Keypoints of a photo."""
    image, pixel = photo.image, max(photo.image.shape[-2:]) / config.max_side_px
    if pixel > 1:
        size = [max(1, round(side / pixel)) for side in image.shape[:0:-1]]
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        reduced = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(reduced).permute(2, 0, 1)
    features = extract_features(image, config.features, config.max_keypoints)
    scale_2 = torch.tensor(photo.image.shape[:0:-1]) / torch.tensor(image.shape[:0:-1])
    in_photo = replace(features, keypoints_N2=features.keypoints_N2 * scale_2)
    depth_N = None
    if photo.depth is not None:
        columns, rows = in_photo.keypoints_N2.long().unbind(-1)
        height, width = photo.depth.shape
        depth_N = photo.depth[rows.clamp(0, height - 1), columns.clamp(0, width - 1)].float()
        known_N = depth_N > 0
        depth_N = torch.where(known_N, depth_N, torch.nan) if bool(known_N.any()) else None
    return DescribedPhoto(in_photo, depth_N, photo, max(pixel, 1.0))


def relate_photos(
    first: DescribedPhoto, second: DescribedPhoto, config: TwoPhotosConfig, seed: int = 0
) -> tuple[RelativePose | None, Correspondences]:
    """The pose of the second photo's camera in the frame of the first, and the matches it rests on.

    By PnP with the depth of the photo that has it at more of the matches, then with that of the
    other, then by the essential matrix, which is up to scale where no depth agrees with it. None
    where the matches agree on no pose.

    Raises:
        InputError: the matcher's weights are not there.
    """
    matches_M2 = _matched(first, second, config)
    seen = _correspondences(first, second, matches_M2)
    max_error_px = config.max_error_px * max(first.pixel, second.pixel)
    if config.solver not in (None, "pnp"):
        return estimate_relative_pose(seen, config.solver, max_error_px, seed), seen
    known = [_num_known(depth_N) for depth_N in (seen.depth0_N, seen.depth1_N)]
    # Asked for by name, it is the first photo's where there is any.
    sides = [0, 1] if config.solver else sorted((0, 1), key=lambda side: -known[side])
    for side in sides:
        if known[side] < MIN_INLIERS:
            continue
        if side == 0:
            found = estimate_relative_pose(seen, "pnp", max_error_px, seed)
        else:
            exchanged = _correspondences(second, first, matches_M2.flip(1))
            found = estimate_relative_pose(exchanged, "pnp", max_error_px, seed)
            found = found and _inverted(found)
        if found is not None:
            return found, seen
    if config.solver == "pnp":
        return None, seen
    return estimate_relative_pose(seen, "essential", max_error_px, seed), seen


def _num_known(depth_N: Tensor | None) -> int:
    return 0 if depth_N is None else int(depth_N.isfinite().sum())


def _matched(first: DescribedPhoto, second: DescribedPhoto, config: TwoPhotosConfig) -> Tensor:
    if config.matcher == "nearest":
        return match_mutual(
            first.features.descriptors_ND, second.features.descriptors_ND, config.max_ratio
        )
    one, other = (
        ImageKeypoints.of(photo.features, (photo.query.image.shape[2], photo.query.image.shape[1]))
        for photo in (first, second)
    )
    return load_matcher(config.matcher)(one, other).pairs_M2


def _correspondences(
    first: DescribedPhoto, second: DescribedPhoto, matches_M2: Tensor
) -> Correspondences:
    index0_M, index1_M = matches_M2.unbind(1)
    return Correspondences(
        first.features.keypoints_N2[index0_M],
        second.features.keypoints_N2[index1_M],
        first.query.camera,
        second.query.camera,
        None if first.depth_N is None else first.depth_N[index0_M],
        None if second.depth_N is None else second.depth_N[index1_M],
    )


def _inverted(found: RelativePose) -> RelativePose:
    return RelativePose(
        found.cam1_from_cam0.inverse(),
        found.has_scale,
        found.inliers_N,
        found.parallax_deg,
        found.camera1,
        found.camera0,
    )
