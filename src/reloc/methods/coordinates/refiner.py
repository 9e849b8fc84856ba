"""Poses of any method, refined on the landmarks of a map: `reloc localize --refine`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.localizer import CoordinatesLocalizer, confidence, encode_queries
from reloc.methods.coordinates.map_tensors import GROWTH, REFINED
from reloc.methods.coordinates.refinement import LandmarkFit
from reloc.scenes.scene import Query


class LandmarkRefiner:
    """Refines poses in the world of a map of landmarks.

    Args:
        encoder: of the codes.
        tensors: a map of landmarks.
        config: of the map.
        run: device, seed, precision.
    """

    def __init__(
        self, encoder: nn.Module, tensors: Tensors, config: CoordinatesConfig, run: Run
    ) -> None:
        self._config, self._run = config, run
        self._encoder = encoder.to(run.device)
        self._cells = CoordinatesLocalizer(encoder, tensors, config, run)
        self._landmarks = LandmarkFit(tensors, config, run.seed)
        self._center_from_world = Rigid3d(torch.eye(3, dtype=torch.float64), -tensors["center_3"])
        self._growth, self._fitted = float(tensors[GROWTH]), REFINED in tensors

    def refine(
        self, queries: Sequence[Query], estimates: Sequence[PoseEstimate]
    ) -> list[PoseEstimate]:
        """The same estimates with better poses, or as they are where nothing agrees with them.

        Declined queries stay declined. A refined pose has the confidence, inliers and covariance
        that it has by the landmarks, whatever the method's own were.
        """
        return [
            self._refine(query, estimate)
            for query, estimate in zip(queries, estimates, strict=True)
        ]

    def _refine(self, query: Query, estimate: PoseEstimate) -> PoseEstimate:
        if estimate.cam_from_world is None:
            return estimate
        [encoded] = encode_queries(self._encoder, [query], self._config.short_side_px, self._run)
        camera = query.camera
        if estimate.camera is not None:
            camera = replace(estimate.camera, has_prior_focal=True)
        start = estimate.cam_from_world @ self._center_from_world.inverse()
        found = self._landmarks.fit(
            encoded.pixels_N2, encoded.codes_NC, camera, start, from_far=True
        )
        if found is None:
            return estimate
        pixels_N2, points_N3 = self._cells.points(encoded)
        agreeing = self._landmarks.holds(
            found.cam_from_world, start, pixels_N2, points_N3, found.camera
        )
        if agreeing is None:
            return estimate
        # Where the map's trust in covariances is fitted to poses from fewer cells, more landmarks
        # than cells count as no more: neighbours err alike.
        alike = 1.0 if self._fitted else max(1.0, found.num_inliers / self._cells.max_cells)
        return replace(
            estimate,
            cam_from_world=found.cam_from_world @ self._center_from_world,
            covariance=alike * self._growth * found.covariance,
            camera=estimate.camera if camera.has_prior_focal else found.camera,
            num_inliers=found.num_inliers,
            inlier_ratio=agreeing,
            confidence=confidence(agreeing, of_landmarks=True),
        )
