"""GRNet: the frames of a clip are a graph whose nodes are maps, and messages are convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Method, Run, Tensors
from reloc.input_error import InputError
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY
from reloc.methods.absolute.family import Step
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.sequences import (
    SequenceConfig,
    SequenceDesign,
    answer_in_clips,
    steps_of,
)
from reloc.nn.pose_layers import ConvStage, PoseHead, halved
from reloc.nn.pose_losses import PredictedPose, RelativeLoss
from reloc.nn.rotations import RotationName
from reloc.scenes.scene import View


@dataclass(frozen=True)
class GrNetConfig(SequenceConfig):
    """Settings of GRNet.

    `paper` has its eight frames and four layers, and trains the trunk: slow on a processor.
    """

    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    batch_size: int = 10
    """Clips of a step."""
    message_channels: int = 48
    """Of the nodes of the graph."""
    num_layers: int = 2
    """Rounds of messages, from 1 to 4."""
    graph: Literal["full", "chain"] = "full"
    """Which frames write to each other at first: all, or neighbours in the sequence."""
    edge_pooling: int = 3
    """After each layer a node keeps so many senders, the most alike; 0: all."""
    messages: Literal["convolution", "mlp"] = "convolution"
    """What makes messages: 3x3 convolutions on maps, or layers on their means."""
    frame_numbers: bool = False
    """Add to each node where in the clip it stands."""
    graph_loss: bool = True
    """Learn also the relative poses along the edges that are left."""
    relative: Literal["difference", "frame"] = "difference"
    """What a relative pose is: a difference, as in the paper, or the pose in the sender's frame."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_layers <= 4:
            raise ValueError(f"num_layers is {self.num_layers}; it must be from 1 to 4")
        if self.edge_pooling < 0 or self.message_channels % 8 or self.message_channels < 8:
            raise ValueError("edge_pooling is not negative, message_channels a multiple of 8")


