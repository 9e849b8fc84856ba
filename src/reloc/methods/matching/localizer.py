"""Asking a map of points: similar views, matches with the points they saw, a pose; then once more.

The second round looks for every point of the map that the first pose puts into the picture, near
where it should be. That finds the points whose descriptors alone were not distinctive (Sattler et
al., "Efficient and effective prioritized matching for large-scale image-based localization", TPAMI
2017, has the idea).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from scipy.spatial import KDTree
from torch import Tensor

from reloc.contract import PoseEstimate, Run
from reloc.estimation.absolute import AbsolutePose, estimate_absolute_pose
from reloc.estimation.matching import descriptor_distance, match_nearest
from reloc.geometry.camera import Camera
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.features import describe
from reloc.methods.matching.point_map import PointMap
from reloc.nn.descriptors.vlad import aggregate
from reloc.nn.local_features import LocalFeatures, as_vectors
from reloc.scenes.scene import Query

# Keypoints compared with a point that is looked for near its projection.
_NUM_NEAR = 4
# Logistic regression of being right on the logarithm of the first round's inliers, by
# `benchmarks/confidence.py`.
_HALF_SURE_INLIERS, _CONFIDENCE_SLOPE = 9.29, 2.66
# Distances above which two descriptors are of different things: RootSIFT of length 512, bits of
# ORB, learned ones of length 256.
_MAX_DESCRIPTOR_DISTANCE = {"sift": 300.0, "orb": 56.0}
_MAX_LEARNED_DISTANCE = 230.0

Propose = Callable[[Query, LocalFeatures], Iterable[Tensor]]
"""A query and its features to matches (M, 2) of keypoints and points of the map, best first; a next
set of matches is asked for where too few of the last one agree on a pose."""
ImageVector = Callable[[Query, LocalFeatures], Tensor]
"""A query and its features to what it is compared with the map's image vectors by."""


def confidence(num_inliers: int) -> float:
    """Probability that a pose is right on which `num_inliers` matches of the first round agree."""
    return 1 / (1 + (num_inliers / _HALF_SURE_INLIERS) ** -_CONFIDENCE_SLOPE)


def by_similar_views(
    point_map: PointMap, config: MatchingConfig, image_vector: ImageVector | None = None
) -> Propose:
    """Matches with the points that the most similar views saw, and then with more views' points.

    Args:
        point_map: the map.
        config: of the map.
        image_vector: None: aggregated local features, as `mapping.match_views` describes views.
    """

    def aggregated(query: Query, features: LocalFeatures) -> Tensor:
        del query
        return aggregate(as_vectors(features.descriptors_ND), point_map.vocabulary_KD)

    def propose(query: Query, features: LocalFeatures) -> Iterator[Tensor]:
        vector_L = (image_vector or aggregated)(query, features)
        for count in (config.num_retrieved, 4 * config.num_retrieved):
            seen_P = point_map.points_seen_by(point_map.similar_views(vector_L, count))
            matches_M2 = match_nearest(
                features.descriptors_ND, point_map.descriptors_ND[seen_P], config.max_ratio
            )
            matches_M2[:, 1] = seen_P[matches_M2[:, 1]]
            yield matches_M2

    return propose


