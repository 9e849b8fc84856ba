"""What a person may say about a scene beyond its path."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from reloc.input_error import InputError

Direction = Literal["cam_from_world", "world_from_cam"]
Axes = Literal["opencv", "opengl"]
QuaternionOrder = Literal["wxyz", "xyzw"]
GroundTruth = Literal["sfm", "d-slam", "raw"]


@dataclass(frozen=True)
class LoadOptions:
    """How to read a scene. What is not said here is as the scene's layout has it.

    Raises:
        InputError: a number is not positive.
    """

    layout: str | None = None
    """Name of the layout; recognised from the files where it is not said."""
    split: str | None = None
    """Which images are asked: `auto` (blocks of each sequence), the NAME of
    split_NAME_train.txt and split_NAME_test.txt, or a file that lists the queries."""
    ground_truth: GroundTruth | None = None
    """7-Scenes and 12-Scenes: whose poses. `raw` takes the depth camera's for the colour camera's,
    as much code does: for `reloc doctor` to find, not for use."""
    pgt: Path | None = None
    """7-Scenes and 12-Scenes: the folder that holds sfm/ and dslam/ with SCENE_train.txt and
    SCENE_test.txt; looked for as `pgt` beside the scene where it is not said."""
    poses: Direction | None = None
    """What the file's poses are, where that is not what the layout says."""
    axes: Axes | None = None
    """The file's camera axes: opencv (y down, z forward) or opengl (y up, z backward)."""
    quaternion: QuaternionOrder | None = None
    """The file's order of a quaternion."""
    focal: float | None = None
    """Focal length of every image, in pixels."""
    unknown_focal: bool = False
    """Ask the queries as photos of which no intrinsics are known: the focal length is estimated
    with the pose."""
    intrinsics_scale: float | None = None
    """Multiply the intrinsics, for those of images of another size: 0.5 if they are for images
    twice as large."""
    half_turn: bool = False
    """The poses belong to the images turned by 180 degrees: turn the cameras about their axes."""
    time_offset_s: float | None = None
    """Where poses and images are joined by time: seconds to add to an image's time before its pose
    is looked up."""
    metric: bool | None = None
    """Whether lengths are in metres, where the files do not tell."""

    def __post_init__(self) -> None:
        for name in ("focal", "intrinsics_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} is {value}: it must be positive")

    def given(self) -> set[str]:
        """Names of the fields that differ from their defaults."""
        return {field.name for field in fields(self) if getattr(self, field.name) != field.default}
