"""Pose graphs at query time: predicted poses, held together by visual odometry (GTSAM)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.absolute.odometry import Motion

# What one prediction is off from the others, rad and as a share of the path's extent, against what
# odometry is off. Only their ratio matters.
_PREDICTED_RAD, _PREDICTED_SHARE = 0.05, 0.1
_TURNED_RAD, _DIRECTION_RAD = 0.005, 0.1
# A prediction that is far off must not bend the graph.
_HUBER = 1.345
_MAX_ITERATIONS = 20


def optimized(cam_from_world: Rigid3d, motions: Sequence[Motion], window: int) -> Rigid3d:
    """Poses (N): each the middle one of a graph of the frames round it.

    A frame's prediction is a prior; a motion between frames binds their turn, and the direction in
    which the camera moved where that is known. The length of the motion, which photos do not tell,
    is left to the predictions.

    Args:
        cam_from_world: predicted, in the order of the frames.
        motions: between them.
        window: frames of a graph.

    Raises:
        InputError: GTSAM is not installed.

    Source: Brahmbhatt et al., "Geometry-aware learning of maps for camera localization", CVPR 2018,
    section 3.4, with an essential matrix in the place of their odometry, which had a scale.
    """
    try:
        import gtsam
    except ImportError as error:
        raise InputError('--pgo needs GTSAM: pip install "reloc[posegraph]"') from error
    world_from_cam = cam_from_world.inverse()
    count = len(world_from_cam.translation)
    centers = world_from_cam.translation.numpy()
    extent = float(np.linalg.norm(centers.max(0) - centers.min(0))) or 1.0
    predicted = [
        gtsam.Pose3(gtsam.Rot3(rotation.numpy()), center)
        for rotation, center in zip(world_from_cam.rotation, centers, strict=True)
    ]
    sigmas = np.array([_PREDICTED_RAD] * 3 + [_PREDICTED_SHARE * extent] * 3)
    huber = gtsam.noiseModel.mEstimator.Huber.Create(_HUBER)
    of_prediction = gtsam.noiseModel.Robust.Create(huber, gtsam.noiseModel.Diagonal.Sigmas(sigmas))
    of_turn = gtsam.noiseModel.Diagonal.Sigmas(np.array([_TURNED_RAD] * 3 + [1e3 * extent] * 3))
    of_motion = gtsam.noiseModel.Diagonal.Sigmas(np.array([_TURNED_RAD] * 3 + [_DIRECTION_RAD] * 2))
    mended = []
    for middle in range(count):
        frames = range(max(0, middle - window // 2), min(count, middle + window // 2 + 1))
        graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
        for frame in frames:
            values.insert(frame, predicted[frame])
            graph.add(gtsam.PriorFactorPose3(frame, predicted[frame], of_prediction))
        for motion in motions:
            if motion.first not in frames or motion.second not in frames:
                continue
            first_from_second = motion.second_from_first.inverse()
            rotation = gtsam.Rot3(first_from_second.rotation.numpy())
            apart = predicted[motion.first].between(predicted[motion.second]).translation()
            # An essential matrix has no sense where both cameras are predicted in one place.
            if motion.has_direction and np.linalg.norm(apart) > 1e-6 * extent:
                direction = gtsam.Unit3(first_from_second.translation.numpy())
                graph.add(
                    gtsam.EssentialMatrixConstraint(
                        motion.first,
                        motion.second,
                        gtsam.EssentialMatrix(rotation, direction),
                        of_motion,
                    )
                )
            else:
                between = gtsam.Pose3(rotation, apart)
                graph.add(gtsam.BetweenFactorPose3(motion.first, motion.second, between, of_turn))
        settings = gtsam.LevenbergMarquardtParams()
        settings.setMaxIterations(_MAX_ITERATIONS)
        result = gtsam.LevenbergMarquardtOptimizer(graph, values, settings).optimize()
        pose = result.atPose3(middle)
        mended.append(
            Rigid3d(
                torch.from_numpy(np.array(pose.rotation().matrix())),
                torch.from_numpy(np.array(pose.translation())),
            )
        )
    return Rigid3d.stack(mended).inverse()
