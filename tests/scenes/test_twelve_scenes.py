from __future__ import annotations

import pytest
from written_scenes import write_twelve_scenes

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene


@pytest.fixture
def kitchen(tmp_path):
    folder = tmp_path / "apt1" / "kitchen"
    folder.mkdir(parents=True)
    write_twelve_scenes(folder)
    return folder


def test_name_camera_and_the_first_sequence_asked(kitchen):
    scene = load_scene(kitchen, LoadOptions())
    assert (scene.name, scene.ground_truth, scene.metric) == ("apt1_kitchen", "d-slam", True)
    assert [view.name[11:17] for view in scene.queries] == ["000000", "000001"]
    assert scene.mapping[0].camera.params.tolist() == [58.3, 57.5, 33.0, 23.5]


def test_depth_has_the_size_of_the_image(kitchen):
    view = load_scene(kitchen, LoadOptions()).mapping[0]
    depth = view.read_depth()
    assert depth.shape == (48, 64)
    assert depth.unique().tolist() == pytest.approx([1.5])
    assert view.query().depth is not None


@pytest.mark.parametrize("mark", ["-1.#INF", "inf", "-1.#IND", "nan", "1.#QNAN"])
def test_lost_frames_are_left_out_and_named(kitchen, mark):
    lost = kitchen / "data" / "frame-000003.pose.txt"
    lost.write_text("\n".join([f"{mark} {mark} {mark} {mark}"] * 3 + ["0 0 0 1"]))
    scene = load_scene(kitchen, LoadOptions())
    assert [view.name[11:17] for view in scene.mapping] == ["000002", "000004"]
    assert any("data/frame-000003.color.jpg" in note for note in scene.notes)


def test_published_sfm_poses_beside_the_apartments(kitchen):
    folder = kitchen.parents[1] / "pgt" / "sfm"
    folder.mkdir(parents=True)
    for part, numbers in (("test", (0, 1)), ("train", (2, 4))):
        lines = [f"data/frame-00000{i}.color.jpg 1 0 0 0 0 0 {i} 60.5" for i in numbers]
        (folder / f"apt1_kitchen_{part}.txt").write_text("\n".join(lines))
    scene = load_scene(kitchen, LoadOptions())
    assert scene.ground_truth == "sfm"
    assert scene.mapping[1].cam_from_world.translation.tolist() == [0, 0, 4]
    assert scene.mapping[1].camera.params.tolist() == [60.5, 32.0, 24.0]
    assert any("frame-000003" in note for note in scene.notes)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("split.txt", "sequence0\n", "first line"),
        ("info.txt", "m_colorWidth = 64\n", "has no m_colorHeight"),
    ],
)
def test_other_files_are_refused(kitchen, file, content, message):
    (kitchen / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_scene(kitchen, LoadOptions())


def test_raw_means_nothing_here(kitchen):
    with pytest.raises(InputError, match="no raw ground truth"):
        load_scene(kitchen, LoadOptions(ground_truth="raw"))
