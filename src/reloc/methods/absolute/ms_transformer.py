"""MS-Transformer: several scenes in one map; two transformers, with one query a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Localizer, Method, PoseEstimate, Run, Tensors
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.absolute import family
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, Step, pose_of
from reloc.methods.absolute.features import Looks, Shape
from reloc.methods.absolute.frame import Frame
from reloc.nn.pose_layers import ConvStage, PoseHead, halved
from reloc.nn.pose_losses import PoseLossConfig, PredictedPose
from reloc.nn.rotations import RotationName
from reloc.scenes.scene import View

# In a map, before the names of what is stacked of the frames of its scenes.
_OF_SCENES = "of_scenes."


@dataclass(frozen=True)
class MsTransformerConfig(AbsoluteConfig):
    """Settings of MS-Transformer.

    `paper` has its sizes, and trains the trunk: slow on a processor.

    Scenes are told by the names of the sequences: what stands before the first slash, as in scenes
    that were put side by side. Where no name has one, there is one scene. The poses of each scene
    are learned in a frame and unit of its own.
    """

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(default_factory=lambda: PoseLossConfig(distance="quaternion"))
    """Which loss."""
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


def design(
    scene_of_view: Tensor, frames: Sequence[Frame], whole: Frame | None = None
) -> Design[MsTransformerConfig]:
    """For several scenes, or one.

    Args:
        scene_of_view: (V,) number of the scene of each mapping view; not needed to answer.
        frames: of the scenes.
        whole: that of all views, in which the looks are; not needed to answer.
    """

    def network(shape: Shape, config: MsTransformerConfig) -> nn.Module:
        return MsTransformer(shape, config, len(frames))

    def objective(network: nn.Module, step: Step, config: MsTransformerConfig) -> Tensor:
        """The loss of the poses that the right queries find, and that of finding the scene."""
        assert isinstance(network, MsTransformer)
        assert whole is not None
        looks: Looks = step.looks
        index_B = step.draw(config.batch_size)
        scene_B = scene_of_view.to(index_B.device)[looks.view_L[index_B]]
        logits_BS, position_BSD, rotation_BSD = network.latents(looks.maps(index_B))
        predicted = network.pose(position_BSD, rotation_BSD, scene_B)
        position_B3, rotation_B33 = looks.position_L3[index_B], looks.rotation_L33[index_B]
        if len(frames) > 1:
            position_B3, rotation_B33 = in_frames(position_B3, rotation_B33, scene_B, frames, whole)
        loss = step.loss(predicted, position_B3, rotation_B33)
        return loss + functional.cross_entropy(logits_BS, scene_B)

    def answer(
        network: nn.Module, map_1Chw: Tensor, frame: Frame, config: MsTransformerConfig
    ) -> PoseEstimate:
        """The pose in the likeliest scene."""
        del frame
        assert isinstance(network, MsTransformer)
        logits_BS, position_BSD, rotation_BSD = network.latents(map_1Chw)
        scene_B = logits_BS.argmax(-1)
        predicted = network.pose(position_BSD, rotation_BSD, scene_B)
        return PoseEstimate(pose_of(predicted, frames[int(scene_B)], config)[0])

    return Design(network, objective=objective, answer=answer)


def in_frames(
    position_B3: Tensor,
    rotation_B33: Tensor,
    scene_B: Tensor,
    frames: Sequence[Frame],
    whole: Frame,
) -> tuple[Tensor, Tensor]:
    """Poses in the frame and unit of all scenes, as `Frame.poses` gives them, in those of each."""
    device = position_B3.device
    whole_from_world = whole.frame_from_world
    moved = [frame.frame_from_world @ whole_from_world.inverse() for frame in frames]
    turn_B33 = torch.stack([scene.rotation for scene in moved]).float().to(device)[scene_B]
    shift_B3 = torch.stack([scene.translation for scene in moved]).float().to(device)[scene_B]
    scale_B1 = torch.tensor([frame.scale for frame in frames], device=device)[scene_B, None]
    turned_B3 = (turn_B33 @ (whole.scale * position_B3)[..., None])[..., 0]
    return (turned_B3 + shift_B3) / scale_B1, turn_B33 @ rotation_B33


def scene_names(views: Sequence[View]) -> list[str]:
    """The scene of each view: what stands before the first slash in the name of its sequence."""
    parts = [view.sequence.partition("/") for view in views]
    return [scene if slash else "" for scene, slash, _ in parts]


def build_map(views: Sequence[View], config: MsTransformerConfig, run: Run) -> Tensors:
    """Train on the views of all scenes together.

    Raises:
        InputError: as `family.build_map`; or all views of a scene are taken from one place.
    """
    names = scene_names(views)
    scenes = list(dict.fromkeys(names))
    numbers = torch.tensor([scenes.index(name) for name in names])
    frames = [
        Frame.from_views([view for view, name in zip(views, names, strict=True) if name == scene])
        for scene in scenes
    ]
    more = {"scenes": text_to_tensor(scenes)}
    # The frame of a single scene is that of the map.
    for name in frames[0].tensors if len(frames) > 1 else ():
        more[_OF_SCENES + name] = torch.stack([frame.tensors[name] for frame in frames])
    made = design(numbers, frames, Frame.from_views(views))
    return family.build_map(views, made, config, run, more)


def localizer(tensors: Tensors, config: MsTransformerConfig, run: Run) -> Localizer:
    """Answers with the pose in the likeliest scene."""
    num_scenes = len(tensor_to_text(tensors["scenes"]))
    frames = [Frame.from_tensors(tensors)] * num_scenes
    of_scenes = {
        name.removeprefix(_OF_SCENES): value
        for name, value in tensors.items()
        if name.startswith(_OF_SCENES)
    }
    if of_scenes:
        frames = [
            Frame.from_tensors({name: value[number] for name, value in of_scenes.items()})
            for number in range(num_scenes)
        ]
    return family.AbsoluteLocalizer(tensors, design(torch.zeros(0), frames), config, run)


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
            model=256,
            position_layers=6,
            rotation_layers=4,
            train_trunk=True,
            short_side_px=256,
            pooling=1,
        )
    },
)
