"""MS-Transformer: several scenes in one map; two transformers, with one query a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.absolute import family
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, Step
from reloc.methods.absolute.features import Looks, Shape
from reloc.nn.pose_layers import ConvStage, PoseHead, halved
from reloc.nn.pose_losses import PredictedPose
from reloc.nn.rotations import RotationName
from reloc.scenes.scene import View


@dataclass(frozen=True)
class MsTransformerConfig(AbsoluteConfig):
    """Settings of MS-Transformer.

    `paper` has its sizes, and trains the trunk: slow on a processor.

    Scenes are told by the names of the sequences: what stands before a slash, as in scenes that
    were put side by side. Where no name has one, there is one scene.
    """

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    dropout: float = 0.1
    """Share of the outputs that are left out in training."""
    model: int = 64
    """Numbers of a token."""
    num_heads: int = 4
    """Heads of attention."""
    position_layers: int = 1
    """Layers of encoder and decoder for the position..."""
    rotation_layers: int = 1
    """...and for the rotation."""
    batch_size: int = 32
    """Pictures of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads < 1 or self.model % (4 * self.num_heads):
            raise ValueError("model must be a multiple of four times num_heads")
        if min(self.position_layers, self.rotation_layers) < 1:
            raise ValueError("both transformers need at least one layer")


class MsTransformer(nn.Module):
    """A coarse map for the position, a finer one for the rotation, a transformer for each."""

    def __init__(self, shape: Shape, config: MsTransformerConfig, num_scenes: int = 1) -> None:
        super().__init__()
        channels, size = config.channels, config.model
        self.finer = ConvStage(shape[0], channels)
        self.coarser = ConvStage(channels, channels)
        height, width = halved(shape[1]), halved(shape[2])
        self.position = _Branch(
            channels, (halved(height), halved(width)), config, config.position_layers, num_scenes
        )
        self.rotation = _Branch(
            channels, (height, width), config, config.rotation_layers, num_scenes
        )
        self.classify = nn.Linear(2 * size, 1)
        self.of_position = nn.Sequential(nn.Linear(size, config.width), nn.GELU())
        self.of_rotation = nn.Sequential(nn.Linear(size, config.width), nn.GELU())
        self.head = PoseHead(config.width, config.rotation)

    def latents(self, map_BChw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, S) of the scenes, and what the queries (B, S, D) found for both parts."""
        finer = self.finer(map_BChw)
        position_BSD = self.position(self.coarser(finer))
        rotation_BSD = self.rotation(finer)
        logits_BS = self.classify(torch.cat([position_BSD, rotation_BSD], dim=-1))[..., 0]
        return logits_BS, position_BSD, rotation_BSD

    def pose(self, position_BSD: Tensor, rotation_BSD: Tensor, scene_B: Tensor) -> PredictedPose:
        """The poses that the queries of some scenes found."""
        rows = torch.arange(len(scene_B), device=scene_B.device)
        return self.head(
            self.of_position(position_BSD[rows, scene_B]),
            self.of_rotation(rotation_BSD[rows, scene_B]),
        )

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps, in the likeliest scene."""
        logits_BS, position_BSD, rotation_BSD = self.latents(map_BChw)
        return self.pose(position_BSD, rotation_BSD, logits_BS.argmax(-1))


class _Branch(nn.Module):
    """Cells to tokens, an encoder over them, a decoder with one query a scene."""

    def __init__(
        self,
        channels: int,
        cells: tuple[int, int],
        config: MsTransformerConfig,
        num_layers: int,
        num_scenes: int,
    ) -> None:
        super().__init__()
        size = config.model
        self.project = nn.Conv2d(channels, size, 1)
        # The place of a cell, by its row and by its column.
        self.rows = nn.Parameter(0.1 * torch.randn(size // 2, cells[0], 1))
        self.columns = nn.Parameter(0.1 * torch.randn(size // 2, 1, cells[1]))
        self.queries_SD = nn.Parameter(torch.randn(num_scenes, size))
        layer: dict[str, Any] = {
            "dim_feedforward": size,
            "dropout": config.dropout,
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
        }
        encoder_layer = nn.TransformerEncoderLayer(size, config.num_heads, **layer)
        decoder_layer = nn.TransformerDecoderLayer(size, config.num_heads, **layer)
        self.encoder = nn.TransformerEncoder(encoder_layer, num_layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder_layer, num_layers)

    def forward(self, map_BChw: Tensor) -> Tensor:
        tokens = self.project(map_BChw)
        height, width = tokens.shape[-2:]
        places = torch.cat([self.rows.expand(-1, -1, width), self.columns.expand(-1, height, -1)])
        tokens_BND = (tokens + places).flatten(2).mT
        queries_BSD = self.queries_SD.expand(len(tokens_BND), -1, -1)
        return self.decoder(queries_BSD, self.encoder(tokens_BND))


def design(scene_of_view: Tensor, num_scenes: int) -> Design[MsTransformerConfig]:
    """For so many scenes; `scene_of_view` (V,) is the number of each mapping view's."""

    def network(shape: Shape, config: MsTransformerConfig) -> nn.Module:
        return MsTransformer(shape, config, num_scenes)

    def objective(network: nn.Module, step: Step, config: MsTransformerConfig) -> Tensor:
        """The loss of the poses that the right queries find, and that of finding the scene."""
        assert isinstance(network, MsTransformer)
        looks: Looks = step.looks
        index_B = step.draw(config.batch_size)
        scene_B = scene_of_view.to(index_B.device)[looks.view_L[index_B]]
        logits_BS, position_BSD, rotation_BSD = network.latents(looks.maps(index_B))
        predicted = network.pose(position_BSD, rotation_BSD, scene_B)
        loss = step.loss(predicted, looks.position_L3[index_B], looks.rotation_L33[index_B])
        return loss + functional.cross_entropy(logits_BS, scene_B)

    return Design(network, objective=objective)


def scene_names(views: Sequence[View]) -> list[str]:
    """The scene of each view: what stands before the slash in the name of its sequence."""
    return [view.sequence.rpartition("/")[0] for view in views]


def build_map(views: Sequence[View], config: MsTransformerConfig, run: Run) -> Tensors:
    """Train on the views of all scenes together."""
    names = scene_names(views)
    scenes = list(dict.fromkeys(names))
    numbers = torch.tensor([scenes.index(name) for name in names])
    more = {"scenes": text_to_tensor(scenes)}
    return family.build_map(views, design(numbers, len(scenes)), config, run, more)


def localizer(tensors: Tensors, config: MsTransformerConfig, run: Run) -> Localizer:
    """Answers with the pose in the likeliest scene."""
    num_scenes = len(tensor_to_text(tensors["scenes"]))
    return family.AbsoluteLocalizer(tensors, design(torch.zeros(0), num_scenes), config, run)


METHOD = Method(
    name="ms-transformer",
    family="absolute",
    summary="Several scenes in one map: transformers with a query for each.",
    paper="Shavit, Ferens and Keller, Learning Multi-Scene Absolute Pose Regression with "
    "Transformers, ICCV 2021",
    published="0.18 m, 7.3° (7-Scenes, mean of medians; unverified); not reproduced",
    config=MsTransformerConfig,
    tiny=MsTransformerConfig(**TINY, model=32, num_heads=2),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    presets={
        "paper": MsTransformerConfig(
            model=256, position_layers=6, rotation_layers=4, train_trunk=True
        )
    },
)