class GrNet(nn.Module):
    """A stage, layers of messages, a second stage, layers of messages, and the poses."""

    def __init__(self, shape: Shape, config: GrNetConfig) -> None:
        super().__init__()
        channels = config.message_channels
        self._config = config
        self.stages = nn.ModuleList(
            [ConvStage(shape[0], config.channels), ConvStage(channels, channels)]
        )
        self.narrow = ConvStage(config.channels, channels, stride=1)
        # The earlier layers are on the larger maps.
        early = (config.num_layers + 1) // 2
        self.early = nn.ModuleList(MessageLayer(config) for _ in range(early))
        self.late = nn.ModuleList(MessageLayer(config) for _ in range(config.num_layers - early))
        cells = halved(halved(shape[1])) * halved(halved(shape[2]))
        self.connect = nn.Linear((1 + len(self.late)) * channels * cells, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = PoseHead(config.width, config.rotation)
        self.relative = RelativeLoss(config.loss, config.rotation, config.relative)
        self.frame_TC = nn.Parameter(torch.zeros(config.clip_length, channels))

    def forward(self, maps_BTChw: Tensor) -> PredictedPose:
        """Poses (B * T) of clips."""
        return self.pass_messages(maps_BTChw)[0]

    def pass_messages(self, maps_BTChw: Tensor) -> tuple[PredictedPose, Tensor]:
        """Poses (B * T), and the edges (2, E) that are left: from, to."""
        num_clips, length = maps_BTChw.shape[:2]
        nodes = self.narrow(self.stages[0](maps_BTChw.flatten(0, 1)))
        if self._config.frame_numbers:
            nodes = nodes + self.frame_TC[:length].repeat(num_clips, 1)[..., None, None]
        edges = clip_edges(num_clips, length, self._config.graph, nodes.device)
        for layer in self.early:
            nodes = layer(nodes, edges)
            edges = nearest_edges(nodes, edges, self._config.edge_pooling)
        nodes = self.stages[1](nodes)
        levels = [nodes]
        for layer in self.late:
            nodes = layer(nodes, edges)
            edges = nearest_edges(nodes, edges, self._config.edge_pooling)
            levels.append(nodes)
        vector = functional.relu(self.connect(torch.cat(levels, dim=1).flatten(1)))
        return self.head(self.dropout(vector)), edges


class MessageLayer(nn.Module):
    """Messages between maps, weighted by how alike sender and receiver are, then an update.

    What the update gives is added to the nodes; the paper's takes their place.
    """

    def __init__(self, config: GrNetConfig) -> None:
        super().__init__()
        self._scatter = _scatter()
        self._pooled = config.messages == "mlp"
        channels = config.message_channels
        kernel = 1 if self._pooled else 3
        self.message = _two_layers(channels, kernel)
        self.update = _two_layers(channels, kernel)

    def forward(self, nodes_XChw: Tensor, edges_2E: Tensor) -> Tensor:
        """The nodes after one round."""
        sender_E, receiver_E = edges_2E
        if len(sender_E) == 0:
            return nodes_XChw
        nodes = nodes_XChw.mean((-2, -1), keepdim=True) if self._pooled else nodes_XChw
        messages = self.message(torch.cat([nodes[receiver_E], nodes[sender_E]], dim=1))
        alike_E = functional.cosine_similarity(
            nodes_XChw[receiver_E].flatten(1), nodes_XChw[sender_E].flatten(1)
        )
        messages = alike_E.sigmoid()[:, None, None, None] * messages
        received = self._scatter(
            messages, receiver_E, dim=0, dim_size=len(nodes_XChw), reduce="mean"
        )
        updated = self.update(torch.cat([nodes, received], dim=1))
        return nodes_XChw + updated


def _scatter() -> Callable[..., Tensor]:
    """What gathers messages.

    Raises:
        InputError: torch_geometric is not installed.
    """
    try:
        from torch_geometric.utils import scatter
    except ImportError as error:
        raise InputError('grnet needs torch_geometric: pip install "reloc[graph]"') from error
    return scatter


def _two_layers(channels: int, kernel: int) -> nn.Sequential:
    """Two convolutions, each normalised, that halve the channels."""
    pad = kernel // 2
    return nn.Sequential(
        nn.Conv2d(2 * channels, channels, kernel, padding=pad),
        nn.GroupNorm(8, channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, padding=pad),
        nn.GroupNorm(8, channels),
        nn.ReLU(),
    )


def clip_edges(
    num_clips: int, length: int, graph: Literal["full", "chain"], device: torch.device
) -> Tensor:
    """Edges (2, E), from and to, between the frames of each clip; no frame writes to itself."""
    numbers = torch.arange(length, device=device)
    apart = (numbers[:, None] - numbers).abs()
    linked = apart == 1 if graph == "chain" else apart > 0
    within_2E = linked.nonzero().T
    first_B = torch.arange(num_clips, device=device) * length
    return (within_2E[:, None] + first_B[:, None]).flatten(1)


def nearest_edges(nodes_XChw: Tensor, edges_2E: Tensor, count: int) -> Tensor:
    """Of the edges to each node, those from the `count` senders that are most alike; 0: all.

    By the cosine of the maps' maxima, as in section 3.3 of the paper.
    """
    if count == 0 or edges_2E.shape[1] == 0:
        return edges_2E
    with torch.no_grad():
        pooled_XC = functional.normalize(nodes_XChw.amax((-2, -1)), dim=1)
        alike_E = (pooled_XC[edges_2E[0]] * pooled_XC[edges_2E[1]]).sum(-1)
        alike_XX = alike_E.new_full((len(pooled_XC), len(pooled_XC)), -torch.inf)
        alike_XX[edges_2E[1], edges_2E[0]] = alike_E
        best_XK = alike_XX.topk(min(count, len(pooled_XC)), dim=1)
        receivers_XK = torch.arange(len(pooled_XC), device=alike_E.device)[:, None]
        receivers_XK = receivers_XK.expand_as(best_XK.indices)
        kept_XK = best_XK.values > -torch.inf
        return torch.stack([best_XK.indices[kept_XK], receivers_XK[kept_XK]])


def objective(network: nn.Module, step: Step, clips_BT: Tensor, config: GrNetConfig) -> Tensor:
    """The loss of the nodes' poses, and that of the relative poses along the edges."""
    assert isinstance(network, GrNet)
    index_X = clips_BT.flatten()
    position_X3, rotation_X33 = step.looks.position_L3[index_X], step.looks.rotation_L33[index_X]
    predicted, edges_2E = network.pass_messages(step.looks.maps(clips_BT))
    loss = step.loss(predicted, position_X3, rotation_X33)
    if not config.graph_loss or edges_2E.shape[1] == 0:
        return loss
    weighting = step.loss.weighting
    return loss + network.relative(predicted, position_X3, rotation_X33, *edges_2E, weighting)


_build_map, localizer = steps_of(SequenceDesign(GrNet, objective, answer_in_clips))


def build_map(views: Sequence[View], config: GrNetConfig, run: Run) -> Tensors:
    """Train on clips; whether messages can be gathered shows before the pictures are read.

    Raises:
        InputError: torch_geometric is not installed, or as `sequences.build_map`.
    """
    _scatter()
    return _build_map(views, config, run)


METHOD = Method(
    name="grnet",
    family="absolute",
    summary="Message passing between the feature maps of a clip's frames.",
    paper="Xue et al., Learning Multi-View Camera Relocalization with Graph Neural Networks, "
    "CVPR 2020",
    published="0.19 m, 6.3° (7-Scenes, mean of medians; 8 frames); not reproduced",
    config=GrNetConfig,
    tiny=GrNetConfig(**{**TINY, "batch_size": 8}, message_channels=16),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
    presets={
        "paper": GrNetConfig(
            clip_length=8,
            num_layers=4,
            message_channels=96,
            width=2048,
            train_trunk=True,
            short_side_px=256,
            pooling=1,
        ),
        "mlp": GrNetConfig(messages="mlp"),
        "no-graph-loss": GrNetConfig(graph_loss=False),
    },
)
