"""AnchorPoint: which of some mapping places is near, and how far the camera is from each."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, Step, steps_of
from reloc.methods.absolute.features import Looks, Shape
from reloc.nn.pose_layers import ImageVector, PoseHead
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose, length, rotation_residual
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class AnchorPointConfig(AbsoluteConfig):
    """Settings of AnchorPoint. The paper's places are planar; here they have a height."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            norm="l2", distance="quaternion", weights="fixed", beta=3.0
        )
    )
    """Which loss of offset and rotation."""
    num_anchors: int = 24
    """Places, evenly spaced in the list of the mapping views."""
    class_weight: float = 0.5
    """Of the cross-entropy of the nearest anchor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_anchors < 1:
            raise ValueError(f"num_anchors is {self.num_anchors}; it must be at least 1")


class AnchorPoint(nn.Module):
    """Image vector to likelihoods of the anchors, an offset from each, and a rotation."""

    def __init__(self, shape: Shape, config: AnchorPointConfig) -> None:
        super().__init__()
        self.vector = ImageVector(shape, config.channels, config.width, config.dropout)
        self.classify = nn.Linear(config.width, config.num_anchors)
        self.offset = nn.Linear(config.width, 3 * config.num_anchors)
        self.head = PoseHead(config.width, config.rotation)
        self.register_buffer("anchors_K3", torch.zeros(config.num_anchors, 3))
        nn.init.normal_(self.offset.weight, std=1e-2)
        nn.init.zeros_(self.offset.bias)

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps; the position is the mean of what the anchors say."""
        vector = self.vector(map_BChw)
        logits_BK, places_BK3 = self.votes(vector)
        position_B3 = (logits_BK.softmax(-1)[..., None] * places_BK3).sum(1)
        return PredictedPose(position_B3, self.head.rotation(vector))

    def votes(self, vector_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of the anchors, and where each says that the camera is (B, K, 3)."""
        offsets_BK3 = self.offset(vector_BD).unflatten(1, (-1, 3))
        return self.classify(vector_BD), self.get_buffer("anchors_K3") + offsets_BK3


def prepare(network: nn.Module, looks: Looks, config: AnchorPointConfig) -> None:
    """Choose the anchors."""
    numbers = torch.linspace(0, len(looks) - 1, config.num_anchors).long()
    # Looks are in the order of the views.
    network.get_buffer("anchors_K3").copy_(looks.position_L3[numbers])


def objective(network: nn.Module, step: Step, config: AnchorPointConfig) -> Tensor:
    """Cross-entropy of the nearest anchor, and what likely anchors are off, each for itself."""
    assert isinstance(network, AnchorPoint)
    index_B = step.draw(config.batch_size)
    position_B3 = step.looks.position_L3[index_B]
    vector = network.vector(step.looks.maps(index_B))
    logits_BK, places_BK3 = network.votes(vector)
    nearest_B = torch.cdist(position_B3, network.get_buffer("anchors_K3")).argmin(1)
    off_BK = length(places_BK3 - position_B3[:, None], config.loss.norm)
    position = (logits_BK.softmax(-1) * off_BK).sum(-1).mean()
    rotation = rotation_residual(
        network.head.rotation(vector),
        step.looks.rotation_L33[index_B],
        config.rotation,
        config.loss,
    ).mean()
    anchors = functional.cross_entropy(logits_BK, nearest_B)
    return step.loss.weighting(position, rotation) + config.class_weight * anchors


build_map, localizer = steps_of(Design(AnchorPoint, objective=objective, prepare=prepare))

METHOD = Method(
    name="anchorpoint",
    family="absolute",
    summary="Classifies the nearest anchor among the mapping places and adds an offset to it.",
    paper="Saha, Varma and Jawahar, Improved Visual Relocalization by Discovering Anchor Points, "
    "BMVC 2018",
    published="0.13 m, 7.5° (7-Scenes, mean of medians; its code is disputed); not reproduced",
    config=AnchorPointConfig,
    tiny=AnchorPointConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
)
