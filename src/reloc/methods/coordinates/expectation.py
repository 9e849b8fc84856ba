"""The loss of the DSAC line: what is to be expected of the pose that RANSAC finds in an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from reloc.contract import Run, Tensors
from reloc.estimation.hypotheses import (
    draw_hypotheses,
    expected_loss,
    refine,
    selection_probabilities,
)
from reloc.estimation.observations import Observations, point_errors
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.from_nothing import Trunk, grey_batch
from reloc.methods.coordinates.map_tensors import HEAD
from reloc.methods.coordinates.points import Loss
from reloc.methods.coordinates.scorers import Scorer
from reloc.nn.heads import CoordinateHead
from reloc.nn.precision import autocast

SCORER, TRUNK = "scorer.", "trunk."
# Hypotheses that are refined and have a say in the expectation: the most probable ones. DSAC*
# leaves out those less probable than 0.001, which leaves about as many.
_NUM_REFINED = 4
# Of the loss of a pose by its larger error: beyond, a pose is only wrong. DSAC++'s code has 1e7.
_MAX_LARGER_ERROR = 100.0


@dataclass(frozen=True)
class EndToEndConfig(CoordinatesConfig):
    """Settings of a map that is trained end to end."""

    start: Literal["encoder", "nothing"] = "encoder"
    """Train a head on the shared encoder, or the paper's own network from nothing, which takes a
    hundred times as long."""
    grid: int = 40
    """An image is so many cells squared where hypotheses are drawn and scored."""
    num_hypotheses: int = 64
    """Poses that are scored."""
    num_draws: int = 2048
    """Samples that they are the first good ones of."""
    end_to_end_images: int = 150
    """Mapping views of the end-to-end stage."""
    end_to_end_steps: int = 300
    """Steps of the end-to-end stage, of one image each; 0 leaves it out."""
    end_to_end_learning_rate: float = 1e-4
    """Peak of its one-cycle schedule."""
    position_weight: float = 200.0
    """Loss of a position that is wrong by the extent of the mapping cameras; a degree costs 1. The
    papers have 100 a metre, in rooms where the camera moved by about two."""
    query_depth: bool = False
    """Queries have depth: poses are fitted to points by Kabsch. Lengths must be metres, and the map
    is built from the views that have depth."""
    max_error_cm: float = 10.0
    """Distance up to which a predicted point agrees with a measured one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("grid", "num_hypotheses", "num_draws", "end_to_end_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.query_depth and not self.depth:
            raise ValueError("query_depth needs depth: its map learns from depth")

    @property
    def max_error(self) -> float:
        """In the unit of the residuals: pixels, or centimetres."""
        return self.max_error_cm if self.query_depth else self.max_error_px


Settings = TypeVar("Settings", bound=EndToEndConfig)


def tiny(config: Settings) -> Settings:
    """The same method in the size of the tests: seconds for a rendered room."""
    return replace(
        config,
        short_side_px=120,
        cells_per_image=400,
        batch_size=512,
        grid=20,
        num_hypotheses=32,
        num_draws=512,
        end_to_end_steps=8,
        end_to_end_images=8,
    )


@dataclass(frozen=True, eq=False)
class Recipe:
    """What a paper of the line says.

    Attributes:
        loss: of the initialisation, of a batch of cells.
        trunk: its network from nothing.
        scorer: of hypotheses.
        pose_loss: from the error of the rotation in degrees and the weighted one of the position.
        score_loss: of the scorer's own stage, from scores, losses of the poses and their validity
            (B, H); None where the scorer needs no such stage.
        score_steps: of that stage.
        score_learning_rate: the peak of its one-cycle schedule.
    """

    loss: Loss
    trunk: Callable[[], Trunk]
    scorer: Callable[[], Scorer]
    pose_loss: Callable[[Tensor, Tensor], Tensor]
    score_loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    score_steps: int = 0
    score_learning_rate: float = 1e-3


@dataclass(frozen=True, eq=False)
class Picture:
    """A mapping view of the end-to-end stage, as a grid of cells.

    Attributes:
        grey_HW: uint8.
        cells_N: numbers of the grid's cells in the map of codes.
        shape: rows and columns of the grid.
        codes_NC: float16, of the frozen encoder; not used where the trunk learns.
        observations: of the cells, with B = 1.
        usable_BN: whether a cell tells something.
        cam_from_center: batch (1, 1), float64.
    """

    grey_HW: Tensor
    cells_N: Tensor
    shape: tuple[int, int]
    codes_NC: Tensor
    observations: Observations
    usable_BN: Tensor
    cam_from_center: Rigid3d


class Network(nn.Module):
    """All that learns: a trunk, where it starts from nothing, a head and a scorer."""

    def __init__(self, trunk: Trunk | None, head: CoordinateHead, scorer: Scorer) -> None:
        super().__init__()
        self.trunk, self.head, self.scorer = trunk, head, scorer

    def points(self, picture: Picture, run: Run) -> Tensor:
        """Points (1, N, 3) of the grid's cells, float64, in the head's frame and unit."""
        codes_NC = picture.codes_NC
        with autocast(run):
            if self.trunk is not None:
                codes_hwC = self.trunk(grey_batch(picture.grey_HW, run.device))[0].flatten(1).mT
                codes_NC = codes_hwC[picture.cells_N]
            return self.head(codes_NC.float()).double()[None]

    def tensors(self) -> dict[str, Tensor]:
        """As a map holds them: what predicts in float16."""
        parts = {HEAD: self.head, SCORER: self.scorer}
        if self.trunk is not None:
            parts[TRUNK] = self.trunk
        return {
            prefix + name: value.clone() if prefix == SCORER else value.half()
            for prefix, module in parts.items()
            for name, value in module.state_dict().items()
        }

    def load(self, tensors: Tensors) -> None:
        """Take those of a map that are in it."""
        load_part(self.head, tensors, HEAD)
        load_part(self.scorer, tensors, SCORER)
        if self.trunk is not None:
            load_part(self.trunk, tensors, TRUNK)


@dataclass(frozen=True, eq=False)
class Expectation:
    """What a network's answers to pictures are worth.

    Attributes:
        network: answers.
        unit: length of the head's unit in the scene.
        config: of the map.
        recipe: of the method.
        run: device, precision.
    """

    network: Network
    unit: float
    config: EndToEndConfig
    recipe: Recipe
    run: Run

    def loss(self, picture: Picture, seed: int) -> Tensor:
        """What is learned from: the expectation of the pose's loss, and the scorer's own loss."""
        expected, scores_BH, valid_BH = self._expected(picture, seed)
        return expected + self.network.scorer.control(scores_BH, valid_BH)

    def _expected(self, picture: Picture, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The expectation of the loss of the pose, scores of hypotheses and their validity."""
        config = self.config
        points_BN3, poses, valid_BH, scores_BH = self._scored(picture, seed)
        chances_BH = selection_probabilities(scores_BH, valid_BH)
        kept_H = chances_BH[0].topk(min(_NUM_REFINED, chances_BH.shape[1])).indices
        refined = refine(
            poses[:, kept_H],
            picture.observations,
            points_BN3,
            picture.usable_BN,
            config.max_error,
        )
        # A hypothesis that cannot be refined stands as it is.
        losses_BH = torch.where(
            refined.valid_BH,
            self._pose_losses(refined.cam_from_world, picture),
            self._pose_losses(poses[:, kept_H], picture),
        )
        shares_BH = chances_BH[:, kept_H] / chances_BH[:, kept_H].sum().clamp_min(1e-12)
        expected = expected_loss(shares_BH, losses_BH).sum()
        # An image without a hypothesis teaches nothing, and is not to be preferred to a bad pose.
        angle_deg, position = points_BN3.new_tensor([180.0, config.position_weight])
        expected = torch.where(valid_BH.any(), expected, self.recipe.pose_loss(angle_deg, position))
        return expected, scores_BH, valid_BH

    def score_loss(self, picture: Picture, seed: int) -> Tensor:
        """How badly the scores say what the hypotheses' losses are."""
        assert self.recipe.score_loss
        _, poses, valid_BH, scores_BH = self._scored(picture, seed)
        return self.recipe.score_loss(scores_BH, self._pose_losses(poses, picture), valid_BH)

    @torch.no_grad()
    def mean_loss(self, pictures: Sequence[Picture]) -> float:
        """Of the poses of pictures, alone; with the same draws whenever it is asked."""
        losses = [self._expected(picture, seed)[0] for seed, picture in enumerate(pictures)]
        return float(torch.stack(losses).mean())

    def _scored(self, picture: Picture, seed: int) -> tuple[Tensor, Rigid3d, Tensor, Tensor]:
        """Points (1, N, 3), hypotheses in batch shape (1, H), their validity and scores (1, H)."""
        config = self.config
        points_BN3 = self.network.points(picture, self.run) * self.unit
        drawn = draw_hypotheses(
            picture.observations,
            points_BN3,
            picture.usable_BN,
            config.num_hypotheses,
            config.num_draws,
            config.max_error,
            seed,
        )
        errors_BHN = point_errors(drawn.cam_from_world, picture.observations, points_BN3)
        scores_BH = self.network.scorer(errors_BHN, picture.usable_BN, picture.shape)
        return points_BN3, drawn.cam_from_world, drawn.valid_BH, scores_BH

    def _pose_losses(self, cam_from_center: Rigid3d, picture: Picture) -> Tensor:
        """(1, H)."""
        truth = picture.cam_from_center
        angle_deg = angle_between_rad(cam_from_center.rotation, truth.rotation).rad2deg()
        offset = cam_from_center.inverse().translation - truth.inverse().translation
        return self.recipe.pose_loss(
            angle_deg, self.config.position_weight / self.unit * offset.norm(dim=-1)
        )


def larger_error(angle_deg: Tensor, position: Tensor) -> Tensor:
    """The loss of a pose in DSAC and DSAC++: the larger of both errors, bounded."""
    return angle_deg.maximum(position).clamp_max(_MAX_LARGER_ERROR)


def load_part(module: nn.Module, tensors: Tensors, prefix: str) -> None:
    """Load the weights of a module, where a map has them."""
    state = {
        name.removeprefix(prefix): value.float()
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    if state:
        module.load_state_dict(state)
