"""MLFBPPose: products of features of two stages, for position and for rotation each its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Method
from reloc.geometry.rotation import angle_between_rad
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, Step, steps_of
from reloc.methods.absolute.features import Shape
from reloc.nn.pose_layers import ConvStage, PoseHead, halved
from reloc.nn.pose_losses import PredictedPose
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class MlfbpPoseConfig(AbsoluteConfig):
    """Settings of MLFBPPose."""

    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    rank: int = 2
    """Products that are summed for one number of a vector."""
    metric_weight: float = 0.1
    """Of the batch-wise loss, that vectors be as far apart as poses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or self.metric_weight < 0:
            raise ValueError("rank is at least 1, and metric_weight not negative")


class MlfbpPose(nn.Module):
    """Two stages; their factorised bilinear products; a vector for each part of the pose."""

    def __init__(self, shape: Shape, config: MlfbpPoseConfig) -> None:
        super().__init__()
        channels = config.channels
        cells = halved(halved(shape[1])) * halved(halved(shape[2]))
        self.first = ConvStage(shape[0], channels)
        self.second = ConvStage(channels, channels)
        # The first stage at the resolution of the second.
        self.aside = ConvStage(channels, channels)
        self.position = _BilinearPool(channels * cells, config)
        self.rotation = _BilinearPool(channels * cells, config)
        self.head = PoseHead(config.width // 2, config.rotation)

    def vectors(self, map_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """A vector (B, width / 2) for the position, and one for the rotation."""
        first = self.first(map_BChw)
        shallow, deep = self.aside(first).flatten(1), self.second(first).flatten(1)
        return self.position(shallow, deep), self.rotation(shallow, deep)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps."""
        return self.head(*self.vectors(map_BChw))


class _BilinearPool(nn.Module):
    """Sums of products of projections, their signed root, and normalisation (Yu et al., 2017)."""

    def __init__(self, size: int, config: MlfbpPoseConfig) -> None:
        super().__init__()
        self._rank = config.rank
        width = config.width // 2
        self.shallow = nn.Linear(size, width * config.rank)
        self.deep = nn.Linear(size, width * config.rank)
        self.dropout = nn.Dropout(config.dropout)
        self._length = width**0.5

    def forward(self, shallow_BX: Tensor, deep_BX: Tensor) -> Tensor:
        products = self.dropout(self.shallow(shallow_BX) * self.deep(deep_BX))
        summed = products.unflatten(1, (-1, self._rank)).sum(-1)
        # A root's slope is infinite at 0: a little is added under it.
        rooted = summed.sign() * ((summed.abs() + 1e-4).sqrt() - 1e-2)
        return self._length * functional.normalize(rooted, dim=1)


def objective(network: nn.Module, step: Step, config: MlfbpPoseConfig) -> Tensor:
    """The loss of the poses, and that of the distances between the vectors of a batch."""
    assert isinstance(network, MlfbpPose)
    index_B = step.draw(config.batch_size)
    position_B3 = step.looks.position_L3[index_B]
    rotation_B33 = step.looks.rotation_L33[index_B]
    of_position, of_rotation = network.vectors(step.looks.maps(index_B))
    loss = step.loss(network.head(of_position, of_rotation), position_B3, rotation_B33)
    apart_BB = torch.cdist(position_B3, position_B3)
    turned_BB = angle_between_rad(rotation_B33[:, None], rotation_B33[None])
    metric = _stress(of_position, apart_BB) + _stress(of_rotation, turned_BB)
    return loss + config.metric_weight * metric


def _stress(vector_BD: Tensor, distance_BB: Tensor) -> Tensor:
    """What distances of vectors, in their own mean, differ from distances of poses, in theirs."""
    squared_BB = (vector_BD[:, None] - vector_BD[None]).square().mean(-1)
    apart_BB = (squared_BB + 1e-8).sqrt()
    mean = distance_BB.mean().clamp_min(1e-6)
    return (apart_BB / apart_BB.mean() - distance_BB / mean).abs().mean()


build_map, localizer = steps_of(Design(MlfbpPose, objective=objective))

METHOD = Method(
    name="mlfbppose",
    family="absolute",
    summary="Bilinear products of two stages, separate for position and rotation; metric loss.",
    paper="Wang et al., Discriminative Features Matter: Multi-Layer Bilinear Pooling for Camera "
    "Localization, BMVC 2019",
    published="0.20 m, 9.8° (7-Scenes, mean of medians); not reproduced",
    config=MlfbpPoseConfig,
    tiny=MlfbpPoseConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
)
