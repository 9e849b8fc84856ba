from __future__ import annotations

import pytest
from written_scenes import write_image, write_mapfree

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene


def test_one_image_maps_and_each_has_its_camera(tmp_path):
    write_mapfree(tmp_path)
    scene = load_scene(tmp_path, LoadOptions())
    assert [view.name for view in scene.mapping] == ["seq0/frame_00000.jpg"]
    assert scene.metric
    assert [round(float(v.camera.focal[0]), 1) for v in scene.queries] == [59.1, 59.2, 59.3, 59.4]


def test_images_without_a_pose_are_left_out_and_named(tmp_path):
    write_mapfree(tmp_path)
    write_image(tmp_path / "seq1/frame_00009.jpg", (54, 72))
    scene = load_scene(tmp_path, LoadOptions())
    assert len(scene.queries) == 4
    assert any("seq1/frame_00009.jpg" in note for note in scene.notes)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("intrinsics.txt", "seq1/frame_00002.jpg", "seq1/x.jpg", r"no line for seq1/frame_00002"),
        ("intrinsics.txt", " 54 72", " 54.5 72", "not whole"),
        ("intrinsics.txt", " 54 72", " 54", r"intrinsics\.txt:1: 5 numbers .* not 6"),
        ("poses.txt", "seq0/frame_00000.jpg ", "seq0/frame_00000.jpg 1 ", "8 numbers .* not 7"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, file, old, new, message):
    write_mapfree(tmp_path)
    path = tmp_path / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        load_scene(tmp_path, LoadOptions())
