"""The run: photos -> Scene -> Map -> PoseEstimates -> Report -> pictures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from reloc import methods
from reloc.contract import (
    Localizer,
    PartChange,
    PoseEstimate,
    Refiner,
    Run,
    UnfinishedMapError,
    config_from_json,
    config_to_json,
)
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import Report
from reloc.evaluation.report import evaluate as _evaluate
from reloc.input_error import InputError
from reloc.maps import Map, Provenance, digests_in
from reloc.provenance import hardware, library_versions, working_copy_commit
from reloc.scenes import LoadOptions
from reloc.scenes import load_scene as _load_scene
from reloc.scenes.scene import Query, Scene


class InterruptedMapError(KeyboardInterrupt):
    """Mapping was interrupted.

    Attributes:
        map_: of what was learned by then.
    """

    def __init__(self, map_: Map) -> None:
        super().__init__()
        self.map_ = map_


def load_scene(path: Path | str, options: LoadOptions | None = None) -> Scene:
    """Read a scene in any layout of `scenes.LAYOUTS`, recognised from its files.

    Raises:
        InputError: nothing is recognised, or what is there cannot be used.
    """
    return _load_scene(Path(path), options or LoadOptions())


def build_map(method: str, scene: Scene, config: Any = None, run: Run | None = None) -> Map:
    """Build the map of a scene from its mapping views, and from nothing else of it.

    Args:
        method: `name` or `name:preset`, a row of `methods.METHODS`.
        scene: its queries are not looked at.
        config: of the method's config type; the preset's, or the paper's, where it is None.
        run: device, seed, progress.

    Raises:
        InputError: the method or preset is unknown, or the mapping views cannot be used.
        InterruptedMapError: on Ctrl-C, by methods whose map can be used before it is finished.
    """
    run = run or Run()
    row, preset = methods.get_config(method)
    config = preset if config is None else config
    if not isinstance(config, row.config):
        raise InputError(f"{method} takes a {row.config.__name__}, not a {type(config).__name__}")
    if len(scene.mapping) < row.min_views:
        raise InputError(
            f"scene {scene.name} has {len(scene.mapping)} mapping views: a map of {row.name} needs "
            f"at least {row.min_views}"
        )
    started = time.perf_counter()
    finished = True
    try:
        tensors = row.build_map(scene.mapping, config, run)
    except UnfinishedMapError as interrupted:
        tensors, finished = interrupted.tensors, False
    seconds = time.perf_counter() - started
    provenance = Provenance(
        scene=scene.name,
        ground_truth=scene.ground_truth,
        metric=scene.metric,
        num_views=len(scene.mapping),
        seed=run.seed,
        seconds=seconds,
        device=run.device,
        threads=torch.get_num_threads(),
        hardware=hardware(run.device),
        versions=library_versions(),
        commit=working_copy_commit(),
        pretrained_sha256=digests_in(tensors),
    )
    map_ = Map(row.name, config_to_json(config), tensors, provenance)
    if not finished:
        raise InterruptedMapError(map_)
    return map_


def update_map(map_: Map, scene: Scene, run: Run | None = None) -> tuple[Map, Sequence[PartChange]]:
    """Teach a map the mapping views of a scene; the map that is given stays as it is.

    Args:
        map_: from `build_map` or `Map.load`.
        scene: of the same place, in the same world; its queries are not looked at.
        run: device, seed, progress.

    Returns:
        Another map, and what changed in which of its parts.

    Raises:
        InputError: maps of the method cannot learn more, this one was not built to, or the scene's
            poses are of another kind.
    """
    run = run or Run()
    row = methods.get_method(map_.method)
    source = map_.provenance
    if row.update is None:
        able = [name for name in methods.METHODS if methods.get_method(name).update]
        raise InputError(
            f"maps of {row.name} cannot learn new views: build the map again from all views"
            f"{', or use ' + ' or '.join(able) if able else ''}"
        )
    if (scene.ground_truth, scene.metric) != (source.ground_truth, source.metric):
        raise InputError(
            f"the map is of {source.ground_truth} poses in {_unit(source.metric)}, those of scene "
            f"{scene.name} are {scene.ground_truth} in {_unit(scene.metric)}: load it with the "
            "ground truth of the map"
        )
    if not scene.mapping:
        raise InputError(f"scene {scene.name} has no mapping views: there is nothing to learn")
    config = config_from_json(row.config, map_.config, f"map of {source.scene}")
    started = time.perf_counter()
    updated = row.update(map_.tensors, scene.mapping, config, run)
    provenance = replace(
        source,
        scene=source.scene if scene.name == source.scene else f"{source.scene}+{scene.name}",
        num_views=source.num_views + len(scene.mapping),
        seconds=source.seconds + time.perf_counter() - started,
        seed=run.seed,
        device=run.device,
        threads=torch.get_num_threads(),
        hardware=hardware(run.device),
        versions=library_versions(),
        commit=working_copy_commit(),
    )
    return Map(row.name, map_.config, updated.tensors, provenance), updated.changes


def _unit(metric: bool) -> str:
    return "metres" if metric else "arbitrary units"


def open_map(map_: Map, run: Run | None = None) -> Localizer:
    """The localizer that answers from a map.

    Raises:
        InputError: the method is unknown here, or its settings are not what this version knows.
    """
    row = methods.get_method(map_.method)
    config = config_from_json(row.config, map_.config, f"map of {map_.provenance.scene}")
    return row.localizer(map_.tensors, config, run or Run())


class Askable(Protocol):
    """What becomes a query when its turn comes: a view, or a photo that is read only then."""

    @property
    def sequence(self) -> str:
        """Name of the video it is a frame of; "" for a single photo."""
        ...

    def query(self, *, with_depth: bool) -> Query:
        """The image and its intrinsics, without a pose."""
        ...


def open_refiner(map_: Map, run: Run | None = None) -> Refiner:
    """What refines poses on a map.

    Raises:
        InputError: maps of the method cannot, or this one cannot.
    """
    row = methods.get_method(map_.method)
    if row.refiner is None:
        able = [name for name in methods.METHODS if methods.get_method(name).refiner]
        raise InputError(
            f"maps of {row.name} cannot refine poses: refine on a map of {' or '.join(able)}"
        )
    config = config_from_json(row.config, map_.config, f"map of {map_.provenance.scene}")
    return row.refiner(map_.tensors, config, run or Run())


def localize(
    map_: Map,
    queries: Iterable[Askable | Query],
    run: Run | None = None,
    batch_size: int = 1,
    refine_on: Map | None = None,
) -> PoseEstimates:
    """Ask where images were taken. Poses of views are not shown to the method.

    Args:
        map_: from `build_map` or `Map.load`.
        queries: views of a scene, or queries made by hand.
        run: device and progress.
        batch_size: queries asked at once, for accelerators; times are then shared out evenly. A
            sequence method is given each sequence whole.
        refine_on: a map in the same world, on which the poses are refined.

    Raises:
        InputError: an image cannot be read, or `refine_on` cannot refine what `map_` answers.
    """
    run = run or Run()
    queries = list(queries)
    localizer = open_map(map_, run)
    row = methods.get_method(map_.method)
    source, method = map_.provenance, map_.method
    refiner = None
    if refine_on is not None:
        _refuse_other_world(source, refine_on.provenance)
        refiner = open_refiner(refine_on, run)
        method = f"{method} refined on {refine_on.method}"
    batches = _sequences(queries) if row.context == "sequence" else _chunks(queries, batch_size)
    by_name: dict[str, PoseEstimate] = {}
    query_ms: dict[str, float] = {}
    read_ms: dict[str, float] = {}
    for batch in run.progress.track(batches, "localizing"):
        started = time.perf_counter()
        asked = [
            entry if isinstance(entry, Query) else entry.query(with_depth=row.uses_depth)
            for entry in batch
        ]
        opened = time.perf_counter()
        answers = localizer.localize(asked)
        if refiner is not None:
            answers = refiner.refine(asked, answers)
        answered = time.perf_counter()
        if len(answers) != len(asked):
            raise RuntimeError(f"{row.name} gave {len(answers)} answers to {len(asked)} queries")
        for query, answer in zip(asked, answers, strict=True):
            by_name[query.name] = answer
            read_ms[query.name] = 1e3 * (opened - started) / len(asked)
            query_ms[query.name] = 1e3 * (answered - opened) / len(asked)
    return PoseEstimates(by_name, method, source.scene, source.ground_truth, query_ms, read_ms)


def _refuse_other_world(source: Provenance, other: Provenance) -> None:
    if (other.scene, other.ground_truth, other.metric) != (
        source.scene,
        source.ground_truth,
        source.metric,
    ):
        raise InputError(
            f"poses of a map of {source.scene} ({source.ground_truth}) cannot be refined on one of "
            f"{other.scene} ({other.ground_truth}): both must be of the same scene and poses"
        )


def evaluate(estimates: PoseEstimates, scene: Scene) -> Report:
    """Compare estimates with the poses of a scene's queries.

    Raises:
        InputError: a query has no estimate (a declined one has), or the ground truths differ.
    """
    return _evaluate(estimates, scene)


def view(scene: Scene, map_: Map, estimates: PoseEstimates, folder: Path | str) -> Path:
    """Write a page with tables and pictures into a new folder; returns the path of the page.

    Raises:
        InputError: the folder exists.
    """
    # Imported here: drawing libraries are slow to load, and only this verb draws.
    from reloc.viewing.page import Section, write_page

    section = Section.of(scene, map_, estimates, evaluate(estimates, scene))
    return write_page([section], Path(folder))


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _sequences(queries: Sequence[Askable | Query]) -> list[Sequence[Askable | Query]]:
    """Queries by sequence, in the order of their first frames; those without one, by themselves."""
    groups: dict[str | int, list[Askable | Query]] = {}
    for number, query in enumerate(queries):
        groups.setdefault(query.sequence or number, []).append(query)
    return list(groups.values())
