"""Maps of several parts: a head for each cluster of the mapping views, and one map for them all.

A small head knows a room better than a street. The mapping views are split by what they see, each
part learns a head of its own, and of the answers of the parts the one counts on which the largest
share of its cells agrees.

Source: the ensemble ("Poker") of Brachmann, Cavallari and Prisacariu, "Accelerated coordinate
encoding", CVPR 2023, which splits the camera centres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from reloc.contract import Localizer, PoseEstimate, Run, Tensors, UnfinishedMapError
from reloc.geometry.clusters import bisect, extent
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.landmarks import FEWEST_LANDMARKS, place_landmarks
from reloc.methods.coordinates.localizer import (
    MAX_ITERATIONS,
    Asked,
    CoordinatesLocalizer,
    EncodedQuery,
    Watch,
    batches,
    encode_queries,
)
from reloc.methods.coordinates.looks import describe_parts, most_alike
from reloc.methods.coordinates.map_tensors import shared_encoder
from reloc.methods.coordinates.mapping import train_head
from reloc.methods.coordinates.points import Loss
from reloc.nn.shared_encoder import FrozenEncoder, encoder_of_map
from reloc.scenes.scene import Query, View
from reloc.training.stages import kept

Head = Literal["landmarks", "layers"]

# A part with fewer views is not worth a head.
_MIN_VIEWS = 8
# Samples of RANSAC are of so many points at most; one without an outlier is to be missed less often
# than this, and so many are drawn in any case.
_SAMPLE_SIZE, _MISSED, _FEWEST_SAMPLES = 4, 1e-4, 100


@dataclass(frozen=True)
class PartsConfig(CoordinatesConfig):
    """Settings of a map that may have several parts, and may live."""

    head: Head = "layers"
    """What says where a cell's point is: layers that are trained by reprojection, as in the paper;
    or landmarks, which are not trained but triangulated. Where too few can be, layers."""
    num_landmarks: int = 20_000
    """Most landmarks of a part, at 46 bytes each; 100 at least..."""
    key_length: int = 40
    """...with so many numbers of a byte to know each by; the codes have 128."""
    num_parts: int = 1
    """Heads, each for the mapping views that see another part of the place; fewer where there are
    few views."""
    num_asked: int = 0
    """Parts that a query is asked of: those that its image looks most like; 0: all of them."""
    replay_cells: int = 2048
    """Cells that the map keeps of its views, in all, at 140 bytes each, so that `reloc map
    --update` can teach it new views without forgetting the old; 0: none, and it cannot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_landmarks < FEWEST_LANDMARKS:
            raise ValueError(
                f"num_landmarks is {self.num_landmarks}; fewer than {FEWEST_LANDMARKS} make no "
                "map: --head layers needs none"
            )
        for name in ("key_length", "num_parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("num_asked", "replay_cells"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it cannot be negative")


def build_map(views: Sequence[View], config: PartsConfig, loss: Loss, run: Run) -> Tensors:
    """Split the mapping views and train a head for each part.

    Raises:
        InputError: no view can be read, or all are taken from one place.
    """
    encoder, made_with = shared_encoder(config, run)
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    parts = split_views(poses, config.num_parts)
    if len(parts) > 1:
        run.log.info("parts of %s views", ", ".join(str(len(part)) for part in parts))
    shared: Tensors = made_with
    if 0 < config.num_asked < len(parts):
        looks = partial(describe_parts, encoder, views, parts, config)
        shared = {**shared, **kept(run, "looks", looks)}
    try:
        heads = train_parts(encoder, views, parts, config, loss, run, config.replay_cells)
        return {**shared, **heads}
    except UnfinishedMapError as unfinished:
        raise UnfinishedMapError({**shared, **unfinished.tensors}) from None


def split_views(cam_from_world: Rigid3d, num_parts: int) -> list[list[int]]:
    """Indices of the views of each part: again and again the widest part is cut in two.

    Fewer parts where a cut would leave less than `_MIN_VIEWS` views, or views of a single place,
    which tell no depth.
    """
    parts = [torch.arange(len(cam_from_world.translation))]
    while len(parts) < num_parts:
        for part in sorted(parts, key=lambda part: -_spread(cam_from_world[part])):
            second = _cut(cam_from_world[part])
            if second is not None:
                at = next(number for number, other in enumerate(parts) if other is part)
                parts[at : at + 1] = [part[~second], part[second]]
                break
        else:
            break
    return [part.tolist() for part in parts]


