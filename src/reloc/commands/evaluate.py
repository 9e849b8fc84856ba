"""`reloc evaluate`: estimates against the poses of a scene's queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reloc import steps
from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.fitting import Fitting
from reloc.commands.options import Load, LoadOptions
from reloc.estimates import PoseEstimates
from reloc.evaluation.tables import figure_tables
from reloc.progress import Progress


@dataclass(frozen=True)
class EvaluateArguments(CommonArguments):
    """Compare estimates with the true poses of a scene's queries.

    A declined query counts as a failure: it has an infinite error and stays in every denominator.
    """

    estimates: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ESTIMATES")]
    """File that `reloc localize` wrote."""
    scene: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCENE")]
    """Folder of the scene that was asked about, with the options that it was read with."""
    load: Load = field(default_factory=LoadOptions)


def _run(arguments: EvaluateArguments, progress: Progress) -> Answer:
    del progress
    estimates = PoseEstimates.read(arguments.estimates)
    scene = steps.load_scene(arguments.scene, arguments.load)
    row = steps.evaluate(estimates, scene).row()
    notes = [f"note: {note}" for note in scene.notes]
    tables = [Fitting(table) for table in figure_tables([row])]
    return Answer({**row, "notes": list(scene.notes)}, [*notes, *tables])


COMMAND = Command(
    EvaluateArguments,
    _run,
    [
        "reloc evaluate estimates.jsonl data/kitchen",
        "reloc evaluate estimates.jsonl data/kitchen --split hard --json",
    ],
)
