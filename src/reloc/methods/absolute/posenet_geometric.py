"""Geometric PoseNet: poses are learned, in the end, by where they would see the scene's points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.absolute import family
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, Step
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.scene_points import triangulated_points
from reloc.nn.pose_layers import ImageVector, PoseHead
from reloc.nn.pose_losses import PredictedPose, reprojection_residual
from reloc.nn.rotations import PARAMETRIZATIONS, RotationName
from reloc.scenes.scene import View
from reloc.training.stages import kept

# Within so many image widths from the axis, on the plane z = 1, a point counts as seen.
_SEEN_WITHIN = 0.8
# Cells of a residual on the plane z = 1 beyond which it is cut.
_MAX_RESIDUAL = 1.0


@dataclass(frozen=True)
class PoseNetGeometricConfig(AbsoluteConfig):
    """Settings of Geometric PoseNet."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    geometric_from: float = 0.5
    """Share of the training after which points are reprojected; before, the weights of position and
    rotation are learned: from nothing, reprojection does not lead anywhere."""
    points_per_look: int = 32
    """Points that are drawn for each picture of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.geometric_from <= 1 or self.points_per_look < 1:
            raise ValueError("geometric_from is in (0, 1], and points_per_look at least 1")


class PoseNetGeometric(nn.Module):
    """Image vector to position and rotation."""

    def __init__(self, shape: Shape, config: PoseNetGeometricConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width, config.dropout)
        self.head = PoseHead(config.width, config.rotation)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps."""
        return self.head(self.vector(map_BChw))


def design(points_N3: Tensor) -> Design[PoseNetGeometricConfig]:
    """With the points (N, 3) of a scene, in the map's frame and unit."""

    def objective(network: nn.Module, step: Step, config: PoseNetGeometricConfig) -> Tensor:
        """First the plain loss, then that of the points."""
        if step.done < config.geometric_from or len(points_N3) == 0:
            return family.plain_objective(network, step, config)
        index_B = step.draw(config.batch_size)
        position_B3 = step.looks.position_L3[index_B]
        rotation_B33 = step.looks.rotation_L33[index_B]
        count = config.points_per_look
        drawn = torch.randint(
            len(points_N3), (len(index_B), 4 * count), generator=step.generator
        ).to(points_N3.device)
        points_BN3, pixels_BN2 = _seen(points_N3[drawn], position_B3, rotation_B33, count)
        predicted = network(step.looks.maps(index_B))
        predicted_B33 = PARAMETRIZATIONS[config.rotation].to_matrix(predicted.rotation_BK)
        return reprojection_residual(
            predicted.position_B3, predicted_B33, points_BN3, pixels_BN2, _MAX_RESIDUAL
        )

    return Design(PoseNetGeometric, objective=objective)


def _seen(
    points_BM3: Tensor, position_B3: Tensor, rotation_B33: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Of points, `count` that each camera sees, and where, on the plane z = 1; NaN where fewer."""
    in_cam_BM3 = (points_BM3 - position_B3[:, None]) @ rotation_B33
    plane_BM2 = in_cam_BM3[..., :2] / in_cam_BM3[..., 2:].clamp_min(1e-6)
    seen_BM = (in_cam_BM3[..., 2] > 0) & (plane_BM2.abs().amax(-1) < _SEEN_WITHIN)
    first_BN = seen_BM.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    rows = torch.arange(len(points_BM3), device=points_BM3.device)[:, None]
    seen_BN1 = seen_BM[rows, first_BN][..., None]
    points_BN3 = torch.where(seen_BN1, points_BM3[rows, first_BN], torch.nan)
    return points_BN3, torch.where(seen_BN1, plane_BM2[rows, first_BN], torch.nan)


def build_map(views: Sequence[View], config: PoseNetGeometricConfig, run: Run) -> Tensors:
    """Triangulate some points of the scene, and train with them."""
    tensors = kept(run, "points", lambda part: {"world_N3": triangulated_points(views, part)})
    frame = Frame.from_views(views)
    points_N3 = (frame.frame_from_world @ tensors["world_N3"]) / frame.scale
    run.log.info("%d points were triangulated", len(points_N3))
    return family.build_map(views, design(points_N3.float().to(run.device)), config, run)


def localizer(tensors: Tensors, config: PoseNetGeometricConfig, run: Run) -> Localizer:
    """Answers with the predicted pose; the points served the training alone."""
    return family.AbsoluteLocalizer(tensors, design(torch.zeros(0, 3)), config, run)


METHOD = Method(
    name="posenet-geometric",
    family="absolute",
    summary="PoseNet whose loss is, in the end, where its poses would see the scene's points.",
    paper="Kendall and Cipolla, Geometric Loss Functions for Camera Pose Regression, CVPR 2017",
    published="0.23 m, 8.1° (7-Scenes, mean of medians); not reproduced",
    config=PoseNetGeometricConfig,
    tiny=PoseNetGeometricConfig(**TINY, points_per_look=16),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
)
