"""What VLocNet and VLocNet++ share: frame after frame, with the last answer as an input.

The pose that is fed back is the predicted one, in training and when asked: with the true one, which
nobody has when asked, the network would learn to copy it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.absolute.family import Step, pose_of
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.sequences import SequenceConfig
from reloc.nn.pose_layers import ConvStage, PoseHead, halved
from reloc.nn.pose_losses import PoseLoss, PredictedPose, RelativeLoss, neighbours
from reloc.nn.rotations import PARAMETRIZATIONS, RotationName

# Channels that the pose before is lifted to.
_LIFTED = 8


@dataclass(frozen=True)
class FeedbackConfig(SequenceConfig):
    """Settings of a network that is fed its last answer."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    clip_length: int = 3
    """Frames that are learned together."""
    max_skip: int = 10
    """Most mapping views from one frame of a clip to the next."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What is known of the frame before.

    Attributes:
        pose_BP: its predicted position and rotation, without gradients; zeros before the first.
        shared_BChw: its map.
    """

    pose_BP: Tensor
    shared_BChw: Tensor


class FeedbackNetwork(nn.Module):
    """One shared stage; a stream for the pose, which is shown the pose before; one for motion."""

    def __init__(self, shape: Shape, config: FeedbackConfig) -> None:
        super().__init__()
        channels, width = config.channels, config.width
        self._inner = (halved(shape[1]), halved(shape[2]))
        cells = halved(self._inner[0]) * halved(self._inner[1])
        self._pose_size = 3 + PARAMETRIZATIONS[config.rotation].size
        self.shared = ConvStage(shape[0], channels)
        self.lift = nn.Linear(self._pose_size, _LIFTED * self._inner[0] * self._inner[1])
        self.global_stage = ConvStage(channels + _LIFTED, channels)
        self.global_vector = nn.Linear(channels * cells, width)
        self.head = PoseHead(width, config.rotation)
        self.motion_stage = ConvStage(2 * channels, channels)
        self.motion_vector = nn.Linear(channels * cells, width)
        self.motion_head = PoseHead(width, config.rotation)
        self.dropout = nn.Dropout(config.dropout)
        self.consistent = RelativeLoss(config.loss, config.rotation, "frame")
        self.odometry = PoseLoss(config.loss, config.rotation)

    def forward(self, maps_BTChw: Tensor) -> PredictedPose:
        """Poses (B * T) of clips, from their first frames on."""
        predicted, _ = self.follow(maps_BTChw)
        return predicted

    def follow(self, maps_BTChw: Tensor) -> tuple[PredictedPose, PredictedPose]:
        """Poses (B * T), and the motions (B * (T - 1)) from each frame to the next."""
        memory, poses, motions = None, [], []
        for map_BChw in maps_BTChw.unbind(1):
            pose, motion, memory = self.step(map_BChw, memory)
            poses.append(pose)
            if motion is not None:
                motions.append(motion)
        return _interleaved(poses), _interleaved(motions or poses[:1])

    def step(
        self, map_BChw: Tensor, memory: Memory | None
    ) -> tuple[PredictedPose, PredictedPose | None, Memory]:
        """The pose of a frame, its motion since the frame before, and what to remember of it."""
        shared = self.shared(map_BChw)
        if memory is None:
            motion = None
            before = shared.new_zeros(len(shared), self._pose_size)
            fused = self.fused(map_BChw, shared, torch.zeros_like(shared))
        else:
            both = torch.cat([memory.shared_BChw, shared], dim=1)
            vector = functional.relu(self.motion_vector(self.motion_stage(both).flatten(1)))
            motion, before = self.motion_head(self.dropout(vector)), memory.pose_BP
            fused = self.fused(map_BChw, shared, memory.shared_BChw)
        lifted = functional.relu(self.lift(before)).unflatten(1, (_LIFTED, *self._inner))
        hidden = self.global_stage(torch.cat([fused, lifted], dim=1))
        vector = functional.relu(self.global_vector(hidden.flatten(1)))
        pose = self.head(self.dropout(vector))
        numbers = torch.cat([pose.position_B3, pose.rotation_BK], dim=1).detach()
        return pose, motion, Memory(numbers, shared)

    def fused(self, map_BChw: Tensor, shared_BChw: Tensor, before_BChw: Tensor) -> Tensor:
        """What the stream of the pose is shown of this frame and of the one before.

        Args:
            map_BChw: the trunk's, of this frame.
            shared_BChw: what the shared stage makes of it.
            before_BChw: what it made of the frame before; zeros before the first.
        """
        del map_BChw, before_BChw
        return shared_BChw


def objective(network: nn.Module, step: Step, clips_BT: Tensor, config: FeedbackConfig) -> Tensor:
    """The losses of the poses, of their steps in the cameras' frames, and of the motions."""
    del config
    return pose_loss(network, step, clips_BT, step.looks.maps(clips_BT))


def pose_loss(network: nn.Module, step: Step, clips_BT: Tensor, maps_BTChw: Tensor) -> Tensor:
    """As `objective`, of the maps of the clips."""
    assert isinstance(network, FeedbackNetwork)
    index_X = clips_BT.flatten()
    position_X3, rotation_X33 = step.looks.position_L3[index_X], step.looks.rotation_L33[index_X]
    poses, motions = network.follow(maps_BTChw)
    loss = step.loss(poses, position_X3, rotation_X33)
    if clips_BT.shape[1] == 1:
        return loss
    first_E, second_E = neighbours(len(clips_BT), clips_BT.shape[1], clips_BT.device)
    moved_E3 = position_X3[second_E] - position_X3[first_E]
    first_from_world_E33 = rotation_X33[first_E].mT
    true_move_E3 = (first_from_world_E33 @ moved_E3[..., None])[..., 0]
    true_turn_E33 = first_from_world_E33 @ rotation_X33[second_E]
    consistent = network.consistent(
        poses, position_X3, rotation_X33, first_E, second_E, step.loss.weighting
    )
    return loss + consistent + network.odometry(motions, true_move_E3, true_turn_E33)


def answer_frame_by_frame(
    network: nn.Module, maps_NChw: Tensor, frame: Frame, config: FeedbackConfig
) -> Rigid3d:
    """Poses (N) of consecutive frames, each after the one before."""
    assert isinstance(network, FeedbackNetwork)
    memory, poses = None, []
    for map_1Chw in maps_NChw.split(1):
        pose, _, memory = network.step(map_1Chw, memory)
        poses.append(pose_of(pose, frame, config)[0])
    return Rigid3d.stack(poses)


def _interleaved(parts: list[PredictedPose]) -> PredictedPose:
    """T predictions of B clips as B * T, clip by clip."""
    position = torch.stack([part.position_B3 for part in parts], dim=1).flatten(0, 1)
    rotation = torch.stack([part.rotation_BK for part in parts], dim=1).flatten(0, 1)
    return PredictedPose(position, rotation)
