from __future__ import annotations

import numpy as np
import pytest
from written_scenes import random_poses, write_image, write_tum

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene


def test_pixels_are_counted_from_the_corner_and_depth_is_metric(tmp_path):
    write_tum(tmp_path)
    scene = load_scene(tmp_path, LoadOptions())
    assert (scene.ground_truth, scene.metric) == ("mocap", True)
    assert scene.mapping[0].camera.params.tolist() == [525.0, 525.0, 320.0, 240.0]
    # depth/0.png is 10 ms from the first image and 23 ms from the second.
    assert scene.mapping[0].read_depth().unique().tolist() == [2.0]
    assert scene.mapping[1].read_depth() is None
    assert scene.mapping[0].sequence == tmp_path.name
    assert any("no pose is within 20 ms" in note for note in scene.notes)


def test_freiburg3_has_its_own_calibration(tmp_path):
    folder = tmp_path / "rgbd_dataset_freiburg3_long_office_household"
    folder.mkdir()
    write_tum(folder)
    camera = load_scene(folder, LoadOptions()).mapping[0].camera
    assert camera.params.tolist() == pytest.approx([535.4, 539.2, 320.6, 248.1])


def test_intrinsics_of_a_file_win(tmp_path):
    write_tum(tmp_path)
    (tmp_path / "intrinsics.txt").write_text("SIMPLE_RADIAL 640 480 500 320 240 0.1\n")
    assert load_scene(tmp_path, LoadOptions()).mapping[0].camera.model == "SIMPLE_RADIAL"


def test_time_offset_finds_the_other_pose(tmp_path):
    """The written file has a second pose 15 ms behind each."""
    write_tum(tmp_path)
    view = load_scene(tmp_path, LoadOptions(time_offset_s=0.015)).mapping[3]
    (expected,) = random_poses(["x"], seed=103).values()
    np.testing.assert_allclose(view.center_world, expected[:3, 3], atol=1e-8)


def test_depth_of_another_size_is_refused(tmp_path):
    truth = write_tum(tmp_path)
    for name in truth.world_from_cam:
        write_image(tmp_path / name, (320, 240))
    (tmp_path / "rgb.txt").write_text("".join(f"{n[4:-4]} {n}\n" for n in truth.world_from_cam))
    view = load_scene(tmp_path, LoadOptions(intrinsics_scale=0.5)).mapping[0]
    with pytest.raises(InputError, match="not as large as its image"):
        view.read_depth()


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("rgb.txt", "1305031102.2", r"rgb\.txt:\d+: a line has a time and a file"),
        ("rgb.txt", "soon rgb/1.png", "'soon' is no number"),
        ("rgb.txt", "nan rgb/1.png", "the time is not finite"),
        ("groundtruth.txt", "1305031102.1753 1 2 3 0 0 1", "not 6 numbers"),
    ],
)
def test_what_is_wrong_names_its_line(tmp_path, file, line, message):
    write_tum(tmp_path)
    path = tmp_path / file
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=message):
        load_scene(tmp_path, LoadOptions())
