"""`reloc relate`: where the second of two photos was taken, as seen from the first."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.options import Machine, MachineOptions, start_run
from reloc.estimation.relative import Correspondences, RelativePose
from reloc.estimation.two_photos import describe_photo, relate_photos, usual_config
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.nn.local_features import FeatureKind
from reloc.nn.matchers import MATCHED_FEATURES, MatcherChoice
from reloc.progress import Progress
from reloc.scenes.images import query_from_image, read_depth, read_header
from reloc.scenes.scene import Query

# Larger photos are reduced to this longer side.
_MAX_SIDE_PX = 1600
# Below this median parallax, the direction of the translation is a matter of noise.
_MIN_PARALLAX_DEG = 0.3


@dataclass(frozen=True)
class RelateArguments(CommonArguments):
    """Where the second of two photos was taken, in the frame of the first (x right, z ahead).

    From matches of local features, robustly. Two photos alone tell the rotation and the direction
    of the way between them, but no length: with the depth of one of them (--depth-a, --depth-b),
    it is metric. Focal lengths come from EXIF or --focal; photos of one size without either get one
    that is estimated.
    """

    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A")]
    """Photo."""
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B")]
    """Photo."""
    focal: float | None = None
    """Focal length of both photos, in pixels."""
    depth_a: Path | None = None
    """Depth map of A: a PNG of 16 bits, of the photo's aspect and registered to it; 0 where
    unknown."""
    depth_b: Path | None = None
    """Depth map of B."""
    depth_unit: float = 1e-3
    """Metres of one step of the depth maps."""
    features: FeatureKind = "sift"
    """Detector and descriptor; the weights of alike, r2d2 and superpoint are looked for in the
    folder RELOC_WEIGHTS."""
    matcher: MatcherChoice = "nearest"
    """Nearest neighbours, or a network that sees both photos: it needs --features superpoint and
    weights of its own in that folder, and its time grows with the square of the keypoints."""
    solver: Literal["auto", "essential", "pnp", "kabsch"] = "auto"
    """essential: five points, the length from depth where there is any; pnp: points with depth in
    A; kabsch: points with depth in both. auto: pnp with the depth of the one that has more, else
    essential."""
    max_keypoints: int = 4000
    """Strongest keypoints of each photo."""
    machine: Machine = field(default_factory=MachineOptions)


def _run(arguments: RelateArguments, progress: Progress) -> Answer:
    _check(arguments)
    run = start_run(arguments.machine, progress)
    config = replace(
        usual_config(arguments.features, _MAX_SIDE_PX),
        max_keypoints=arguments.max_keypoints,
        solver=None if arguments.solver == "auto" else arguments.solver,
        matcher=arguments.matcher,
    )
    photos = [
        _photo(arguments.first, arguments.depth_a, arguments),
        _photo(arguments.second, arguments.depth_b, arguments),
    ]
    described = [describe_photo(photo, config) for photo in photos]
    found, seen = relate_photos(described[0], described[1], config, run.seed)
    values = _values(arguments, found, seen)
    return Answer(values, _lines(values))


def _check(arguments: RelateArguments) -> None:
    """Raises InputError: the options do not fit one another."""
    has_a, has_b = arguments.depth_a is not None, arguments.depth_b is not None
    if arguments.solver == "pnp" and not has_a:
        hint = "; --solver auto takes that of B" if has_b else ""
        raise InputError(f"--solver pnp needs --depth-a{hint}")
    if arguments.solver == "kabsch" and not (has_a and has_b):
        raise InputError("--solver kabsch needs --depth-a and --depth-b")
    if arguments.matcher != "nearest" and arguments.features != MATCHED_FEATURES:
        raise InputError(f"--matcher {arguments.matcher} needs --features {MATCHED_FEATURES}")
    if arguments.focal is not None and not (math.isfinite(arguments.focal) and arguments.focal > 0):
        raise InputError(f"--focal {arguments.focal:g}: give a positive number of pixels")
    if not (math.isfinite(arguments.depth_unit) and arguments.depth_unit > 0):
        raise InputError(f"--depth-unit {arguments.depth_unit:g}: give a positive number of metres")
    if arguments.max_keypoints < 1:
        raise InputError(f"--max-keypoints {arguments.max_keypoints}: give 1 or more")


def _photo(path: Path, depth_path: Path | None, arguments: RelateArguments) -> Query:
    photo = query_from_image(path, focal=arguments.focal)
    if depth_path is None:
        return photo
    if read_header(path).orientation != 1:
        raise InputError(
            f"{path} is turned by its EXIF and its depth map {depth_path} is not: turn both "
            "upright, and save them"
        )
    depth_HW = torch.from_numpy(read_depth(depth_path, arguments.depth_unit))
    height, width = photo.image.shape[-2:]
    if depth_HW.shape[0] * width != depth_HW.shape[1] * height:
        raise InputError(
            f"{depth_path} is {depth_HW.shape[1]}x{depth_HW.shape[0]} pixels but its photo is "
            f"{width}x{height}: register the depth to the photo"
        )
    # Nearest, not a mean: between two surfaces there is nothing.
    depth_HW = torch.nn.functional.interpolate(
        depth_HW[None, None], size=(height, width), mode="nearest-exact"
    )[0, 0]
    return replace(photo, depth=depth_HW)


def _values(
    arguments: RelateArguments, found: RelativePose | None, seen: Correspondences
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "first": str(arguments.first),
        "second": str(arguments.second),
        "n_matches": len(seen.pixels0_N2),
        "found": found is not None,
    }
    if found is None:
        return values
    pose = found.cam1_from_cam0
    eye = torch.eye(3, dtype=torch.float64)
    angle_deg = math.degrees(float(angle_between_rad(pose.rotation, eye)))
    return {
        **values,
        "quat_wxyz": pose.quat_wxyz.tolist(),
        "translation": pose.translation.tolist(),
        "center_in_first": pose.inverse().translation.tolist(),
        "unit": "m" if found.has_scale else None,
        "angle_deg": angle_deg,
        "distance_m": float(pose.translation.norm()) if found.has_scale else None,
        "n_inliers": found.num_inliers,
        "parallax_deg": found.parallax_deg,
        "direction_known": found.has_scale or found.parallax_deg >= _MIN_PARALLAX_DEG,
        "focal_first": found.camera0.focal.tolist(),
        "focal_second": found.camera1.focal.tolist(),
        "focal_estimated": not (found.camera0.has_prior_focal and found.camera1.has_prior_focal),
    }


def _lines(values: dict[str, Any]) -> list[str]:
    if not values["found"]:
        return [
            f"declined: {values['n_matches']} matches, and too few of them agree on a pose: "
            "do both photos show the same place?"
        ]
    center = " ".join(f"{x:+.4f}" for x in values["center_in_first"])
    translation = " ".join(f"{x:+.4f}" for x in values["translation"])
    quaternion = " ".join(f"{x:+.5f}" for x in values["quat_wxyz"])
    lines = [
        f"b_from_a: rotation (quaternion wxyz) {quaternion}, {values['angle_deg']:.2f}°",
        f"b_from_a: translation {translation}",
    ]
    if values["unit"]:
        lines.append(f"B is {values['distance_m']:.3f} m from A, at {center} (m) in A's frame")
    else:
        lines.append(f"B lies in the direction {center} in A's frame")
        lines.append("up to scale: photos alone tell no length; --depth-a or --depth-b would")
    if not values["direction_known"]:
        lines.append(
            f"the camera hardly moved (parallax {values['parallax_deg']:.2f}°): "
            "the direction is a matter of noise, the rotation is not"
        )
    lines.append(f"{values['n_inliers']} of {values['n_matches']} matches agree")
    if values["focal_estimated"]:
        first, second = values["focal_first"][0], values["focal_second"][0]
        lines.append(
            f"focal lengths are not known: {first:.0f} and {second:.0f} px were estimated or "
            "guessed; --focal is better"
        )
    return lines


COMMAND = Command(
    RelateArguments,
    _run,
    [
        "reloc relate a.jpg b.jpg",
        "reloc relate a.jpg b.jpg --focal 525 --json",
        "reloc relate a.jpg b.jpg --focal 525 --depth-a a.depth.png",
    ],
)
