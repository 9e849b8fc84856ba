"""How often a descriptor finds a view of the right place: recall at 1, 5 and 10, a row each.

    python benchmarks/retrieval_recall.py --data ../shared/data --rows FILE

A mapping view is right where it is within 25 cm (5 % of the extent of the mapping cameras, where a
scene has no unit) and 30 degrees of the query. `possible` is the share of the queries that have
such a view at all. Nothing is fitted to queries.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import tyro
from torch import Tensor

from reloc.contract import Run
from reloc.geometry.rotation import angle_between_rad
from reloc.nn.descriptors import KINDS, DescriptorName, fit_descriptor
from reloc.nn.descriptors.netvlad import NetVladConfig
from reloc.nn.descriptors.thumbnail import describe_thumbnail
from reloc.progress import Bars
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.scene import Scene, View
from reloc.scenes.synthetic import synthetic_scene
from reloc.training.train_netvlad import NetVladTraining, fit_netvlad

_RIGHT_M, _RIGHT_SHARE, _RIGHT_DEG = 0.25, 0.05, 30.0
_RANKS = (1, 5, 10)
_ALL = ("thumbnail", *KINDS, "netvlad-trained")


@dataclass(frozen=True)
class Arguments:
    """What to describe, and with what."""

    data: Path
    """Folder with 7scenes/redkitchen and south_building."""
    rows: Path | None = None
    """File that rows are appended to; printed only, where it is not given."""
    scenes: tuple[str, ...] = ("redkitchen", "redkitchen-hard", "south_building")
    """Also: room, a rendered one, and redkitchen-held-back, mapping views alone."""
    descriptors: tuple[str, ...] = _ALL
    """Names."""
    seed: int = 0
    """Of what is learned."""


def open_scene(name: str, data: Path) -> Scene:
    kitchen = data / "7scenes" / "redkitchen"
    if name == "redkitchen":
        return load_scene(kitchen, LoadOptions())
    if name == "redkitchen-hard":
        return load_scene(kitchen, LoadOptions(split="hard"))
    if name == "redkitchen-held-back":
        # For choices: of the mapping views before frame 700, the last third is asked for.
        scene = load_scene(kitchen, LoadOptions(split="hard"))
        cut = 2 * len(scene.mapping) // 3
        return Scene(
            name, scene.mapping[:cut], scene.mapping[cut + 20 :: 2], scene.ground_truth, True
        )
    if name == "room":
        return synthetic_scene(seed=7, num_mapping=120, num_queries=60, width=320, height=240)
    return load_scene(data / name, LoadOptions())


def vectors(name: str, scene: Scene, run: Run) -> tuple[Tensor, Tensor, float, float]:
    """Of the mapping views (N, D) and of the queries (Q, D); seconds to fit, ms a query."""
    started = time.perf_counter()
    if name == "thumbnail":
        first = scene.mapping[0].camera
        size = (40, 30) if first.width > first.height else (30, 40)

        def describe(image_3HW: Tensor) -> Tensor:
            found = describe_thumbnail(image_3HW, size)
            return torch.zeros(size[0] * size[1]) if found is None else found

        mapped_ND = torch.stack([describe(view.read_image()) for view in scene.mapping])
    elif name == "netvlad-trained":
        config, training = NetVladConfig(), NetVladTraining()
        descriptor, mapped_ND = fit_netvlad(scene.mapping, config, training, run)
        describe = descriptor.describe
    else:
        assert name in KINDS
        descriptor, mapped_ND = fit_descriptor(cast(DescriptorName, name), scene.mapping, run)
        describe = descriptor.describe
    fit_s = time.perf_counter() - started
    images = [view.read_image() for view in scene.queries]
    started = time.perf_counter()
    asked_QD = torch.stack([describe(image) for image in images])
    return mapped_ND, asked_QD, fit_s, 1e3 * (time.perf_counter() - started) / len(images)


def right(scene: Scene) -> Tensor:
    """(Q, N) bool: which mapping view is of the place of which query."""
    limit = _RIGHT_M if scene.metric else _RIGHT_SHARE * scene.extent

    def poses(views: list[View]) -> tuple[Tensor, Tensor]:
        rotations = torch.stack([view.cam_from_world.rotation for view in views])
        return torch.stack([view.center_world for view in views]), rotations

    centers_Q3, rotations_Q33 = poses(list(scene.queries))
    centers_N3, rotations_N33 = poses(list(scene.mapping))
    angles = angle_between_rad(rotations_Q33[:, None], rotations_N33[None]).rad2deg()
    return (torch.cdist(centers_Q3, centers_N3) < limit) & (angles < _RIGHT_DEG)


def main(arguments: Arguments) -> None:
    run = Run(seed=arguments.seed, progress=Bars())
    for scene_name in arguments.scenes:
        scene = open_scene(scene_name, arguments.data)
        right_QN = right(scene)
        for name in arguments.descriptors:
            mapped_ND, asked_QD, fit_s, query_ms = vectors(name, scene, run)
            ranked_QN = (asked_QD @ mapped_ND.T).argsort(dim=1, descending=True, stable=True)
            hits_QN = right_QN.gather(1, ranked_QN)
            row = {
                "descriptor": name,
                "scene": scene_name,
                **{f"recall_at_{k}": round(float(hits_QN[:, :k].any(1).float().mean()), 4)
                   for k in _RANKS},
                "possible": round(float(right_QN.any(1).float().mean()), 4),
                "num_queries": len(scene.queries),
                "num_views": len(scene.mapping),
                "dimensions": mapped_ND.shape[1],
                "fit_s": round(fit_s, 1),
                "query_ms": round(query_ms, 1),
                "ground_truth": scene.ground_truth,
                "seed": arguments.seed,
                "hardware": hardware("cpu"),
                "threads": torch.get_num_threads(),
                "commit": working_copy_commit(),
                "command": shlex.join(["python", "benchmarks/retrieval_recall.py", *sys.argv[1:]]),
            }  # fmt: skip
            print(json.dumps(row))
            if arguments.rows:
                with arguments.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
