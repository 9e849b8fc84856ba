"""Experts for scenes side by side: `esac` on a composite against a map of its own for each scene.

    python benchmarks/experts.py --rooms 11 12 13 --out benchmarks/experts.jsonl

Rooms are rendered by one generator: walls, floors and things are of the same kinds in all of them.
A row of JSON for each room's own map, asked its own queries, and two for the composite: as it is,
and with the likeliest expert alone. `right_scene` is the share of the queries that were placed in
the room that they were taken in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from reloc.contract import Run
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import Threshold, evaluate
from reloc.maps import Map
from reloc.methods.coordinates.esac import EsacConfig
from reloc.progress import Bars
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes.composite import composite
from reloc.scenes.scene import Scene, View
from reloc.scenes.synthetic import synthetic_scene
from reloc.steps import build_map, localize


@dataclass(frozen=True)
class Arguments:
    """Rooms side by side."""

    out: Path
    """Rows, a JSON object a line; appended."""
    rooms: tuple[int, ...] = (11, 12, 13)
    """Seeds of rendered rooms."""
    mapping: int = 60
    """Views of the first walk through each."""
    queries: int = 30
    """Of the second."""
    size: tuple[int, int] = (640, 480)
    """Of an image."""
    seed: int = 0
    """Of the maps."""


def read_once(scene: Scene) -> Scene:
    """The scene with its images in memory: rendering them takes longer than mapping."""

    def held(views: Sequence[View]) -> list[View]:
        images = [view.read_image() for view in Bars().track(views, f"rendering {scene.name}")]
        return [
            replace(view, image_reader=lambda image=image: image, depth_reader=None)
            for view, image in zip(views, images, strict=True)
        ]

    return replace(scene, mapping=held(scene.mapping), queries=held(scene.queries))


def in_right_scene(answers: PoseEstimates, scene: Scene) -> float:
    """Share of the queries whose pose is among the cameras of their scene."""
    right = []
    for view in scene.queries:
        pose = answers[view.name].cam_from_world
        if pose is None:
            right.append(False)
            continue
        beside = scene.layout == "composite"
        mapping = [other for other in scene.mapping if not beside or _same(other, view)]
        near = replace(scene, mapping=mapping)
        centers_V3 = torch.stack([other.center_world for other in near.mapping])
        off = (pose.inverse().translation - centers_V3.mean(dim=0)).norm()
        right.append(float(off) < near.extent)
    return float(np.mean(right))


def _same(one: View, other: View) -> bool:
    return one.name.split("/")[0] == other.name.split("/")[0]


def main(arguments: Arguments) -> None:
    """A map for each room, then one for all."""
    run = Run(seed=arguments.seed, progress=Bars())
    width, height = arguments.size
    rooms = [
        read_once(synthetic_scene(seed, arguments.mapping, arguments.queries, width, height))
        for seed in arguments.rooms
    ]
    together = composite(rooms)

    def write(what: str, map_: Map, scene: Scene, seconds: float) -> None:
        answers = localize(map_, scene.queries, run)
        report = evaluate(answers, scene)
        row = {
            "map": what,
            "scene": scene.name,
            "ground_truth": scene.ground_truth,
            "seed": arguments.seed,
            "n_queries": len(scene.queries),
            "declined": answers.num_declined,
            "median_m": report.median_position,
            "median_deg": report.median_rotation_deg,
            "recall_5cm_5deg": report.recall(Threshold(0.05, 5.0)),
            "recall_10cm_5deg": report.recall(Threshold(0.10, 5.0)),
            "right_scene": in_right_scene(answers, scene),
            "query_ms": float(np.median(list(answers.query_ms.values()))),
            "map_seconds": seconds,
            "threads": torch.get_num_threads(),
            "hardware": hardware("cpu"),
            "commit": working_copy_commit(),
        }
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    for room in rooms:
        started = time.monotonic()
        map_ = build_map("esac", room, EsacConfig(num_experts=1), run)
        write("of its own", map_, room, time.monotonic() - started)
    started = time.monotonic()
    config = EsacConfig(num_experts=len(rooms))
    map_ = build_map("esac", together, config, run)
    seconds = time.monotonic() - started
    write("experts, gated", map_, together, seconds)
    alone = replace(map_, config={**map_.config, "max_experts": 1})
    write("experts, the likeliest alone", alone, together, seconds)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
