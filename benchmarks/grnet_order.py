"""What the order of photos is worth to GRNet, whose graph can do without one.

    python benchmarks/grnet_order.py SCENE --out benchmarks/grnet_order.jsonl

Maps are learned from the mapping views in the order in which they were taken, and from the same
views shuffled: an unordered collection, whose clips are any photos of the place. Each map is asked
the queries in their order, shuffled, and one by one. A row of JSON each, appended.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from reloc.contract import Run
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import Threshold, evaluate
from reloc.methods.absolute.grnet import METHOD
from reloc.progress import Bars
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.scene import Query, View

GraphName = Literal["full", "chain"]


@dataclass(frozen=True)
class Arguments:
    """The order of photos, and GRNet."""

    scene: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCENE")]
    """Folder."""
    out: Path
    """Rows, a JSON object a line; appended."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of networks and shuffles."""
    graphs: tuple[GraphName, ...] = ("full", "chain")
    """Which frames write to each other at first. Only maps of photos in order have a chain."""
    frame_numbers: tuple[bool, ...] = (False, True)
    """Whether nodes are told where in the clip they stand; of maps with a full graph."""


def shuffled(views: Sequence[View], seed: int) -> list[View]:
    """The views in another order, as if all were of one sequence."""
    views = [replace(view, sequence="all") for view in views]
    random.Random(seed).shuffle(views)
    return views


def main(arguments: Arguments) -> None:
    """A map for each order, graph and seed; three ways to ask each."""
    scene = load_scene(arguments.scene, LoadOptions())
    # A name, so that photos without a sequence are asked together, too.
    in_order = [replace(view, sequence=view.sequence or "all") for view in scene.mapping]
    queries = [
        replace(view.query(with_depth=False), sequence=view.sequence or "all")
        for view in scene.queries
    ]
    variants: list[tuple[str, GraphName, bool, int]] = [
        (learned, graph, numbered, seed)
        for seed in arguments.seeds
        for learned in ("in order", "shuffled")
        for graph in arguments.graphs
        for numbered in arguments.frame_numbers
        if graph == "full" or (learned == "in order" and not numbered)
    ]
    for learned, graph, numbered, seed in Bars().track(variants, "maps"):
        run = Run(seed=seed)
        config = METHOD.config(graph=graph, frame_numbers=numbered)
        views = in_order if learned == "in order" else shuffled(scene.mapping, seed)
        started = time.monotonic()
        tensors = METHOD.build_map(views, config, run)
        map_seconds = time.monotonic() - started
        mixed = [replace(query, sequence="all") for query in queries]
        random.Random(seed).shuffle(mixed)
        asked: dict[str, list[Query]] = {
            "in order": queries,
            "shuffled": mixed,
            "one by one": [replace(query, sequence="") for query in queries],
        }
        localizer = METHOD.localizer(tensors, config, run)
        for order, list_ in asked.items():
            answers = localizer.localize(list_)
            names = [query.name for query in list_]
            report = evaluate(PoseEstimates(dict(zip(names, answers, strict=True))), scene)
            row = {
                "learned": learned,
                "asked": order,
                "graph": graph,
                "frame_numbers": numbered,
                "seed": seed,
                "scene": scene.name,
                "ground_truth": scene.ground_truth,
                "n_queries": len(names),
                "median": report.median_position / (1.0 if scene.metric else scene.extent),
                "median_deg": report.median_rotation_deg,
                "recall_5cm_5deg": report.recall(Threshold(0.05, 5.0)) if scene.metric else None,
                "map_seconds": map_seconds,
                "threads": torch.get_num_threads(),
                "hardware": hardware("cpu"),
                "commit": working_copy_commit(),
            }
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
