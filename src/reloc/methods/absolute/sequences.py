"""The sequence half of the family: clips of neighbouring frames are learned and asked together.

A network of a sequence method takes maps (B, T, C, h, w) and predicts B * T poses, clip by clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.absolute import family
from reloc.methods.absolute.config import AbsoluteConfig
from reloc.methods.absolute.family import AbsoluteLocalizer, Design, Step, pose_of
from reloc.methods.absolute.features import Shape
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.odometry import frame_to_frame
from reloc.methods.absolute.pose_graph import optimized
from reloc.nn.pose_layers import Regressor
from reloc.nn.pose_losses import RelativeLoss, neighbours
from reloc.nn.saliency import Explanation
from reloc.scenes.scene import Query, View


@dataclass(frozen=True)
class SequenceConfig(AbsoluteConfig):
    """Settings of a method that is asked frame after frame."""

    clip_length: int = 5
    """Frames that are learned, and asked, together."""
    max_skip: int = 5
    """Most mapping views from one frame of a clip to the next."""
    batch_size: int = 16
    """Clips of a step."""
    pgo: bool = False
    """Mend the answers by a pose graph with visual odometry between the query's frames (needs the
    extra: pip install "reloc[posegraph]")."""
    pgo_window: int = 7
    """Frames of a pose graph; the answer is that of the middle one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.clip_length, self.max_skip, self.pgo_window) < 1:
            raise ValueError("clip_length, max_skip and pgo_window must be at least 1")


SequenceConfigT = TypeVar("SequenceConfigT", bound=SequenceConfig)


@dataclass(frozen=True, eq=False)
class Clips:
    """Where clips can be cut from the looks of the mapping views.

    Attributes:
        first_U: first look of each view that is used, in the order of the views.
        count_U: how many looks it has.
        begin_U: first used view of the same sequence...
        end_U: ...and the last.
    """

    first_U: Tensor
    count_U: Tensor
    begin_U: Tensor
    end_U: Tensor

    @staticmethod
    def of(view_L: Tensor, sequence_of_view: Sequence[str]) -> Clips:
        """From the view of each look, in the order of the views, and the sequence of each view."""
        used_U, count_U = view_L.cpu().unique_consecutive(return_counts=True)
        first_U = count_U.cumsum(0) - count_U
        names = [sequence_of_view[view] for view in used_U.tolist()]
        begin, end = list(range(len(names))), list(range(len(names)))
        for index in range(1, len(names)):
            if names[index] == names[index - 1]:
                begin[index] = begin[index - 1]
        for index in reversed(range(len(names) - 1)):
            if names[index] == names[index + 1]:
                end[index] = end[index + 1]
        return Clips(first_U, count_U, torch.tensor(begin), torch.tensor(end))

    def draw(self, count: int, length: int, max_skip: int, generator: torch.Generator) -> Tensor:
        """Looks (count, length) of clips: a random frame, and those so many views further on.

        A clip that would leave its sequence stays on its last frame. Some run backwards.
        """
        start_B = torch.randint(len(self.first_U), (count,), generator=generator)
        skip_B = torch.randint(1, max_skip + 1, (count,), generator=generator)
        skip_B *= 2 * torch.randint(0, 2, (count,), generator=generator) - 1
        frames_BT = start_B[:, None] + skip_B[:, None] * torch.arange(length)
        frames_BT = torch.minimum(frames_BT, self.end_U[start_B][:, None])
        frames_BT = torch.maximum(frames_BT, self.begin_U[start_B][:, None])
        which = torch.rand(frames_BT.shape, generator=generator) * self.count_U[frames_BT]
        return self.first_U[frames_BT] + which.long()


@dataclass(frozen=True, eq=False)
class SequenceDesign:
    """What a sequence method changes.

    Attributes:
        network: makes one: maps (B, T, C, h, w) to a `PredictedPose` of B * T.
        objective: the loss of clips, given the looks (B, T) of each.
        answer: maps (T, C, h, w) of a query's frames, one sequence, to T poses.
    """

    network: Callable[[Shape, Any], nn.Module]
    objective: Callable[[nn.Module, Step, Tensor, Any], Tensor]
    answer: Callable[[nn.Module, Tensor, Frame, Any], Rigid3d]


class ClipRegressor(Regressor):
    """Image vector to position and rotation, each frame for itself; a loss of the steps."""

    def __init__(self, shape: Shape, config: SequenceConfig) -> None:
        super().__init__(shape, config.channels, config.width, config.dropout, config.rotation)
        self.relative = RelativeLoss(config.loss, config.rotation, "difference")


def plain_objective(network: nn.Module, step: Step, clips_BT: Tensor, config: Any) -> Tensor:
    """The loss of the poses of all frames."""
    del config
    index_X = clips_BT.flatten()
    predicted = network(step.looks.maps(clips_BT))
    return step.loss(predicted, step.looks.position_L3[index_X], step.looks.rotation_L33[index_X])


