"""`reloc localize`: ask where images were taken."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.table import Table

from reloc import steps
from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.options import (
    Load,
    LoadOptions,
    Machine,
    MachineOptions,
    scene_words,
    start_run,
)
from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates
from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.maps import Map, refuse_existing, refuse_unwritable
from reloc.progress import Progress
from reloc.provenance import peak_rss_mb
from reloc.scenes.images import (
    PHOTO_MENDING,
    is_turned_for,
    query_from_image,
    read_header,
)
from reloc.scenes.scene import Query

# More answers than a person reads are summed up; the file has them all.
_MAX_SHOWN = 20


@dataclass(frozen=True)
class LocalizeArguments(CommonArguments):
    """Ask where images were taken: the queries of a scene, or single photos.

    Without --camera or --focal, a photo's focal length comes from its EXIF data; where that says
    nothing, it is estimated together with the pose.
    """

    map: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MAP")]
    """Folder that `reloc map` wrote."""
    inputs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SCENE|IMAGE...")
    ]
    """Folder of a scene, whose queries are asked; or image files."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Estimates to write, a JSON object a line; it must not exist."""
    camera: str | None = None
    """Intrinsics of the photos: MODEL,WIDTH,HEIGHT,PARAMS... in COLMAP's order, as in
    PINHOLE,640,480,525,525,320,240."""
    batch_size: int = 1
    """Queries asked at once, for accelerators."""
    refine: Annotated[Path | None, tyro.conf.arg(metavar="MAP")] = None
    """Map of `ace` of the same scene, on which the poses of the first map are refined: dense codes
    are looked for around where each pose puts its landmarks, as PixLoc does."""
    machine: Machine = field(default_factory=MachineOptions)
    load: Load = field(default_factory=LoadOptions)


def _run(arguments: LocalizeArguments, progress: Progress) -> Answer:
    refuse_existing(arguments.out)
    refuse_unwritable(arguments.out)
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size {arguments.batch_size}: give 1 or more")
    run = start_run(arguments.machine, progress)
    map_ = Map.load(arguments.map)
    refine_on = None if arguments.refine is None else Map.load(arguments.refine)
    queries, notes = _queries(arguments)
    if refine_on is not None:
        notes += _other_views(map_, refine_on)
    estimates = steps.localize(map_, queries, run, arguments.batch_size, refine_on)
    estimates.write(arguments.out)
    unit = "m" if map_.provenance.metric else "units"
    times_ms = list(estimates.query_ms.values())
    values = {
        "estimates": str(arguments.out),
        "method": estimates.method,
        "scene": estimates.scene,
        "unit": unit,
        "n_queries": len(estimates),
        "declined": estimates.num_declined,
        "query_ms_median": float(np.median(times_ms)),
        "query_ms_p95": float(np.percentile(times_ms, 95)),
        "stage_ms": _stages_ms(estimates),
        "peak_rss_mb": peak_rss_mb(),
        "notes": notes,
        "answers": [_values(name, answer) for name, answer in estimates.by_name.items()],
    }
    return Answer(values, _lines(arguments, estimates, values, unit))


def _other_views(map_: Map, refine_on: Map) -> list[str]:
    """What to say where two maps are of other views, as of another split of the scene."""
    own, other = map_.provenance.num_views, refine_on.provenance.num_views
    if own == other:
        return []
    return [
        f"the map is of {own} views and that of --refine of {other}: if one of them has seen the "
        "queries, errors are too small"
    ]


def _stages_ms(estimates: PoseEstimates) -> dict[str, float]:
    """Median milliseconds of the parts of a query, as far as they are known."""
    stages: dict[str, list[float]] = {"read": list(estimates.read_ms.values())}
    for answer in estimates.by_name.values():
        for stage, time_ms in answer.stage_ms.items():
            stages.setdefault(stage, []).append(time_ms)
    return {stage: float(np.median(times_ms)) for stage, times_ms in stages.items()}


@dataclass(frozen=True, eq=False)
class _Photo:
    """A photo that is read when its turn comes: a thousand of them would not fit into memory."""

    path: Path
    camera: Camera | None
    focal: float | None
    sequence: str = ""

    def query(self, *, with_depth: bool) -> Query:
        del with_depth
        return query_from_image(self.path, self.camera, self.focal)


