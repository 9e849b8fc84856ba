"""How a query is matched with a map of points by geometry alone.

The points that a similar view saw are moved into the frame of its camera, and met with the query's
keypoints in the plane at distance 1: `nn/geometric_matcher.py` says which are the same, and a
robust pose comes of it. Then the pose is fitted to the keypoints that lie beside where it puts the
points; how many more these are than would be by chance tells a right pose from a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from reloc.contract import PoseEstimate, Run
from reloc.estimation.absolute import MIN_INLIERS, AbsolutePose, estimate_absolute_pose
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.matching.by_matcher import agreed
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.features import describe
from reloc.methods.matching.geometry_map import GeometryMap
from reloc.methods.matching.localizer import first_of_each
from reloc.nn.bearings import Bearings
from reloc.nn.descriptors.descriptor import Descriptor
from reloc.nn.geometric_matcher import GeometricMatcher
from reloc.scenes.scene import Query

# Points nearer to a camera than this share of their median distance are not before it.
_MIN_DEPTH_SHARE = 0.05
# How far outside of the picture a point may be expected, in widths of the picture.
_MARGIN = 0.1
# Points moved into the frame of a pose, at most: more are denser than the network has seen.
_MAX_POINTS = 400
# Radii, of the config's, within which keypoints are looked for beside the points of a pose.
_REACHES = (2.0, 1.0, 0.5)
# Hypotheses are many, and matches few: robust estimation ends early.
_MAX_ITERATIONS = 2000
# Logistic curve of being right, set by hand on a few held-back views, on how many standard
# deviations more keypoints lie beside the points than would by chance.
_HALF_SURE_SURPRISE, _CONFIDENCE_SLOPE = 14.0, 0.6


@dataclass(frozen=True)
class GeometryLimits:
    """What counts, and how often it is tried.

    Attributes:
        min_probability: from which on a match counts.
        rounds: of matching: the first in the frames of similar views, the others in that of the
            pose of the one before.
        guided: whether the poses that single views say are tried, too, and all are fitted to what
            lies beside the points that they put into the picture.
        min_surprise: with fewer a query is declined.
    """

    min_probability: float
    rounds: int
    guided: bool
    min_surprise: float


@dataclass(frozen=True, eq=False)
class _Said:
    """Pairs (M, 2) of keypoints and points, and how probable they are."""

    pairs_M2: Tensor
    probability_M: Tensor


@dataclass(frozen=True, eq=False)
class _Guided:
    """A pose, the keypoints beside its points, and how many more agree than would by chance.

    Attributes:
        pose: fitted to the matches.
        matches_M2: keypoints and points.
        surprise: in standard deviations of the number that would agree with any pose.
    """

    pose: AbsolutePose
    matches_M2: Tensor
    surprise: float


class GeometryLocalizer:
    """Answers queries from a map without descriptors, each query for itself.

    Args:
        geometry: the map.
        descriptor: by which similar views are found.
        matcher: of bearings.
        covariance_scale: by which the poses are less certain than their Jacobians say.
        config: of the map.
        limits: of matching.
        run: its seed is that of the robust estimation.
    """

    def __init__(
        self,
        geometry: GeometryMap,
        descriptor: Descriptor,
        matcher: GeometricMatcher,
        covariance_scale: float,
        config: MatchingConfig,
        limits: GeometryLimits,
        run: Run,
    ) -> None:
        self._map = geometry.point_map
        self._cam_from_map = geometry.cam_from_map
        self._descriptor = descriptor
        self._matcher = matcher
        self._covariance_scale = covariance_scale
        self._config = config
        self._limits = limits
        self._run = run

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, in order."""
        return [self._localize_one(query) for query in queries]

    def _localize_one(self, query: Query) -> PoseEstimate:
        camera, features = describe(query.image, query.camera, self._config)
        pixels_K2 = features.keypoints_N2
        if len(pixels_K2) < MIN_INLIERS:
            return PoseEstimate(None)
        vector_L = self._descriptor.describe(query.image)
        views = self._map.similar_views(vector_L, self._config.num_retrieved)
        frames = [
            (self._map.points_seen_by(view[None]), self._cam_from_map[int(view)]) for view in views
        ]
        of_views = self._match(pixels_K2, camera, frames)
        shown_P = self._most_shown(views)
        best: _Guided | None = None
        # What the views agree on, and what each says by itself.
        alone = [_agreed([one]) for one in of_views] if self._limits.guided else []
        for matches_M2 in [_agreed(of_views), *alone]:
            pose = self._pose(pixels_K2, matches_M2, camera, self._config.max_error_px)
            if pose is None:
                continue
            found = self._guided(
                pixels_K2, shown_P, *self._again(pixels_K2, shown_P, pose, matches_M2)
            )
            if found is not None and (best is None or found.surprise > best.surprise):
                best = found
        if (
            best is None
            or best.pose.num_inliers < self._config.min_inliers
            or best.surprise < self._limits.min_surprise
        ):
            return PoseEstimate(None)
        pose = best.pose
        return PoseEstimate(
            cam_from_world=self._map.to_world(pose.cam_from_world),
            covariance=self._covariance_scale * pose.covariance,
            num_inliers=pose.num_inliers,
            inlier_ratio=pose.inlier_ratio,
            confidence=_confidence(best.surprise),
            camera=None
            if query.camera.has_prior_focal
            else pose.camera.resized(query.camera.width, query.camera.height),
            reference=self._map.view_that_saw_most(best.matches_M2[pose.inliers_N, 1]),
        )

    def _again(
        self, pixels_K2: Tensor, shown_P: Tensor, pose: AbsolutePose, matches_M2: Tensor
    ) -> tuple[AbsolutePose, Tensor]:
        """Pose and matches by further rounds of matching, each in the frame of the pose before."""
        for _ in range(self._limits.rounds - 1):
            inside_P = shown_P[self._inside(pose, shown_P)][:_MAX_POINTS]
            again_M2 = _agreed(
                self._match(pixels_K2, pose.camera, [(inside_P, pose.cam_from_world)])
            )
            found = self._pose(pixels_K2, again_M2, pose.camera, self._config.max_error_px)
            if found is None or found.num_inliers < pose.num_inliers / 2:
                break
            pose, matches_M2 = found, again_M2
        return pose, matches_M2

    def _guided(
        self, pixels_K2: Tensor, shown_P: Tensor, pose: AbsolutePose, matches_M2: Tensor
    ) -> _Guided | None:
        """The pose by what lies next to where it puts the points, in ever smaller reach.

        And by how much more lies there than would by chance; None where no pose comes of it.
        """
        tree = KDTree(pixels_K2.numpy())
        for reach in _REACHES if self._limits.guided else ():
            radius_px = reach * self._config.guided_radius_px
            matches_M2, _ = self._beside(tree, shown_P, pose, radius_px)
            found = self._pose(pixels_K2, matches_M2, pose.camera, radius_px)
            if found is None:
                return None
            pose = found
        radius_px = _REACHES[-1] * self._config.guided_radius_px
        beside_M2, num_inside = self._beside(tree, shown_P, pose, radius_px)
        area_px = pose.camera.width * pose.camera.height
        expected = max(num_inside * len(pixels_K2) * math.pi * radius_px**2 / area_px, 1.0)
        return _Guided(pose, matches_M2, (len(beside_M2) - expected) / expected**0.5)

    def _beside(
        self, tree: KDTree, shown_P: Tensor, pose: AbsolutePose, radius_px: float
    ) -> tuple[Tensor, int]:
        """Pairs (M, 2) of keypoints and points beside them, and how many points are in the picture.

        A keypoint is of the nearest point only, and that within a radius.
        """
        inside_P = shown_P[self._inside(pose, shown_P)]
        points_P3 = self._map.points_N3[inside_P].double()
        pixels_P2 = pose.camera.img_from_cam(pose.cam_from_world @ points_P3)
        apart_P, keypoint_P = tree.query(pixels_P2.numpy(), distance_upper_bound=radius_px)
        near = np.flatnonzero(np.isfinite(apart_P))
        order = torch.from_numpy(near[np.argsort(apart_P[near], kind="stable")])
        keypoint_M = torch.from_numpy(keypoint_P).long()[order]
        first_M = first_of_each(keypoint_M)
        pairs_M2 = torch.stack([keypoint_M[first_M], inside_P[order[first_M]]], dim=1)
        return pairs_M2, len(inside_P)

    def _match(
        self, pixels_K2: Tensor, camera: Camera, frames: Sequence[tuple[Tensor, Rigid3d]]
    ) -> list[_Said]:
        """Which keypoints are of which points, as seen from each frame that has points before it.

        Args:
            pixels_K2: keypoints of the query.
            camera: of the query.
            frames: points (P,), and the camera from the map that they are seen from.
        """
        asked_K2 = camera.cam_from_img(pixels_K2.double()).float()
        known_sets, points_of = [], []
        for point_P, cam_from_map in frames:
            if not len(point_P):
                continue
            placed_P3 = cam_from_map @ self._map.points_N3[point_P].double()
            before_P = placed_P3[:, 2] > _MIN_DEPTH_SHARE * placed_P3[:, 2].abs().median()
            if bool(before_P.any()):
                placed_P3 = placed_P3[before_P]
                known_sets.append((placed_P3[:, :2] / placed_P3[:, 2:]).float())
                points_of.append(point_P[before_P])
        if not known_sets:
            return []
        device = self._run.device
        asked = Bearings.of([asked_K2.to(device)] * len(known_sets))
        known = Bearings.of([points.to(device) for points in known_sets])
        said = []
        for matches, point_P in zip(
            self._matcher.match(asked, known, self._limits.min_probability), points_of, strict=True
        ):
            keypoint_M, row_M = matches.pairs_M2.cpu().unbind(1)
            pairs_M2 = torch.stack([keypoint_M, point_P[row_M]], dim=1)
            said.append(_Said(pairs_M2, matches.probability_M.cpu()))
        return said

    def _pose(
        self, pixels_K2: Tensor, matches_M2: Tensor, camera: Camera, max_error_px: float
    ) -> AbsolutePose | None:
        return estimate_absolute_pose(
            pixels_K2[matches_M2[:, 0]],
            self._map.points_N3[matches_M2[:, 1]],
            camera,
            max_error_px,
            self._run.seed,
            _MAX_ITERATIONS,
        )

    def _most_shown(self, views: Tensor) -> Tensor:
        """Indices of the points that some of the views saw; those that most saw come first."""
        times_N = torch.zeros(len(self._map.points_N3), dtype=torch.int64)
        for view in views:
            times_N[self._map.points_seen_by(view[None])] += 1
        order_N = times_N.argsort(descending=True, stable=True)
        return order_N[: int((times_N > 0).sum())]

    def _inside(self, pose: AbsolutePose, point_P: Tensor) -> Tensor:
        """Which points a pose puts into the picture, or just beside it: bool (P,)."""
        camera = pose.camera
        pixels_P2 = camera.img_from_cam(pose.cam_from_world @ self._map.points_N3[point_P].double())
        size_2 = torch.tensor([camera.width, camera.height])
        return ((pixels_P2 > -_MARGIN * size_2) & (pixels_P2 < (1 + _MARGIN) * size_2)).all(1)


def _agreed(said: Sequence[_Said]) -> Tensor:
    """Pairs (M, 2) of keypoints and points: what most frames say of each keypoint."""
    pairs = [torch.zeros(0, 2, dtype=torch.int64), *(one.pairs_M2 for one in said)]
    return agreed(
        torch.cat(pairs), torch.cat([torch.zeros(0), *(one.probability_M for one in said)])
    )


def _confidence(surprise: float) -> float:
    """Probability that a pose is right beside whose points so many more keypoints lie."""
    return 1 / (1 + math.exp(-_CONFIDENCE_SLOPE * (surprise - _HALF_SURE_SURPRISE)))
