"""Relative poses by local features: what a network of pairs has to be better than.

Map: keypoints of mapping views, with depth where there is any. Query: the similar views, matches
with each, a relative pose of each, and what these agree on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.estimation.relative import RelativePose
from reloc.estimation.two_photos import (
    DescribedPhoto,
    TwoPhotosConfig,
    describe_photo,
    relate_photos,
)
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.relative.combine import combine
from reloc.methods.relative.focal import focal_ratio, known_focal_ratio, with_focal
from reloc.methods.relative.learning import distinct_views
from reloc.nn.descriptors import fit_descriptor, open_descriptor
from reloc.nn.local_features import LocalFeatures
from reloc.scenes.scene import Query, View

_DESCRIPTOR = "descriptor."
# Matches that agree with the best view at which a pose is as likely right as not, and how steeply
# more decide: set by hand, not fitted.
_HALF_SURE_INLIERS, _CONFIDENCE_SLOPE = 20.0, 2.5
# Points give a place as exactly as their depth allows, however short the way to it was.
_MIN_WAY = 0.1


def build_map(views: Sequence[View], config: TwoPhotosConfig, num_images: int, run: Run) -> Tensors:
    """Keypoints of the views, and vectors to retrieve these by.

    Args:
        views: of which, where there are more, the most distinct are kept.
        config: of the features.
        num_images: how many at most.
        run: device, progress.

    Raises:
        InputError: an image cannot be read, or none shows anything; or there is depth, and the
            focal length of no view is known; or none, and the solver needs it.
    """
    if len(views) > num_images:
        views = [views[index] for index in distinct_views(views, num_images)]
    measured = any(view.depth_reader is not None for view in views)
    if config.solver == "kabsch" and not measured:
        raise InputError(
            f"none of the {len(views)} mapping views, the first is {views[0].name}, has depth, and "
            "--solver kabsch aligns points that are measured: add depth, or map with --solver pnp"
        )
    # Without any depth or focal length, one focal length fits two photos of one size.
    if measured or any(view.camera.has_prior_focal for view in views):
        known_focal_ratio(views, run)
    described: list[tuple[View, DescribedPhoto]] = []
    for view in run.progress.track(views, "describing"):
        photo = describe_photo(view.query(), config)
        if len(photo.features):
            described.append((view, photo))
    if not described:
        raise InputError(f"none of the {len(views)} mapping images has a keypoint: are they black?")
    used = [view for view, _ in described]
    descriptor, vectors_ND = fit_descriptor("gem", used, run)
    nothing = torch.zeros(0)
    depths = [photo.depth_N for _, photo in described]
    unknown = [
        torch.zeros(len(photo.features)) if depth is None else depth.nan_to_num()
        for (_, photo), depth in zip(described, depths, strict=True)
    ]
    cameras = [json.dumps(view.camera.as_dict()) for view in used]
    poses = Rigid3d.stack([view.cam_from_world for view in used])
    return {
        "keypoints": torch.cat([photo.features.keypoints_N2 for _, photo in described]),
        "descriptors": torch.cat([photo.features.descriptors_ND for _, photo in described]),
        # Zero: unknown.
        "depths": torch.cat(unknown).half() if any(d is not None for d in depths) else nothing,
        "counts": torch.tensor([len(photo.features) for _, photo in described]),
        "pixels": torch.tensor([photo.pixel for _, photo in described]),
        "vectors": vectors_ND.half(),
        "cameras": text_to_tensor(cameras),
        "known_focal": torch.tensor([view.camera.has_prior_focal for view in used]),
        "rotations": poses.rotation,
        "translations": poses.translation,
        "names": text_to_tensor([view.name for view in used]),
        **{_DESCRIPTOR + name: tensor for name, tensor in descriptor.state().items()},
    }


class PhotoMatchingLocalizer:
    """Answers queries by local features, each for itself."""

    def __init__(
        self,
        tensors: Tensors,
        config: TwoPhotosConfig,
        num_neighbours: int,
        max_angle_deg: float,
        run: Run,
    ) -> None:
        self._config, self._seed = config, run.seed
        self._num_neighbours, self._max_angle_deg = num_neighbours, max_angle_deg
        state = {
            name.removeprefix(_DESCRIPTOR): tensor
            for name, tensor in tensors.items()
            if name.startswith(_DESCRIPTOR)
        }
        self._descriptor = open_descriptor("gem", state)
        self._vectors_ND = tensors["vectors"].float()
        self._names = tensor_to_text(tensors["names"])
        self._cam_from_world = Rigid3d(tensors["rotations"], tensors["translations"])
        counts = tensors["counts"].tolist()
        keypoints, descriptors = (
            tensors[name].split(counts) for name in ("keypoints", "descriptors")
        )
        has_depth = len(tensors["depths"]) > 0
        depths = tensors["depths"].float().split(counts) if has_depth else None
        known = tensors["known_focal"].tolist()
        cameras = [
            _camera(json.loads(text), known[index])
            for index, text in enumerate(tensor_to_text(tensors["cameras"]))
        ]
        self._focal_ratio = focal_ratio(cameras)
        self._photos = []
        for index, camera in enumerate(cameras):
            features = LocalFeatures(
                keypoints[index], descriptors[index], torch.zeros(counts[index])
            )
            depth_N = None
            if depths is not None and bool(depths[index].any()):
                depth_N = torch.where(depths[index] > 0, depths[index], torch.nan)
            no_image = torch.zeros(3, 0, 0, dtype=torch.uint8)
            photo = Query(self._names[index], no_image, with_focal(camera, self._focal_ratio))
            self._photos.append(
                DescribedPhoto(features, depth_N, photo, float(tensors["pixels"][index]))
            )

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, in order."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> PoseEstimate:
        if self._config.solver == "kabsch" and query.depth is None:
            raise InputError(
                f"query {query.name} has no depth, and --solver kabsch aligns points that are "
                "measured in both photos: add depth, or map with --solver pnp"
            )
        vector_D = self._descriptor.describe(query.image)
        # Of an unknown focal length that of the mapping views is the best guess.
        camera = with_focal(query.camera, self._focal_ratio)
        asked = describe_photo(replace(query, camera=camera), self._config)
        if not bool(vector_D.any()) or not len(asked.features):
            return PoseEstimate(None)
        similarity_N = self._vectors_ND @ vector_D
        near = similarity_N.argsort(descending=True, stable=True)[: self._num_neighbours].tolist()
        found = []
        for index in near:
            pose, _ = relate_photos(self._photos[index], asked, self._config, self._seed)
            if pose is not None:
                found.append((index, pose))
        if not found:
            return PoseEstimate(None)
        # With lengths, one view is enough; without, directions from several places must meet.
        metric = [(index, pose) for index, pose in found if pose.has_scale]
        used = metric or found
        references = torch.tensor([index for index, _ in used])
        inliers_K = torch.tensor([float(pose.num_inliers) for _, pose in used])
        cam_from_world = self._cam_from_world[references]
        unit = self._unit_of_lengths(used, asked) if metric else _spread(cam_from_world)
        combined = combine(
            Rigid3d.stack([pose.cam1_from_cam0 for _, pose in used]),
            cam_from_world,
            (-inliers_K.log())[:, None].expand(-1, 2),
            "average" if metric else "triangulate",
            unit,
            self._max_angle_deg,
        )
        if combined is None:
            return PoseEstimate(None)
        # What does not agree with the answer is no evidence for it, however sure of itself.
        best = int((inliers_K * combined.agreeing_K).argmax())
        agreeing = combined.agreeing_K.nonzero()[:, 0].tolist()
        cameras = [used[index][1].camera1 for index in agreeing]
        confidence = 1 / (1 + (float(inliers_K[best]) / _HALF_SURE_INLIERS) ** -_CONFIDENCE_SLOPE)
        return PoseEstimate(
            combined.cam_from_world,
            confidence=confidence,
            covariance=combined.covariance,
            num_inliers=int(inliers_K[best]),
            reference=self._names[used[best][0]],
            camera=None if query.camera.has_prior_focal else _median_focal(cameras),
        )

    def _unit_of_lengths(
        self, used: Sequence[tuple[int, RelativePose]], asked: DescribedPhoto
    ) -> float:
        """Of which errors are parts: the way between the photos, or a share of the depth.

        Where the references stand plays no part: one alone, or several at one place, have no
        spread.
        """
        units = []
        for index, pose in used:
            depths = [photo.depth_N for photo in (self._photos[index], asked)]
            depth = max(float(depth_N.nanmedian()) for depth_N in depths if depth_N is not None)
            way = float(pose.cam1_from_cam0.translation.norm())
            units.append(max(way, _MIN_WAY * depth))
        return median(units)


def _median_focal(cameras: Sequence[Camera]) -> Camera:
    """Cameras of one query, each with a focal length that was estimated."""
    focal = median(float(camera.focal.mean()) for camera in cameras)
    return cameras[0].with_focal(focal, has_prior_focal=False)


def _spread(cam_from_world: Rigid3d) -> float:
    """How far the places of references are from their middle."""
    centers_K3 = cam_from_world.inverse().translation
    return max(float((centers_K3 - centers_K3.mean(0)).norm(dim=-1).max()), 1e-3)


def _camera(values: dict[str, Any], has_prior_focal: bool) -> Camera:
    camera = Camera.of(**values)
    return Camera(camera.model, camera.width, camera.height, camera.params, has_prior_focal)
