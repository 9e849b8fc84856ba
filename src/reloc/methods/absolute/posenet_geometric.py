"""Geometric PoseNet: poses are learned, in the end, by where they would see the scene's points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.absolute import family
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, Step
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.looks import SmallCamera
from reloc.methods.absolute.scene_points import triangulated_points
from reloc.nn.pose_losses import PoseLossConfig, reprojection_residual
from reloc.nn.rotations import PARAMETRIZATIONS, RotationName
from reloc.scenes.scene import View
from reloc.training.stages import kept

# Residuals, on the plane z = 1, are cut beyond it: how far outside the picture a point is predicted
# says nothing.
_MAX_RESIDUAL = 1.0


@dataclass(frozen=True)
class PoseNetGeometricConfig(AbsoluteConfig):
    """Settings of Geometric PoseNet."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(default_factory=lambda: PoseLossConfig(distance="quaternion"))
    """Which loss."""
    geometric_from: float = 0.5
    """Share of the training after which points are reprojected; before, the weights of position and
    rotation are learned: from nothing, reprojection does not lead anywhere."""
    points_per_look: int = 32
    """Points that are drawn for each picture of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.geometric_from <= 1 or self.points_per_look < 1:
            raise ValueError("geometric_from is in (0, 1], and points_per_look at least 1")


def design(points_N3: Tensor, reach_2: Tensor) -> Design[PoseNetGeometricConfig]:
    """With the points of a scene.

    Args:
        points_N3: in the map's frame and unit.
        reach_2: how far to the side and up and down, on the plane z = 1, a picture shows points.
    """

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
        points_BN3, pixels_BN2 = _seen(points_N3[drawn], position_B3, rotation_B33, reach_2, count)
        predicted = network(step.looks.maps(index_B))
        predicted_B33 = PARAMETRIZATIONS[config.rotation].to_matrix(predicted.rotation_BK)
        return reprojection_residual(
            predicted.position_B3, predicted_B33, points_BN3, pixels_BN2, _MAX_RESIDUAL
        )

    return Design(objective=objective)


def _seen(
    points_BM3: Tensor, position_B3: Tensor, rotation_B33: Tensor, reach_2: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Of points, `count` in each camera's picture, and where, on the plane z = 1; NaN where fewer.

    What stands before a point is not looked at.
    """
    in_cam_BM3 = (points_BM3 - position_B3[:, None]) @ rotation_B33
    plane_BM2 = in_cam_BM3[..., :2] / in_cam_BM3[..., 2:].clamp_min(1e-6)
    seen_BM = (in_cam_BM3[..., 2] > 0) & (plane_BM2.abs() < reach_2).all(-1)
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
    camera = SmallCamera.of(views, config.short_side_px)
    reach_2 = torch.tensor([camera.width, camera.height]) / (2 * camera.focal_px)
    made = design(points_N3.float().to(run.device), reach_2.to(run.device))
    return family.build_map(views, made, config, run)


def localizer(tensors: Tensors, config: PoseNetGeometricConfig, run: Run) -> Localizer:
    """Answers with the predicted pose; the points served the training alone."""
    return family.AbsoluteLocalizer(tensors, design(torch.zeros(0, 3), torch.zeros(2)), config, run)


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
