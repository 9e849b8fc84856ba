"""Map-free (Arnold et al., "Map-free visual relocalization", ECCV 2022).

A scene is a folder, s00460 say, with seq0/frame_00000.jpg (to map: one image in the val and test
scenes) and seq1/frame_00000.jpg, ... (to ask), poses.txt with lines `seq1/frame_00005.jpg qw qx qy
qz tx ty tz`, world to camera, in metres, and intrinsics.txt with lines `seq1/frame_00005.jpg fx fy
cx cy width height`.
"""

from __future__ import annotations

from pathlib import Path

from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics
from reloc.scenes.images import IMAGE_ENDINGS
from reloc.scenes.layout import Layout
from reloc.scenes.names import image_name, natural_key
from reloc.scenes.options import LoadOptions
from reloc.scenes.photos import Photo, build_scene, left_out_note
from reloc.scenes.poses import PoseConvention, pose_from_numbers
from reloc.scenes.scene import Scene
from reloc.scenes.splits import Split
from reloc.scenes.text import Line, read_lines


def _recognises(path: Path) -> bool:
    return (path / "seq0").is_dir() and all(
        (path / name).is_file() for name in ("poses.txt", "intrinsics.txt")
    )


def _load(path: Path, options: LoadOptions) -> Scene:
    intrinsics = dict(_intrinsics(line) for line in read_lines(path / "intrinsics.txt"))
    convention = PoseConvention().overridden(options)
    photos = []
    for line in read_lines(path / "poses.txt"):
        name, values = line.named_numbers([7])
        # The poses of test queries are not published: zeros stand for them.
        if not any(values):
            continue
        if name not in intrinsics:
            raise InputError(f"{path / 'intrinsics.txt'} has no line for {name}")
        pose = pose_from_numbers(values, convention, line.where)
        photos.append(Photo(name, path / name, pose, intrinsics[name]))
    photos.sort(key=lambda photo: natural_key(photo.name))
    posed = {photo.name for photo in photos}
    unposed = [
        image_name(image, path)
        for image in sorted(path.glob("seq[01]/*"))
        if image.suffix.lower() in IMAGE_ENDINGS and image_name(image, path) not in posed
    ]
    return build_scene(
        photos,
        path,
        LAYOUT.name,
        options,
        ground_truth="sfm",
        metric=True,
        own_split=Split(
            tuple(photo.name for photo in photos if photo.sequence_name == "seq0"),
            tuple(photo.name for photo in photos if photo.sequence_name != "seq0"),
        ),
        left_out=unposed,
        notes=left_out_note(unposed, "poses.txt has no pose of them"),
    )


def _intrinsics(line: Line) -> tuple[str, Intrinsics]:
    name, values = line.named_numbers([6])
    width, height = values[4:]
    if not (width.is_integer() and height.is_integer()):
        raise InputError(f"{line.where}: the image size {width:g}x{height:g} is not whole")
    return name, Intrinsics(tuple(values[:4]), line.where, "PINHOLE", (int(width), int(height)))


LAYOUT = Layout(
    name="mapfree",
    summary="seq0/, seq1/, poses.txt, intrinsics.txt",
    recognises=_recognises,
    load=_load,
    options=frozenset({"quaternion"}),
)
