"""Visual odometry between the frames of a query: turns, and directions without a scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reloc.contract import Run
from reloc.estimation.matching import match_mutual
from reloc.estimation.relative import Correspondences, estimate_relative_pose
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.nn.local_features import LocalFeatures, extract_features
from reloc.scenes.scene import Query

_MAX_KEYPOINTS = 1000
_MIN_INLIERS = 25
# Below this parallax the direction of the motion is a matter of noise.
_MIN_PARALLAX_DEG = 0.5


@dataclass(frozen=True, eq=False)
class Motion:
    """How the camera moved from one frame to another.

    Attributes:
        first: index of a frame.
        second: of a later one.
        second_from_first: its translation is of length 1.
        has_direction: whether that is known; the turn always is.
    """

    first: int
    second: int
    second_from_first: Rigid3d
    has_direction: bool


def frame_to_frame(frames: Sequence[Query], run: Run) -> list[Motion]:
    """Motions from each frame to the next, where enough points are matched."""
    pairs = [(first, first + 1) for first in range(len(frames) - 1)]
    return motions_between(lambda index: frames[index], pairs, run)


def motions_between(
    frame_at: Callable[[int], Query], pairs: Sequence[tuple[int, int]], run: Run
) -> list[Motion]:
    """Motions between pairs of frames, where enough points are matched.

    Args:
        frame_at: reads a frame. One that it cannot read is logged, and has no motion.
        pairs: indices of frames.
        run: seed.
    """
    seen: dict[int, tuple[LocalFeatures, Camera] | None] = {}

    def features_of(index: int) -> tuple[LocalFeatures, Camera] | None:
        if index not in seen:
            try:
                frame = frame_at(index)
                features = extract_features(frame.image, "orb", _MAX_KEYPOINTS)
                seen[index] = (features, frame.camera)
            except InputError as error:
                run.log.warning("left out of the odometry: %s", error)
                seen[index] = None
        return seen[index]

    motions = []
    for first, second in pairs:
        before, after = features_of(first), features_of(second)
        if before is None or after is None:
            continue
        (of_first, camera0), (of_second, camera1) = before, after
        pairs_K2 = match_mutual(of_first.descriptors_ND, of_second.descriptors_ND)
        if len(pairs_K2) < _MIN_INLIERS:
            continue
        found = estimate_relative_pose(
            Correspondences(
                of_first.keypoints_N2[pairs_K2[:, 0]].double(),
                of_second.keypoints_N2[pairs_K2[:, 1]].double(),
                camera0,
                camera1,
            ),
            seed=run.seed,
        )
        if found is not None and found.num_inliers >= _MIN_INLIERS:
            has_direction = found.parallax_deg >= _MIN_PARALLAX_DEG
            motions.append(Motion(first, second, found.cam1_from_cam0, has_direction))
    return motions
