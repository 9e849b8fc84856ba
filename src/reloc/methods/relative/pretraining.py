"""Networks of pairs and of graphs, taught by many scenes: for places that none of them has seen.

What teaches: rendered rooms, whose focal length differs from room to room, and mapping views of
scenes. Their poses are metric and their codes are reduced alike, so that a network means the same
in each of them and in the next place; the pairs of a scene are matched once, and kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from reloc.contract import Run
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.methods.relative.family import network_tensors
from reloc.methods.relative.frames import FrameReader
from reloc.methods.relative.graph import RelposeGnnConfig, train_graph
from reloc.methods.relative.heads import HEADS, HeadName
from reloc.methods.relative.learning import Lesson, said_of, train_pair_network
from reloc.methods.relative.network import PairNetwork
from reloc.methods.relative.pairs import targets
from reloc.methods.relative.shared import FILE, GRAPH, NETWORK, save_shared
from reloc.methods.relative.teachers import (
    SIZE,
    Teacher,
    as_one_lesson,
    matched,
    room_teacher,
    shared_components,
)
from reloc.nn.shared_encoder import open_encoder
from reloc.nn.weights import EncoderName
from reloc.provenance import training_record, working_copy_commit, write_record
from reloc.scenes.scene import Scene, View
from reloc.training.room_pairs import FIRST_TRAINING_SEED
from reloc.training.stages import stage

# Rooms kept apart, which have seeds below those that are learned from.
_FIRST_JUDGING_SEED = 900
# What a resumed run may have changed.
_MAY_GROW = ("steps", "graph_steps")


@dataclass(frozen=True)
class PretrainRelativeConfig:
    """Settings of `reloc pretrain relative`."""

    encoder: EncoderName = "base"
    """The shared encoder, which stays as it is."""
    head: HeadName = "6d+t"
    """How the network says a relative pose: relpose-gnn, mapfree and camnet have this one."""
    consensus: bool = False
    """Hold matches less likely whose neighbours match elsewhere, as nc-essnet does."""
    num_rooms: int = 38
    """Procedural rooms to render, beside the SCENES; they are kept beside the checkpoint."""
    num_graph_rooms: int = 8
    """The last of them, which teach the graph network alone: of rooms that it knows, the network of
    pairs says more than it will of others. 0: the graph network learns where that one did."""
    num_judging_rooms: int = 3
    """Rooms more, which nothing is learned from: the record says the errors there."""
    views_per_scene: int = 400
    """Most mapping views of each of the SCENES, evenly spaced."""
    max_zoom: float = 1.35
    """Of a room, all views are cut to a part of their middle, down to one over this."""
    pairs_per_view: int = 4
    """Pairs of each view to learn from; a pair takes 17 kB of memory each way round."""
    code: int = 48
    """Numbers of a cell's code that are kept."""
    scene_codes: int = 16
    """Numbers of the query's codes that the network sees beside the matches: they tell depths."""
    width: int = 64
    """Channels of the networks."""
    steps: int = 5000
    """Steps of the network of pairs."""
    batch_size: int = 48
    """Pairs of a step."""
    max_learning_rate: float = 2e-3
    """Peak of the one-cycle schedule."""
    graph_steps: int = 1500
    """Steps of the graph network, on the finished network of pairs; 0: none."""

    def __post_init__(self) -> None:
        counts = ("num_rooms", "num_graph_rooms", "num_judging_rooms", "graph_steps")
        for name in counts:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.num_graph_rooms > self.num_rooms:
            raise ValueError(
                f"{self.num_graph_rooms} rooms for graphs are more than the {self.num_rooms} rooms "
                "that there are: give --num-graph-rooms 0"
            )
        if self.max_zoom < 1:
            raise ValueError(f"max_zoom is {self.max_zoom}; it must be at least 1")
        _ = self.network

    @property
    def network(self) -> RelposeGnnConfig:
        """Settings of the networks, and of how they learn."""
        return RelposeGnnConfig(
            weights="shipped",
            encoder=self.encoder,
            short_side_px=min(SIZE),
            code=self.code,
            head=self.head,
            combination="average" if HEADS[self.head].has_scale else "triangulate",
            consensus=self.consensus,
            scene_codes=self.scene_codes,
            width=self.width,
            pairs_per_view=self.pairs_per_view,
            steps=self.steps,
            batch_size=self.batch_size,
            max_learning_rate=self.max_learning_rate,
            graph_steps=max(1, self.graph_steps),
        )


