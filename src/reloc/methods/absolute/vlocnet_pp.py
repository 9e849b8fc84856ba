"""VLocNet++: as VLocNet, and the maps of the frame before, and semantics, are fused in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.absolute import sequences
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY
from reloc.methods.absolute.family import Step
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.feedback import (
    FeedbackConfig,
    FeedbackNetwork,
    answer_frame_by_frame,
    pose_loss,
)
from reloc.methods.absolute.semantics import label_loss, label_tensors, labels_of, shares
from reloc.methods.absolute.sequences import SequenceDesign, SequenceLocalizer
from reloc.nn.pose_layers import ConvStage
from reloc.nn.pose_losses import PoseLossConfig
from reloc.scenes.scene import View
from reloc.training.stages import kept


@dataclass(frozen=True)
class VLocNetPlusPlusConfig(FeedbackConfig):
    """Settings of VLocNet++."""

    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            norm="l2",
            distance="quaternion",
            position_log_variance=-3.0,
            rotation_log_variance=-3.0,
        )
    )
    """Which loss."""
    semantics: bool = False
    """Learn also what is seen where, and fuse it into the stream of the pose. All mapping views
    must have labels, as those of rendered rooms have; queries need none."""
    semantic_log_variance: float = -3.0
    """Where the weight of the loss of the labels begins: it is learned, as those of the poses."""


class VLocNetPlusPlus(FeedbackNetwork):
    """Feedback of the pose, of the maps, and of what is seen, by adaptive weighted fusion."""

    def __init__(self, shape: Shape, config: VLocNetPlusPlusConfig, num_kinds: int = 0) -> None:
        super().__init__(shape, config)
        channels = config.channels
        self.now_C11 = nn.Parameter(torch.ones(channels, 1, 1))
        self.before_C11 = nn.Parameter(torch.zeros(channels, 1, 1))
        self.fuse = nn.Conv2d(2 * channels, channels, 1)
        self.semantics = Semantics(shape, config, num_kinds) if num_kinds else None

    def fused(self, map_BChw: Tensor, shared_BChw: Tensor, before_BChw: Tensor) -> Tensor:
        """This frame's map, with that of the frame before, and with what is seen."""
        # Both maps, each channel weighted, and made as many channels as one had.
        both = torch.cat([self.now_C11 * shared_BChw, self.before_C11 * before_BChw], dim=1)
        fused = shared_BChw + self.fuse(both)
        return fused if self.semantics is None else self.semantics.fused(map_BChw, fused)


class Semantics(nn.Module):
    """A stream that tells what is seen, and gives the pose's stream what it tells it by."""

    def __init__(self, shape: Shape, config: VLocNetPlusPlusConfig, num_kinds: int) -> None:
        super().__init__()
        channels = config.channels
        self.stage = ConvStage(shape[0], channels, stride=1)
        self.log_variance = nn.Parameter(torch.tensor(config.semantic_log_variance))
        self.classify = nn.Conv2d(channels, num_kinds, 1)
        self.halve = ConvStage(channels, channels)
        self.pose_C11 = nn.Parameter(torch.ones(channels, 1, 1))
        self.seen_C11 = nn.Parameter(torch.ones(channels, 1, 1))
        self.fuse = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, map_BChw: Tensor) -> Tensor:
        """Logits (B, num_kinds, h, w) of the kind of each cell; the first is of label 1."""
        return self.classify(self.stage(map_BChw))

    def fused(self, map_BChw: Tensor, pose_BChw: Tensor) -> Tensor:
        """A map of the pose's stream with what is seen, fused alike."""
        seen = self.halve(self.stage(map_BChw))
        both = torch.cat([self.pose_C11 * pose_BChw, self.seen_C11 * seen], dim=1)
        return pose_BChw + self.fuse(both)


def design(num_kinds: int, labels: Tensors | None = None) -> SequenceDesign:
    """With kinds of things, and to learn them, the labels of all looks; without any, for 0."""
    known: list[Tensor] = []

    def network(shape: Shape, config: VLocNetPlusPlusConfig) -> nn.Module:
        return VLocNetPlusPlus(shape, config, num_kinds)

    def objective(network: nn.Module, step: Step, clips_BT: Tensor, config: Any) -> Tensor:
        """The losses of poses, steps and motions, and that of the labels."""
        del config
        assert isinstance(network, VLocNetPlusPlus)
        maps_BTChw = step.looks.maps(clips_BT)
        loss = pose_loss(network, step, clips_BT, maps_BTChw)
        if network.semantics is None or labels is None:
            return loss
        if not known:
            known.append(labels_of(step.looks, labels))
        logits = network.semantics(maps_BTChw.flatten(0, 1))
        share = shares(known[0][clips_BT.flatten()], num_kinds, logits.shape[-2:])
        log_variance = network.semantics.log_variance
        return loss + (-log_variance).exp() * label_loss(logits, share) + log_variance

    return SequenceDesign(network, objective, answer_frame_by_frame)


def build_map(views: Sequence[View], config: VLocNetPlusPlusConfig, run: Run) -> Tensors:
    """Train on clips; with semantics, also on the labels of the mapping views.

    Raises:
        InputError: semantics are asked for, and a view has no labels.
    """
    if not config.semantics:
        return sequences.build_map(views, design(0), config, run)
    labels = kept(run, "labels", lambda part: label_tensors(views, config, part))
    num_kinds = int(labels["label_LHW"].max())
    more = {"num_kinds": torch.tensor(num_kinds)}
    return sequences.build_map(views, design(num_kinds, labels), config, run, more)


def localizer(tensors: Tensors, config: VLocNetPlusPlusConfig, run: Run) -> Localizer:
    """Answers frame by frame."""
    num_kinds = int(tensors["num_kinds"]) if config.semantics else 0
    return SequenceLocalizer(tensors, design(num_kinds), config, run)


METHOD = Method(
    name="vlocnet-pp",
    family="absolute",
    summary="VLocNet that also fuses the maps of the frame before, and semantics where labelled.",
    paper="Radwan, Valada and Burgard, VLocNet++: Deep Multitask Learning for Semantic Visual "
    "Localization and Odometry, RA-L 2018",
    published="0.022 m, 1.4° (7-Scenes, mean of medians; unverified); not reproduced",
    config=VLocNetPlusPlusConfig,
    tiny=VLocNetPlusPlusConfig(**{**TINY, "batch_size": 16}),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
    presets={"semantics": VLocNetPlusPlusConfig(semantics=True)},
)
