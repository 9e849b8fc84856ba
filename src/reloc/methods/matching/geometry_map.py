"""A map of points without descriptors: where they are, and which views saw them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from reloc.contract import Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.matching.point_map import PointMap

# Steps of a coordinate of a point, over the extent of all points: two bytes.
_STEPS, _MIDDLE = 65535, 32768


@dataclass(frozen=True, eq=False)
class GeometryMap:
    """Points, the views that saw them, and nothing of what they look like.

    Attributes:
        point_map: whose descriptors and vocabulary are empty.
        cam_from_map: batch (V,), float64, of its views.
    """

    point_map: PointMap
    cam_from_map: Rigid3d

    def tensors(self) -> Tensors:
        """For the map's folder: six bytes a point, and two for each view that saw it."""
        points = self.point_map
        low_3, high_3 = points.points_N3.amin(0).double(), points.points_N3.amax(0).double()
        step_3 = ((high_3 - low_3) / _STEPS).clamp_min(1e-12)
        places_N3 = ((points.points_N3.double() - low_3) / step_3).round() - _MIDDLE
        seen_S = points.seen_S
        if len(points.points_N3) <= _STEPS:
            seen_S = (seen_S - _MIDDLE).to(torch.int16)
        return {
            "origin_3": points.origin_3,
            "lowest_3": low_3,
            "step_3": step_3,
            "places_N3": places_N3.to(torch.int16),
            "num_seen_V": points.num_seen_V.int(),
            "seen_S": seen_S,
            "image_vectors_VL": points.image_vectors_VL,
            "view_names": text_to_tensor(points.view_names),
            "view_quat_V4": self.cam_from_map.quat_wxyz.float(),
            "view_translation_V3": self.cam_from_map.translation.float(),
        }

    @staticmethod
    def from_tensors(tensors: Tensors) -> GeometryMap:
        """The inverse of `tensors`."""
        places_N3 = tensors["places_N3"].double() + _MIDDLE
        points_N3 = (tensors["lowest_3"] + tensors["step_3"] * places_N3).float()
        seen_S = tensors["seen_S"]
        if seen_S.dtype == torch.int16:
            seen_S = seen_S.int() + _MIDDLE
        point_map = PointMap(
            origin_3=tensors["origin_3"],
            points_N3=points_N3,
            descriptors_ND=torch.zeros(len(points_N3), 0, dtype=torch.uint8),
            vocabulary_KD=torch.zeros(0, 0),
            image_vectors_VL=tensors["image_vectors_VL"],
            view_names=tensor_to_text(tensors["view_names"]),
            num_seen_V=tensors["num_seen_V"].long(),
            seen_S=seen_S,
        )
        cam_from_map = Rigid3d.from_quat_wxyz(
            tensors["view_quat_V4"].double(), tensors["view_translation_V3"].double()
        )
        return GeometryMap(point_map, cam_from_map)


def without_descriptors(point_map: PointMap) -> PointMap:
    """The same points, of which nothing is known but where they are."""
    return replace(
        point_map,
        descriptors_ND=torch.zeros(len(point_map.points_N3), 0, dtype=torch.uint8),
        vocabulary_KD=torch.zeros(0, 0),
        view_keypoints=None,
    )
