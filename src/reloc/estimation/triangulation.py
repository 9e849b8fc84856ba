"""Matches between views of known pose to scene points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap
import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d


@dataclass(frozen=True, eq=False)
class Points:
    """Scene points and where they were seen.

    Attributes:
        world_N3: float64.
        track_point_T: int64, index into `world_N3` of each observation.
        track_view_T: int64, view of each observation.
        track_keypoint_T: int64, keypoint of that view.
    """

    world_N3: Tensor
    track_point_T: Tensor
    track_view_T: Tensor
    track_keypoint_T: Tensor

    def __len__(self) -> int:
        return len(self.world_N3)


def triangulate(
    cameras: Sequence[Camera],
    cam_from_world: Rigid3d,
    keypoints: Sequence[Tensor],
    matches: Mapping[tuple[int, int], Tensor],
    max_error_px: float,
    min_angle_deg: float,
    seed: int = 0,
) -> Points:
    """Triangulate matches with the poses held fixed: tracks, robust points, refinement (pycolmap).

    Args:
        cameras: of the N views.
        cam_from_world: batch (N,).
        keypoints: of each view, (K, 2) pixels.
        matches: (i, j) with i < j to pairs (M, 2) of keypoints that fit the epipolar geometry.
        max_error_px: reprojection error of an observation that is kept.
        min_angle_deg: least angle between the rays of a point.
        seed: of the sampling within long tracks.
    """
    reconstruction = pycolmap.Reconstruction()
    graph = pycolmap.CorrespondenceGraph()
    for index, camera in enumerate(cameras):
        image_id = index + 1
        reconstruction.add_camera_with_trivial_rig(
            pycolmap.Camera({**camera.as_dict(), "camera_id": image_id})
        )
        pose = cam_from_world[index]
        reconstruction.add_image_with_trivial_frame(
            pycolmap.Image(
                name=str(image_id),
                keypoints=keypoints[index].double().numpy(),
                camera_id=image_id,
                image_id=image_id,
            ),
            pycolmap.Rigid3d(np.asarray(pose.matrix[:3])),
        )
        graph.add_image(image_id, len(keypoints[index]))
    for (first, second), pairs in matches.items():
        geometry = pycolmap.TwoViewGeometry()
        geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
        geometry.inlier_matches = pairs.numpy().astype(np.uint32)
        graph.add_two_view_geometry(first + 1, second + 1, geometry)
    graph.finalize()

    observations = pycolmap.ObservationManager(reconstruction, graph)
    triangulator = pycolmap.IncrementalTriangulator(graph, reconstruction, observations)
    options = pycolmap.IncrementalTriangulatorOptions()
    options.min_angle = min_angle_deg
    options.ignore_two_view_tracks = False
    options.complete_max_reproj_error = options.merge_max_reproj_error = max_error_px
    options.random_seed = seed
    for index in range(len(cameras)):
        triangulator.triangulate_image(options, index + 1)
    triangulator.complete_all_tracks(options)
    triangulator.merge_all_tracks(options)
    _refine_points(reconstruction)
    observations.filter_all_points3D(max_error_px, min_angle_deg)
    return _points(reconstruction)


def _refine_points(reconstruction: pycolmap.Reconstruction) -> None:
    """Minimise the reprojection errors over the points alone."""
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = options.refine_extra_params = False
    options.refine_rig_from_world = options.refine_sensor_from_rig = False
    options.print_summary = False
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.images:
        config.add_image(image_id)
    # Not pycolmap.bundle_adjustment, which writes headings to standard error.
    pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()


def _points(reconstruction: pycolmap.Reconstruction) -> Points:
    world, tracks = [], []
    for index, point in enumerate(reconstruction.points3D.values()):
        world.append(point.xyz)
        tracks += [(index, seen.image_id - 1, seen.point2D_idx) for seen in point.track.elements]
    track_T3 = torch.tensor(tracks, dtype=torch.int64).reshape(-1, 3)
    return Points(
        torch.from_numpy(np.array(world, dtype=np.float64).reshape(-1, 3)), *track_T3.unbind(1)
    )
