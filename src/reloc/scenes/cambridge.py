"""Cambridge Landmarks (Kendall et al., "PoseNet", ICCV 2015).

A scene is a folder, ShopFacade say, with dataset_train.txt and dataset_test.txt, whose lines are
`seq1/frame00001.png X Y Z W P Q R` (the camera centre and the quaternion of the rotation from
world to camera), images, and reconstruction.nvm, which has the focal length of each image in
pixels of the images as they were published. The published protocol takes no distortion, and
neither is it taken here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics
from reloc.scenes.layout import Layout
from reloc.scenes.options import LoadOptions
from reloc.scenes.photos import Photo, build_scene
from reloc.scenes.poses import PoseConvention, pose_from_numbers
from reloc.scenes.scene import Scene
from reloc.scenes.splits import Split
from reloc.scenes.text import Line, numbers, read_lines

_CONVENTION = PoseConvention("cam_from_world", gives_center=True)
_LISTS = ("dataset_train.txt", "dataset_test.txt")
_NVM = "reconstruction.nvm"


def _recognises(path: Path) -> bool:
    return all((path / name).is_file() for name in _LISTS)


def _load(path: Path, options: LoadOptions) -> Scene:
    focals = _focals(path / _NVM)
    convention = _CONVENTION.overridden(options)
    train, test = (
        [_photo(line, path, focals, convention) for line in _pose_lines(path / name)]
        for name in _LISTS
    )
    photos = [*train, *test]
    without = [photo.name for photo in photos if photo.intrinsics is None]
    notes = []
    if without:
        notes.append(f"{len(without)} images have no focal length in {_NVM}: {without[0]}, ...")
    else:
        notes.append(f"focal lengths are those of {_NVM}: right for the images as published only")
    return build_scene(
        photos,
        path,
        LAYOUT.name,
        options,
        ground_truth="sfm",
        metric=True,
        own_split=Split(tuple(p.name for p in train), tuple(p.name for p in test)),
        notes=notes,
    )


def _pose_lines(path: Path) -> list[Line]:
    """Without the heading, two lines of words."""
    lines = read_lines(path)
    return [line for line in lines if not line.text.startswith(("Visual Landmark", "ImageFile"))]


def _photo(
    line: Line, path: Path, focals: Mapping[str, Intrinsics], convention: PoseConvention
) -> Photo:
    name, values = line.named_numbers([7])
    center, quaternion = values[:3], values[3:]
    return Photo(
        name,
        path / name,
        pose_from_numbers([*quaternion, *center], convention, line.where),
        focals.get(_without_ending(name)),
    )


def _focals(path: Path) -> dict[str, Intrinsics]:
    """NVM: a count, then lines `name focal qw qx qy qz x y z radial 0`; names end in .jpg here."""
    if not path.is_file():
        return {}
    lines = read_lines(path)
    if len(lines) < 2 or not lines[0].text.startswith("NVM_V3") or not lines[1].text.isdecimal():
        raise InputError(f"{path} is no NVM file: it must begin with NVM_V3 and a count of cameras")
    cameras = lines[2 : 2 + int(lines[1].text)]
    focals = {}
    for line in cameras:
        name, *fields = line.text.split()
        if len(fields) != 10:
            raise InputError(
                f"{line.where}: a camera of an NVM file has 11 fields, not {len(fields) + 1}"
            )
        (focal,) = numbers(fields[:1], line.where)
        focals[_without_ending(name)] = Intrinsics((focal,), line.where)
    return focals


def _without_ending(name: str) -> str:
    return name.rpartition(".")[0] or name


LAYOUT = Layout(
    name="cambridge",
    summary="dataset_train.txt, dataset_test.txt, reconstruction.nvm, seq1/frame00001.png",
    recognises=_recognises,
    load=_load,
    options=frozenset({"quaternion"}),
)
