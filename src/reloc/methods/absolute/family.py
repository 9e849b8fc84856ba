"""The absolute pose family: a network that is shown an image answers with its pose.

Map: feature maps of the mapping views in several directions, from a trunk, and a network that
learns the poses from them; the trunk is frozen, or trained with it. Query: trunk, network, pose. A
method is a `Design`: its network, and where the paper changes them, its loss and how its outputs
are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from reloc.contract import PoseEstimate, Run, Tensors, UnfinishedMapError
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import DivergedError
from reloc.methods.absolute.config import AbsoluteConfig
from reloc.methods.absolute.features import Looks, Shape, looks_of
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.looks import SmallCamera, shows_something
from reloc.methods.absolute.trunks import (
    encode,
    named_trunk,
    pooled,
    refuse_too_small,
    trunk_in,
    trunk_tensors,
)
from reloc.nn.pose_layers import Regressor
from reloc.nn.pose_losses import PoseLoss, PredictedPose
from reloc.nn.rotations import PARAMETRIZATIONS
from reloc.nn.saliency import Explanation, smooth_gradient
from reloc.scenes.scene import Query, View
from reloc.training.fit import FitConfig, fit
from reloc.training.schedule import one_cycle
from reloc.training.stages import stage

_NETWORK = "network."
# Noise of pictures in [0, 1] under which an answer is explained.
_SALIENCY_NOISE = 0.1

ConfigT = TypeVar("ConfigT", bound=AbsoluteConfig)


@dataclass(frozen=True, eq=False)
class Step:
    """A step of training, for an objective.

    Attributes:
        looks: all that is learned.
        generator: of what is random in the step.
        done: share of the training that is done.
        loss: of poses.
    """

    looks: Looks
    generator: torch.Generator
    done: float
    loss: PoseLoss

    def draw(self, count: int) -> Tensor:
        """Random looks."""
        index_B = torch.randint(len(self.looks), (count,), generator=self.generator)
        return index_B.to(self.looks.view_L.device)


def plain_network(shape: Shape, config: AbsoluteConfig) -> nn.Module:
    """Image vector to position and rotation."""
    return Regressor(shape, config.channels, config.width, config.dropout, config.rotation)


def plain_objective(network: nn.Module, step: Step, config: AbsoluteConfig) -> Tensor:
    """The loss of the poses of random looks."""
    index_B = step.draw(config.batch_size)
    predicted = network(step.looks.maps(index_B))
    return step.loss(predicted, step.looks.position_L3[index_B], step.looks.rotation_L33[index_B])


def plain_answer(
    network: nn.Module, map_1Chw: Tensor, frame: Frame, config: AbsoluteConfig
) -> PoseEstimate:
    """The pose that the network predicts."""
    return PoseEstimate(pose_of(network(map_1Chw), frame, config)[0])


def pose_of(predicted: PredictedPose, frame: Frame, config: AbsoluteConfig) -> Rigid3d:
    """Predicted numbers as cam_from_world (B)."""
    rotation_B33 = PARAMETRIZATIONS[config.rotation].to_matrix(predicted.rotation_BK.float())
    return frame.cam_from_world(predicted.position_B3.float(), rotation_B33)


@dataclass(frozen=True, eq=False)
class Design(Generic[ConfigT]):
    """What a method changes.

    Attributes:
        network: makes one, from the shape of its maps: maps (B, C, h, w) to a `PredictedPose`.
        objective: the loss of a step.
        answer: reads the outputs for one query.
        prepare: sets what the network must know of the poses before it is trained, in place.
        views: what the mapping views are learned as; more of them, where a method makes them.
    """

    network: Callable[[Shape, ConfigT], nn.Module] = plain_network
    objective: Callable[[nn.Module, Step, ConfigT], Tensor] = plain_objective
    answer: Callable[[nn.Module, Tensor, Frame, ConfigT], PoseEstimate] = plain_answer
    prepare: Callable[[nn.Module, Looks, ConfigT], None] | None = None
    views: Callable[[Sequence[View], ConfigT, Run], Sequence[View]] | None = None


def build_map(
    views: Sequence[View],
    design: Design[ConfigT],
    config: ConfigT,
    run: Run,
    more: Tensors | None = None,
) -> dict[str, Tensor]:
    """Train a network on the mapping views.

    Args:
        views: of the scene.
        design: of the method.
        config: its settings.
        run: device, seed, progress.
        more: what else the map must hold, also one that is not finished.

    Raises:
        InputError: no view can be read and shows something, all are taken from one place, the
            trunk's weights are missing or its pictures too small, or the training diverged.
    """
    frame = Frame.from_views(views)
    camera = SmallCamera.of(views, config.short_side_px)
    refuse_too_small(config, camera.width, camera.height)
    known = {
        **(more or {}),
        **frame.tensors,
        "small_camera": camera.tensor,
        **named_trunk(config),
    }
    made = design.views(views, config, run) if design.views else views
    looks = looks_of(made, camera, frame, config, run)
    known["map_shape"] = torch.tensor(looks.shape)
    network = new_network(design, looks.shape, config, run)
    if design.prepare:
        with torch.no_grad():
            design.prepare(network, looks, config)
    try:
        train(network, looks, design, config, stage(run, "training"))
    except KeyboardInterrupt:
        raise UnfinishedMapError({**known, **_learned(network, looks)}) from None
    return {**known, **_learned(network, looks)}


def _learned(network: nn.Module, looks: Looks) -> dict[str, Tensor]:
    """What was trained, for a map.

    Raises:
        DivergedError: it is not finite.
    """
    tensors = {**network_tensors(network), **trunk_tensors(looks.trunk)}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise DivergedError("the training diverged: lower --max-learning-rate")
    return tensors


@contextmanager
def drawing(seed: int, run: Run) -> Iterator[None]:
    """What is random within hangs on the seed, and leaves the process's generators as they were."""
    device = torch.device(run.device)
    forked = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=forked):
        torch.manual_seed(seed)
        yield


