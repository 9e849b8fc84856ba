"""The seam: what a method gives and gets. A method implements this page, and no other."""

from __future__ import annotations

import dataclasses
import logging
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.progress import Progress, Silent
from reloc.scenes.scene import Query, View

Tensors = Mapping[str, Tensor]
Precision = Literal["auto", "fp32", "bf16", "int8"]
ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, eq=False)
class PoseEstimate:
    """The answer to one query.

    Attributes:
        cam_from_world: without batch axes, float64. None: declined. A declined query is scored as a
            failure and never replaced by a guess.
        confidence: probability that the pose is right, in [0, 1]; None where the method gives none.
        covariance: (6, 6) of a left perturbation, exp(ξ) @ cam_from_world with ξ = (rotation in
            rad, translation in the scene's unit).
        num_inliers: correspondences that agree with the pose.
        camera: with the focal length that was estimated, where one was.
        reference: name of the mapping view that the answer leans on most, for reports.
        inlier_ratio: share of the correspondences that agree, in [0, 1].
        stage_ms: name of a part of the work to the milliseconds that it took, where a method tells.
    """

    cam_from_world: Rigid3d | None
    confidence: float | None = None
    covariance: Tensor | None = None
    num_inliers: int | None = None
    camera: Camera | None = None
    reference: str | None = None
    inlier_ratio: float | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pose = self.cam_from_world
        if pose is not None and not bool(
            pose.rotation.isfinite().all() and pose.translation.isfinite().all()
        ):
            raise ValueError("a pose estimate is finite or None")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ValueError(f"a confidence is a probability or None, not {self.confidence}")
        if self.inlier_ratio is not None and not 0 <= self.inlier_ratio <= 1:
            raise ValueError(f"a ratio of inliers is in [0, 1] or None, not {self.inlier_ratio}")
        covariance = self.covariance
        if covariance is not None and not (
            covariance.shape == (6, 6) and bool(covariance.isfinite().all())
        ):
            raise ValueError("a covariance is (6, 6) and finite, or None")


class UnfinishedMapError(KeyboardInterrupt):
    """build_map was interrupted, and what it had learned by then answers queries already.

    Attributes:
        tensors: as build_map would have returned them.
    """

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        self.tensors = tensors


@dataclass(frozen=True)
class PartChange:
    """What became of a part of a map when it learned new views.

    Attributes:
        part: in words.
        num_points: scene points that were looked at; 0 where the part was left as it is.
        moved: median way of those that agreed with their views before, in the scene's unit; None
            where there is none.
        agreeing_before: share of the points that agreed with their views before; None without any.
        agreeing_after: and that agree with them now.
    """

    part: str
    num_points: int
    moved: float | None
    agreeing_before: float | None
    agreeing_after: float | None


@dataclass(frozen=True, eq=False)
class Updated:
    """A map that has learned new views.

    Attributes:
        tensors: as build_map would have returned them.
        changes: what became of what was known, part by part, and of the new views.
    """

    tensors: Tensors
    changes: Sequence[PartChange]


