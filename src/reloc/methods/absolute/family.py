"""The absolute pose family: a network that is shown an image answers with its pose.

Map: feature maps of the mapping views in several directions, from a trunk that is not trained, and
a network that learns the poses from them. Query: trunk, network, pose. A method is a `Design`: its
network, and where the paper changes them, its loss and how its outputs are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import PoseEstimate, Run, Tensors, UnfinishedMapError
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.looks import (
    Look,
    SmallCamera,
    Turning,
    look_list,
    shows_something,
    take_look,
)
from reloc.nn.backbones import Trunk, TrunkName, load_trunk
from reloc.nn.backbones.checkpoint import checkpoint_sha256
from reloc.nn.pose_losses import PoseLoss, PoseLossConfig, PredictedPose
from reloc.nn.rotations import PARAMETRIZATIONS, RotationName
from reloc.nn.saliency import Explanation, smooth_gradient
from reloc.nn.weights import encoder_sha256
from reloc.scenes.scene import Query, View
from reloc.training.fit import FitConfig, fit
from reloc.training.prefetch import prefetch
from reloc.training.schedule import one_cycle
from reloc.training.stages import kept, stage

_NETWORK = "network."
# Pictures that the trunk is shown at once.
_BATCH_OF_PICTURES = 16
# Noise of pictures in [0, 1] under which an answer is explained.
_SALIENCY_NOISE = 0.1


@dataclass(frozen=True)
class AbsoluteConfig:
    """Settings of absolute pose regression."""

    trunk: TrunkName = "encoder"
    """What makes feature maps of images, and is not trained. All but encoder need their weights."""
    trunk_weights: str = ""
    """File of the trunk's weights, under torchvision's names; "" for the encoder's own."""
    short_side_px: int = 160
    """Images are brought to this shorter side."""
    pooling: int = 2
    """Cells of the trunk's maps that are averaged, along each side."""
    num_looks: int = 1450
    """Pictures that the trunk is shown: those of views that differ, or each in several
    directions where there are fewer."""
    turning: Turning = field(default_factory=Turning)
    """How far the mapping views are turned."""
    channels: int = 96
    """Of the convolutions that are trained."""
    width: int = 512
    """Of the fully connected layer behind them; the papers have 2048."""
    dropout: float = 0.5
    """Share of its outputs that are left out in training."""
    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(default_factory=PoseLossConfig)
    """Which loss."""
    steps: int = 600
    """Steps of training."""
    batch_size: int = 64
    """Pictures of a step."""
    max_learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""

    def __post_init__(self) -> None:
        for name in (
            "short_side_px", "pooling", "num_looks", "channels", "width", "steps", "batch_size"
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.channels % 8:
            raise ValueError(f"channels is {self.channels}; it must be a multiple of 8")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        if self.rotation == "euler-bins" and self.loss.distance != "raw":
            raise ValueError("euler-bins are learned with the distance raw")


TINY: dict[str, Any] = {
    "short_side_px": 80,
    "pooling": 1,
    "num_looks": 120,
    "channels": 32,
    "width": 128,
    "steps": 80,
    "batch_size": 32,
}
"""Settings of the tests: a second on one core."""

RARELY_BEATS_RETRIEVAL = {
    "beats_the_trivial_baseline": "absolute pose regression rarely beats retrieval "
    "(Sattler et al., CVPR 2019), least of all from forty views in a second; it beats the mean pose"
}
"""The exemption of every row of the family."""

ConfigT = TypeVar("ConfigT", bound=AbsoluteConfig)
Shape = tuple[int, int, int]
"""Channels, height and width of a feature map."""


@dataclass(frozen=True, eq=False)
class Looks:
    """The mapping views as the network learns them, in the order of the views.

    Attributes:
        maps_LChw: float16 feature maps.
        position_L3: camera centres in the map's frame and unit, float32.
        rotation_L33: frame_from_cam, float32.
        view_L: index of each look's view.
    """

    maps_LChw: Tensor
    position_L3: Tensor
    rotation_L33: Tensor
    view_L: Tensor

    def __len__(self) -> int:
        return len(self.view_L)

    @property
    def shape(self) -> Shape:
        """Of a feature map."""
        channels, height, width = self.maps_LChw.shape[1:]
        return channels, height, width

    def maps(self, index_B: Tensor) -> Tensor:
        """Some of the maps, as the network takes them."""
        return self.maps_LChw[index_B].float()

    def to(self, device: str) -> Looks:
        """On a device."""
        return Looks(
            self.maps_LChw.to(device),
            self.position_L3.to(device),
            self.rotation_L33.to(device),
            self.view_L.to(device),
        )


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

    network: Callable[[Shape, ConfigT], nn.Module]
    objective: Callable[[nn.Module, Step, ConfigT], Tensor] = plain_objective
    answer: Callable[[nn.Module, Tensor, Frame, ConfigT], PoseEstimate] = plain_answer
    prepare: Callable[[nn.Module, Looks, ConfigT], None] | None = None
    views: Callable[[Sequence[View], ConfigT, Run], Sequence[View]] | None = None


def build_map(
    views: Sequence[View], design: Design[ConfigT], config: ConfigT, run: Run
) -> dict[str, Tensor]:
    """Train a network on the mapping views.

    Raises:
        InputError: no view can be read and shows something, or all are taken from one place.
    """
    frame = Frame.from_views(views)
    camera = SmallCamera.of(views, config.short_side_px)
    known = {
        **frame.tensors,
        "small_camera": camera.tensor,
        "trunk_sha256": text_to_tensor([trunk_sha256(config)]),
    }
    made = design.views(views, config, run) if design.views else views
    tensors = kept(run, "looks", lambda part: encode_looks(made, camera, frame, config, part))
    looks = Looks(**tensors).to(run.device)
    known["map_shape"] = torch.tensor(looks.shape)
    network = new_network(design, looks.shape, config, run)
    if design.prepare:
        design.prepare(network, looks, config)
    try:
        train(network, looks, design, config, stage(run, "training"))
    except KeyboardInterrupt:
        raise UnfinishedMapError({**known, **network_tensors(network)}) from None
    return {**known, **network_tensors(network)}


def new_network(design: Design[ConfigT], shape: Shape, config: ConfigT, run: Run) -> nn.Module:
    """The network of a design, its weights drawn by the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return design.network(shape, config).to(run.device)


def train(
    network: nn.Module, looks: Looks, design: Design[ConfigT], config: ConfigT, run: Run
) -> None:
    """Train a network in place by the objective of its design."""
    loss = PoseLoss(config.loss, config.rotation).to(run.device)
    generator = torch.Generator()

    def loss_at(number: int) -> Tensor:
        seed = run.seed * 1_000_003 + number
        # Dropout draws from the process, and leaves it as it was.
        with torch.random.fork_rng(devices=[run.device] if run.device != "cpu" else []):
            torch.manual_seed(seed)
            step = Step(looks, generator.manual_seed(seed), number / config.steps, loss)
            return design.objective(network, step, config)

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: one_cycle(step, config.steps, config.max_learning_rate, 0.1),
        # Log-variances must not be drawn to zero, and dropout keeps the weights in bounds.
        weight_decay=0.0,
        checkpoint_s=20.0,
    )
    network.train()
    trained = nn.ModuleDict({"network": network, "loss": loss})
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


def trunk_sha256(config: AbsoluteConfig) -> str:
    """What a map names the trunk by that it needs.

    Raises:
        InputError: the weights cannot be read.
    """
    if config.trunk == "encoder":
        return encoder_sha256("base")
    return checkpoint_sha256(Path(config.trunk_weights)) if config.trunk_weights else ""


def trunk_of(config: AbsoluteConfig, run: Run) -> Trunk:
    """The trunk of a config.

    Raises:
        InputError: its weights are missing.
    """
    weights = Path(config.trunk_weights) if config.trunk_weights else None
    return load_trunk(config.trunk, weights).to(run.device)


def encode_looks(
    views: Sequence[View], camera: SmallCamera, frame: Frame, config: AbsoluteConfig, run: Run
) -> dict[str, Tensor]:
    """The tensors of `Looks`. A view that cannot be read, or shows nothing, is named in the log.

    Raises:
        InputError: no view can be used.
    """
    trunk = trunk_of(config, run)
    by_view: dict[int, list[Look]] = {}
    for look in look_list(len(views), config.num_looks, run.seed):
        by_view.setdefault(look.view, []).append(look)

    def pictures_of(index: int) -> list[tuple[NDArray[np.uint8], Rigid3d]]:
        view = views[index]
        try:
            image_3HW = view.read_image()
            return [
                take_look(view, image_3HW, look, camera, config.turning) for look in by_view[index]
            ]
        except InputError as error:
            run.log.warning("left out: %s", error)
            return []

    maps: list[Tensor] = []
    poses: list[Rigid3d] = []
    indices: list[int] = []
    waiting: list[NDArray[np.uint8]] = []
    coming = prefetch(pictures_of, by_view)
    for index in run.progress.track(list(by_view), "encoding"):
        for picture, cam_from_world in next(coming):
            waiting.append(picture)
            poses.append(cam_from_world)
            indices.append(index)
        if len(waiting) >= _BATCH_OF_PICTURES:
            maps.append(encode(trunk, waiting, config.pooling, run).half().cpu())
            waiting = []
    if waiting:
        maps.append(encode(trunk, waiting, config.pooling, run).half().cpu())
    if not maps:
        raise InputError(f"none of the {len(views)} mapping images can be read and has texture")
    position_L3, rotation_L33 = frame.poses(Rigid3d.stack(poses))
    return {
        "maps_LChw": torch.cat(maps),
        "position_L3": position_L3,
        "rotation_L33": rotation_L33,
        "view_L": torch.tensor(indices),
    }


@torch.no_grad()
def encode(
    trunk: nn.Module, pictures: Sequence[NDArray[np.uint8]], pooling: int, run: Run
) -> Tensor:
    """Feature maps (B, C, h, w) float32 of pictures (h, w, 3) of one size."""
    rgb_B3HW = torch.from_numpy(np.stack(pictures)).to(run.device).permute(0, 3, 1, 2).float() / 255
    return pooled(trunk(rgb_B3HW), pooling)


def pooled(map_BChw: Tensor, pooling: int) -> Tensor:
    """The mean over squares of cells; at least one cell is left."""
    size = [max(1, side // pooling) for side in map_BChw.shape[-2:]]
    return functional.adaptive_avg_pool2d(map_BChw, size)


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
        in_clips: bool = False,
    ) -> None:
        """Open a map.

        Args:
            tensors: of the map.
            design: of the method.
            config: that the map was built with.
            run: device, seed.
            in_clips: whether the network takes clips (B, T, C, h, w).

        Raises:
            InputError: the trunk's weights are missing or others.
        """
        check_trunk(tensors, config)
        self._in_clips = in_clips
        self._design, self._config, self._run = design, config, run
        self._frame = Frame.from_tensors(tensors)
        self._camera = SmallCamera.from_tensor(tensors["small_camera"])
        self._trunk = trunk_of(config, run)
        self.network = network_of(design, tensors, config, run)

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> PoseEstimate:
        map_1Chw = self.map_of(query)
        if map_1Chw is None:
            return PoseEstimate(None)
        # Also where a method draws or takes gradients, the process stays as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._run.seed)
            return self._design.answer(self.network, map_1Chw, self._frame, self._config)

    def explain(self, query: Query, num_samples: int) -> Explanation | None:
        """What the pose of a query hangs on; of a sequence method, that of the frame alone."""
        picture = self._camera.picture(query.image, query.camera)
        if not shows_something(picture):
            return None
        rgb_13HW = torch.from_numpy(picture).to(self._run.device).permute(2, 0, 1)[None] / 255
        generator = torch.Generator().manual_seed(self._run.seed)

        def gradient(part: Callable[[PredictedPose], Tensor]) -> Tensor:
            def outputs_of(rgb_13HW: Tensor) -> Tensor:
                map_1Chw = pooled(self._trunk(rgb_13HW), self._config.pooling)
                return part(self.network(map_1Chw[None] if self._in_clips else map_1Chw))

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._run.seed)
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


def check_trunk(tensors: Tensors, config: AbsoluteConfig) -> None:
    """See that a map's trunk is the one that is here.

    Raises:
        InputError: it is another one.
    """
    if tensor_to_text(tensors["trunk_sha256"]) != [trunk_sha256(config)]:
        raise InputError(
            f"the map needs other weights of the trunk {config.trunk} than are here: build it anew"
        )


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
