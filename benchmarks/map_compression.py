"""The size of a map of points against what it answers: a row for each setting, on one scene.

    python benchmarks/map_compression.py ../shared/data/7scenes/redkitchen --rows FILE

The map is built once as `sift` builds it; then its points are chosen and its descriptors quantised
as the settings say, and the queries are asked.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from reloc.contract import Run
from reloc.estimation.view_selection import select_distinct_views
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.methods.matching.compression import pack, unpack
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.localizer import MatchingLocalizer
from reloc.methods.matching.mapping import build_point_map, match_views
from reloc.progress import Bars
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes import LoadOptions, load_scene

# Points each view sees, bytes of a descriptor, points each view sees with whole descriptors.
_SETTINGS = (
    (None, None, 0),
    (None, 16, 0),
    (500, 16, 0),
    (250, 16, 20),
    (250, 16, 0),
    (250, 8, 0),
    (120, 16, 20),
    (120, 8, 0),
    (60, 16, 0),
    (60, 8, 0),
)


@dataclass(frozen=True)
class Arguments:
    """The scene, and where rows go."""

    scene: tyro.conf.Positional[Path]
    rows: Path | None = None
    """File that rows are appended to; printed only, where it is not given."""
    every: int = 4
    """One query of so many is asked."""
    vocabulary: int = 16
    """Words of the image index, whose vectors are a part of the map."""
    seed: int = 0
    """Of all that is random."""


def main(arguments: Arguments) -> None:
    run = Run(seed=arguments.seed, progress=Bars())
    scene = load_scene(arguments.scene, LoadOptions())
    plain = MatchingConfig(vocabulary=arguments.vocabulary)
    poses = Rigid3d.stack([view.cam_from_world for view in scene.mapping])
    kept = select_distinct_views(poses, plain.min_view_distance, plain.min_view_angle_deg)
    matched = match_views([scene.mapping[index] for index in kept], plain, run)
    whole = build_point_map(matched, plain, run)
    asked = scene.queries[:: arguments.every]
    queries = [view.query() for view in asked]
    for points, num_bytes, full in _SETTINGS:
        config = replace(
            plain,
            points_per_view=points,
            descriptor_bytes=num_bytes,
            full_points_per_view=full,
        )
        tensors = pack(whole, config, arguments.seed)
        localizer = MatchingLocalizer(unpack(tensors), 1.0, config, run)
        errors = []
        for view, answer in zip(asked, localizer.localize(queries), strict=True):
            pose = answer.cam_from_world
            if pose is None:
                errors.append((np.inf, np.inf))
                continue
            distance = float((pose.inverse().translation - view.center_world).norm())
            angle = float(angle_between_rad(pose.rotation, view.cam_from_world.rotation))
            errors.append((distance, np.degrees(angle)))
        far, turned = np.array(errors).T
        row = {
            "scene": str(arguments.scene.name),
            "points_per_view": points,
            "descriptor_bytes": num_bytes,
            "full_points_per_view": full,
            "map_mb": round(
                sum(value.numel() * value.element_size() for value in tensors.values()) / 1e6, 3
            ),
            "num_points": len(tensors["points_N3"]),
            "median_position": float(f"{np.median(far):.3g}"),
            "median_rotation_deg": float(f"{np.median(turned):.3g}"),
            "within_5cm_5deg": (
                round(float(((far < 0.05) & (turned < 5)).mean()), 4) if scene.metric else None
            ),
            "declined": int(np.isinf(far).sum()),
            "num_queries": len(asked),
            "ground_truth": scene.ground_truth,
            "seed": arguments.seed,
            "threads": torch.get_num_threads(),
            "hardware": hardware("cpu"),
            "commit": working_copy_commit(),
            "command": shlex.join(["python", "benchmarks/map_compression.py", *sys.argv[1:]]),
        }
        print(json.dumps(row), flush=True)
        if arguments.rows:
            with arguments.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