def _cut(cam_from_world: Rigid3d) -> Tensor | None:
    """Which views are in the second half; None where they are better left together.

    Places that lie apart are cut between the cameras; one place is cut by what the cameras see.
    """
    centers_V3 = cam_from_world.inverse().translation
    second_V = bisect(centers_V3)
    if second_V is None:
        return None
    halves = centers_V3[~second_V], centers_V3[second_V]
    apart = float((halves[0].mean(0) - halves[1].mean(0)).norm())
    if apart < extent(halves[0]) + extent(halves[1]):
        second_V = bisect(_seen(cam_from_world))
    if second_V is None:
        return None
    for half in (centers_V3[~second_V], centers_V3[second_V]):
        if len(half) < _MIN_VIEWS or extent(half) < 1e-6 * extent(centers_V3):
            return None
    return second_V


def _seen(cam_from_world: Rigid3d) -> Tensor:
    """A point (V, 3) that each camera looks at: as far ahead as half the extent of the cameras.

    How far a place is seen is not known before it is mapped; that is the right order of magnitude
    in rooms and round buildings.
    """
    world_from_cam = cam_from_world.inverse()
    centers_V3 = world_from_cam.translation
    return centers_V3 + extent(centers_V3) / 2 * world_from_cam.rotation[:, :, 2]


def _spread(cam_from_world: Rigid3d) -> float:
    """Sum of the squared distances of what the cameras see from its mean."""
    seen_V3 = _seen(cam_from_world)
    return float((seen_V3 - seen_V3.mean(dim=0)).square().sum())