class MatchingLocalizer:
    """Answers queries from a map of points, each query for itself.

    Args:
        point_map: the map.
        covariance_scale: by which the poses are less certain than their Jacobians say.
        config: of the map.
        run: its seed is that of the robust estimation.
        propose: first matches; None: those with points that similar views saw.
    """

    def __init__(
        self,
        point_map: PointMap,
        covariance_scale: float,
        config: MatchingConfig,
        run: Run,
        propose: Propose | None = None,
    ) -> None:
        self._map = point_map
        self._covariance_scale = covariance_scale
        self._config = config
        self._seed = run.seed
        self._propose = propose or by_similar_views(point_map, config)

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, in order."""
        return [self._localize_one(query) for query in queries]

    def _localize_one(self, query: Query) -> PoseEstimate:
        features, first = self.first_round(query)
        # Near a pose, right or wrong, the guided round finds something: only the first round, whose
        # matches know nothing of a pose, is evidence that the place is the right one.
        if first is None or first.num_inliers < self._config.min_inliers:
            return PoseEstimate(None)
        matches_M2 = self._guided_matches(features, first)
        final = self._pose(features, matches_M2, first.camera, self._config.max_guided_error_px)
        if final is None:
            return PoseEstimate(None)
        return PoseEstimate(
            cam_from_world=self._map.to_world(final.cam_from_world),
            covariance=self._covariance_scale * final.covariance,
            num_inliers=final.num_inliers,
            inlier_ratio=final.inlier_ratio,
            confidence=confidence(first.num_inliers),
            camera=None
            if query.camera.has_prior_focal
            else final.camera.resized(query.camera.width, query.camera.height),
            reference=self._map.view_that_saw_most(matches_M2[final.inliers_N, 1]),
        )

    def first_round(self, query: Query) -> tuple[LocalFeatures, AbsolutePose | None]:
        """Features of the query and the pose, in the map's frame, that most of their matches fit.

        None where fewer than `absolute.MIN_INLIERS` agree. The matches know nothing of a pose yet.
        """
        camera, features = describe(query.image, query.camera, self._config)
        pose = None
        for matches_M2 in self._propose(query, features):
            pose = self._pose(features, matches_M2, camera, self._config.max_error_px)
            if pose is not None and pose.num_inliers >= self._config.min_inliers:
                break
        return features, pose

    def _guided_matches(self, features: LocalFeatures, pose: AbsolutePose) -> Tensor:
        """Pairs (M, 2) of keypoints and points that project near them, each at most once."""
        pixels_N2 = pose.camera.img_from_cam(pose.cam_from_world @ self._map.points_N3.double())
        size = torch.tensor([pose.camera.width, pose.camera.height])
        visible_P = ((pixels_N2 >= 0) & (pixels_N2 < size)).all(1).nonzero()[:, 0]
        near_P4 = torch.from_numpy(
            KDTree(features.keypoints_N2.numpy()).query(
                pixels_N2[visible_P].numpy(),
                k=_NUM_NEAR,
                distance_upper_bound=self._config.guided_radius_px,
            )[1]
        )
        # Where there are fewer, the tree gives an index past the end.
        point_C, slot_C = (near_P4 < len(features)).nonzero(as_tuple=True)
        keypoint_C, point_C = near_P4[point_C, slot_C], visible_P[point_C]
        distance_C = descriptor_distance(
            features.descriptors_ND[keypoint_C], self._map.descriptors_ND[point_C]
        )
        limit = _MAX_DESCRIPTOR_DISTANCE.get(self._config.features, _MAX_LEARNED_DISTANCE)
        order_C = distance_C.argsort(stable=True)
        order_C = order_C[distance_C[order_C] < limit]
        order_C = order_C[first_of_each(point_C[order_C])]
        order_C = order_C[first_of_each(keypoint_C[order_C])]
        return torch.stack([keypoint_C[order_C], point_C[order_C]], dim=1)

    def _pose(
        self, features: LocalFeatures, matches_M2: Tensor, camera: Camera, max_error_px: float
    ) -> AbsolutePose | None:
        return estimate_absolute_pose(
            features.keypoints_N2[matches_M2[:, 0]],
            self._map.points_N3[matches_M2[:, 1]],
            camera,
            max_error_px,
            self._seed,
        )


def first_of_each(values_N: Tensor) -> Tensor:
    """Sorted positions of the first occurrence of each value."""
    _, inverse_N = values_N.unique(return_inverse=True)
    positions_N = torch.arange(len(values_N))
    first = torch.full((int(inverse_N.max()) + 1 if len(values_N) else 0,), len(values_N))
    first = first.scatter_reduce(0, inverse_N, positions_N, "amin")
    return first.sort().values
