"""Scenes as other people's scripts and editors leave them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from written_scenes import write_colmap, write_folder, write_image, write_mapfree, write_nerfstudio

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.composite import composite
from reloc.scenes.images import read_header
from reloc.scenes.scene import Scene


def test_lines_of_poses_may_come_in_any_order(tmp_path: Path) -> None:
    """Blocks are cut from neighbours in time, not from lines of a listing."""
    write_folder(tmp_path)
    before = load_scene(tmp_path, LoadOptions())
    path = tmp_path / "poses.txt"
    *heading, rest = path.read_text().split("\n", 2)
    lines = rest.splitlines()
    random.Random(1).shuffle(lines)
    path.write_text("\n".join([*heading, *lines]) + "\n")
    after = load_scene(tmp_path, LoadOptions())
    assert [view.name for view in after.mapping] == [view.name for view in before.mapping]
    assert [view.name for view in after.queries] == [view.name for view in before.queries]


@pytest.mark.parametrize(
    "comment",
    ["axes: blender", "axes: y up", "quaternion: qx qy qz qw", "metric: 0", "Quaternion = xyz"],
)
def test_a_comment_that_is_not_understood_is_not_passed_over(tmp_path: Path, comment: str) -> None:
    write_folder(tmp_path)
    path = tmp_path / "poses.txt"
    path.write_text(f"# {comment}\n{path.read_text().replace('# metric: no', '#')}")
    with pytest.raises(InputError, match=r"poses\.txt: `# .* is not understood: write "):
        load_scene(tmp_path, LoadOptions())


def test_columns_mean_what_they_are_called(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.png")
    (tmp_path / "poses.txt").write_text(
        "# c2w\n# name tx tz ty qz qw qy qx f\na.png 1 3 2 0.4 0.8 0.4 0.2 30\n# no more\n"
    )
    (view,) = load_scene(tmp_path, LoadOptions()).mapping
    assert view.center_world.tolist() == pytest.approx([1, 2, 3])
    quat = view.cam_from_world.inverse().quat_wxyz
    assert torch.allclose(quat, torch.tensor([0.8, 0.2, 0.4, 0.4]).double(), atol=1e-9)
    with pytest.raises(InputError, match="names its columns"):
        load_scene(tmp_path, LoadOptions(quaternion="xyzw"))


def test_a_model_without_lines_of_points_is_refused(tmp_path: Path) -> None:
    """Every second image was passed over."""
    write_colmap(tmp_path)
    path = tmp_path / "sparse/0/images.txt"
    lines = [line for line in path.read_text().splitlines() if line.endswith((".jpg", "images"))]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"images\.txt:3: the line of points of 1\.jpg is missing"):
        load_scene(tmp_path, LoadOptions())


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    write_colmap(tmp_path)
    assert not any("--layout" in note for note in load_scene(tmp_path, LoadOptions()).notes)
    (tmp_path / "sparse/1").mkdir()
    (tmp_path / "poses.txt").write_text("# c2w\n1.jpg 1 0 0 0 0 0 0\n")
    notes = load_scene(tmp_path, LoadOptions()).notes
    assert any("sparse/ has 2 models, and only sparse/0 is read" in note for note in notes)
    assert any("could be folder: --layout chooses" in note for note in notes)


def test_single_photos_side_by_side_are_no_videos(small_room: Scene) -> None:
    views = [replace(view, sequence="") for view in small_room.mapping[:4]]
    both = composite([Scene(name, views, [], "synthetic") for name in ("a", "b")])
    sequences = [view.sequence for view in both.mapping]
    assert len(set(sequences)) == len(sequences) == 8
    assert {name.partition("/")[0] for name in sequences} == {"a", "b"}


def test_queries_of_mapfree_whose_poses_are_zeros_are_left_out(tmp_path: Path) -> None:
    """As those of its test scenes are."""
    write_mapfree(tmp_path)
    path = tmp_path / "poses.txt"
    lines = path.read_text().splitlines()
    hidden = [f"{line.split()[0]} 0 0 0 0 0 0 0" for line in lines[-2:]]
    path.write_text("\n".join([*lines[:-2], *hidden]) + "\n")
    scene = load_scene(tmp_path, LoadOptions())
    assert (len(scene.mapping), len(scene.queries)) == (1, 2)
    assert any("seq1/frame_00003.jpg" in note for note in scene.notes)


def test_an_angle_of_view_is_enough_where_images_are_of_one_size(tmp_path: Path) -> None:
    """As NeRF's own scenes have it: no size is said anywhere."""
    write_nerfstudio(tmp_path)
    path = tmp_path / "transforms.json"
    content = json.loads(path.read_text())
    plain = [
        {k: frame[k] for k in ("file_path", "transform_matrix")} for frame in content["frames"]
    ]
    path.write_text(json.dumps({"camera_angle_x": 1.0, "frames": plain}))
    camera = load_scene(tmp_path, LoadOptions()).mapping[0].camera
    assert float(camera.focal[0]) == pytest.approx(16 / torch.tensor(0.5).tan().item())


@pytest.mark.parametrize("size", [(60, 40), (40, 60)])
def test_the_focal_length_of_a_turned_photo_is_that_of_the_sensor(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """50 mm, and a sensor of 36 mm across 60 pixels: some programs turn pixels, and not tags."""
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x920A: 50.0, 0xA20E: 60 / 36, 0xA210: 4, 0xA002: 60, 0xA003: 40})
    Image.new("RGB", size).save(tmp_path / "a.jpg", exif=exif)
    assert read_header(tmp_path / "a.jpg").camera().focal[0] == pytest.approx(50 / 36 * 60)


def test_the_factor_for_intrinsics_of_a_turned_photo_is_right(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (400, 300)).save(tmp_path / "images/a.jpg", exif=exif)
    (tmp_path / "poses.txt").write_text("# c2w\na.jpg 1 0 0 0 0 0 0\n")
    (tmp_path / "intrinsics.txt").write_text("a.jpg PINHOLE 150 200 180 180 75 100\n")
    with pytest.raises(InputError, match=r"multiply them by 2 \("):
        load_scene(tmp_path, LoadOptions())
    with pytest.raises(InputError, match=r"multiply them by 2 \("):
        load_scene(tmp_path, LoadOptions(intrinsics_scale=1.5))
    assert load_scene(tmp_path, LoadOptions(intrinsics_scale=2.0)).mapping


def test_heic_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(InputError, match=r"a\.HEIC is HEIC, which is not read: convert it"):
        read_header(tmp_path / "a.HEIC")
