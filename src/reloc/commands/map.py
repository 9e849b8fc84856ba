"""`reloc map`: build the map of a scene."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

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
from reloc.maps import refuse_existing
from reloc.progress import Progress
from reloc.provenance import peak_rss_mb


@dataclass(frozen=True)
class MapArguments(CommonArguments):
    """Build the map of a scene from the views whose poses are known.

    The settings of a method are options too: `reloc map sift --help` shows those of sift.
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


def _with_settings(method: str) -> type[MapArguments]:
    """The arguments with the settings of a method, at its preset's values."""
    row, preset = methods.get_config(method)
    config = Annotated[row.config, tyro.conf.arg(name="")]
    return dataclasses.make_dataclass(
        "MapArguments",
        [("config", config, dataclasses.field(default=preset))],
        bases=(MapArguments,),
        namespace={"__doc__": MapArguments.__doc__},
        frozen=True,
    )


def _run(arguments: MapArguments, progress: Progress) -> Answer:
    refuse_existing(arguments.out)
    run = start_run(arguments.machine, progress)
    scene = steps.load_scene(arguments.scene, arguments.load)
    map_ = steps.build_map(arguments.method, scene, arguments.config, run)
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
    }
    again = scene_words(arguments.scene, arguments.load)
    lines = [f"note: {note}" for note in scene.notes]
    lines += [
        f"{arguments.out}: map of {source.scene} by {arguments.method}, {source.num_views} views, "
        f"{map_.megabytes:.1f} MB, {source.seconds:.1f} s",
        f"ask it: reloc localize {arguments.out} {again} --out estimates.jsonl",
    ]
    return Answer(values, lines)


COMMAND = Command(
    MapArguments,
    _run,
    [
        "reloc map sift data/kitchen --out kitchen.map",
        "reloc map sift:orb data/kitchen --out kitchen.map --threads 4",
        "reloc map sift --help    # with the settings of sift",
    ],
    refine=_with_settings,
    interrupted="no map was written and --out is still free: the same command starts over",
)
