"""DSAC++: a network over the whole image, three stages, and a score without parameters but one.

Source: Brachmann and Rother, "Learning less is more: 6D camera localization via 3D surface
regression", CVPR 2018, and its public code (LessMore). Stages of the paper: coordinates at one
depth everywhere, or at known ones; reprojection; end to end. Here the first two share one schedule:
`coordinate_share` of it is the first.

Where this differs:

- `start="encoder"`, the default, trains a head on cached codes of the shared encoder, from shuffled
  cells of many views; the paper trains its whole network from nothing, a view a step
  (`start="nothing"`).
- Images are grey; the paper's are RGB.
- The paper's receptive field of 41 px is a miscount (its code adds 2 px for each convolution after
  the last stride, where each adds 16): the layers that both list see 73 px, here too.
- Gradients of the reprojection are bounded for each cell, as in the code and not in the text: at
  0.5 px per mm there, which points nearer than a metre exceed; at that of points nearer than half
  the extent of the mapping cameras here, whatever the unit.
- Score: α Σ sigmoid(β (τ - r)) in paper and code, β = 0.5; the mean over cells here, so that α does
  not depend on their number.
- Entropy control: only α learns, towards an entropy of `target_bits`. The text has the distance to
  it, the code a tenth of its square; the text's here. Where fewer hypotheses are valid than can
  have that entropy, the target is what they can have.
- Hypotheses come from a bounded number of draws, and gradients of poses from implicit
  differentiation, where the code draws until it succeeds and uses finite differences and one
  linearised step.
"""

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
from reloc.methods.coordinates.expectation import EndToEndConfig, Recipe, larger_error, tiny
from reloc.methods.coordinates.from_nothing import Trunk
from reloc.methods.coordinates.scorers import SoftInliers
from reloc.methods.coordinates.sightings import see
from reloc.nn.heads import CoordinateHead
from reloc.scenes.scene import View
from reloc.training.buffer import FeatureBuffer

# In units of the extent of the mapping cameras: the paper's 3 m indoors, where the camera moved by
# two; and the depth below which gradients do not grow any more.
_RAY_DEPTH, _STEEPEST_DEPTH = 1.5, 0.5
_GREY_MEAN = 0.5


@dataclass(frozen=True)
class DsacppConfig(EndToEndConfig):
    """Settings of DSAC++."""

    coordinate_share: float = 0.2
    """Share of the initialisation's steps that draws points to one depth, or to known ones."""
    alpha: float = 100.0
    """How sharply the share of inliers tells hypotheses apart, at first."""
    softness: float = 5.0
    """How sharply inliers are told from outliers: β times the largest error."""
    target_bits: float = 4.0
    """Entropy of the choice among the hypotheses that alpha learns to keep; the paper has 6 of the
    8 bits that its 256 hypotheses can have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.coordinate_share <= 1:
            raise ValueError(f"coordinate_share is {self.coordinate_share}; it is a share")


def build_map(views: Sequence[View], config: DsacppConfig, run: Run) -> Tensors:
    """Initialise by coordinates and reprojection, then train end to end."""
    return end_to_end.build_map(views, config, _recipe(config), run)


def localizer(tensors: Tensors, config: DsacppConfig, run: Run) -> Localizer:
    """Answers by the hypothesis with the largest soft share of inliers, refined."""
    return end_to_end.localizer(tensors, config, _recipe(config), run)


def _recipe(config: DsacppConfig) -> Recipe:
    return Recipe(
        loss=partial(initial_loss, coordinate_share=config.coordinate_share),
        trunk=FullFrameTrunk,
        scorer=lambda: SoftInliers(
            config.max_error, config.softness, config.alpha, config.target_bits
        ),
        pose_loss=larger_error,
    )


def initial_loss(
    head: CoordinateHead,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    cells_N: Tensor,
    done: float,
    coordinate_share: float,
) -> Tensor:
    """The mean distance to known places, or to one depth; later, the mean reprojection error.

    A point that is not in front of its camera is drawn to its place as in the first stage.
    """
    seen = see(head, buffer, cameras, cells_N)
    known_N = seen.depth_N.isfinite()
    to_place_N = torch.where(known_N, seen.distance_to_known(), seen.distance_at(_RAY_DEPTH))
    if done < coordinate_share:
        return to_place_N.mean()
    if seen.points_cam_N3.requires_grad:
        focal_px_N = cameras.focal_px_V[buffer.view_N[cells_N].long()]
        steepest_N = focal_px_N / (_STEEPEST_DEPTH * len(cells_N))
        seen.points_cam_N3.register_hook(partial(_shortened, longest_N=steepest_N))
    return torch.where(seen.plausible_N, seen.error_px_N, to_place_N).mean()


def _shortened(gradient_N3: Tensor, longest_N: Tensor) -> Tensor:
    length_N = gradient_N3.norm(dim=-1)
    return gradient_N3 * (longest_N / length_N.clamp_min(1e-12)).clamp_max(1)[:, None]


class FullFrameTrunk(Trunk):
    """The paper's network up to its layers of 4096 channels; a code sees 73 px."""

    code = 512

    def __init__(self) -> None:
        super().__init__()
        layers = (
            (1, 64, 1),
            (64, 128, 2),
            (128, 128, 2),
            (128, 256, 1),
            (256, 256, 2),
            (256, 512, 1),
            (512, 512, 1),
            (512, self.code, 1),
        )
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, 1) for before, after, stride in layers
        )

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        """Codes (B, C, H // 8, W // 8)."""
        height, width = (side // 8 for side in grey_B1HW.shape[-2:])
        hidden = grey_B1HW - _GREY_MEAN
        for layer in self.layers:
            hidden = functional.relu(layer(hidden))
        return hidden[..., :height, :width]


METHOD = Method(
    name="dsacpp",
    family="coordinates",
    summary="Scene points in three stages, the last through RANSAC with its entropy under control.",
    paper="Brachmann and Rother, Learning Less is More, CVPR 2018",
    published="76 % within 5 cm, 5° (7-Scenes; unverified); not reproduced",
    config=DsacppConfig,
    tiny=tiny(DsacppConfig(width=96, num_images=60, steps=300)),
    build_map=build_map,
    localizer=localizer,
    presets={
        "paper": DsacppConfig(
            start="nothing",
            width=4096,
            num_blocks=0,
            batch_size=4800,
            steps=600_000,
            coordinate_share=0.5,
            max_learning_rate=1e-4,
            end_to_end_steps=50_000,
            end_to_end_learning_rate=1e-6,
            end_to_end_images=10_000,
            num_hypotheses=256,
            num_draws=4096,
            target_bits=6.0,
        ),
    },
    uses_depth=True,
)
