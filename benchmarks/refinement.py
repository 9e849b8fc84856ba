"""What refining poses on a map of landmarks gives to methods that only come near.

    python benchmarks/refinement.py SCENE --methods thumbnail densevlad posenet-learned ace

A row of JSON a method on standard output: as it answers, and refined (`reloc localize --refine`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from reloc.contract import Run
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import Threshold, evaluate
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.scene import Scene
from reloc.steps import build_map, localize

_METRIC = {"2cm_2deg": Threshold(0.02, 2.0), "5cm_5deg": Threshold(0.05, 5.0)}


@dataclass(frozen=True)
class Arguments:
    """What to refine, and where."""

    scene: tyro.conf.Positional[Path]
    methods: tuple[str, ...] = ("thumbnail", "densevlad", "posenet-learned", "ace")
    split: str | None = None
    seed: int = 0


def _figures(estimates: PoseEstimates, scene: Scene) -> dict[str, float | None]:
    report = evaluate(estimates, scene)
    recalls = {
        f"recall_{name}": report.recall(threshold)
        for name, threshold in _METRIC.items()
        if scene.metric
    }
    unit = 1.0 if scene.metric else scene.extent
    return {
        "median": report.median_position / unit,
        "median_deg": report.median_rotation_deg,
        **recalls,
        "query_ms": float(np.median(list(estimates.query_ms.values()))),
    }


def main(arguments: Arguments) -> None:
    """Map the scene once for the refinement and once for each method."""
    scene = load_scene(arguments.scene, LoadOptions(split=arguments.split))
    run = Run(seed=arguments.seed)
    landmarks = build_map("ace", scene, None, run)
    for method in arguments.methods:
        map_ = landmarks if method == "ace" else build_map(method, scene, None, run)
        row = {
            "method": method,
            "scene": scene.name,
            "split": arguments.split,
            "ground_truth": scene.ground_truth,
            "seed": arguments.seed,
            "alone": _figures(localize(map_, scene.queries, run), scene),
            "refined": _figures(localize(map_, scene.queries, run, refine_on=landmarks), scene),
            "threads": torch.get_num_threads(),
            "hardware": hardware("cpu"),
            "commit": working_copy_commit(),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
