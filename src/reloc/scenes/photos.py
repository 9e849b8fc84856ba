"""Images with poses, as a loader finds them, to a Scene: what all layouts do alike, done once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import turned_from_cam
from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics, camera_of_image
from reloc.scenes.images import ImageHeader, read_header, read_image
from reloc.scenes.options import LoadOptions
from reloc.scenes.scene import Scene, View
from reloc.scenes.splits import Split, choose_split


@dataclass(frozen=True, eq=False)
class Photo:
    """An image and what its layout says of it.

    Attributes:
        name: its path below the scene's folder, or below the folder of images.
        path: of the file.
        cam_from_world: float64, in OpenCV axes.
        intrinsics: None where nothing is known.
        depth: given the camera of the image, reads (H, W) float32 metres registered to it; None
            where there is no depth.
        sequence: name of its video; the folder in `name` where it is None.
        timestamp_s: seconds, on the clock of its sequence.
    """

    name: str
    path: Path
    cam_from_world: Rigid3d
    intrinsics: Intrinsics | None
    depth: Callable[[Camera], Tensor] | None = None
    sequence: str | None = None
    timestamp_s: float | None = None

    @property
    def sequence_name(self) -> str:
        """Name of the video, "" for photos that lie in no folder."""
        if self.sequence is not None:
            return self.sequence
        parent = PurePosixPath(self.name).parent.as_posix()
        return "" if parent == "." else parent


def build_scene(
    photos: Sequence[Photo],
    folder: Path,
    layout: str,
    options: LoadOptions,
    *,
    ground_truth: str,
    metric: bool,
    name: str | None = None,
    own_split: Split | None = None,
    left_out: Collection[str] = (),
    notes: Sequence[str] = (),
) -> Scene:
    """Split the photos, find their cameras, and check that every file is there.

    Args:
        photos: in order, sequence by sequence.
        folder: of the scene, for its name and its split files.
        layout: name of the layout.
        options: split, focal, unknown_focal, intrinsics_scale, half_turn and metric apply here.
        ground_truth: where the poses come from.
        metric: whether lengths are in metres.
        name: of the scene, where it is not the folder's.
        own_split: what the layout says.
        left_out: names of images without a usable pose, which split files may list.
        notes: what the loader left out or assumed.

    Raises:
        InputError: there is no photo, a photo has two poses, the split cannot be used, files
            are missing or are no images, or intrinsics do not fit.
    """
    if not photos:
        raise InputError(f"{folder}: the scene is empty: no image has a pose")
    by_name = {photo.name: photo for photo in photos}
    if len(by_name) < len(photos):
        name_twice, count = Counter(photo.name for photo in photos).most_common(1)[0]
        raise InputError(f"{folder}: {name_twice} has {count} poses: remove all but one")
    sequence_of = {photo.name: photo.sequence_name for photo in photos}
    split = choose_split(sequence_of, folder, options.split, own_split, left_out)
    if not split.mapping:
        raise InputError(f"{folder}: no image is left to build a map from: mend the split")
    chosen = [by_name[chosen_name] for chosen_name in (*split.mapping, *split.queries)]
    _refuse_missing(chosen)
    headers = [read_header(photo.path) for photo in chosen]
    _refuse_mixed_sizes(chosen, headers, options)
    views = [_view(photo, header, options) for photo, header in zip(chosen, headers, strict=True)]
    mapping, queries = views[: len(split.mapping)], views[len(split.mapping) :]
    if options.unknown_focal:
        queries = [_without_intrinsics(view) for view in queries]
    all_notes = [*notes, *([split.note] if split.note else []), *_camera_notes(views)]
    return Scene(
        name=name or folder.resolve().name,
        mapping=mapping,
        queries=queries,
        ground_truth=ground_truth,
        metric=metric if options.metric is None else options.metric,
        layout=layout,
        notes=tuple(all_notes),
    )


def left_out_note(names: Sequence[str], reason: str) -> list[str]:
    """A note that names the images that were left out; none where there are none."""
    if not names:
        return []
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return [f"{len(names)} images are left out, {reason}: {listed}"]


def _view(photo: Photo, header: ImageHeader, options: LoadOptions) -> View:
    camera, upright = camera_of_image(photo.intrinsics, header, options, photo.path)
    cam_from_world = photo.cam_from_world
    if options.half_turn:
        cam_from_world = turned_from_cam(2) @ cam_from_world
    return View(
        name=photo.name,
        camera=camera,
        cam_from_world=cam_from_world,
        image_reader=partial(read_image, photo.path, upright),
        depth_reader=partial(photo.depth, camera) if photo.depth else None,
        sequence=photo.sequence_name,
        timestamp_s=photo.timestamp_s,
    )


def _without_intrinsics(view: View) -> View:
    return replace(view, camera=Camera.guess(view.camera.width, view.camera.height))


def _refuse_missing(photos: Sequence[Photo]) -> None:
    missing = [photo.path for photo in photos if not _is_file(photo.path)]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(photos)} images are missing, the first is {missing[0]}: "
            "add them, or remove them from the poses"
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    # A name that no file can have, such as one that is too long.
    except OSError:
        return False


def _refuse_mixed_sizes(
    photos: Sequence[Photo], headers: Sequence[ImageHeader], options: LoadOptions
) -> None:
    """One camera said for all images is wrong for some where their sizes differ.

    Intrinsics that say their size are compared with each image elsewhere.
    """
    first: dict[Intrinsics | None, tuple[Photo, ImageHeader]] = {}
    for photo, header in zip(photos, headers, strict=True):
        said = photo.intrinsics
        if options.focal is None if said is None else said.size is not None:
            continue
        other, its_header = first.setdefault(said, (photo, header))
        if said is None:
            # A focal length alone is the same for pictures taken upright and turned.
            same = sorted(its_header.size) == sorted(header.size)
        else:
            same = its_header.upright_size == header.upright_size
        if not same:
            raise InputError(
                f"{'--focal' if said is None else said.where} is for all images, but {other.name} "
                f"has {its_header.width}x{its_header.height} pixels and {photo.name} "
                f"{header.width}x{header.height}: give each image its own intrinsics"
            )


def _camera_notes(views: Sequence[View]) -> list[str]:
    guessed = sum(not view.camera.has_prior_focal for view in views)
    if not guessed:
        return []
    return [f"{guessed} images have no focal length, also not in EXIF: it is to be estimated"]
