"""What 7-Scenes and 12-Scenes share: pose.txt of a frame, and the pseudo ground truth of a scene.

The latter as published by Brachmann et al., "On the limits of pseudo ground truth in visual camera
re-localisation", ICCV 2021: files SCENE_train.txt and SCENE_test.txt with lines
`seq-01/frame-000000.color.png qw qx qy qz tx ty tz f`, world to colour camera, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.options import LoadOptions
from reloc.scenes.poses import PoseConvention, pose_from_numbers
from reloc.scenes.text import Line, numbers, read_lines

_FOLDERS = {"sfm": "sfm", "d-slam": "dslam"}


@dataclass(frozen=True, eq=False)
class PseudoTruth:
    """Published poses of a scene's frames.

    Attributes:
        ground_truth: "sfm" or "d-slam".
        line_of: the line of each frame, under its name without endings.
    """

    ground_truth: str
    line_of: Mapping[str, Line]

    def pose(self, name: str, options: LoadOptions) -> tuple[Rigid3d, float, str] | None:
        """cam_from_world, focal length in pixels, and file and line; None where there is no pose.

        Raises:
            InputError: the line is no pose.
        """
        line = self.line_of.get(name)
        if line is None:
            return None
        _, values = line.named_numbers([8])
        convention = PoseConvention().overridden(options)
        return pose_from_numbers(values[:7], convention, line.where), values[7], line.where


def find_pseudo_truth(
    path: Path, key: str, dataset: str, options: LoadOptions
) -> PseudoTruth | None:
    """The published poses that are wanted: by default sfm where it is there.

    Args:
        path: of the scene.
        key: of the scene, in the names of the files.
        dataset: folder between sfm and the files in the authors' own repository.
        options: for ground_truth and pgt.

    Returns:
        None where there is none, and those of the frames' pose.txt are to be taken.

    Raises:
        InputError: there is none where --pgt says, or no sfm, which pose.txt cannot replace.
    """
    scene = path.resolve()
    beside = [folder / "pgt" for folder in (scene, scene.parent, scene.parent.parent)]
    roots = [options.pgt] if options.pgt else beside
    wanted = options.ground_truth or "sfm"
    for folder in (root / _FOLDERS[wanted] / sub for root in roots for sub in ("", dataset)):
        files = [folder / f"{key}_{part}.txt" for part in ("train", "test")]
        lines = [line for file in files if file.is_file() for line in read_lines(file)]
        if lines:
            return PseudoTruth(wanted, {_frame(line): line for line in lines})
    if options.ground_truth == "sfm" or options.pgt:
        where = options.pgt or scene.parent / "pgt"
        raise InputError(
            f"there is no {wanted} ground truth of {key} in {where}: --pgt says where it is"
        )
    return None


def _frame(line: Line) -> str:
    folder, _, file = line.fields()[0].rpartition("/")
    return f"{folder}/{file.split('.')[0]}"


def read_matrix_pose(path: Path, convention: PoseConvention) -> Rigid3d | None:
    """cam_from_world of a file with the rows of a 4x4 matrix.

    Returns:
        None where a value is not finite: so the datasets mark frames whose tracking was lost.

    Raises:
        InputError: the file is missing or no pose.
    """
    values = numbers([field for line in read_lines(path) for field in line.fields()], str(path))
    if values and not all(map(math.isfinite, values)):
        return None
    if len(values) != 16:
        raise InputError(f"{path}: a pose file has 4x4 numbers, not {len(values)}")
    return pose_from_numbers(values, convention, str(path))