def train_parts(
    encoder: nn.Module,
    views: Sequence[View],
    parts: Sequence[Sequence[int]],
    config: CoordinatesConfig,
    loss: Loss,
    run: Run,
    replay_cells: int = 0,
) -> dict[str, Tensor]:
    """The heads of all parts, by name.

    Args:
        encoder: frozen.
        views: the mapping views.
        parts: indices of those of each part.
        config: of each head.
        loss: of a batch of cells.
        run: device, seed, progress.
        replay_cells: that the map keeps, in all.

    Raises:
        InputError: none of the views of a part can be read.
        UnfinishedMapError: interrupted, with the parts that were trained by then.
    """
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        prefix = _prefix(number, len(parts))
        train = partial(
            _build_part,
            encoder,
            [views[index] for index in part],
            config,
            loss,
            -(-replay_cells // len(parts)),
        )
        try:
            trained = kept(run, f"part_{number}", train)
        except UnfinishedMapError as unfinished:
            raise UnfinishedMapError(
                {**tensors, **with_prefix(unfinished.tensors, prefix)}
            ) from None
        except KeyboardInterrupt:
            if not tensors:
                raise
            raise UnfinishedMapError(tensors) from None
        tensors |= with_prefix(trained, prefix)
    return tensors


def _build_part(
    encoder: nn.Module,
    views: Sequence[View],
    config: CoordinatesConfig,
    loss: Loss,
    replay_cells: int,
    run: Run,
) -> Tensors:
    """Landmarks of some views, or a head of layers."""
    if isinstance(config, PartsConfig) and config.head == "landmarks":
        placed = place_landmarks(
            encoder, views, config, config.num_landmarks, config.key_length, run, replay_cells
        )
        if placed is not None:
            return placed
        run.log.warning("too few landmarks can be triangulated: layers are trained instead")
    return train_head(encoder, views, config, loss, run, replay_cells)


def _prefix(number: int, num_parts: int) -> str:
    """Of the names of a part's tensors; a map of one part needs none."""
    return f"part_{number}." if num_parts > 1 else ""


def with_prefix(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """The same tensors by longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def parts_of(tensors: Tensors) -> Mapping[str, Tensors]:
    """The parts that a map holds, by the prefix of their names: "" where there is but one."""
    prefixes = [name.removesuffix("center_3") for name in tensors if name.endswith("center_3")]
    prefixes.sort(key=lambda prefix: (len(prefix), prefix))
    return {
        prefix: {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        for prefix in prefixes
    }


# Codes of a query: the numbers of the parts to ask, in order, and how many samples of RANSAC each
# of them may draw.
Choose = Callable[[Tensor], Mapping[int, int]]


def localizer(tensors: Tensors, config: PartsConfig, run: Run) -> Localizer:
    """Answers with the shared encoder that the map was built on.

    Raises:
        InputError: the encoder that is installed is another one.
    """
    parts = parts_of(tensors)
    encoder = encoder_of_map(tensors, config.encoder, run)
    if "" in parts:
        return CoordinatesLocalizer(encoder, tensors, config, run)
    choose: Choose = partial(ask_all, len(parts))
    if "looks" in tensors:
        choose = partial(_ask_most_alike, tensors, len(parts), config)
    return PartsLocalizer(encoder, tensors, choose, config, run)


def ask_all(num_parts: int, codes_NC: Tensor) -> Mapping[int, int]:
    """Each part, with all the samples there are."""
    del codes_NC
    return dict.fromkeys(range(num_parts), MAX_ITERATIONS)


def _ask_most_alike(
    tensors: Tensors, num_parts: int, config: PartsConfig, codes_NC: Tensor
) -> Mapping[int, int]:
    """Those parts that the query looks most like."""
    # Of a map whose making was interrupted not all parts are there that views look like.
    there = [number for number in most_alike(tensors, codes_NC) if number < num_parts]
    return dict.fromkeys(there[: config.num_asked], MAX_ITERATIONS)


class PartsLocalizer:
    """Asks parts of a map one by one, and believes the one with the largest share of inliers."""

    def __init__(
        self,
        encoder: FrozenEncoder,
        tensors: Tensors,
        choose: Choose,
        config: CoordinatesConfig,
        run: Run,
    ) -> None:
        self._encoder, self._choose = encoder.to(run.device), choose
        self._config, self._run = config, run
        self._parts = [
            CoordinatesLocalizer(encoder, part, config, run) for part in parts_of(tensors).values()
        ]

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, each for itself."""
        short_side_px = self._config.short_side_px
        return [
            self._answer(encoded)
            for batch in batches(queries, self._run.device)
            for encoded in encode_queries(self._encoder, batch, short_side_px, self._run)
        ]

    def _answer(self, encoded: EncodedQuery) -> PoseEstimate:
        watch = Watch(self._run.device)
        asked = self._choose(encoded.codes_NC)
        choose_ms, head_ms, pose_ms = watch.lap_ms(), 0.0, 0.0
        best, settle = PoseEstimate(None), None
        for number, samples in asked.items():
            part = self._parts[number]
            points = part.points(encoded)
            head_ms += watch.lap_ms()
            limit = min(samples, _samples_to_match(best))
            answer = part.pose(encoded.query, *points, limit)
            pose_ms += watch.lap_ms()
            # Parts of landmarks and those of layers are asked of different numbers of cells.
            if (answer.inlier_ratio or 0.0) > (best.inlier_ratio or 0.0):
                best = answer
                settle = partial(part.settled, Asked(encoded, *points, answer))
        if settle is not None:
            best = settle()
            pose_ms += watch.lap_ms()
        stage_ms = {"encode": encoded.encode_ms, "choose": choose_ms}
        return replace(best, stage_ms={**stage_ms, "head": head_ms, "pose": pose_ms})


def _samples_to_match(best: PoseEstimate) -> int:
    """Samples among which there is one without outliers, were there as many inliers as that has.

    A part that does not get so far with them is not the better one.
    """
    ratio = best.inlier_ratio or 0.0
    chance = ratio**_SAMPLE_SIZE
    if chance * MAX_ITERATIONS < 1:
        return MAX_ITERATIONS
    enough = math.ceil(math.log(_MISSED) / math.log1p(-min(chance, 1 - 1e-9)))
    return max(enough, _FEWEST_SAMPLES)
