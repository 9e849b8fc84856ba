"""A COLMAP model, text or binary, with its images.

The folder has sparse/0, sparse or the model's files themselves, and images/. Which images are
asked:

- queries.txt: names, or hloc's `name MODEL width height params...`; or split files; or all of
  poses_test.txt;
- poses_test.txt: poses of images that are not in the model (docs/data.md has the format).

A query that is not in the model has the intrinsics of queries.txt, else those of the model's
camera where it has only one, with the focal length of poses_test.txt where that says one. COLMAP
takes images as stored: so does this. Lengths have no unit unless --metric says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics, IntrinsicsFile, read_intrinsics
from reloc.scenes.colmap_model import model_folder, read_model
from reloc.scenes.layout import Layout
from reloc.scenes.names import NameIndex, natural_key
from reloc.scenes.options import LoadOptions
from reloc.scenes.photos import Photo, build_scene, left_out_note
from reloc.scenes.pose_files import NamedPose, read_pose_file
from reloc.scenes.poses import PoseConvention, pose_from_numbers
from reloc.scenes.scene import Scene
from reloc.scenes.splits import Split
from reloc.scenes.text import read_lines

_QUERIES, _QUERY_POSES = "queries.txt", "poses_test.txt"


def _recognises(path: Path) -> bool:
    return model_folder(path) is not None


def _load(path: Path, options: LoadOptions) -> Scene:
    folder = model_folder(path)
    if folder is None:
        raise InputError(f"{path} has no COLMAP model: sparse/0 with cameras.bin and images.bin")
    model = read_model(folder)
    image_folder = path / "images" if (path / "images").is_dir() else path
    convention = PoseConvention().overridden(options)
    mapping = [
        Photo(
            image.name,
            image_folder / image.name,
            pose_from_numbers(image.pose, convention, image.where),
            model.cameras[image.camera_id],
        )
        for image in sorted(model.images, key=lambda image: natural_key(image.name))
    ]
    known = {photo.name for photo in mapping}
    listed = _query_intrinsics(path / _QUERIES)
    only_camera = next(iter(model.cameras.values())) if len(model.cameras) == 1 else None
    queries = [
        Photo(
            pose.name,
            image_folder / pose.name,
            pose.cam_from_world,
            listed.of(pose.name) if listed else _of_query(pose, only_camera),
        )
        for pose in _query_poses(path / _QUERY_POSES, options)
        if pose.name not in known
    ]
    notes = []
    if folder.name == "0" and (others := sum(1 for _ in folder.parent.glob("[1-9]*"))):
        notes.append(f"sparse/ has {others + 1} models, and only sparse/0 is read")
    if queries and listed is None and only_camera is not None:
        notes.append("queries that are not in the model are taken to be of its only camera")
    photos = [*mapping, *queries]
    index = NameIndex(photo.name for photo in photos)
    asked = {name: index.find(name) for name in _listed_queries(path / _QUERIES)}
    unposed = [name for name, found in asked.items() if found is None]
    notes += left_out_note(unposed, f"{_QUERIES} lists them but no pose is known")
    return build_scene(
        photos,
        path,
        LAYOUT.name,
        options,
        ground_truth="sfm",
        metric=False,
        own_split=_own_split(path, mapping, queries, asked),
        left_out=unposed,
        notes=notes,
    )


def _query_intrinsics(path: Path) -> IntrinsicsFile | None:
    """Of queries.txt, where its lines have more than a name."""
    if not path.is_file() or not any(len(line.fields()) > 1 for line in read_lines(path)):
        return None
    return read_intrinsics(path)


def _query_poses(path: Path, options: LoadOptions) -> Sequence[NamedPose]:
    return read_pose_file(path, options, "cam_from_world").poses if path.is_file() else []


def _of_query(pose: NamedPose, only_camera: Intrinsics | None) -> Intrinsics | None:
    """The model's camera with the query's own focal length, or what there is of the two."""
    if only_camera is None or pose.intrinsics is None:
        return only_camera or pose.intrinsics
    return only_camera.with_focal(pose.intrinsics.params[0], pose.intrinsics.where)


def _listed_queries(path: Path) -> list[str]:
    return [line.fields()[0] for line in read_lines(path)] if path.is_file() else []


def _own_split(
    path: Path, mapping: list[Photo], queries: list[Photo], asked: Mapping[str, str | None]
) -> Split | None:
    """queries.txt, else what only poses_test.txt has; split files win over the latter."""
    names = tuple(photo.name for photo in mapping)
    if asked:
        rest = tuple(name for name in names if name not in asked.values())
        return Split(rest, tuple(asked))
    if queries and not (path / "split_test.txt").is_file():
        return Split(names, tuple(photo.name for photo in queries))
    return None


LAYOUT = Layout(
    name="colmap",
    summary="sparse/0/{cameras,images}.{bin,txt}, images/, queries.txt or split files",
    recognises=_recognises,
    load=_load,
    options=frozenset({"quaternion"}),
)
