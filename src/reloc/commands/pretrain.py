"""`reloc pretrain`: train what maps of many scenes share."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.options import Machine, MachineOptions, start_run
from reloc.methods.forests.adaptive_forest import PretrainForestConfig
from reloc.methods.forests.adaptive_forest import pretrain as pretrain_forest
from reloc.methods.relative.pretraining import PretrainRelativeConfig
from reloc.methods.relative.pretraining import pretrain as pretrain_relative
from reloc.progress import Progress
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.scene import View
from reloc.scenes.synthetic import synthetic_scene
from reloc.training.pretrain_decoder import PretrainSanetConfig, pretrain_decoder
from reloc.training.pretrain_encoder import PretrainEncoderConfig, pretrain_encoder
from reloc.training.pretrain_matcher import PretrainGomatchConfig, pretrain_matcher
from reloc.training.room_pairs import FIRST_TRAINING_SEED


@dataclass(frozen=True)
class PretrainArguments(CommonArguments):
    """Train the dense encoder that scene coordinate maps share, from raw material to a file.

    Rooms and pictures are drawn here; photos can be added. FOLDER is written from the first
    checkpoint on: the weights in fp16, a .json of what they are made of, and log.txt. After
    Ctrl-C, or a kill, the same command goes on; with more --steps it goes further.
    """

    what: Annotated[tyro.conf.Positional[Literal["encoder"]], tyro.conf.arg(metavar="WHAT")]
    """encoder: grey images to a code for each 8x8 pixels."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the checkpoint and the weights; one that has a checkpoint is gone on with."""
    machine: Machine = field(default_factory=MachineOptions)
    config: Annotated[PretrainEncoderConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainEncoderConfig
    )


@dataclass(frozen=True)
class PretrainForestArguments(CommonArguments):
    """Grow the trees that maps of adaptive-forest share, on rendered rooms, in minutes.

    FOLDER gets the trees, and a .json of what they are made of.
    """

    what: Annotated[tyro.conf.Positional[Literal["adaptive-forest"]], tyro.conf.arg(metavar="WHAT")]
    """adaptive-forest: pixels of a picture with depth to leaves."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the trees."""
    machine: Machine = field(default_factory=MachineOptions)
    config: Annotated[PretrainForestConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainForestConfig
    )


@dataclass(frozen=True)
class PretrainSanetArguments(CommonArguments):
    """Train the decoder that maps of sanet share, on rendered rooms, in half an hour.

    FOLDER is written from the first checkpoint on: the weights in fp16, a .json of what they are
    made of, and log.txt. After Ctrl-C, or a kill, the same command goes on; with more --steps it
    goes further.
    """

    what: Annotated[tyro.conf.Positional[Literal["sanet"]], tyro.conf.arg(metavar="WHAT")]
    """sanet: a picture and the points of others to the points of the picture."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the checkpoint and the weights; one that has a checkpoint is gone on with."""
    machine: Machine = field(default_factory=MachineOptions)
    config: Annotated[PretrainSanetConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainSanetConfig
    )


@dataclass(frozen=True)
class PretrainGomatchArguments(CommonArguments):
    """Train the matcher that maps of gomatch share, on rendered rooms, in half an hour.

    FOLDER is written from the first checkpoint on: the weights in fp16, a .json of what they are
    made of, and log.txt. After Ctrl-C, or a kill, the same command goes on; with more --steps it
    goes further. `reloc map gomatch SCENE --matcher FILE` makes a map for other weights than those
    that ship.
    """

    what: Annotated[tyro.conf.Positional[Literal["gomatch"]], tyro.conf.arg(metavar="WHAT")]
    """gomatch: how two sets of points lie to which of them are the same."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the checkpoint and the weights; one that has a checkpoint is gone on with."""
    machine: Machine = field(default_factory=MachineOptions)
    config: Annotated[PretrainGomatchConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainGomatchConfig
    )


