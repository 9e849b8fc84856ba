from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from written_scenes import write_robotcar

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene

DRIVE = "2014-06-26-08-53-56"


def test_camera_of_the_kit_at_the_size_of_the_images(tmp_path):
    write_robotcar(tmp_path)
    scene = load_scene(tmp_path, LoadOptions())
    assert (scene.ground_truth, scene.metric) == ("ins", True)
    camera = scene.mapping[0].camera
    assert (camera.width, camera.height) == (64, 48)
    assert camera.params.tolist() == pytest.approx([48.2414, 48.2414, 32.1894, 24.2204], abs=1e-3)
    assert scene.mapping[1].timestamp_s - scene.mapping[0].timestamp_s == pytest.approx(0.02)
    assert any("outside of ins.csv" in note for note in scene.notes)
    assert any("northing" in note for note in scene.notes)


def test_time_offset_moves_along_the_drive(tmp_path):
    write_robotcar(tmp_path)
    now = load_scene(tmp_path, LoadOptions()).mapping
    later = load_scene(tmp_path, LoadOptions(time_offset_s=0.02)).mapping
    # One image later, but for the origin, which is the first image's place.
    for view, following in zip(later, now[1:], strict=False):
        torch.testing.assert_close(view.cam_from_world.rotation, following.cam_from_world.rotation)


def test_extrinsics_of_the_kit_move_the_poses_to_the_camera(tmp_path):
    write_robotcar(tmp_path)
    at_ins = load_scene(tmp_path, LoadOptions()).mapping[0]
    folder = tmp_path / "extrinsics"
    folder.mkdir()
    (folder / "stereo.txt").write_text("0 0 0 0 0 0\n")
    # The unit: 1.7 m behind the camera, 1.2 m below it, turned by 0.1 rad about the vertical.
    (folder / "ins.txt").write_text("-1.7 0 1.2 0 0 0.1\n")
    scene = load_scene(tmp_path, LoadOptions())
    at_camera = scene.mapping[0]
    cam_from_ins = at_camera.cam_from_world @ at_ins.cam_from_world.inverse()
    # In the camera's axes, backward is -z, down is +y; a turn about z of the body is one about y.
    np.testing.assert_allclose(cam_from_ins.translation, [0, 1.2, -1.7], atol=1e-9)
    expected = Rotation.from_euler("y", 0.1).as_matrix()
    np.testing.assert_allclose(cam_from_ins.rotation, expected, atol=1e-9)
    assert not any("extrinsics" in note for note in scene.notes)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (f"{DRIVE}/gps/ins.csv", "timestamp,northing\n1,2\n", "must have the columns"),
        (f"{DRIVE}/gps/ins.csv", "", "must have the columns"),
        ("train_split.txt", "2014-01-01-00-00-00\n", "is missing"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, file, content, message):
    write_robotcar(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_scene(tmp_path, LoadOptions())


def test_times_must_increase(tmp_path):
    write_robotcar(tmp_path)
    path = tmp_path / DRIVE / "gps" / "ins.csv"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(InputError, match="times must increase"):
        load_scene(tmp_path, LoadOptions())
