"""A map of points: where they are, what they look like, and which views saw them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from reloc.contract import Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.matching.view_keypoints import ViewKeypoints
from reloc.nn.matchers import ImageKeypoints


@dataclass(frozen=True, eq=False)
class PointMap:
    """What the matching family keeps of a scene.

    Attributes:
        origin_3: float64, world coordinates of the map's origin: float32 is too coarse for
            coordinates
            of a whole country.
        points_N3: float32, from the origin.
        descriptors_ND: as `LocalFeatures` has them.
        vocabulary_KD: float32, words of the image index.
        image_vectors_VL: int8, the views' VLAD vectors times 127 over their largest element.
        view_names: of the V views.
        num_seen_V: int64, number of points that each view saw.
        seen_S: int32, indices of those points, view after view.
        view_keypoints: of all views, where a matcher is to match them; else None.
    """

    origin_3: Tensor
    points_N3: Tensor
    descriptors_ND: Tensor
    vocabulary_KD: Tensor
    image_vectors_VL: Tensor
    view_names: list[str]
    num_seen_V: Tensor
    seen_S: Tensor
    view_keypoints: ViewKeypoints | None = None

    def tensors(self) -> Tensors:
        """For the map's folder."""
        values = {name: getattr(self, name) for name in _TENSORS}
        keypoints = self.view_keypoints.tensors() if self.view_keypoints else {}
        return {**values, **keypoints, "view_names": text_to_tensor(self.view_names)}

    @staticmethod
    def from_tensors(tensors: Tensors) -> PointMap:
        """The inverse of `tensors`."""
        return PointMap(
            **{name: tensors[name] for name in _TENSORS},
            view_names=tensor_to_text(tensors["view_names"]),
            view_keypoints=ViewKeypoints.from_tensors(tensors),
        )

    @cached_property
    def _unit_vectors_VL(self) -> Tensor:
        return torch.nn.functional.normalize(self.image_vectors_VL.float())

    def similar_views(self, image_vector_L: Tensor, count: int) -> Tensor:
        """Indices of the views whose vectors are most like a query's, best first."""
        similarity_V = self._unit_vectors_VL @ image_vector_L
        return similarity_V.topk(min(count, len(similarity_V))).indices

    def keypoints_of(self, view: int) -> tuple[ImageKeypoints, Tensor]:
        """The keypoints of a view, and the point (N,) int64 of each; -1 where it has none.

        The map must keep them.
        """
        assert self.view_keypoints is not None
        end = int(self.num_seen_V[: view + 1].sum())
        seen = slice(end - int(self.num_seen_V[view]), end)
        return self.view_keypoints.of(view, self.seen_S[seen], seen)

    def points_seen_by(self, views: Tensor) -> Tensor:
        """Indices, in order, of the points that at least one of the views saw."""
        ends_V = self.num_seen_V.cumsum(0)
        seen_N = torch.zeros(len(self.points_N3), dtype=torch.bool)
        for view in views.tolist():
            start, end = int(ends_V[view] - self.num_seen_V[view]), int(ends_V[view])
            seen_N[self.seen_S[start:end].long()] = True
        return seen_N.nonzero()[:, 0]

    def view_that_saw_most(self, points: Tensor) -> str:
        """Name of the view that saw most of the points with these indices."""
        wanted_N = torch.zeros(len(self.points_N3), dtype=torch.int64)
        wanted_N[points] = 1
        running_S = torch.nn.functional.pad(wanted_N[self.seen_S.long()].cumsum(0), (1, 0))
        ends_V = self.num_seen_V.cumsum(0)
        hits_V = running_S[ends_V] - running_S[ends_V - self.num_seen_V]
        return self.view_names[int(hits_V.argmax())]

    def from_world(self, cam_from_world: Rigid3d) -> Rigid3d:
        """`cam_from_map` of a `cam_from_world`."""
        return cam_from_world @ Rigid3d(torch.eye(3, dtype=torch.float64), self.origin_3)

    def to_world(self, cam_from_map: Rigid3d) -> Rigid3d:
        """`cam_from_world` of a `cam_from_map`."""
        return cam_from_map @ Rigid3d(torch.eye(3, dtype=torch.float64), -self.origin_3)


_TENSORS = [
    entry.name for entry in fields(PointMap) if entry.name not in ("view_names", "view_keypoints")
]