@dataclass(frozen=True)
class PretrainRelativeArguments(CommonArguments):
    """Train the networks by which relpose-gnn:unseen and mapfree:unseen know places never seen.

    They learn relative poses, in metres, from rendered rooms and from the mapping views of SCENES;
    `reloc map relpose-gnn SCENE --weights FOLDER` makes a map with them. FOLDER keeps rooms and
    matched pairs, and gets the weights in fp16, a .json of what they are made of, and log.txt.
    After Ctrl-C, or a kill, the same command goes on; with more --steps it goes further.
    """

    what: Annotated[tyro.conf.Positional[Literal["relative"]], tyro.conf.arg(metavar="WHAT")]
    """relative: matches of two pictures to the pose of one as seen from the other."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the checkpoints and the weights; one that has a checkpoint is gone on with."""
    scenes: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[SCENES...]")
    ] = ()
    """Folders of scenes that teach beside the rooms, by their mapping views alone."""
    machine: Machine = field(default_factory=MachineOptions)
    config: Annotated[PretrainRelativeConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainRelativeConfig
    )


def _arguments_for(words: Sequence[str]) -> tuple[type[CommonArguments], str] | None:
    """What to parse, and what the usage calls the program."""
    if words and words[0] == "adaptive-forest":
        return PretrainForestArguments, "reloc pretrain"
    if words and words[0] == "sanet":
        return PretrainSanetArguments, "reloc pretrain"
    if words and words[0] == "gomatch":
        return PretrainGomatchArguments, "reloc pretrain"
    if words and words[0] == "relative":
        return PretrainRelativeArguments, "reloc pretrain"
    return None


def _grow(arguments: PretrainForestArguments, progress: Progress) -> Answer:
    config = arguments.config
    run = start_run(arguments.machine, progress)
    width = config.short_side_px * 4 // 3

    def room(number: int) -> Sequence[View]:
        seed = FIRST_TRAINING_SEED + number
        return synthetic_scene(seed, config.views_per_room, 0, width, config.short_side_px).mapping

    path = pretrain_forest(map(room, range(config.num_rooms)), config, arguments.out, run)
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    size_mb = path.stat().st_size / 1e6
    return Answer(
        {"weights": str(path), "mb": size_mb, **record},
        [
            f"{path}: {size_mb:.1f} MB, {record['leaves']} leaves",
            f"what it is made of: {path.with_suffix('.json')}",
        ],
    )


def _run(
    arguments: PretrainArguments
    | PretrainForestArguments
    | PretrainSanetArguments
    | PretrainGomatchArguments
    | PretrainRelativeArguments,
    progress: Progress,
) -> Answer:
    if isinstance(arguments, PretrainForestArguments):
        return _grow(arguments, progress)
    run = start_run(arguments.machine, progress)
    with _log_file(run.log, arguments.out / "log.txt"):
        if isinstance(arguments, PretrainSanetArguments):
            path = pretrain_decoder(arguments.config, arguments.out, run)
        elif isinstance(arguments, PretrainGomatchArguments):
            path = pretrain_matcher(arguments.config, arguments.out, run)
        elif isinstance(arguments, PretrainRelativeArguments):
            scenes = [load_scene(folder, LoadOptions()) for folder in arguments.scenes]
            path = pretrain_relative(arguments.config, scenes, arguments.out, run)
        else:
            path = pretrain_encoder(arguments.config, arguments.out, run)
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    size_mb = path.stat().st_size / 1e6
    return Answer(
        {"weights": str(path), "mb": size_mb, **record},
        [
            f"{path}: {size_mb:.1f} MB, {record['steps']} steps in {record['time']}",
            f"what it is made of: {path.with_suffix('.json')}",
        ],
    )


@contextmanager
def _log_file(log: logging.Logger, path: Path) -> Iterator[None]:
    """Write what is logged to a file, too: a run of hours is looked at while it runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


COMMAND = Command(
    PretrainArguments,
    _run,
    [
        "reloc pretrain encoder --out encoder",
        "reloc pretrain encoder --out encoder --size small --steps 40000",
        "reloc pretrain encoder --out with-photos --photos data/photos --num-pictures 0",
        "reloc pretrain adaptive-forest --out forest",
        "reloc pretrain sanet --out decoder",
        "reloc pretrain gomatch --out matcher",
        "reloc pretrain relative --out pairs",
        "reloc pretrain relative --out pairs data/7scenes/redkitchen data/7scenes/heads",
    ],
    refine=_arguments_for,
    interrupted="the same command goes on from the checkpoint in --out, where it writes one",
)
