"""`reloc map`: build the map of a scene, or teach a map new views."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
from rich.table import Table

from reloc import methods, steps
from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.options import (
    Load,
    LoadOptions,
    Machine,
    MachineOptions,
    scene_words,
    start_run,
)
from reloc.commands.unfinished import unfinished_work
from reloc.contract import PartChange, config_to_json
from reloc.input_error import InputError
from reloc.maps import Map, fingerprint, refuse_existing
from reloc.progress import Progress
from reloc.provenance import peak_rss_mb
from reloc.scenes.scene import View


@dataclass(frozen=True)
class MapArguments(CommonArguments):
    """Build the map of a scene from the views whose poses are known.

    The settings of a method are options too: `reloc map sift --help` shows those of sift.
    `reloc map --update MAP SCENE` teaches a map new views; `reloc map --update MAP --help` says
    more of that.

    Methods that train keep their work in OUT.unfinished: after Ctrl-C, or a kill, the same command
    goes on from there, and another one is refused.
    """

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD[:PRESET]")]
    """A row of `reloc methods`, said first: its settings become options."""
    scene: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCENE")]
    """Folder of a scene: its layout is recognised."""
    out: Annotated[Path, tyro.conf.arg(metavar="MAP")]
    """Folder to write; it must not exist."""
    machine: Machine = field(default_factory=MachineOptions)
    load: Load = field(default_factory=LoadOptions)
    config: tyro.conf.Suppress[Any] = None
    settings_of: ClassVar[str] = ""


@dataclass(frozen=True)
class UpdateArguments(CommonArguments):
    """Teach a map new views of its place, and keep what it knows; the old map stays as it is.

    The mapping views of SCENE are the new ones; their poses must be in the world of the map. The
    map must be of a method that can learn more (ace), built with --replay-cells. What changed where
    is said in a table. After Ctrl-C, or a kill, the same command goes on.
    """

    scene: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCENE")]
    """Folder of the scene with the new views: its layout is recognised."""
    update: Annotated[Path, tyro.conf.arg(metavar="MAP")]
    """Folder that `reloc map` wrote."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="NEW")] = None
    """Folder to write; it must not exist. None: MAP.updated."""
    machine: Machine = field(default_factory=MachineOptions)
    load: Load = field(default_factory=LoadOptions)


def _arguments_for(words: Sequence[str]) -> tuple[type[CommonArguments], str] | None:
    """What to parse, and what the usage calls the program."""
    if any(word.partition("=")[0] == "--update" for word in words):
        return UpdateArguments, "reloc map"
    if words and not words[0].startswith("-"):
        method = words[0]
    else:
        # Options were said before METHOD: it is the first word that names one.
        known = (word for word in words if word.partition(":")[0] in methods.METHODS)
        method = next(known, None)
    return None if method is None else (_with_settings(method), f"reloc map {method}")


def _with_settings(method: str) -> type[MapArguments]:
    """The arguments with the settings of a method, at its preset's values."""
    row, preset = methods.get_config(method)
    config = Annotated[row.config, tyro.conf.arg(name="")]
    return dataclasses.make_dataclass(
        "MapArguments",
        [("config", config, dataclasses.field(default=preset))],
        bases=(MapArguments,),
        namespace={"__doc__": MapArguments.__doc__, "settings_of": method},
        frozen=True,
    )


def _run(arguments: MapArguments | UpdateArguments, progress: Progress) -> Answer:
    if isinstance(arguments, UpdateArguments):
        return _update(arguments, progress)
    if arguments.settings_of != arguments.method:
        # No such method, or the value of an option before METHOD was taken for it.
        methods.get_config(arguments.method)
        raise InputError(f"say METHOD first: reloc map {arguments.method} ...")
    refuse_existing(arguments.out)
    run = start_run(arguments.machine, progress)
    scene = steps.load_scene(arguments.scene, arguments.load)
    asked = {
        "method": arguments.method,
        "scene": scene_words(arguments.scene.resolve(), arguments.load),
        "views": _views_sha256(scene.mapping),
        "config": config_to_json(arguments.config),
        "machine": _lasting(arguments.machine),
    }
    with unfinished_work(arguments.out, asked) as work:
        run = dataclasses.replace(run, checkpoint_folder=work.folder)
        with _heard(run.log) as said:
            map_ = steps.build_map(arguments.method, scene, arguments.config, run)
        map_ = work.with_all_seconds(map_)
        map_.save(arguments.out)
    source = map_.provenance
    values = {
        "map": str(arguments.out),
        "method": arguments.method,
        "scene": source.scene,
        "ground_truth": source.ground_truth,
        "num_views": source.num_views,
        "map_seconds": source.seconds,
        "map_mb": map_.megabytes,
        "peak_rss_mb": peak_rss_mb(),
        "device": source.device,
        "threads": source.threads,
        "seed": source.seed,
        "hardware": source.hardware,
        "commit": source.commit,
        "notes": list(scene.notes),
        "log": said,
    }
    again = scene_words(arguments.scene, arguments.load)
    lines = [f"note: {note}" for note in scene.notes]
    lines += said
    lines += [
        f"{arguments.out}: map of {source.scene} by {arguments.method}, {source.num_views} views, "
        f"{map_.megabytes:.1f} MB, {source.seconds:.1f} s",
        f"ask it: reloc localize {shlex.quote(str(arguments.out))} {again} --out estimates.jsonl",
    ]
    return Answer(values, lines)