def new_network(design: Design[ConfigT], shape: Shape, config: ConfigT, run: Run) -> nn.Module:
    """The network of a design, its weights drawn by the run's seed."""
    with drawing(run.seed, run):
        return design.network(shape, config).to(run.device)


def train(
    network: nn.Module, looks: Looks, design: Design[ConfigT], config: ConfigT, run: Run
) -> None:
    """Train a network in place by the objective of its design; and the trunk, if it is to be."""
    loss = PoseLoss(config.loss, config.rotation).to(run.device)
    generator = torch.Generator()

    def loss_at(number: int) -> Tensor:
        seed = run.seed * 1_000_003 + number
        # Dropout draws from the process.
        with drawing(seed, run):
            step = Step(looks, generator.manual_seed(seed), number / config.steps, loss)
            return design.objective(network, step, config)

    def rate_of(name: str) -> float:
        return config.trunk_rate if name.startswith("trunk.") else 1.0

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: one_cycle(step, config.steps, config.max_learning_rate, 0.1),
        # Log-variances must not be drawn to zero, and dropout keeps the weights in bounds.
        weight_decay=0.0,
        checkpoint_s=20.0,
        rate_of=None if looks.trunk is None else rate_of,
    )
    network.train()
    trained = nn.ModuleDict({"network": network, "loss": loss})
    if looks.trunk is not None:
        trained["trunk"] = looks.trunk
    fit(trained, loss_at, schedule, run, "training the map")
    network.eval()


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The weights for a map, in half precision."""
    return {
        _NETWORK + name: value.half() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }


def network_of(design: Design[ConfigT], tensors: Tensors, config: ConfigT, run: Run) -> nn.Module:
    """The network that a map holds, ready to answer."""
    channels, height, width = tensors["map_shape"].tolist()
    network = new_network(design, (channels, height, width), config, run)
    network.load_state_dict(
        {
            name.removeprefix(_NETWORK): value.float() if value.is_floating_point() else value
            for name, value in tensors.items()
            if name.startswith(_NETWORK)
        }
    )
    return network.eval().requires_grad_(False)


class AbsoluteLocalizer(Generic[ConfigT]):
    """Answers each query for itself. Declines what shows nothing.

    Attributes:
        network: that answers, from `maps_of` a query.
    """

    def __init__(
        self,
        tensors: Tensors,
        design: Design[ConfigT],
        config: ConfigT,
        run: Run,
        copies: int = 0,
    ) -> None:
        """Open a map.

        Args:
            tensors: of the map.
            design: of the method.
            config: that the map was built with.
            run: device, seed.
            copies: of a photo, as which a network that takes clips (B, T, C, h, w) is shown it; 0:
                the network takes no clips.

        Raises:
            InputError: the trunk's weights are missing or others.
        """
        self._copies = copies
        self._design, self._config, self._run = design, config, run
        self._frame = Frame.from_tensors(tensors)
        self._camera = SmallCamera.from_tensor(tensors["small_camera"])
        self._trunk = trunk_in(tensors, config, run)
        self.network = network_of(design, tensors, config, run)

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> PoseEstimate:
        map_1Chw = self.map_of(query)
        if map_1Chw is None:
            return PoseEstimate(None)
        with drawing(self._run.seed, self._run):
            return self._design.answer(self.network, map_1Chw, self._frame, self._config)

    def explain(self, query: Query, num_samples: int) -> Explanation | None:
        """What the pose of a query hangs on, asked by itself."""
        picture = self._camera.picture(query.image, query.camera)
        if not shows_something(picture):
            return None
        rgb_13HW = torch.from_numpy(picture).to(self._run.device).permute(2, 0, 1)[None] / 255
        generator = torch.Generator().manual_seed(self._run.seed)

        def gradient(part: Callable[[PredictedPose], Tensor]) -> Tensor:
            def outputs_of(rgb_13HW: Tensor) -> Tensor:
                maps = pooled(self._trunk(rgb_13HW), self._config.pooling)
                if self._copies:
                    maps = maps.expand(self._copies, -1, -1, -1)[None]
                return part(self.network(maps))[:1]

            # cuDNN's recurrent layers have gradients in training alone.
            without_cudnn = torch.backends.cudnn.flags(enabled=False)
            with drawing(self._run.seed, self._run), without_cudnn:
                return smooth_gradient(
                    outputs_of, rgb_13HW, num_samples, _SALIENCY_NOISE, generator
                ).cpu()

        return Explanation(
            torch.from_numpy(picture),
            gradient(lambda predicted: predicted.position_B3),
            gradient(lambda predicted: predicted.rotation_BK),
        )

    def map_of(self, query: Query) -> Tensor | None:
        """The feature map (1, C, h, w) of a query; None where it shows nothing."""
        picture = self._camera.picture(query.image, query.camera)
        if not shows_something(picture):
            return None
        return encode(self._trunk, [picture], self._config.pooling, self._run)


def steps_of(
    design: Design[ConfigT],
) -> tuple[
    Callable[[Sequence[View], ConfigT, Run], Tensors],
    Callable[[Tensors, ConfigT, Run], AbsoluteLocalizer[ConfigT]],
]:
    """`build_map` and `localizer` of a method that is all in its design."""

    def build(views: Sequence[View], config: ConfigT, run: Run) -> Tensors:
        return build_map(views, design, config, run)

    def localizer(tensors: Tensors, config: ConfigT, run: Run) -> AbsoluteLocalizer[ConfigT]:
        return AbsoluteLocalizer(tensors, design, config, run)

    return build, localizer
