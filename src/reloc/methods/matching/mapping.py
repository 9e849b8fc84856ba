"""The matching family: its settings, and how its maps are built.

Local features of distinct views are matched along pairs that the poses and the image index
propose, and triangulated with the poses held fixed. `localizer.py` asks the map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from reloc.contract import Run
from reloc.estimation.matching import match_mutual
from reloc.estimation.triangulation import Points, triangulate
from reloc.estimation.view_selection import pairs_by_pose, unique_pairs
from reloc.geometry.camera import Camera
from reloc.geometry.epipolar import epipolar_error_px
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.features import describe
from reloc.methods.matching.point_map import PointMap
from reloc.methods.matching.view_keypoints import ViewKeypoints
from reloc.nn.descriptors.vlad import aggregate, learn_vocabulary
from reloc.nn.local_features import (
    LocalFeatures,
    as_vectors,
    mean_descriptors,
)
from reloc.nn.matchers import ImageKeypoints
from reloc.scenes.scene import View

Item = TypeVar("Item")
Result = TypeVar("Result")
Matches = dict[tuple[int, int], Tensor]

# Fewer matches between two views are chance.
_MIN_PAIR_MATCHES = 8
# Descriptors from which the image index learns its words.
_MAX_VOCABULARY_SAMPLES = 50_000
# Around a keypoint, depth that varies by more than this share belongs to an edge, or to noise.
_MAX_DEPTH_SPREAD = 0.03


@dataclass(frozen=True, eq=False)
class MatchedViews:
    """Views with their features, and what of these is seen by several of them.

    Attributes:
        views: V of them.
        cameras: of the reduced images.
        cam_from_map: batch (V,); the map's origin is `origin_3`.
        features: of each view.
        matches: pairs of views, i < j, to pairs (M, 2) of their keypoints that fit the poses.
        vocabulary_KD: words of the image index.
        image_vectors_VL: float32, of each view.
        origin_3: float64, of the map in the world.
        keep_keypoints: whether the map is to keep the views' keypoints, for a matcher.
    """

    views: Sequence[View]
    cameras: Sequence[Camera]
    cam_from_map: Rigid3d
    features: Sequence[LocalFeatures]
    matches: Matches
    vocabulary_KD: Tensor
    image_vectors_VL: Tensor
    origin_3: Tensor
    keep_keypoints: bool = False

    def only(self, chosen: Sequence[int]) -> MatchedViews:
        """The views with these indices, and what they have in common."""
        place = {view: number for number, view in enumerate(chosen)}
        matches = {
            (place[first], place[second]): pairs
            for (first, second), pairs in self.matches.items()
            if first in place and second in place
        }
        return replace(
            self,
            views=[self.views[view] for view in chosen],
            cameras=[self.cameras[view] for view in chosen],
            cam_from_map=self.cam_from_map[list(chosen)],
            features=[self.features[view] for view in chosen],
            matches=matches,
            image_vectors_VL=self.image_vectors_VL[list(chosen)],
        )


def match_views(views: Sequence[View], config: MatchingConfig, run: Run) -> MatchedViews:
    """Describe views, all of them, and match those that may see the same.

    Raises:
        InputError: an image cannot be read, or none has a keypoint.
    """
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    origin_3 = poses.inverse().translation.mean(0)
    cam_from_map = poses @ Rigid3d(torch.eye(3, dtype=torch.float64), origin_3)
    described = _in_threads(
        lambda view: describe(view.read_image(), view.camera, config), views, run, "features"
    )
    cameras = [camera for camera, _ in described]
    features = [found for _, found in described]
    sample_ND = sampled_vectors(features, run.seed, _MAX_VOCABULARY_SAMPLES)
    vocabulary_KD = learn_vocabulary(sample_ND, config.vocabulary, run.seed)
    image_vectors_VL = torch.stack(
        [aggregate(as_vectors(found.descriptors_ND), vocabulary_KD) for found in features]
    )
    pairs = _propose_pairs(cam_from_map, image_vectors_VL, config)
    matches = _match(pairs, cameras, cam_from_map, features, config, run)
    run.log.info(f"{len(matches)} of {len(pairs)} pairs of {len(views)} views match")
    return MatchedViews(
        views, cameras, cam_from_map, features, matches, vocabulary_KD, image_vectors_VL, origin_3
    )


def build_point_map(matched: MatchedViews, config: MatchingConfig, run: Run) -> PointMap:
    """Triangulate what views see together.

    Raises:
        InputError: no point is seen by two views.
    """
    points = triangulate(
        matched.cameras,
        matched.cam_from_map,
        [found.keypoints_N2 for found in matched.features],
        matched.matches,
        config.max_point_error_px,
        config.min_ray_angle_deg,
        run.seed,
    )
    if config.depth:
        points = _add_points_from_depth(points, matched)
    if not len(points):
        raise InputError(
            f"no point is seen by two of the {len(matched.views)} mapping views: the poses do not "
            "fit the images, or the images lack texture; `reloc doctor SCENE` tells which"
        )
    return _pack(points, matched)


def _in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], run: Run, description: str
) -> list[Result]:
    """Results in order. OpenCV, faiss and file reading let go of the interpreter's lock."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        try:
            return list(run.progress.track(pool.map(work, items), description, total=len(items)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def sampled_vectors(features: Sequence[LocalFeatures], seed: int, most: int) -> Tensor:
    """Random descriptors of all views, as vectors (N, D), N <= `most`.

    Those that are chosen alone are made vectors of: of all views they would be many gigabytes.

    Raises:
        InputError: no view has a keypoint.
    """
    counts_V = torch.tensor([len(found.descriptors_ND) for found in features])
    if not int(counts_V.sum()):
        raise InputError("no mapping image has a single keypoint: they lack texture or are black")
    ends_V = counts_V.cumsum(0)
    generator = torch.Generator().manual_seed(seed)
    chosen_N = torch.randperm(int(ends_V[-1]), generator=generator)[:most]
    view_N = torch.searchsorted(ends_V, chosen_N, right=True)
    row_N = chosen_N - (ends_V - counts_V)[view_N]
    rows = [
        features[view].descriptors_ND[row]
        for view, row in zip(view_N.tolist(), row_N.tolist(), strict=True)
    ]
    return as_vectors(torch.stack(rows))


def _propose_pairs(
    cam_from_map: Rigid3d, image_vectors_VL: Tensor, config: MatchingConfig
) -> list[tuple[int, int]]:
    by_pose_P2 = pairs_by_pose(cam_from_map, config.pairs_by_pose, config.max_pair_angle_deg)
    similarity_VV = (image_vectors_VL @ image_vectors_VL.T).fill_diagonal_(-torch.inf)
    alike_VK = similarity_VV.topk(min(config.pairs_by_retrieval, len(similarity_VV) - 1)).indices
    views_VK = torch.arange(len(alike_VK))[:, None].expand_as(alike_VK)
    by_retrieval_P2 = torch.stack([views_VK.flatten(), alike_VK.flatten()], dim=1)
    pairs_P2 = unique_pairs(torch.cat([by_pose_P2, by_retrieval_P2]))
    return [(first, second) for first, second in pairs_P2.tolist()]


def _match(
    pairs: Sequence[tuple[int, int]],
    cameras: Sequence[Camera],
    cam_from_map: Rigid3d,
    features: Sequence[LocalFeatures],
    config: MatchingConfig,
    run: Run,
) -> Matches:
    """Matches that fit the poses, of the pairs that have enough of them."""
    # Once a view, not once a pair: undoing distortion takes as long as matching.
    flat = [
        _undistorted(camera, found.keypoints_N2)
        for camera, found in zip(cameras, features, strict=True)
    ]

    def match(pair: tuple[int, int]) -> Tensor:
        first, second = pair
        one, other = features[first], features[second]
        matches_M2 = match_mutual(one.descriptors_ND, other.descriptors_ND, config.max_ratio)
        error_px_M = epipolar_error_px(
            flat[first][1][matches_M2[:, 0]],
            flat[second][1][matches_M2[:, 1]],
            flat[first][0],
            flat[second][0],
            cam_from_map[second] @ cam_from_map[first].inverse(),
        )
        return matches_M2[error_px_M < config.max_epipolar_error_px]

    found = zip(pairs, _in_threads(match, pairs, run, "matching"), strict=True)
    return {pair: matches for pair, matches in found if len(matches) >= _MIN_PAIR_MATCHES}


def _undistorted(camera: Camera, pixels_N2: Tensor) -> tuple[Camera, Tensor]:
    """The pinhole camera of the same focal lengths, and its pixels (N, 2) float64 of the points."""
    params = torch.cat([camera.focal, camera.principal_point])
    pinhole = Camera("PINHOLE", camera.width, camera.height, params)
    plane_N2 = camera.cam_from_img(pixels_N2.double())
    return pinhole, plane_N2 * camera.focal + camera.principal_point


def _add_points_from_depth(points: Points, matched: MatchedViews) -> Points:
    """Points for keypoints that have a depth and no point yet, one for keypoints that match."""
    point_of = [torch.full((len(found),), -1) for found in matched.features]
    for point, view, keypoint in zip(
        *(column.tolist() for column in (points.track_point_T, points.track_view_T,
                                         points.track_keypoint_T)), strict=True
    ):  # fmt: skip
        point_of[view][keypoint] = point
    world, tracks = [points.world_N3], [torch.stack(
        [points.track_point_T, points.track_view_T, points.track_keypoint_T], dim=1
    )]  # fmt: skip
    num_points = len(points)
    for index, view in enumerate(matched.views):
        depth = view.read_depth()
        if depth is None:
            continue
        keypoints_K2 = matched.features[index].keypoints_N2
        depth_K = _depth_at(depth, keypoints_K2, matched.cameras[index])
        new_K = ((depth_K > 0) & (point_of[index] < 0)).nonzero()[:, 0]
        rays_K2 = matched.cameras[index].cam_from_img(keypoints_K2[new_K].double())
        rays_K3 = torch.nn.functional.pad(rays_K2, (0, 1), value=1.0)
        world.append(matched.cam_from_map[index].inverse() @ (rays_K3 * depth_K[new_K, None]))
        point_of[index][new_K] = torch.arange(num_points, num_points + len(new_K))
        seen = [(num_points + row, index, int(keypoint)) for row, keypoint in enumerate(new_K)]
        # The same point in later views must not become a second one.
        for (first, second), pairs in matched.matches.items():
            if index in (first, second):
                here, there = (0, 1) if index == first else (1, 0)
                other = second if index == first else first
                fresh = (point_of[index][pairs[:, here]] >= num_points) & (
                    point_of[other][pairs[:, there]] < 0
                )
                point_of[other][pairs[fresh, there]] = point_of[index][pairs[fresh, here]]
                seen += [
                    (int(point_of[other][keypoint]), other, int(keypoint))
                    for keypoint in pairs[fresh, there]
                ]
        tracks.append(torch.tensor(seen, dtype=torch.int64).reshape(-1, 3))
        num_points += len(new_K)
    return Points(torch.cat(world), *torch.cat(tracks).unbind(1))


def _depth_at(depth_HW: Tensor, keypoints_K2: Tensor, camera: Camera) -> Tensor:
    """Depth (K,) float64 under keypoints; 0 where it is unknown or varies within 3x3 pixels."""
    height, width = depth_HW.shape
    scale = torch.tensor([width / camera.width, height / camera.height])
    column_K, row_K = (keypoints_K2 * scale).long().unbind(1)
    around_9HW = torch.nn.functional.unfold(
        torch.nn.functional.pad(depth_HW[None, None], (1, 1, 1, 1), mode="replicate"), 3
    ).reshape(9, height, width)
    around_9K = around_9HW[:, row_K.clamp(0, height - 1), column_K.clamp(0, width - 1)].double()
    nearest_K, farthest_K = around_9K.amin(0), around_9K.amax(0)
    sound_K = (nearest_K > 0) & (farthest_K - nearest_K < _MAX_DEPTH_SPREAD * farthest_K)
    return around_9K.median(0).values * sound_K


def _pack(points: Points, matched: MatchedViews) -> PointMap:
    num_views = len(matched.views)
    starts_V = torch.tensor([0, *(len(found) for found in matched.features)]).cumsum(0)
    descriptors_FD = torch.cat([found.descriptors_ND for found in matched.features])
    observed_TD = descriptors_FD[starts_V[points.track_view_T] + points.track_keypoint_T]
    # By view, then by point: neighbours in memory, and the same map for the same seed.
    order_T = (points.track_view_T * len(points) + points.track_point_T).argsort(stable=True)
    scale_V1 = 127 / matched.image_vectors_VL.abs().amax(1, keepdim=True).clamp_min(1e-12)
    return PointMap(
        origin_3=matched.origin_3,
        points_N3=points.world_N3.float(),
        descriptors_ND=mean_descriptors(observed_TD, points.track_point_T, len(points)),
        vocabulary_KD=matched.vocabulary_KD,
        image_vectors_VL=(matched.image_vectors_VL * scale_V1).round().to(torch.int8),
        view_names=[view.name for view in matched.views],
        num_seen_V=torch.bincount(points.track_view_T, minlength=num_views),
        seen_S=points.track_point_T[order_T].int(),
        view_keypoints=_view_keypoints(matched, points.track_keypoint_T[order_T])
        if matched.keep_keypoints
        else None,
    )


def _view_keypoints(matched: MatchedViews, keypoint_S: Tensor) -> ViewKeypoints:
    images = [
        ImageKeypoints.of(found, (camera.width, camera.height))
        for found, camera in zip(matched.features, matched.cameras, strict=True)
    ]
    return ViewKeypoints(
        torch.cat([image.keypoints_N2 for image in images]),
        torch.cat([found.descriptors_ND for found in matched.features]),
        torch.cat([image.scores_N for image in images]),
        torch.tensor([len(image) for image in images]),
        torch.tensor([image.size for image in images]),
        keypoint_S.int(),
    )
