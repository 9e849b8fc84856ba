"""Bayesian PoseNet: dropout stays on when asked; the spread of many answers is the covariance."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from reloc.contract import Method, PoseEstimate
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, pose_of, steps_of
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.frame import Frame, mean_pose, spread
from reloc.nn.pose_layers import ImageVector, PoseHead
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class BayesianPoseNetConfig(AbsoluteConfig):
    """Settings of Bayesian PoseNet."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            norm="l2", distance="quaternion", weights="fixed", beta=120.0
        )
    )
    """Which loss."""
    dropout: float = 0.5
    """Share of the outputs that are left out, in training and when asked."""
    num_samples: int = 40
    """Answers whose mean and spread is the answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 2:
            raise ValueError(f"num_samples is {self.num_samples}; a spread needs at least 2")


class BayesianPoseNet(nn.Module):
    """PoseNet with dropout also between the stages, and on at all times."""

    def __init__(self, shape: Shape, config: AbsoluteConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width)
        self.head = PoseHead(config.width, config.rotation)
        self._dropout = config.dropout

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps, each with dropout of its own."""
        return self.sample(self.vector.first(map_BChw))

    def sample(self, first_BChw: Tensor) -> PredictedPose:
        """Poses from what the first stage gives."""
        second = self.vector.second(first_BChw)
        # Whole channels: the cells of one tell almost the same.
        second = nn.functional.dropout2d(second, self._dropout / 2, training=True)
        vector = self.vector.vector(second)
        return self.head(nn.functional.dropout(vector, self._dropout, training=True))


def answer(
    network: nn.Module, map_1Chw: Tensor, frame: Frame, config: BayesianPoseNetConfig
) -> PoseEstimate:
    """The mean of the sampled poses, and their covariance."""
    assert isinstance(network, BayesianPoseNet)
    first = network.vector.first(map_1Chw).expand(config.num_samples, -1, -1, -1)
    samples = pose_of(network.sample(first), frame, config)
    mean = mean_pose(samples)
    return PoseEstimate(mean, covariance=spread(samples, mean))


build_map, localizer = steps_of(Design(BayesianPoseNet, answer=answer))

METHOD = Method(
    name="bayesian-posenet",
    family="absolute",
    summary="PoseNet asked forty times under dropout: mean pose and covariance.",
    paper="Kendall and Cipolla, Modelling Uncertainty in Deep Learning for Camera Relocalization, "
    "ICRA 2016",
    published="0.47 m, 9.8° (7-Scenes, mean of medians); not reproduced",
    config=BayesianPoseNetConfig,
    tiny=BayesianPoseNetConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
)
