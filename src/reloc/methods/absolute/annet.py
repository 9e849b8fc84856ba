"""ANNet: a second network judges whether a pose belongs to an image; poses are mended by it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Method, PoseEstimate
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, Step, pose_of, steps_of
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.frame import Frame
from reloc.nn.pose_layers import ImageVector, PoseHead
from reloc.nn.pose_losses import PredictedPose
from reloc.nn.rotations import PARAMETRIZATIONS, RotationName

_SLOPE = 0.2


@dataclass(frozen=True)
class AnnetConfig(AbsoluteConfig):
    """Settings of ANNet."""

    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    adversarial_weight: float = 0.05
    """Of what the judge says of predicted poses, in the loss of the regressor."""
    judged_width: int = 128
    """Of the judge's layers."""
    refine_steps: int = 5
    """Steps by which an answer follows the judge's gradient."""
    refine_rate: float = 0.002
    """Length of such a step, in the map's unit and in the numbers of a rotation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refine_steps < 0 or self.judged_width < 1:
            raise ValueError("refine_steps is not negative, and judged_width at least 1")


class Annet(nn.Module):
    """A regressor, and a judge of pairs of image vectors and poses."""

    def __init__(self, shape: Shape, config: AnnetConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width, config.dropout)
        self.head = PoseHead(config.width, config.rotation)
        size = 3 + PARAMETRIZATIONS[config.rotation].size
        width = config.judged_width
        self.judge = nn.Sequential(
            nn.Linear(config.width + size, width),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(width, width),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(width, 1),
        )

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps, as they are regressed."""
        return self.head(self.vector(map_BChw))

    def truth_of(self, vector_BD: Tensor, pose_BP: Tensor) -> Tensor:
        """Logits (B,) that the poses are true ones of the images."""
        return self.judge(torch.cat([vector_BD, pose_BP], dim=1))[:, 0]


def objective(network: nn.Module, step: Step, config: AnnetConfig) -> Tensor:
    """The loss of the poses, the judge's, and what the judge says of the predicted poses.

    One backward pass for both networks: the judge's own loss stops at the regressor, and where the
    regressor is judged, the judge's weights are held fixed.
    """
    assert isinstance(network, Annet)
    index_B = step.draw(config.batch_size)
    position_B3 = step.looks.position_L3[index_B]
    rotation_B33 = step.looks.rotation_L33[index_B]
    vector = network.vector(step.looks.maps(index_B))
    predicted = network.head(vector)
    loss = step.loss(predicted, position_B3, rotation_B33)
    numbers_BK = PARAMETRIZATIONS[config.rotation].from_matrix(rotation_B33)
    true_BP = torch.cat([position_B3, numbers_BK], dim=1)
    guessed_BP = torch.cat([predicted.position_B3, predicted.rotation_BK], dim=1)
    seen = vector.detach()
    of_true = network.truth_of(seen, true_BP)
    of_guessed = network.truth_of(seen, guessed_BP.detach())
    judged = functional.softplus(-of_true).mean() + functional.softplus(of_guessed).mean()
    fooled = torch.func.functional_call(
        network.judge,
        {name: value.detach() for name, value in network.judge.named_parameters()},
        (torch.cat([seen, guessed_BP], dim=1),),
    )
    return loss + judged + config.adversarial_weight * functional.softplus(-fooled).mean()


def answer(network: nn.Module, map_1Chw: Tensor, frame: Frame, config: AnnetConfig) -> PoseEstimate:
    """The regressed pose, moved along the judge's gradient."""
    assert isinstance(network, Annet)
    with torch.no_grad():
        vector = network.vector(map_1Chw)
        predicted = network.head(vector)
    pose_1P = torch.cat([predicted.position_B3, predicted.rotation_BK], dim=1)
    for _ in range(config.refine_steps):
        with torch.enable_grad():
            pose_1P = pose_1P.detach().requires_grad_()
            doubt = functional.softplus(-network.truth_of(vector, pose_1P)).sum()
        (gradient_1P,) = torch.autograd.grad(doubt, pose_1P)
        pose_1P = pose_1P.detach() - config.refine_rate * functional.normalize(gradient_1P, dim=1)
    refined = PredictedPose(pose_1P[:, :3].detach(), pose_1P[:, 3:].detach())
    return PoseEstimate(pose_of(refined, frame, config)[0])


build_map, localizer = steps_of(Design(Annet, objective=objective, answer=answer))

METHOD = Method(
    name="annet",
    family="absolute",
    summary="An adversary judges pairs of image and pose, and mends the regressed pose.",
    paper="Bui et al., Adversarial Networks for Camera Pose Regression and Refinement, ICCV "
    "Workshops 2019",
    published="0.21 m, 7.9° (7-Scenes, mean of medians); not reproduced",
    config=AnnetConfig,
    tiny=AnnetConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    presets={"unrefined": AnnetConfig(refine_steps=0)},
)
