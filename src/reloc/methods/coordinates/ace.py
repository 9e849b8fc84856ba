"""ACE: a frozen encoder that knows no place, and what a place adds to it, in seconds.

In the paper that is a head of layers, trained on a buffer of shuffled codes: the presets `layers`,
with what makes it quick on a processor, and `paper`. By default it is our own, landmarks
(`landmarks.py`), which need no training and are more exact after a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from reloc.contract import Localizer, Method, Refiner, Run, Tensors, Updated
from reloc.input_error import InputError
from reloc.methods.coordinates import parts
from reloc.methods.coordinates.cameras import MappingCameras
from reloc.methods.coordinates.map_tensors import holds_landmarks
from reloc.methods.coordinates.parts import Head, PartsConfig
from reloc.methods.coordinates.points import Loss, points_in_cameras
from reloc.methods.coordinates.refiner import LandmarkRefiner
from reloc.methods.coordinates.update import update_map
from reloc.nn.shared_encoder import encoder_of_map
from reloc.scenes.scene import View
from reloc.training.augment import Augmentation
from reloc.training.buffer import FeatureBuffer

# Beyond these a predicted point is not yet near the scene: it is drawn to its ray instead. Depths
# are in the scene's scale, which is the extent of the mapping cameras where they stand together.
_MIN_DEPTH, _MAX_DEPTH, _RAY_DEPTH = 0.05, 200.0, 2.0
_MIN_ERROR_PX, _MAX_ERROR_PX = 0.5, 1000.0
# How near a point must be to a known depth, as a share of it, for its reprojection to be trained.
_DEPTH_TOLERANCE = 0.05


@dataclass(frozen=True)
class AceConfig(PartsConfig):
    """Settings of ACE. The defaults map a room on two cores, without training."""

    head: Head = "landmarks"
    """What says where a cell's point is: landmarks, which are not trained but triangulated; or
    layers that are trained by reprojection, as in the paper, and where too few can be triangulated.
    The settings of the training are of the layers."""
    num_images: int = 200
    """Images that are encoded: those views that differ most, or each in several looks where there
    are fewer."""
    cells_per_image: int = 3000
    """Most cells of an image that are kept until the map is built."""
    replay_cells: int = 512
    """Cells that the map keeps of its views, in all, at 140 bytes each. `reloc map --update` tells
    by them what it changes; layers learn them again beside the new views. 0: the map cannot be
    updated."""


# Layers see few cells of many images, and are taught the old ones again.
_LAYERS = AceConfig(head="layers", num_images=400, cells_per_image=1500, replay_cells=2048)


def build_map(views: Sequence[View], config: AceConfig, run: Run) -> Tensors:
    """Place landmarks, or train layers by reprojection."""
    return parts.build_map(views, config, _loss(config), run)


def update(tensors: Tensors, views: Sequence[View], config: AceConfig, run: Run) -> Updated:
    """Teach a map new views, beside those cells of the old ones that it kept."""
    return update_map(tensors, views, config, _loss(config), run)


def localizer(tensors: Tensors, config: AceConfig, run: Run) -> Localizer:
    """Answers by the pose that most predicted points agree on."""
    return parts.localizer(tensors, config, run)


def refiner(tensors: Tensors, config: AceConfig, run: Run) -> Refiner:
    """Refines poses on a map of landmarks.

    Raises:
        InputError: the map holds layers, or several parts.
    """
    if not holds_landmarks(tensors):
        raise InputError(
            "a map of layers cannot refine poses, nor one of several parts: map with --head "
            "landmarks --num-parts 1, and with more views where the log says that layers are "
            "trained instead"
        )
    return LandmarkRefiner(encoder_of_map(tensors, config.encoder, run), tensors, config, run)


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
    depth_adjusted: float = 0.0,
) -> Tensor:
    """What a head is trained with: `reprojection_loss`, and to know how large its errors will be.

    The second is the negative logarithm of their likelihood under Laplace distributions of the
    scales that it predicts; it does not reach the points. Not in the paper.

    `depth_adjusted` above 0, a depth in the head's unit: the reprojection error of a point at depth
    d counts d / sqrt(d² + depth_adjusted²) times, for that of a near point changes most as the
    point moves; its gradient does not reach d. Source: Jiang et al., "R-SCoRe: revisiting scene
    coordinate regression for robust large-scale visual localization", CVPR 2025.
    """
    points_cam_N3, _, log_error_N = points_in_cameras(head, buffer, cameras, cells_N)
    width_px = _tolerance_px(done, loose_px, tight_px)
    loss_N, error_px_N = _reprojection(
        points_cam_N3, buffer, cameras, cells_N, width_px, depth_adjusted
    )
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
    points_cam_N3, _, _ = points_in_cameras(head, buffer, cameras, cells_N)
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
    depth_adjusted: float = 0.0,
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
    if depth_adjusted > 0:
        far_N = z_N.detach().clamp_min(_MIN_DEPTH)
        error_px_N = error_px_N * far_N / (far_N.square() + depth_adjusted**2).sqrt()
    soft_N = width_px * (error_px_N / width_px).tanh()
    target_N3 = torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=1) * target_z_N[:, None]
    distance_N = (points_cam_N3 - target_N3).abs().sum(-1)
    return torch.where(usable_N, soft_N, distance_N), found_px_N.clamp_min(_MIN_ERROR_PX)


METHOD = Method(
    name="ace",
    family="coordinates",
    summary="Scene points from codes of a frozen dense encoder: by landmarks, or ACE's layers.",
    paper="Brachmann, Cavallari and Prisacariu, Accelerated Coordinate Encoding, CVPR 2023",
    published="97.1 % within 5 cm, 5° (7-Scenes, SfM; 5 min, 4 MB); not reproduced",
    config=AceConfig,
    # Few views, of several sizes, have too few landmarks: layers are trained then.
    tiny=AceConfig(short_side_px=240, num_images=60, width=64, steps=150, batch_size=512),
    build_map=build_map,
    localizer=localizer,
    presets={
        # Half the pixels, and two thirds of the time of a query.
        "fast": AceConfig(short_side_px=320),
        # Three times the images and landmarks: three times the minutes, the map, and the lookup.
        "large": AceConfig(num_images=600, num_landmarks=60_000),
        # The paper's head, in a minute or two.
        "layers": _LAYERS,
        # The same for queries from places and directions that no mapping view has: more looks of
        # each, and the time that they take.
        "layers-wide": replace(_LAYERS, augmentation=Augmentation(30.0, 0.5, 2.0), steps=4500),
        # The paper's ensemble: parts of a place that is large for one head, each with its own.
        "poker": replace(_LAYERS, num_parts=4, num_images=200, steps=1200),
        "paper": replace(
            _LAYERS,
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
    maps_depth=True,
    update=update,
    refiner=refiner,
)
