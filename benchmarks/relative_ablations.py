"""The ablations of relpose-gnn: with and without its graph, which neighbours, all edges or one.

    python benchmarks/relative_ablations.py SCENE --out benchmarks/relative_ablations.jsonl

A row each. Neighbours and the number of edges that answer are chosen when a query is asked, so that
three maps serve all rows: with the graph, without it, and without what it is told of poses. With
--held-back the queries are not looked at: blocks of the mapping views are asked instead.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

import reloc
from reloc.contract import Run
from reloc.methods.relative.relpose_gnn import METHOD, RelposeGnnConfig
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes.scene import Scene

# Of the mapping views: blocks of so many are asked, one of so many, with a gap on each side.
_BLOCK, _PERIOD, _GAP = 20, 120, 5


@dataclass(frozen=True)
class Arguments:
    """Ablations of relpose-gnn on a scene."""

    scene: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCENE")]
    """Folder."""
    out: Path
    """Rows, a JSON object a line; appended."""
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
    }


def main(arguments: Arguments) -> None:
    scene = reloc.load_scene(arguments.scene)
    if arguments.held_back:
        scene = held_back(scene)
    config = METHOD.config()
    if arguments.steps is not None:
        config = replace(config, steps=arguments.steps)
    run = Run(seed=arguments.seed)
    for name, rows in variants(config).items():
        started = time.monotonic()
        tensors = METHOD.build_map(scene.mapping, next(iter(rows.values())), run)
        seconds = time.monotonic() - started
        for variant, settings in rows.items():
            localizer = METHOD.localizer(tensors, settings, run)
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
