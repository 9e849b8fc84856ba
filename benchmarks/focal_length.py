"""How far estimated focal lengths are from the true ones.

reloc localize MAP SCENE --unknown-focal --out estimates.jsonl
python benchmarks/focal_length.py --estimates estimates.jsonl --scene SCENE
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from reloc.estimates import PoseEstimates
from reloc.scenes import LoadOptions, load_scene


@dataclass(frozen=True)
class Arguments:
    estimates: Path
    """Written by `reloc localize` with --unknown-focal."""
    scene: Path
    """Whose queries were asked; its own intrinsics are the truth."""


def main(arguments: Arguments) -> None:
    estimates = PoseEstimates.read(arguments.estimates)
    errors = []
    for view in load_scene(arguments.scene, LoadOptions()).queries:
        camera = estimates[view.name].camera
        # A declined query has no focal length: infinitely wrong.
        ratio = float(camera.focal.mean() / view.camera.focal.mean()) if camera else np.inf
        errors.append(abs(ratio - 1))
    median, percentile = np.median(errors), np.percentile(errors, 95)
    print(
        f"{len(errors)} queries: median {100 * median:.2f} %, 95 % below {100 * percentile:.2f} %"
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