class Localizer(Protocol):
    """Answers queries with one map."""

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, in order.

        An image method answers a query alike alone, in a batch and in any order; a sequence method
        reads the list as consecutive frames of `Query.sequence`.
        """
        ...


class Refiner(Protocol):
    """Refines poses that any method gave, on one map of the same world."""

    def refine(
        self, queries: Sequence[Query], estimates: Sequence[PoseEstimate]
    ) -> list[PoseEstimate]:
        """One estimate for each query, in order; declined ones stay declined."""
        ...


@dataclass(frozen=True, eq=False)
class Run:
    """The only way a method reaches the machine.

    Attributes:
        device: of tensors: "cpu", "cuda", "cuda:1"; one that has double precision.
        seed: of everything random; the same seed gives the same map.
        precision: of heavy arithmetic; "auto" takes what the device is fast at. "int8" is for the
            shared encoder, on the processor; all else is fp32 then.
        progress: what long work reports to.
        log: what a method has to say.
        checkpoint_folder: where build_map may keep what it needs to go on after it was stopped;
            None: nowhere. Its content is removed once the map is written.
    """

    device: str = "cpu"
    seed: int = 0
    precision: Precision = "auto"
    progress: Progress = field(default_factory=Silent)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("reloc"))
    checkpoint_folder: Path | None = None


@dataclass(frozen=True, eq=False)
class Method(Generic[ConfigT]):
    """A row of the table: a value, not a base class.

    Attributes:
        name: as in `methods.METHODS`.
        family: absolute, relative, coordinates, forests, allocentric, retrieval or matching.
        summary: one line.
        paper: authors, title, venue, year.
        published: the paper's figure and what it is of, then whether it is reproduced here; or why
            there is none to compare.
        config: a frozen dataclass whose defaults are the paper's.
        tiny: a config for the tests, seconds on two cores.
        build_map: gets the mapping views only, so that nothing can leak.
        localizer: gets back exactly what build_map returned.
        context: "sequence" where the queries must be consecutive frames.
        pretrain: many scenes to shared weights, where the method has such a stage.
        presets: variants, named on the command line as `method:preset`.
        expected_failures: law of the conformance tests to the reason why this row breaks it.
        maps_depth: reads `View.read_depth` of mapping views that have it, and no depth of queries.
        uses_depth: reads `Query.depth`, too: queries are asked with their depth if they have it.
        needs_depth: with its default settings, a query without depth is an InputError.
        min_views: mapping views that a map needs at least. Where some settings need more than that,
            build_map says so.
        update: gets what build_map returned, new mapping views, and the map's own config; None
            where maps of the method cannot learn more.
        refiner: gets back what build_map returned, and refines poses of any method on it; None
            where maps of the method cannot.
    """

    name: str
    family: Literal[
        "absolute", "relative", "coordinates", "forests", "allocentric", "retrieval", "matching"
    ]
    summary: str
    paper: str
    published: str
    config: type[ConfigT]
    tiny: ConfigT
    build_map: Callable[[Sequence[View], ConfigT, Run], Tensors]
    localizer: Callable[[Tensors, ConfigT, Run], Localizer]
    context: Literal["image", "sequence"] = "image"
    pretrain: Callable[..., object] | None = None
    presets: Mapping[str, ConfigT] = field(default_factory=dict)
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    maps_depth: bool = False
    uses_depth: bool = False
    needs_depth: bool = False
    min_views: int = 2
    update: Callable[[Tensors, Sequence[View], ConfigT, Run], Updated] | None = None
    refiner: Callable[[Tensors, ConfigT, Run], Refiner] | None = None


def config_to_json(config: Any) -> dict[str, Any]:
    """A config as plain values, for map.json."""
    return dataclasses.asdict(config)


def config_from_json(config_type: type[ConfigT], values: Mapping[str, Any], source: str) -> ConfigT:
    """The inverse of `config_to_json`.

    Raises:
        InputError: a key is unknown or missing, or a value has the wrong type or is out of range;
            the message begins with `source`.
    """
    hints = typing.get_type_hints(config_type)
    names = [entry.name for entry in dataclasses.fields(config_type)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise InputError(f"{source}: {config_type.__name__} has no setting {key!r}")
    for name in names:
        if name not in values:
            raise InputError(f"{source}: the setting {name!r} is missing")
    try:
        return config_type(**{name: _restored(values[name], hints[name]) for name in names})
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: {error}") from error


def _restored(value: Any, hint: Any) -> Any:
    """`value` from JSON as the type `hint`: JSON knows no tuples, and writes 1.0 as 1."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _restored(value, option)
            except TypeError:
                continue
    elif origin is Literal and value in arguments:
        return value
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return tuple(_restored(entry, kind) for entry, kind in zip(value, kinds, strict=True))
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return config_from_json(hint, value, hint.__name__)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise TypeError(f"{value!r} is no {hint}")