def pretrain(
    config: PretrainRelativeConfig, scenes: Sequence[Scene], folder: Path, run: Run
) -> Path:
    """Train a network of pairs and one of graphs, or go on from the checkpoint in `folder`.

    Args:
        config: of the material, the networks and their training.
        scenes: whose mapping views teach, beside the rooms. Their queries are not looked at.
        folder: of rooms, matched pairs, checkpoints and, at the end, the weights.
        run: device, seed, progress, log.

    Returns:
        The path of the weights in fp16, with what they are made of in the .json beside them.

    Raises:
        InputError: there is no renderer or nothing to learn from, a scene is not metric, or
            `folder` has a run of other settings, other views or more steps.
    """
    for scene in scenes:
        if not scene.metric:
            raise InputError(
                f"{scene.name} has lengths in arbitrary units, and the networks speak in metres: "
                "leave it out, or scale its poses"
            )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    _claim(config, scenes, run.seed, folder / "settings.json")

    def room(seed: int) -> Teacher:
        return room_teacher(seed, config.max_zoom, folder / "rooms")

    rooms = [room(FIRST_TRAINING_SEED + number) for number in range(config.num_rooms)]
    num_pair_rooms = config.num_rooms - config.num_graph_rooms
    teachers = rooms[:num_pair_rooms]
    teachers += [
        Teacher(f"{number}-{scene.name}", lambda scene=scene: _evenly(scene, config))
        for number, scene in enumerate(scenes)
    ]
    if not teachers:
        raise InputError("there is nothing to learn from: give SCENES, or more --num-rooms")
    encoder = open_encoder(config.encoder, run)
    components_CP = shared_components(teachers, encoder, config.code, folder)
    reader = FrameReader(encoder, SIZE, components_CP)
    network_config, commit = config.network, working_copy_commit()

    def matched_pairs(teacher: Teacher) -> Mapping[str, Tensor]:
        return matched(teacher, reader, network_config, folder / "matched", run)

    parts = [matched_pairs(teacher) for teacher in run.progress.track(teachers, "scenes")]
    lesson = as_one_lesson(parts, reader)
    run.log.info("%d pairs of %d scenes", len(lesson.pairs), len(parts))
    names = [teacher.name for teacher in teachers]
    num_pairs = dict(zip(names, (len(part["query"]) for part in parts), strict=True))
    del parts
    spent_s = 0.0

    def keep(weights: dict[str, Tensor], step: int, seconds: float) -> None:
        nonlocal spent_s
        del weights, step
        spent_s = seconds

    checkpoints = replace(run, checkpoint_folder=folder)
    network = train_pair_network(lesson, network_config, checkpoints, on_checkpoint=keep)
    tensors = network_tensors(network, NETWORK)
    if config.graph_steps and HEADS[config.head].has_scale:
        if config.num_graph_rooms:
            others = [matched_pairs(teacher) for teacher in rooms[num_pair_rooms:]]
            lesson = as_one_lesson(others, reader)
        # What was learned from a network of fewer steps is not gone on with.
        taught_by = stage(checkpoints, f"of-{config.steps}-steps")
        graph = train_graph(lesson, network, network_config, taught_by)
        tensors |= network_tensors(graph, GRAPH)
    save_shared(path, components_CP, tensors, network_config)
    record: dict[str, object] = {
        "config": asdict(config),
        "pairs": num_pairs,
        "graph_rooms": [teacher.name for teacher in rooms[num_pair_rooms:]],
        **training_record(config.steps, spent_s, run.seed, run.device, commit),
    }
    judges = [room(_FIRST_JUDGING_SEED + number) for number in range(config.num_judging_rooms)]
    if judges:
        lesson = as_one_lesson([matched_pairs(teacher) for teacher in judges], reader)
        record["rooms_kept_apart"] = judge(lesson, network, network_config, run)
    write_record(record, path.with_suffix(".json"))
    return path


