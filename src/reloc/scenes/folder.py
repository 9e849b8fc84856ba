"""Images and a poses file: the layout for own data.

The folder has images (in images/, or in itself) and poses.txt or poses.csv, or poses_train.txt and
poses_test.txt; `scenes.pose_files` has the format. intrinsics.txt, where it is there, has `MODEL
width height params...`, for all images in one line or for each with its name in front; else a
focal length in the poses file is taken, else EXIF's, else the focal length is to be estimated.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reloc.input_error import InputError
from reloc.scenes.cameras import read_intrinsics
from reloc.scenes.layout import Layout
from reloc.scenes.names import natural_key
from reloc.scenes.options import LoadOptions
from reloc.scenes.photos import Photo, build_scene
from reloc.scenes.pose_files import PoseFile, read_pose_file
from reloc.scenes.scene import Scene
from reloc.scenes.splits import Split

_ENDINGS = ("txt", "csv")


def _pose_files(path: Path) -> list[Path]:
    """One file, or two: of mapping images and of queries."""
    for names in (("poses_train", "poses_test"), ("poses",)):
        for ending in _ENDINGS:
            files = [path / f"{name}.{ending}" for name in names]
            if all(file.is_file() for file in files):
                return files
    return []


def _recognises(path: Path) -> bool:
    return bool(_pose_files(path))


def _load(path: Path, options: LoadOptions) -> Scene:
    files = _pose_files(path)
    if not files:
        raise InputError(f"{path} has no poses.txt, and no poses_train.txt and poses_test.txt")
    image_folder = path / "images" if (path / "images").is_dir() else path
    intrinsics_file = path / "intrinsics.txt"
    listed = read_intrinsics(intrinsics_file) if intrinsics_file.is_file() else None
    # In the order of the names, as other layouts have them: what is cut into blocks, or taken for
    # frames of a video, must not hang on the order in which a script listed a folder.
    parts = [
        replace(part, poses=sorted(part.poses, key=lambda pose: natural_key(pose.name)))
        for part in (read_pose_file(file, options) for file in files)
    ]
    photos = [
        Photo(
            pose.name,
            image_folder / pose.name,
            pose.cam_from_world,
            listed.of(pose.name) if listed else pose.intrinsics,
        )
        for part in parts
        for pose in part.poses
    ]
    own = None
    if len(parts) == 2:
        mapping, queries = (tuple(pose.name for pose in part.poses) for part in parts)
        own = Split(mapping, queries)
    metric, notes = _metric(parts)
    return build_scene(
        photos,
        path,
        LAYOUT.name,
        options,
        ground_truth="given",
        metric=metric,
        own_split=own,
        notes=notes,
    )


def _metric(parts: list[PoseFile]) -> tuple[bool, list[str]]:
    said = {part.metric for part in parts if part.metric is not None}
    if len(said) > 1:
        raise InputError("poses_train and poses_test do not agree about `# metric:`")
    if said:
        return said.pop(), []
    return True, ["lengths are taken to be metres: `# metric: no` in the poses file says otherwise"]


LAYOUT = Layout(
    name="folder",
    summary="images/ and poses.txt (or .csv, or poses_train.txt and poses_test.txt)",
    recognises=_recognises,
    load=_load,
    options=frozenset({"quaternion"}),
)
