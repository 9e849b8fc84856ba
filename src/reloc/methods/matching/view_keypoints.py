"""What a matcher needs of a map's views: all their keypoints, and which of these are of points."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from reloc.contract import Tensors
from reloc.nn.local_features import as_vectors
from reloc.nn.matchers import ImageKeypoints

_PREFIX = "view_keypoints."


@dataclass(frozen=True, eq=False)
class ViewKeypoints:
    """The keypoints of a map's views, view after view, whether or not a point came of them.

    Attributes:
        keypoints_K2: float32, pixels of the reduced images.
        descriptors_KD: int8, as `LocalFeatures` has them.
        scores_K: float32, of detection.
        num_V: int64, keypoints of each view.
        size_V2: int64, width and height of the reduced images.
        keypoint_S: int32, which of its view's keypoints each of `PointMap.seen_S` is.
    """

    keypoints_K2: Tensor
    descriptors_KD: Tensor
    scores_K: Tensor
    num_V: Tensor
    size_V2: Tensor
    keypoint_S: Tensor

    def tensors(self) -> Tensors:
        """For the map's folder."""
        return {f"{_PREFIX}{entry.name}": getattr(self, entry.name) for entry in fields(self)}

    @staticmethod
    def from_tensors(tensors: Tensors) -> ViewKeypoints | None:
        """The inverse of `tensors`; None where the map keeps no keypoints."""
        kept = {
            name.removeprefix(_PREFIX): value
            for name, value in tensors.items()
            if name.startswith(_PREFIX)
        }
        return ViewKeypoints(**kept) if kept else None

    def only_seen(self, kept_S: Tensor) -> ViewKeypoints:
        """The same, where only some of the points' observations, bool (S,), are left."""
        return replace(self, keypoint_S=self.keypoint_S[kept_S])

    def of(self, view: int, points: Tensor, observations: slice) -> tuple[ImageKeypoints, Tensor]:
        """The keypoints of a view, and the point (N,) int64 of each; -1 where it has none.

        Args:
            view: its index.
            points: that the view saw.
            observations: where these are in `PointMap.seen_S`.
        """
        end = int(self.num_V[: view + 1].sum())
        rows = slice(end - int(self.num_V[view]), end)
        width, height = self.size_V2[view].tolist()
        image = ImageKeypoints(
            self.keypoints_K2[rows],
            as_vectors(self.descriptors_KD[rows]),
            self.scores_K[rows],
            (width, height),
        )
        point_N = torch.full((len(image),), -1, dtype=torch.int64)
        point_N[self.keypoint_S[observations].long()] = points.long()
        return image, point_N
