"""ACE: a small head on a frozen encoder, trained in seconds on a buffer of shuffled codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from reloc.contract import Localizer, Method, Run, Tensors, Updated
from reloc.methods.coordinates import family, parts
from reloc.methods.coordinates.family import Loss, MappingCameras
from reloc.methods.coordinates.parts import PartsConfig
from reloc.methods.coordinates.update import update_map
from reloc.scenes.scene import View
from reloc.training.augment import Augmentation
from reloc.training.buffer import FeatureBuffer

# Beyond these a predicted point is not yet near the scene: it is drawn to its ray instead. Depths
# are in the scene's scale, which is the extent of the mapping cameras.
_MIN_DEPTH, _MAX_DEPTH, _RAY_DEPTH = 0.05, 200.0, 2.0
_MIN_ERROR_PX, _MAX_ERROR_PX = 0.5, 1000.0
# How near a point must be to a known depth, as a share of it, for its reprojection to be trained.
_DEPTH_TOLERANCE = 0.05


@dataclass(frozen=True)
class AceConfig(PartsConfig):
    """Settings of ACE. The defaults map a room on two cores; `paper` has the paper's sizes."""


def build_map(views: Sequence[View], config: AceConfig, run: Run) -> Tensors:
    """Train a head on the mapping views by reprojection."""
    return parts.build_map(views, config, _loss(config), run)


def update(tensors: Tensors, views: Sequence[View], config: AceConfig, run: Run) -> Updated:
    """Teach a map new views, beside those cells of the old ones that it kept."""
    return update_map(tensors, views, config, _loss(config), run)


def localizer(tensors: Tensors, config: AceConfig, run: Run) -> Localizer:
    """Answers by the pose that most predicted points agree on."""
    return parts.localizer(tensors, config, run)


def _loss(config: AceConfig) -> Loss:
    return partial(mapping_loss, loose_px=config.loose_px, tight_px=config.tight_px)


def mapping_loss(
    head: nn.Module,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    cells_N: Tensor,
    done: float,
    loose_px: float,
    tight_px: float,
) -> Tensor:
    """What a head is trained with: `reprojection_loss`, and to know how large its errors will be.

    The second is the negative logarithm of their likelihood under Laplace distributions of the
    scales that it predicts; it does not reach the points. Not in the paper.
    """
    points_cam_N3, _, log_error_N = family.points_in_cameras(head, buffer, cameras, cells_N)
    width_px = _tolerance_px(done, loose_px, tight_px)
    loss_N, error_px_N = _reprojection(points_cam_N3, buffer, cameras, cells_N, width_px)
    surprise_N = error_px_N * (-log_error_N).exp() + log_error_N
    return loss_N.mean() + surprise_N.mean()


def reprojection_loss(
    head: nn.Module,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    cells_N: Tensor,
    done: float,
    loose_px: float,
    tight_px: float,
) -> Tensor:
    """The mean over cells of w tanh(e / w), with e the L1 norm of the reprojection error in pixels.

    w falls from `loose_px` to `tight_px` along a quarter circle in `done`, from 0 to 1. A point
    behind its camera, far off, or off its known depth, is drawn to a point on its ray instead.

    Source: Brachmann, Cavallari and Prisacariu, "Accelerated coordinate encoding", CVPR 2023,
    equations 4 to 6.
    """
    points_cam_N3, _, _ = family.points_in_cameras(head, buffer, cameras, cells_N)
    width_px = _tolerance_px(done, loose_px, tight_px)
    loss_N, _ = _reprojection(points_cam_N3, buffer, cameras, cells_N, width_px)
    return loss_N.mean()


def _tolerance_px(done: float, loose_px: float, tight_px: float) -> float:
    return (loose_px - tight_px) * math.sqrt(1 - done * done) + tight_px


def _reprojection(
    points_cam_N3: Tensor,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    cells_N: Tensor,
    width_px: float,
) -> tuple[Tensor, Tensor]:
    """For each cell its loss (N,), and e (N,) as a head is to know it, without gradients."""
    rays_N2, depth_N = buffer.rays_N2[cells_N], buffer.depth_N[cells_N] / cameras.scale
    focal_px_N = cameras.focal_px_V[buffer.view_N[cells_N].long()]
    z_N = points_cam_N3[:, 2]
    residual_N2 = points_cam_N3[:, :2] / z_N.clamp_min(_MIN_DEPTH)[:, None] - rays_N2
    error_px_N = focal_px_N * residual_N2.abs().sum(-1)
    has_depth_N = depth_N.isfinite()
    with torch.no_grad():
        usable_N = (z_N > _MIN_DEPTH) & (z_N < _MAX_DEPTH) & (error_px_N < _MAX_ERROR_PX)
        off_N = (z_N - depth_N).abs() > _DEPTH_TOLERANCE * depth_N
        usable_N &= ~(has_depth_N & off_N)
        target_z_N = torch.where(has_depth_N, depth_N, _RAY_DEPTH)
        found_px_N = torch.where(usable_N, error_px_N, _MAX_ERROR_PX)
    soft_N = width_px * (error_px_N / width_px).tanh()
    target_N3 = torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=1) * target_z_N[:, None]
    distance_N = (points_cam_N3 - target_N3).abs().sum(-1)
    return torch.where(usable_N, soft_N, distance_N), found_px_N.clamp_min(_MIN_ERROR_PX)


METHOD = Method(
    name="ace",
    family="coordinates",
    summary="Scene points from a small head, trained per scene on a frozen dense encoder.",
    paper="Brachmann, Cavallari and Prisacariu, Accelerated Coordinate Encoding, CVPR 2023",
    config=AceConfig,
    tiny=AceConfig(short_side_px=240, width=128, num_images=60, steps=600, batch_size=512),
    build_map=build_map,
    localizer=localizer,
    presets={
        # For queries from places and directions that no mapping view has: more looks of each, and
        # the time that they take.
        "wide": AceConfig(augmentation=Augmentation(30.0, 0.5, 2.0), steps=4500),
        # The paper's ensemble: parts of a place that is large for one head, each with its own.
        "poker": AceConfig(num_parts=4, num_images=200, steps=1200),
        "paper": AceConfig(
            width=512,
            num_images=8000,
            cells_per_image=1024,
            batch_size=5120,
            steps=25_000,
            max_learning_rate=5e-3,
            warm_up=0.3,
            muon=None,
            points_until=0.0,
            loose_px=51.0,
        ),
    },
    uses_depth=True,
    update=update,
)