def with_steps_objective(network: nn.Module, step: Step, clips_BT: Tensor, config: Any) -> Tensor:
    """The loss of the poses, and by `network.relative` that of the steps from each to the next.

    Of clips of one frame, that of the poses: they have no steps.
    """
    if clips_BT.shape[1] == 1:
        return plain_objective(network, step, clips_BT, config)
    index_X = clips_BT.flatten()
    position_X3, rotation_X33 = step.looks.position_L3[index_X], step.looks.rotation_L33[index_X]
    predicted = network(step.looks.maps(clips_BT))
    pairs = neighbours(len(clips_BT), clips_BT.shape[1], clips_BT.device)
    relative = network.get_submodule("relative")
    steps = relative(predicted, position_X3, rotation_X33, *pairs, step.loss.weighting)
    return step.loss(predicted, position_X3, rotation_X33) + steps


def answer_in_clips(
    network: nn.Module, maps_NChw: Tensor, frame: Frame, config: SequenceConfig
) -> Rigid3d:
    """Poses (N) of consecutive frames, clip by clip; the last clip reaches back where it must.

    A sequence shorter than a clip is asked with its last frame repeated.
    """
    length, count = config.clip_length, len(maps_NChw)
    starts = list(range(0, max(count - length, 0) + 1, length))
    if starts[-1] + length < count:
        starts.append(count - length)
    poses: list[Rigid3d] = [Rigid3d.identity()] * count
    for start in starts:
        numbers = [min(start + offset, count - 1) for offset in range(length)]
        clip = pose_of(network(maps_NChw[numbers][None]), frame, config)
        for offset, number in enumerate(range(start, min(start + length, count))):
            poses[number] = clip[offset]
    return Rigid3d.stack(poses)


def build_map(
    views: Sequence[View],
    design: SequenceDesign,
    config: SequenceConfig,
    run: Run,
    more: Tensors | None = None,
) -> dict[str, Tensor]:
    """Train a network on clips of the mapping views. `more`: what else the map must hold.

    Views of one sequence are its frames in the order of the list, those without a sequence, too.

    Raises:
        InputError: no view can be read and shows something, or all are taken from one place.
    """
    names = [view.sequence for view in views]
    cache: dict[int, Clips] = {}

    def objective(network: nn.Module, step: Step, config: SequenceConfig) -> Tensor:
        clips = cache.setdefault(0, Clips.of(step.looks.view_L, names)) if not cache else cache[0]
        clips_BT = clips.draw(
            config.batch_size, config.clip_length, config.max_skip, step.generator
        )
        device = step.looks.view_L.device
        return design.objective(network, step, clips_BT.to(device), config)

    return family.build_map(views, Design(design.network, objective=objective), config, run, more)


class SequenceLocalizer:
    """Answers the frames of each sequence together. Declines frames that show nothing."""

    def __init__(
        self, tensors: Tensors, design: SequenceDesign, config: SequenceConfig, run: Run
    ) -> None:
        # As many copies of a photo as it is asked with when it is asked alone.
        copies = config.clip_length if design.answer is answer_in_clips else 1
        alone: AbsoluteLocalizer[Any] = AbsoluteLocalizer(
            tensors, Design(design.network), config, run, copies
        )
        self._alone, self._design, self._config, self._run = alone, design, config, run
        self._frame = Frame.from_tensors(tensors)

    @property
    def network(self) -> nn.Module:
        """That answers."""
        return self._alone.network

    def explain(self, query: Query, num_samples: int) -> Explanation | None:
        """What the pose of a query hangs on, asked as a photo by itself."""
        return self._alone.explain(query, num_samples)

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, in order; those of one sequence are its frames in order.

        A query without a sequence is a photo by itself.
        """
        by_sequence: dict[str | int, list[int]] = {}
        for number, query in enumerate(queries):
            by_sequence.setdefault(query.sequence or number, []).append(number)
        answers = [PoseEstimate(None)] * len(queries)
        for numbers in by_sequence.values():
            seen = [
                (number, map_1Chw)
                for number in numbers
                if (map_1Chw := self._alone.map_of(queries[number])) is not None
            ]
            if not seen:
                continue
            maps_NChw = torch.cat([map_1Chw for _, map_1Chw in seen])
            with torch.no_grad():
                poses = self._design.answer(self.network, maps_NChw, self._frame, self._config)
            if self._config.pgo:
                frames = [queries[number] for number, _ in seen]
                window = self._config.pgo_window
                poses = optimized(poses, frame_to_frame(frames, self._run), window)
            for index, (number, _) in enumerate(seen):
                answers[number] = PoseEstimate(poses[index])
        return answers


def steps_of(
    design: SequenceDesign,
) -> tuple[
    Callable[[Sequence[View], SequenceConfigT, Run], Tensors],
    Callable[[Tensors, SequenceConfigT, Run], SequenceLocalizer],
]:
    """`build_map` and `localizer` of a method that is all in its design."""

    def build(views: Sequence[View], config: SequenceConfigT, run: Run) -> Tensors:
        return build_map(views, design, config, run)

    def localizer(tensors: Tensors, config: SequenceConfigT, run: Run) -> SequenceLocalizer:
        return SequenceLocalizer(tensors, design, config, run)

    return build, localizer
