"""The ablations of relpose-gnn: with and without its graph, which neighbours, all edges or one.

    python benchmarks/relative_ablations.py SCENE --out benchmarks/relative_ablations.jsonl
    python benchmarks/relative_ablations.py --room 950 --out ROWS --maps graph unseen

A row each. Neighbours and the number of edges that answer are chosen when a query is asked, so that
few maps serve all rows: with the graph, without it, and without what it is told of poses, learned
from the scene itself; and with the networks that ship, which have seen rendered rooms alone. With
--held-back the queries are not looked at: blocks of the mapping views are asked instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

import reloc
from reloc.contract import Localizer, PoseEstimate, Run
from reloc.methods.relative.family import RelativeLocalizer
from reloc.methods.relative.graph import RelposeGnnConfig
from reloc.methods.relative.relpose_gnn import METHOD
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes.scene import Query, Scene
from reloc.scenes.synthetic import synthetic_scene

# Of the mapping views: blocks of so many are asked, one of so many, with a gap on each side.
_BLOCK, _PERIOD, _GAP = 20, 120, 5


@dataclass(frozen=True)
class Arguments:
    """Ablations of relpose-gnn on a scene."""

    out: Path
    """Rows, a JSON object a line; appended."""
    scene: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="SCENE")] = None
    """Folder."""
    room: int | None = None
    """Instead of it, the seed of a rendered room: 60 views, and 20 queries of another walk."""
    maps: tuple[str, ...] = ("graph", "no graph", "paper", "unseen")
    """Which maps to make."""
    rows: tuple[str, ...] = ()
    """Which rows to write, by their variant; none: all."""
    seed: int = 0
    """Of the maps."""
    held_back: bool = False
    """Ask blocks of the mapping views, not the queries."""
    steps: int | None = None
    """Steps of training, instead of the default."""


def held_back(scene: Scene) -> Scene:
    """The scene with blocks of its mapping views as queries."""
    place = [index % _PERIOD for index in range(len(scene.mapping))]
    first = _PERIOD - _BLOCK - 2 * _GAP
    inside = [first <= p < _PERIOD for p in place]
    asked = [first + _GAP <= p < _PERIOD - _GAP for p in place]
    mapping = [view for view, is_in in zip(scene.mapping, inside, strict=True) if not is_in]
    queries = [view for view, is_in in zip(scene.mapping, asked, strict=True) if is_in]
    return replace(scene, mapping=mapping, queries=queries[::3])


def variants(config: RelposeGnnConfig) -> dict[str, dict[str, RelposeGnnConfig]]:
    """Name of a map to the names and settings of the rows that it serves."""
    without = replace(config, recursions=0)
    paper = replace(config, known_poses=False)
    unseen = replace(config, weights="shipped")
    return {
        "graph": {
            "graph, retrieved, all edges": config,
            "graph, random": replace(config, neighbours="random"),
            "graph, sequential": replace(config, neighbours="sequential"),
            "graph, one edge": replace(config, combination="single"),
        },
        "no graph": {
            "no graph, all edges": without,
            "no graph, one edge": replace(without, combination="single"),
            "no graph, one neighbour": replace(without, num_neighbours=1),
        },
        "paper": {
            "graph without poses, all edges": paper,
            "graph without poses, one edge": replace(paper, combination="single"),
        },
        "unseen": {
            "unseen, graph, all edges": unseen,
            "unseen, graph, one edge": replace(unseen, combination="single"),
            "unseen, no graph, all edges": replace(unseen, recursions=0),
            "unseen, no graph, one edge": replace(unseen, recursions=0, combination="single"),
        },
    }


class Retrieved:
    """Answers with the pose of the reference that the matches are believed most with."""

    def __init__(self, localizer: RelativeLocalizer) -> None:
        self._localizer = localizer

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        answers = []
        for query in queries:
            frame = self._localizer.reader.read(query.image, query.camera)
            assert frame is not None
            best = self._localizer.neighbours(frame)[0]
            answers.append(PoseEstimate(self._localizer.place.cam_from_world[best]))
        return answers


def main(arguments: Arguments) -> None:
    if (arguments.scene is None) == (arguments.room is None):
        raise SystemExit("give SCENE, or --room SEED")
    if arguments.scene is not None:
        scene = reloc.load_scene(arguments.scene)
    else:
        scene = synthetic_scene(arguments.room or 0, 60, 20, 320, 240)
    if arguments.held_back:
        scene = held_back(scene)
    config = METHOD.config()
    if arguments.steps is not None:
        config = replace(config, steps=arguments.steps)
    run = Run(seed=arguments.seed)
    for name, rows in variants(config).items():
        if name not in arguments.maps:
            continue
        started = time.monotonic()
        tensors = METHOD.build_map(scene.mapping, next(iter(rows.values())), run)
        seconds = time.monotonic() - started
        asked: dict[str, Localizer] = {
            variant: METHOD.localizer(tensors, settings, run) for variant, settings in rows.items()
        }
        opened = next(iter(asked.values()))
        if isinstance(opened, RelativeLocalizer):
            asked[f"retrieved pose alone ({name})"] = Retrieved(opened)
        if name == "unseen":
            # As a map of that photo alone answers, from which no unit can be read.
            settings = replace(config, weights="shipped", recursions=0, num_neighbours=1)
            lonely = {**tensors, "unit": torch.tensor(1.0, dtype=torch.float64)}
            asked["unseen, one photo"] = METHOD.localizer(lonely, settings, run)
        for variant, localizer in asked.items():
            if arguments.rows and variant not in arguments.rows:
                continue
            errors, angles, times_ms = [], [], []
            for view in scene.queries:
                query = view.query()
                started = time.monotonic()
                (answer,) = localizer.localize([query])
                times_ms.append(1e3 * (time.monotonic() - started))
                pose = answer.cam_from_world
                if pose is None:
                    errors.append(np.inf)
                    angles.append(180.0)
                    continue
                error = pose @ view.cam_from_world.inverse()
                errors.append(float((pose.inverse().translation - view.center_world).norm()))
                angles.append(float(error.log()[:3].norm().rad2deg()))
            row = {
                "variant": variant,
                "map": name,
                "protocol": "unseen" if name == "unseen" else "seen",
                "scene": scene.name,
                "held_back": arguments.held_back,
                "ground_truth": scene.ground_truth,
                "seed": arguments.seed,
                "n_queries": len(errors),
                "declined": int(np.isinf(errors).sum()),
                "median_m": float(np.median(errors)) if np.isfinite(np.median(errors)) else None,
                "median_deg": float(np.median(angles)),
                "query_ms": float(np.median(times_ms)),
                "map_seconds": seconds,
                "commit": working_copy_commit(),
                "hardware": hardware("cpu"),
            }
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
