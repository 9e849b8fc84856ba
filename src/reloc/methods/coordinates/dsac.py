"""DSAC: points from patches, a network that scores hypotheses, and a choice that can be learned.

Source: Brachmann et al., "DSAC - Differentiable RANSAC for camera localization", CVPR 2017, and its
public code. Stages: coordinates; scores, from images of reprojection errors, trained to be -β times
the loss of a hypothesis (β = 10 in the code); end to end on the expectation of the loss under the
choice of a hypothesis in proportion to exp(score).

Where this differs:

- `start="encoder"`, the default, trains a head on cached codes of the shared encoder, which see
  158 px; `start="nothing"` has a patch network of half the paper's channels and without padding
  between patches: its 42x42 px patches overlap and are computed together, in grey in place of RGB.
- The paper's coordinates are trained on depth alone. So are cells of known depth here (`depth`);
  the others are trained by their reprojection, softly clamped as in DSAC*.
- Scores are trained on drawn hypotheses, whose errors are those of a query; the code trains them on
  true poses with noise, half of it 2 degrees and 2 mm, half 10 degrees and 10 cm. Scores and losses
  are compared up to a constant of the image, for the choice knows no other; and β is smaller, since
  with 10 the choice is all but certain and nothing is learned from the other hypotheses.
- SoftAM, the paper's other choice, is `estimation.hypotheses.soft_argmax_pose`; the paper finds it
  worse, as it averages good and bad hypotheses, and no map is trained with it here.
- P3P and the refinement are differentiated by finite differences there, implicitly here; and the
  refinement goes on to convergence on all inliers, where theirs has 8 rounds on 100 of them.
- Hypotheses come from a bounded number of draws; the code draws until it succeeds.
- Answers take the best score; the code draws one there too, which makes answers random.
- The image of errors is of a regular grid of cells; the paper's patches lie at random within one.
- The weights of scores and points have one learning rate; the code's scores learn 100 times slower.
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
from reloc.methods.coordinates.scorers import Scorer
from reloc.methods.coordinates.sightings import see, soft_clamped
from reloc.nn.heads import CoordinateHead
from reloc.scenes.scene import View
from reloc.training.buffer import FeatureBuffer

# Distances in the head's unit, the extent of the mapping cameras, as errors of about one pixel.
_PX_PER_UNIT = 200.0
_RAY_DEPTH = 2.0
_CLAMP_PX = _MAX_ERROR = 100.0
_GREY_MEAN, _GREY_STD = 0.45, 0.25


@dataclass(frozen=True)
class DsacConfig(EndToEndConfig):
    """Settings of DSAC."""

    score_steps: int = 300
    """Steps of the stage that trains the scores."""
    score_per_loss: float = 0.5
    """A hypothesis whose loss is larger by one scores lower by so much."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score_steps < 1:
            raise ValueError(f"score_steps is {self.score_steps}; it must be at least 1")


def build_map(views: Sequence[View], config: DsacConfig, run: Run) -> Tensors:
    """Train coordinates, then scores, then both end to end."""
    return end_to_end.build_map(views, config, _recipe(config), run)


def localizer(tensors: Tensors, config: DsacConfig, run: Run) -> Localizer:
    """Answers by the hypothesis that the network scores best, refined."""
    return end_to_end.localizer(tensors, config, _recipe(config), run)


def _recipe(config: DsacConfig) -> Recipe:
    return Recipe(
        loss=initial_loss,
        trunk=PatchTrunk,
        scorer=ScoreNetwork,
        pose_loss=larger_error,
        score_loss=partial(score_loss, score_per_loss=config.score_per_loss),
        score_steps=config.score_steps,
    )


def initial_loss(
    head: CoordinateHead,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    cells_N: Tensor,
    done: float,
) -> Tensor:
    """The mean distance to known places; where none is known, the mean reprojection error."""
    del done
    seen = see(head, buffer, cameras, cells_N)
    soft_N = soft_clamped(seen.error_px_N, _CLAMP_PX)
    unknown_N = torch.where(seen.plausible_N, soft_N, seen.distance_at(_RAY_DEPTH))
    known_N = _PX_PER_UNIT * seen.distance_to_known()
    return torch.where(seen.depth_N.isfinite(), known_N, unknown_N).mean()


def score_loss(
    scores_BH: Tensor, losses_BH: Tensor, valid_BH: Tensor, score_per_loss: float
) -> Tensor:
    """The mean distance of scores from -β times the losses, but for what is common to an image."""
    count_B1 = valid_BH.sum(-1, keepdim=True).clamp_min(1)
    offset_BH = torch.where(valid_BH, scores_BH + score_per_loss * losses_BH.detach(), 0.0)
    mean_B1 = offset_BH.sum(-1, keepdim=True) / count_B1
    return torch.where(valid_BH, (offset_BH - mean_B1).abs(), 0.0).sum() / count_B1.sum()


class PatchTrunk(Trunk):
    """A code for the 42x42 px round each cell, by convolutions in the manner of VGG."""

    code = 256

    def __init__(self) -> None:
        super().__init__()
        # Even kernels where the stride is 2: a patch is centred on its own cell.
        layers = (
            (1, 32, 4, 2),
            (32, 64, 3, 1),
            (64, 64, 4, 2),
            (64, 128, 3, 1),
            (128, 128, 3, 1),
            (128, self.code, 4, 2),
        )
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, size, stride, 1) for before, after, size, stride in layers
        )

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        """Codes (B, C, H // 8, W // 8)."""
        hidden = (grey_B1HW - _GREY_MEAN) / _GREY_STD
        for layer in self.layers:
            hidden = functional.relu(layer(hidden))
        return hidden


class ScoreNetwork(Scorer):
    """Scores from images of reprojection errors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, 2, 1) for before, after in ((1, 16), (16, 32), (32, 64))
        )
        self.score = nn.Linear(64, 1)

    def forward(self, errors_BHN: Tensor, usable_BN: Tensor, shape: tuple[int, int]) -> Tensor:
        """Scores (B, H); cells that tell nothing look like the worst."""
        seen_BHN = errors_BHN.isfinite() & usable_BN[:, None]
        errors_BHN = torch.where(seen_BHN, errors_BHN, _MAX_ERROR).clamp_max(_MAX_ERROR)
        hidden = (errors_BHN / _MAX_ERROR).flatten(0, 1).view(-1, 1, *shape).float()
        for layer in self.layers:
            hidden = functional.relu(layer(hidden))
        scores = self.score(hidden.mean((-1, -2)))[:, 0]
        return scores.view(errors_BHN.shape[:2]).double()


METHOD = Method(
    name="dsac",
    family="coordinates",
    summary="Scene points and a network that scores hypotheses, trained by the expected pose loss.",
    paper="Brachmann et al., DSAC: Differentiable RANSAC for Camera Localization, CVPR 2017",
    published="55 % within 5 cm, 5° (7-Scenes; unverified); not reproduced",
    config=DsacConfig,
    tiny=tiny(DsacConfig(width=64, num_images=60, steps=400, score_steps=60)),
    build_map=build_map,
    localizer=localizer,
    presets={
        "paper": DsacConfig(
            start="nothing",
            depth=True,
            width=4096,
            num_blocks=0,
            batch_size=1600,
            steps=300_000,
            max_learning_rate=1e-4,
            score_steps=2000,
            end_to_end_steps=5000,
            end_to_end_learning_rate=1e-5,
            end_to_end_images=10_000,
            num_hypotheses=256,
            num_draws=4096,
        ),
    },
    uses_depth=True,
)
