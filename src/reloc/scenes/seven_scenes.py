"""7-Scenes (Shotton et al., "Scene coordinate regression forests", CVPR 2013).

A scene is a folder with TrainSplit.txt and TestSplit.txt (or by-frame split files) and sequences
seq-01/frame-000000.{color.png,depth.png,pose.txt}. Three sets of poses exist, each its own world
or its own camera, and are never mixed:

- pose.txt: camera to world of the *depth* camera, by depth SLAM;
- "d-slam": the same moved to the colour camera, as published in pgt/dslam, or made from pose.txt;
- "sfm": of the colour camera, by structure from motion, in pgt/sfm (Brachmann et al., "On the
  limits of pseudo ground truth in visual camera re-localisation", ICCV 2021). Not in the depth
  maps' world.

Depth is in millimetres, 0 and 65535 unknown, and not registered: it is moved to the colour camera
here, by a calibration that was measured on the images; the published one is another Kinect's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import roma
import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics
from reloc.scenes.images import read_depth
from reloc.scenes.layout import Layout
from reloc.scenes.names import image_name
from reloc.scenes.options import LoadOptions
from reloc.scenes.photos import Photo, build_scene, left_out_note
from reloc.scenes.poses import PoseConvention
from reloc.scenes.pseudo_truth import find_pseudo_truth, read_matrix_pose
from reloc.scenes.scene import Scene
from reloc.scenes.splits import Split
from reloc.scenes.text import read_lines

_SIZE = (640, 480)
_COLOR_FOCAL, _DEPTH_FOCAL = 525.0, 585.0
# The published d-slam poses were made from pose.txt with this calibration, of another Kinect.
_TRUTH_RGB_FROM_DEPTH = Rigid3d.from_matrix(
    torch.tensor(
        [
            [0.999965180126, 0.002676512647, -0.007904101231, -0.025558943178],
            [-0.002740931128, 0.999963028030, -0.008150452078, 0.000101096363],
            [0.007881994213, 0.008171832877, 0.999935545580, 0.002031832173],
        ],
        dtype=torch.float64,
    )
)
# With it, depth lies 8 px left of and 3 px above the colour image. This rotation brings the borders
# of depth to those of the image: fitted on 61 mapping frames of RedKitchen, whose quarters agree to
# 0.03 degrees; depth at points triangulated from sfm poses says the same.
_PIXEL_RGB_FROM_DEPTH = Rigid3d(
    roma.rotvec_to_rotmat(torch.tensor([0.00355, 0.00127, 0.00890], dtype=torch.float64)),
    _TRUTH_RGB_FROM_DEPTH.translation,
)
_NO_MOTION = Rigid3d.identity()


def _recognises(path: Path) -> bool:
    return next(path.glob("seq-*/frame-*.color.*"), None) is not None


def _load(path: Path, options: LoadOptions) -> Scene:
    truth = None
    if options.ground_truth != "raw":
        truth = find_pseudo_truth(path, path.resolve().name, "7scenes", options)
    ground_truth = options.ground_truth or (truth.ground_truth if truth else "d-slam")
    raw = ground_truth == "raw"
    move_poses, move_depth = (
        (_NO_MOTION, _NO_MOTION) if raw else (_TRUTH_RGB_FROM_DEPTH, _PIXEL_RGB_FROM_DEPTH)
    )
    convention = PoseConvention("world_from_cam").overridden(options)
    photos, invalid, unknown = [], [], []
    for image in sorted(path.glob("seq-*/frame-*.color.*")):
        name = image_name(image, path)
        stem = image.name.split(".")[0]
        focal = _DEPTH_FOCAL if raw else _COLOR_FOCAL
        where = str(image)
        if truth is not None:
            found = truth.pose(f"{image.parent.name}/{stem}", options)
            if found is None:
                unknown.append(name)
                continue
            cam_from_world, focal, where = found
        else:
            depth_from_world = read_matrix_pose(image.with_name(f"{stem}.pose.txt"), convention)
            if depth_from_world is None:
                invalid.append(name)
                continue
            cam_from_world = move_poses @ depth_from_world
        depth = image.with_name(f"{stem}.depth.png")
        photos.append(
            Photo(
                name,
                image,
                cam_from_world,
                Intrinsics((focal,), where, size=_SIZE),
                depth=partial(_read_registered, depth, move_depth) if depth.is_file() else None,
            )
        )
    notes = [
        *left_out_note(invalid, "their poses are not finite"),
        *left_out_note(unknown, f"the {ground_truth} ground truth has no pose of them"),
    ]
    if raw:
        notes.append(
            "the poses and the focal length are those of the depth camera and wrong for the colour "
            "images: do not use raw but to see what goes wrong"
        )
    return build_scene(
        photos,
        path,
        LAYOUT.name,
        options,
        ground_truth=ground_truth,
        metric=True,
        own_split=_official_split(path, photos),
        left_out=(*invalid, *unknown),
        notes=notes,
    )


def _official_split(path: Path, photos: list[Photo]) -> Split | None:
    """By sequence, of TrainSplit.txt and TestSplit.txt, whose lines are `sequence1`."""
    if not (path / "TrainSplit.txt").is_file():
        return None
    parts = []
    for file in (path / "TrainSplit.txt", path / "TestSplit.txt"):
        sequences = []
        for line in read_lines(file):
            digits = line.text.lower().removeprefix("sequence").strip()
            if not digits.isdecimal():
                raise InputError(f"{line.where}: {line.text[:40]!r} is no line like 'sequence1'")
            sequences.append(f"seq-{int(digits):02d}")
            if not (path / sequences[-1]).is_dir():
                raise InputError(f"{line.where}: there is no folder {path / sequences[-1]}")
        parts.append(tuple(photo.name for photo in photos if photo.sequence_name in sequences))
    return Split(parts[0], parts[1])


def _read_registered(path: Path, rgb_from_depth: Rigid3d, camera: Camera) -> Tensor:
    depth_HW = torch.from_numpy(read_depth(path, unit_m=1e-3))
    height, width = depth_HW.shape
    depth_camera = Camera.simple_pinhole(_DEPTH_FOCAL * width / _SIZE[0], width, height)
    return register_depth(depth_HW, depth_camera, rgb_from_depth, camera)


def register_depth(
    depth_HW: Tensor, depth_camera: Camera, rgb_from_depth: Rigid3d, rgb_camera: Camera
) -> Tensor:
    """Depth as the colour camera sees it: (H, W) float32 metres, 0 where unknown.

    Each pixel of the depth camera is lifted at its centre, moved, and falls into one pixel of the
    colour camera; the nearest wins.
    """
    rows_N, columns_N = torch.nonzero(depth_HW > 0, as_tuple=True)
    pixels_N2 = torch.stack([columns_N, rows_N], dim=-1) + 0.5
    rays_N2 = depth_camera.cam_from_img(pixels_N2)
    depth_N1 = depth_HW[rows_N, columns_N][:, None]
    points_N3 = rgb_from_depth.to(torch.float32) @ torch.cat([rays_N2 * depth_N1, depth_N1], dim=-1)
    landed_N2 = rgb_camera.img_from_cam(points_N3).floor().nan_to_num(-1.0)
    column_N, row_N = landed_N2.long().unbind(-1)
    width, height = rgb_camera.width, rgb_camera.height
    inside_N = (column_N >= 0) & (column_N < width) & (row_N >= 0) & (row_N < height)
    nearest = torch.full((height * width,), torch.inf)
    places = (row_N * width + column_N)[inside_N]
    nearest.scatter_reduce_(0, places, points_N3[inside_N, 2], "amin")
    return torch.where(nearest.isinf(), 0.0, nearest).reshape(height, width)


LAYOUT = Layout(
    name="7scenes",
    summary="seq-01/frame-000000.{color.png,depth.png,pose.txt}, TrainSplit.txt, TestSplit.txt",
    recognises=_recognises,
    load=_load,
    options=frozenset({"ground_truth", "pgt", "quaternion"}),
)
