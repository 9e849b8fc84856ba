"""ACE: a small head on a frozen encoder, trained in seconds on a buffer of shuffled codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.coordinates import family
from reloc.methods.coordinates.family import CoordinatesConfig, MappingCameras
from reloc.nn.heads import CoordinateHead
from reloc.scenes.scene import View
from reloc.training.augment import Augmentation
from reloc.training.buffer import FeatureBuffer

# Beyond these a predicted point is not yet near the scene: it is drawn to its ray instead. Depths
# are in the scene's scale, which is the extent of the mapping cameras.
_MIN_DEPTH, _MAX_DEPTH, _RAY_DEPTH = 0.05, 200.0, 2.0
_MAX_ERROR_PX = 1000.0
# How near a point must be to a known depth, as a share of it, for its reprojection to be trained.
_DEPTH_TOLERANCE = 0.05


@dataclass(frozen=True)
class AceConfig(CoordinatesConfig):
    """Settings of ACE. The defaults map a room on two cores; `paper` has the paper's sizes."""


def build_map(views: Sequence[View], config: AceConfig, run: Run) -> Tensors:
    """Train a head on the mapping views by reprojection."""
    loss = partial(reprojection_loss, loose_px=config.loose_px, tight_px=config.tight_px)
    return family.build_map(views, config, loss, run)


def localizer(tensors: Tensors, config: AceConfig, run: Run) -> Localizer:
    """Answers by the pose that most predicted points agree on."""
    return family.localizer(tensors, config, run)


def reprojection_loss(
    head: CoordinateHead,
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
    rays_N2, depth_N = buffer.rays_N2[cells_N], buffer.depth_N[cells_N] / cameras.scale
    points_cam_N3, focal_px_N = family.points_in_cameras(head, buffer, cameras, cells_N)
    z_N = points_cam_N3[:, 2]
    residual_N2 = points_cam_N3[:, :2] / z_N.clamp_min(_MIN_DEPTH)[:, None] - rays_N2
    error_px_N = focal_px_N * residual_N2.abs().sum(-1)
    has_depth_N = depth_N.isfinite()
    with torch.no_grad():
        usable_N = (z_N > _MIN_DEPTH) & (z_N < _MAX_DEPTH) & (error_px_N < _MAX_ERROR_PX)
        off_N = (z_N - depth_N).abs() > _DEPTH_TOLERANCE * depth_N
        usable_N &= ~(has_depth_N & off_N)
        target_z_N = torch.where(has_depth_N, depth_N, _RAY_DEPTH)
    width_px = (loose_px - tight_px) * math.sqrt(1 - done * done) + tight_px
    soft_N = width_px * (error_px_N / width_px).tanh()
    target_N3 = torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=1) * target_z_N[:, None]
    distance_N = (points_cam_N3 - target_N3).abs().sum(-1)
    return torch.where(usable_N, soft_N, distance_N).mean()


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
)
