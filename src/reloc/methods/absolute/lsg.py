"""LsG: the motion in a clip, remembered by a convolutional LSTM, guides what a frame attends to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Method
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
from reloc.nn.pose_losses import PoseLoss, PredictedPose, RelativeLoss, neighbours
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class LsgConfig(SequenceConfig):
    """Settings of LsG; `paper` has its seven frames and trains the trunk: slow on a processor."""

    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    memory: int = 48
    """Channels of the convolutional LSTM."""
    batch_size: int = 12
    """Clips of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise ValueError(f"memory is {self.memory}; it must be at least 1")


class ConvLstm(nn.Module):
    """An LSTM whose states are maps.

    Source: Shi et al., "Convolutional LSTM network", NeurIPS 2015.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self._channels = channels
        self.gates = nn.Conv2d(channels_in + channels, 4 * channels, 3, padding=1)
        with torch.no_grad():
            # Memory is kept to begin with.
            self.gates.bias[channels : 2 * channels] = 1.0  # type: ignore[index]

    def forward(
        self, map_BChw: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """The next hidden map and cell (B, channels, h, w)."""
        if state is None:
            zeros = map_BChw.new_zeros(len(map_BChw), self._channels, *map_BChw.shape[-2:])
            state = (zeros, zeros)
        hidden, cell = state
        gates = self.gates(torch.cat([map_BChw, hidden], dim=1))
        enter, forget, leave, value = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * value.tanh()
        return leave.sigmoid() * cell.tanh(), cell


class Lsg(nn.Module):
    """Motion of neighbours over a clip; soft attention by it; the pose of each frame."""

    def __init__(self, shape: Shape, config: LsgConfig) -> None:
        super().__init__()
        channels = config.channels
        cells = halved(halved(shape[1])) * halved(halved(shape[2]))
        self.first = ConvStage(shape[0], channels)
        self.second = ConvStage(channels, channels)
        self.memory = ConvLstm(2 * channels, config.memory)
        self.motion = PoseHead(config.memory * cells, config.rotation)
        self.attend = nn.Conv2d(channels + config.memory, channels, 1)
        self.connect = nn.Linear((channels + config.memory) * cells, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = PoseHead(config.width, config.rotation)
        self.odometry = PoseLoss(config.loss, config.rotation)
        self.joint = RelativeLoss(config.loss, config.rotation, "frame")

    def follow(self, maps_BTChw: Tensor) -> tuple[PredictedPose, PredictedPose]:
        """Poses (B * T), and the motion (B * T) of each frame since the one before."""
        content = self.second(self.first(maps_BTChw.flatten(0, 1)))
        content = content.unflatten(0, maps_BTChw.shape[:2])
        # Before the first frame stands the first frame: it has not moved.
        before = torch.cat([content[:, :1], content[:, :-1]], dim=1)
        state, remembered = None, []
        for pair in torch.cat([before, content], dim=2).unbind(1):
            state = self.memory(pair, state)
            remembered.append(state[0])
        memory = torch.stack(remembered, dim=1).flatten(0, 1)
        content = content.flatten(0, 1)
        attended = content * self.attend(torch.cat([content, memory], dim=1)).sigmoid()
        both = torch.cat([attended, memory], dim=1).flatten(1)
        vector = self.dropout(functional.relu(self.connect(both)))
        return self.head(vector), self.motion(memory.flatten(1))

    def forward(self, maps_BTChw: Tensor) -> PredictedPose:
        """Poses (B * T) of clips."""
        return self.follow(maps_BTChw)[0]


def objective(network: nn.Module, step: Step, clips_BT: Tensor, config: LsgConfig) -> Tensor:
    """The losses of the poses, of the motions, and of the poses' steps along the clip."""
    del config
    assert isinstance(network, Lsg)
    index_X = clips_BT.flatten()
    position_X3, rotation_X33 = step.looks.position_L3[index_X], step.looks.rotation_L33[index_X]
    poses, motions = network.follow(step.looks.maps(clips_BT))
    loss = step.loss(poses, position_X3, rotation_X33)
    first_E, second_E = neighbours(len(clips_BT), clips_BT.shape[1], clips_BT.device)
    if len(first_E) == 0:
        return loss
    first_from_world_E33 = rotation_X33[first_E].mT
    moved_E31 = (position_X3[second_E] - position_X3[first_E])[..., None]
    predicted = PredictedPose(motions.position_B3[second_E], motions.rotation_BK[second_E])
    local = network.odometry(
        predicted,
        (first_from_world_E33 @ moved_E31)[..., 0],
        first_from_world_E33 @ rotation_X33[second_E],
    )
    joint = network.joint(poses, position_X3, rotation_X33, first_E, second_E, step.loss.weighting)
    return loss + local + joint


build_map, localizer = steps_of(SequenceDesign(Lsg, objective, answer_in_clips))

METHOD = Method(
    name="lsg",
    family="absolute",
    summary="Motion over a clip guides what each frame attends to; losses of motion and pose.",
    paper="Xue et al., Local Supports Global: Deep Camera Relocalization with Sequence "
    "Enhancement, ICCV 2019",
    published="0.19 m, 7.5° (7-Scenes, mean of medians; 7 frames); not reproduced",
    config=LsgConfig,
    tiny=LsgConfig(**{**TINY, "batch_size": 8}, memory=16),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
    presets={
        "paper": LsgConfig(
            clip_length=7, width=2048, train_trunk=True, short_side_px=256, pooling=1
        )
    },
)
