"""`reloc export`: estimates for other tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reloc import exports, steps
from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.options import Load, LoadOptions
from reloc.estimates import PoseEstimates
from reloc.input_error import InputError
from reloc.maps import refuse_existing
from reloc.progress import Progress

_NEEDS_SCENE = ("tum", "colmap")


@dataclass(frozen=True)
class ExportArguments(CommonArguments):
    """Write estimates in the format of another tool.

    tum: `timestamp tx ty tz qx qy qz qw` of world_from_cam, for evo; needs --scene for the times.
    colmap: cameras.txt and images.txt of cam_from_world in a new folder; needs --scene for cameras.
    visloc: `name qw qx qy qz tx ty tz` of cam_from_world, for visuallocalization.net.
    mapfree: a submission, one file of estimates for each scene.
    """

    estimates: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="ESTIMATES")]
    """File that `reloc localize` wrote; several for mapfree."""
    format: Literal["tum", "colmap", "visloc", "mapfree"]
    """Format to write."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """What to write (a folder for colmap); it must not exist."""
    scene: Path | None = None
    """Folder of the scene that was asked about."""
    truth: bool = False
    """Write the true poses of the scene's queries instead, to compare with."""
    name_parts: int | None = None
    """visloc: how much of a name's path to keep, from its end; None: all. The benchmark wants 1 for
    Aachen and InLoc, 2 for RobotCar Seasons and Extended CMU."""
    load: Load = field(default_factory=LoadOptions)


def _run(arguments: ExportArguments, progress: Progress) -> Answer:
    del progress
    refuse_existing(arguments.out)
    if len(arguments.estimates) != 1 and arguments.format != "mapfree":
        raise InputError(f"--format {arguments.format} takes one file of estimates")
    if arguments.scene is None and (arguments.truth or arguments.format in _NEEDS_SCENE):
        what = "--truth" if arguments.truth else f"--format {arguments.format}"
        raise InputError(f"{what} needs --scene SCENE, the folder that was asked about")
    if arguments.truth and arguments.format == "mapfree":
        raise InputError("--truth is for tum, colmap and visloc: mapfree is a submission")
    found = [PoseEstimates.read(path) for path in arguments.estimates]
    if not found:
        raise InputError("no estimates are given: name a file that `reloc localize` wrote")
    views = (
        [] if arguments.scene is None else steps.load_scene(arguments.scene, arguments.load).queries
    )
    estimates = exports.true_poses(views) if arguments.truth else found[0]
    match arguments.format:
        case "tum":
            exports.write_tum(estimates, views, arguments.out)
        case "colmap":
            exports.write_colmap(estimates, views, arguments.out)
        case "visloc":
            exports.write_pose_text(estimates, arguments.out, arguments.name_parts)
        case "mapfree":
            exports.write_mapfree(found, arguments.out)
    written = found if arguments.format == "mapfree" else [estimates]
    count = sum(len(answers) - answers.num_declined for answers in written)
    values = {"file": str(arguments.out), "format": arguments.format, "poses": count}
    return Answer(values, [f"{arguments.out}: {count} poses as {arguments.format}"])


COMMAND = Command(
    ExportArguments,
    _run,
    [
        "reloc export estimates.jsonl --format visloc --out results.txt",
        "reloc export estimates.jsonl --format tum --scene data/kitchen --out estimate.tum",
        "reloc export estimates.jsonl --format tum --scene data/kitchen --truth --out truth.tum",
        "evo_ape tum truth.tum estimate.tum",
    ],
)
