"""DSAC*: a leaner network, a robust reprojection loss, and training end to end on soft inliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.coordinates import end_to_end
from reloc.methods.coordinates.cameras import MappingCameras
from reloc.methods.coordinates.expectation import EndToEndConfig, Recipe, tiny
from reloc.methods.coordinates.from_nothing import Trunk
from reloc.methods.coordinates.scorers import SoftInliers
from reloc.methods.coordinates.sightings import see, soft_clamped
from reloc.nn.heads import CoordinateHead
from reloc.scenes.scene import View
from reloc.training.buffer import FeatureBuffer

# The paper's 10 m and 0.1 m, in a room where the camera moved by two: in units of that extent, and
# as a share of the depth.
_RAY_DEPTH = 2.0
_DEPTH_TOLERANCE = 0.05
# Above, the reprojection error counts by its square root; also the loss of a pose.
_CLAMP_PX = _CLAMP_POSE = 100.0
_GREY_MEAN, _GREY_STD = 0.4, 0.25


@dataclass(frozen=True)
class DsacstarConfig(EndToEndConfig):
    """Settings of DSAC*."""

    channels: tuple[int, int] = (256, 512)
    """Of a network from nothing: after the fourth convolution, and of a code."""
    alpha: float = 100.0
    """How sharply the share of inliers tells hypotheses apart."""
    softness: float = 5.0
    """How sharply inliers are told from outliers: the paper's β times the largest error."""


def build_map(views: Sequence[View], config: DsacstarConfig, run: Run) -> Tensors:
    """Initialise by reprojection, by depth or by both, then train end to end."""
    return end_to_end.build_map(views, config, _recipe(config), run)


def localizer(tensors: Tensors, config: DsacstarConfig, run: Run) -> Localizer:
    """Answers by the hypothesis with the largest soft share of inliers, refined."""
    return end_to_end.localizer(tensors, config, _recipe(config), run)


def _recipe(config: DsacstarConfig) -> Recipe:
    return Recipe(
        loss=partial(initial_loss, plain_depth=config.query_depth),
        trunk=lambda: LeanTrunk(config.channels),
        scorer=lambda: SoftInliers(config.max_error, config.softness, config.alpha),
        pose_loss=pose_loss,
    )


def initial_loss(
    head: CoordinateHead,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    cells_N: Tensor,
    done: float,
    plain_depth: bool,
) -> Tensor:
    """The mean over cells of the reprojection error in pixels, e, or sqrt(100 e) above 100.

    A point behind its camera or far off is drawn to a point on its ray instead, one that is off its
    known depth to its known place. `plain_depth` draws all to their known places: cells without
    one are not learned from.

    Source: the paper's section 3.4, equations 13 to 17.
    """
    del done
    seen = see(head, buffer, cameras, cells_N)
    known_N, to_known_N = seen.depth_N.isfinite(), seen.distance_to_known()
    if plain_depth:
        return to_known_N.sum() / known_N.sum().clamp_min(1)
    off_N = known_N & (to_known_N.detach() > _DEPTH_TOLERANCE * seen.depth_N)
    guided_N = torch.where(known_N, to_known_N, seen.distance_at(_RAY_DEPTH))
    error_N = soft_clamped(seen.error_px_N, _CLAMP_PX)
    return torch.where(seen.plausible_N & ~off_N, error_N, guided_N).mean()


def pose_loss(angle_deg: Tensor, position: Tensor) -> Tensor:
    """The sum of both, softly clamped.

    The public code multiplies the gradient of a clamped one with d √x instead of d √(100 x): those
    of bad hypotheses are ten times too small there.
    """
    return soft_clamped(angle_deg + position, _CLAMP_POSE)


class LeanTrunk(Trunk):
    """DSAC*'s network up to its 1x1 convolutions; a code sees 81 px.

    Args:
        channels: after the fourth convolution, and of a code. Where they are equal, as in the tiny
            network, the second block's skip connection has no convolution.
    """

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        inner, self.code = channels
        self.stem = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, 1)
            for before, after, stride in ((1, 32, 1), (32, 64, 2), (64, 128, 2), (128, inner, 2))
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(before if number == 0 else after, after, size, 1, size // 2)
                for number, size in enumerate((3, 1, 3))
            )
            for before, after in ((inner, inner), (inner, self.code))
        )
        self.skip = nn.Conv2d(inner, self.code, 1) if inner != self.code else nn.Identity()

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        """Codes (B, C, H // 8, W // 8)."""
        height, width = (side // 8 for side in grey_B1HW.shape[-2:])
        hidden = (grey_B1HW - _GREY_MEAN) / _GREY_STD
        for layer in self.stem:
            hidden = functional.relu(layer(hidden))
        for block, skip in zip(self.blocks, (nn.Identity(), self.skip), strict=True):
            inner = hidden
            for layer in block:  # type: ignore[union-attr]
                inner = functional.relu(layer(inner))
            hidden = skip(hidden) + inner
        return hidden[..., :height, :width]


METHOD = Method(
    name="dsacstar",
    family="coordinates",
    summary="Scene points from a head on a frozen encoder or from nothing, trained through RANSAC.",
    paper="Brachmann and Rother, Visual Camera Re-Localization Using DSAC*, TPAMI 2021",
    published="96.0 % within 5 cm, 5° (7-Scenes, SfM; RGB), 98.2 % with depth; not reproduced",
    config=DsacstarConfig,
    tiny=tiny(DsacstarConfig(width=64, num_images=40, steps=300)),
    build_map=build_map,
    localizer=localizer,
    presets={
        "tiny": DsacstarConfig(width=128, channels=(128, 128)),
        "rgbd": DsacstarConfig(depth=True, query_depth=True),
        "paper": DsacstarConfig(
            start="nothing",
            width=512,
            batch_size=4800,
            steps=1_000_000,
            max_learning_rate=1e-4,
            end_to_end_steps=100_000,
            end_to_end_learning_rate=1e-6,
            end_to_end_images=10_000,
            grid=80,
        ),
    },
    uses_depth=True,
)
