"""Which distance of rotations, and which weights: `posenet-learned`, all else the same.

    python benchmarks/rotation_losses.py SCENE --out benchmarks/rotation_losses.jsonl

A row of JSON for each distance, weighting and seed, appended; rows that are there already are not
made again. The trunk is shown the mapping views once for all of them. Weights are those of a turn
in rad over a position in the spread of the cameras: each distance is brought to rad before it is
weighted, so that no distance is favoured by its scale.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
import tyro

from reloc.contract import Run
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import Threshold, evaluate
from reloc.methods.absolute.family import Design, new_network, plain_answer, train
from reloc.methods.absolute.features import looks_of
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.looks import SmallCamera
from reloc.methods.absolute.posenet_learned import PoseNetLearnedConfig
from reloc.methods.absolute.trunks import encode, trunk_of
from reloc.nn.pose_losses import DistanceName, PoseLossConfig
from reloc.progress import Bars
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes import LoadOptions, load_scene

WeightingName = Literal["sum", "max", "fixed", "learned"]
"""sum: as they are; max: the larger of the two; fixed: the rotation 60 times, PoseNet's 120 of
unit quaternions; learned: Kendall's log-variances."""

# What a small turn of 1 rad is in each distance, by the length of the residual.
_PER_RAD: dict[DistanceName, float] = {
    "raw": 0.5,
    "quaternion": 0.5,
    "log-quaternion": 0.5,
    "quaternion-error": 0.5,
    "angular": 1.0,
    "chordal": 2.0**0.5,
}
_FIXED_BETA = 60.0


@dataclass(frozen=True)
class Arguments:
    """Rotation losses, compared."""

    scene: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCENE")]
    """Folder."""
    out: Path
    """Rows, a JSON object a line; appended."""
    split: str | None = None
    """Of the scene."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the networks; the pictures are those of the first."""
    steps: int = 600
    """Of training."""
    distances: tuple[DistanceName, ...] = get_args(DistanceName)
    """Of rotations."""
    weightings: tuple[WeightingName, ...] = get_args(WeightingName)
    """Of position and rotation."""


def loss_of(distance: DistanceName, weighting: WeightingName) -> PoseLossConfig:
    """The loss of a row."""
    beta = (_FIXED_BETA if weighting == "fixed" else 1.0) / _PER_RAD[distance]
    kind = "fixed" if weighting == "sum" else weighting
    return PoseLossConfig(norm="l2", distance=distance, weights=kind, beta=beta)


def main(arguments: Arguments) -> None:
    """Encode once; train and ask for each row."""
    scene = load_scene(arguments.scene, LoadOptions(split=arguments.split))
    made = set()
    if arguments.out.exists():
        rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
        made = {(row["distance"], row["weights"], row["seed"]) for row in rows}
    config = PoseNetLearnedConfig(steps=arguments.steps)
    first = Run(seed=arguments.seeds[0])
    frame = Frame.from_views(scene.mapping)
    camera = SmallCamera.of(scene.mapping, config.short_side_px)
    looks = looks_of(scene.mapping, camera, frame, config, first)
    trunk = trunk_of(config, first)
    pictures = [
        camera.picture(query.image, query.camera)
        for query in (view.query(with_depth=False) for view in scene.queries)
    ]
    maps = [encode(trunk, [picture], config.pooling, first) for picture in pictures]
    wanted: list[tuple[DistanceName, WeightingName, int]] = [
        (distance, weighting, seed)
        for seed in arguments.seeds
        for distance in arguments.distances
        for weighting in arguments.weightings
        if (distance, weighting, seed) not in made
    ]
    for distance, weighting, seed in Bars().track(wanted, "losses"):
        settings = replace(config, loss=loss_of(distance, weighting))
        run = Run(seed=seed)
        design: Design[PoseNetLearnedConfig] = Design()
        network = new_network(design, looks.shape, settings, run)
        started = time.monotonic()
        train(network, looks, design, settings, run)
        seconds = time.monotonic() - started
        with torch.no_grad():
            answers = [plain_answer(network, map_, frame, settings) for map_ in maps]
        names = [view.name for view in scene.queries]
        report = evaluate(PoseEstimates(dict(zip(names, answers, strict=True))), scene)
        row = {
            "distance": distance,
            "weights": weighting,
            "seed": seed,
            "scene": scene.name,
            "split": arguments.split,
            "ground_truth": scene.ground_truth,
            "n_queries": len(names),
            "median": report.median_position / (1.0 if scene.metric else scene.extent),
            "median_deg": report.median_rotation_deg,
            "recall_5cm_5deg": report.recall(Threshold(0.05, 5.0)) if scene.metric else None,
            "steps": arguments.steps,
            "loss": asdict(settings.loss),
            "training_s": seconds,
            "threads": torch.get_num_threads(),
            "hardware": hardware("cpu"),
            "commit": working_copy_commit(),
        }
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