def _queries(arguments: LocalizeArguments) -> tuple[Sequence[steps.Askable], list[str]]:
    """What is asked, and what the loader has to say.

    Raises:
        InputError: there is nothing to ask, or it cannot be read.
    """
    paths = arguments.inputs
    if len(paths) == 1 and paths[0].is_dir():
        if arguments.camera is not None:
            raise InputError("--camera is for photos: a scene has its own intrinsics")
        scene = steps.load_scene(paths[0], arguments.load)
        if not scene.queries:
            raise InputError(f"{paths[0]} has no queries: give photos, or another --split")
        return scene.queries, list(scene.notes)
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give one scene, or images ({path}/*.jpg)")
        if paths.count(path) > 1:
            raise InputError(f"{path} is given {paths.count(path)} times: name each photo once")
    if not paths:
        raise InputError("nothing is asked: give a scene, or images")
    given = arguments.load.given() - {"focal"}
    if given:
        option = min(given).replace("_", "-")
        raise InputError(
            f"--{option} is for scenes: of photos, only --focal or --camera can be said"
        )
    camera, focal = None, arguments.load.focal
    if arguments.camera is not None:
        if focal is not None:
            raise InputError("--camera has a focal length: leave --focal out")
        camera = _parse_camera(arguments.camera)
    # All headers are read here: what is wrong with one of a thousand is said before the long work.
    for path in paths:
        header = read_header(path)
        if camera is not None:
            is_turned_for(camera, header, path, PHOTO_MENDING)
    return [_Photo(path, camera, focal) for path in paths], []


def _parse_camera(text: str) -> Camera:
    model, *numbers = text.split(",")
    try:
        width, height, *params = numbers
        return Camera.of(model, int(width), int(height), list(map(float, params)))
    except ValueError as error:
        raise InputError(
            f"--camera {text}: {error}; write MODEL,WIDTH,HEIGHT,PARAMS..., as in "
            "SIMPLE_PINHOLE,640,480,525,320,240"
        ) from error


def _values(name: str, answer: PoseEstimate) -> dict[str, Any]:
    """One answer as plain values: what estimates.jsonl says, and what people ask for."""
    pose, covariance = answer.cam_from_world, answer.covariance
    sigma = rotation_sigma_deg = None
    if covariance is not None:
        # The centre is -Rᵀ t: a small left translation of t moves it as far, only turned.
        variance_6 = covariance.diagonal().clamp_min(0)
        sigma = float(variance_6[3:].sum().sqrt())
        rotation_sigma_deg = float(variance_6[:3].sum().sqrt().rad2deg())
    return {
        "name": name,
        "quat_wxyz": None if pose is None else pose.quat_wxyz.tolist(),
        "translation": None if pose is None else pose.translation.tolist(),
        "center_world": None if pose is None else pose.inverse().translation.tolist(),
        "confidence": answer.confidence,
        "num_inliers": answer.num_inliers,
        "inlier_ratio": answer.inlier_ratio,
        "sigma": sigma,
        "rotation_sigma_deg": rotation_sigma_deg,
        "focal": None if answer.camera is None else answer.camera.focal.tolist(),
        "reference": answer.reference,
    }


def _lines(
    arguments: LocalizeArguments, estimates: PoseEstimates, values: dict[str, Any], unit: str
) -> list[Table | str]:
    lines: list[Table | str] = [f"note: {note}" for note in values["notes"]]
    if len(estimates) <= _MAX_SHOWN:
        lines.append(_table(values["answers"], unit))
    answered = len(estimates) - estimates.num_declined
    lines.append(
        f"{arguments.out}: {answered} of {len(estimates)} answered, "
        f"{values['query_ms_median']:.0f} ms a query (median)"
    )
    if arguments.inputs[0].is_dir():
        again = scene_words(arguments.inputs[0], arguments.load)
        lines.append(f"compare: reloc evaluate {shlex.quote(str(arguments.out))} {again}")
    return lines


def _table(answers: Sequence[dict[str, Any]], unit: str) -> Table:
    table = Table(
        "image",
        f"camera centre ({unit})",
        "cam_from_world: quaternion wxyz",
        f"translation ({unit})",
        "confidence",
        "inliers",
        "sigma",
        "focal px",
    )
    for answer in answers:
        if answer["center_world"] is None:
            table.add_row(answer["name"], "declined: no pose is sure enough")
            continue
        sigma, focal = answer["sigma"], answer["focal"]
        table.add_row(
            answer["name"],
            _vector(answer["center_world"], 4),
            _vector(answer["quat_wxyz"], 5),
            _vector(answer["translation"], 4),
            "" if answer["confidence"] is None else f"{answer['confidence']:.3f}",
            "" if answer["num_inliers"] is None else str(answer["num_inliers"]),
            "" if sigma is None else f"{sigma:.2g} {unit}, {answer['rotation_sigma_deg']:.2g}°",
            "" if focal is None else f"{focal[0]:.1f}",
        )
    return table


def _vector(values: Sequence[float], digits: int) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)


COMMAND = Command(
    LocalizeArguments,
    _run,
    [
        "reloc localize kitchen.map data/kitchen --out estimates.jsonl",
        "reloc localize kitchen.map photo.jpg --out answer.jsonl",
        "reloc localize retrieval.map data/kitchen --refine kitchen.map --out refined.jsonl",
        "reloc localize kitchen.map *.jpg --focal 525 --out answers.jsonl --json",
        "reloc localize kitchen.map a.jpg --camera PINHOLE,640,480,525,525,320,240 --out a.jsonl",
    ],
)