def _views_sha256(views: Sequence[View]) -> str:
    """What tells mapping views from others: their names, cameras and poses, not their pixels."""
    content = hashlib.sha256()
    for view in views:
        camera = json.dumps([view.name, view.camera.as_dict(), view.depth_reader is not None])
        content.update(camera.encode(errors="surrogateescape"))
        content.update(view.cam_from_world.matrix.numpy().tobytes())
    return content.hexdigest()


def _lasting(machine: MachineOptions) -> dict[str, Any]:
    """What work must be gone on with as it began: all but the threads."""
    values = dataclasses.asdict(machine)
    del values["threads"]
    return values


class _Results(logging.Handler):
    """Keeps what a method says of its results; warnings are shown at once, as without it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Steps of a training are no results."""
        if record.levelno >= logging.WARNING and logging.lastResort:
            logging.lastResort.handle(record)
        elif not hasattr(record, "step"):
            self.said.append(record.getMessage())


@contextmanager
def _heard(log: logging.Logger) -> Iterator[list[str]]:
    """What is logged in the block, but for the steps of trainings."""
    results, level = _Results(), log.level
    log.addHandler(results)
    log.setLevel(logging.INFO)
    try:
        yield results.said
    finally:
        log.setLevel(level)
        log.removeHandler(results)


def _update(arguments: UpdateArguments, progress: Progress) -> Answer:
    old_folder = arguments.update
    out = arguments.out or old_folder.with_name(f"{old_folder.resolve().name}.updated")
    refuse_existing(out)
    run = start_run(arguments.machine, progress)
    old = Map.load(old_folder)
    scene = steps.load_scene(arguments.scene, arguments.load)
    asked = {
        "update": fingerprint(old_folder),
        "scene": scene_words(arguments.scene.resolve(), arguments.load),
        "views": _views_sha256(scene.mapping),
        "machine": _lasting(arguments.machine),
    }
    with unfinished_work(out, asked) as work:
        run = dataclasses.replace(run, checkpoint_folder=work.folder)
        with _heard(run.log) as said:
            new, changes = steps.update_map(old, scene, run)
        new = work.with_all_seconds(new)
        new.save(out)
    seconds = new.provenance.seconds - old.provenance.seconds
    values = {
        "map": str(out),
        "method": new.method,
        "scene": new.provenance.scene,
        "num_views": new.provenance.num_views,
        "num_new_views": len(scene.mapping),
        "update_seconds": seconds,
        "map_mb": new.megabytes,
        "peak_rss_mb": peak_rss_mb(),
        "changes": [dataclasses.asdict(change) for change in changes],
        "notes": list(scene.notes),
        "log": said,
    }
    again = scene_words(arguments.scene, arguments.load)
    return Answer(
        values,
        [
            *[f"note: {note}" for note in scene.notes],
            *said,
            _changes(changes, "m" if new.provenance.metric else "units"),
            f"{out}: {old_folder} with {len(scene.mapping)} more views, {new.megabytes:.1f} MB, "
            f"{seconds:.1f} s",
            f"ask it: reloc localize {shlex.quote(str(out))} {again} --out estimates.jsonl",
        ],
    )


def _changes(changes: Sequence[PartChange], unit: str) -> Table:
    """Old parts must agree with their views as before; new views must agree better."""
    table = Table("part", "points", f"moved ({unit})", "agreed before", "agree now")
    for change in changes:
        table.add_row(
            change.part,
            str(change.num_points),
            "" if change.moved is None else f"{change.moved:.3g}",
            _percent(change.agreeing_before),
            _percent(change.agreeing_after),
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


COMMAND: Command[Any] = Command(
    MapArguments,
    _run,
    [
        "reloc map sift data/kitchen --out kitchen.map",
        "reloc map sift:orb data/kitchen --out kitchen.map --threads 4",
        "reloc map sift --help    # with the settings of sift",
        "reloc map --update kitchen.map data/kitchen-in-may --out kitchen-in-may.map",
    ],
    refine=_arguments_for,
    interrupted="no map was written and --out is still free: the same command starts over",
)