def judge(
    lesson: Lesson, network: PairNetwork, config: RelposeGnnConfig, run: Run
) -> dict[str, float]:
    """Median errors of pairs: of the first guess by matches, and of the network."""
    index_P = torch.arange(len(lesson.pairs))
    edges = said_of(lesson, network, config, run, index_P)
    found = edges.query_from_reference(config.head, 1.0).to(torch.float64).to("cpu")
    left = targets(lesson.pairs, index_P, lesson.place.cam_from_world, 1.0)
    left = left.to(torch.float64)
    guess_P33 = lesson.pairs.guess.turn_B33.double()
    true_turn = left.rotation @ guess_P33
    length_P = left.translation.norm(dim=-1)
    guess_error_deg = angle_between_rad(true_turn, guess_P33).rad2deg()
    network_error_deg = angle_between_rad(found.rotation, true_turn).rad2deg()
    figures = {
        "pairs": float(len(index_P)),
        "median_distance_m": float(length_P.median()),
        "guess_median_error_deg": float(guess_error_deg.median()),
        "network_median_error_deg": float(network_error_deg.median()),
    }
    if HEADS[config.head].has_scale:
        error_P = (found.translation - left.translation).norm(dim=-1)
        figures["network_median_error_m"] = float(error_P.median())
    return figures


def _evenly(scene: Scene, config: PretrainRelativeConfig) -> Sequence[View]:
    step = max(1.0, len(scene.mapping) / config.views_per_scene)
    return [scene.mapping[int(n * step)] for n in range(int(len(scene.mapping) / step))]


def _claim(config: PretrainRelativeConfig, scenes: Sequence[Scene], seed: int, path: Path) -> None:
    """Write what a folder's run is of, whole or not at all.

    Raises:
        InputError: it is of other settings, of more steps, or of other views; or cannot be read.
    """
    names = [scene.name for scene in scenes]
    asked = {**asdict(config), "scenes": names, "views": [_sha256(scene) for scene in scenes]}
    asked["seed"] = seed
    if path.exists():
        try:
            made = json.loads(path.read_text(encoding="utf-8"))
            different = [k for k in asked if k not in _MAY_GROW and made.get(k) != asked[k]]
            fewer = [k for k in _MAY_GROW if made[k] > asked[k]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{path} does not say what its folder's run is of ({reason}): give another folder, "
                "or remove this one"
            ) from error
        if different:
            raise InputError(
                f"{path.parent} has a run with another {different[0]}: give the same settings to "
                "go on with it, or another folder"
                if different[0] != "views"
                else f"{path.parent} has a run with scenes of these names and other views or "
                "poses: give another folder"
            )
        if fewer:
            name = fewer[0].replace("_", " ")
            raise InputError(
                f"{path.parent} has a run of {made[fewer[0]]} {name}, and {asked[fewer[0]]} are "
                "asked for: give as many or more, or another folder"
            )
    write_record(asked, path)


def _sha256(scene: Scene) -> str:
    """Of the names, poses and cameras of a scene's mapping views."""
    digest = hashlib.sha256()
    for view in scene.mapping:
        pose = view.cam_from_world.matrix.tolist()
        digest.update(json.dumps([view.name, pose, view.camera.as_dict()]).encode())
    return digest.hexdigest()
