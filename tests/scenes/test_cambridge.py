from __future__ import annotations

import pytest
from written_scenes import write_cambridge, write_image

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene


def test_focal_length_of_each_image_and_no_distortion(tmp_path):
    write_cambridge(tmp_path)
    scene = load_scene(tmp_path, LoadOptions())
    assert (scene.ground_truth, scene.metric) == ("sfm", True)
    focals = [float(view.camera.focal[0]) for view in (*scene.mapping, *scene.queries)]
    assert focals == [30, 31, 32, 33, 34, 35]
    assert scene.mapping[0].camera.params.tolist() == [30, 16, 12]
    assert {view.sequence for view in scene.queries} == {"seq2"}


def test_smaller_images_need_smaller_focal_lengths(tmp_path):
    truth = write_cambridge(tmp_path)
    for name in truth.world_from_cam:
        write_image(tmp_path / name, (16, 12))
    scene = load_scene(tmp_path, LoadOptions(intrinsics_scale=0.5))
    assert scene.mapping[0].camera.params.tolist() == [15, 8, 6]


def test_without_the_nvm_file_focal_lengths_are_to_be_estimated(tmp_path):
    write_cambridge(tmp_path)
    (tmp_path / "reconstruction.nvm").unlink()
    scene = load_scene(tmp_path, LoadOptions())
    assert not any(view.camera.has_prior_focal for view in scene.mapping)
    assert any("6 images have no focal length" in note for note in scene.notes)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("reconstruction.nvm", "NVM_V3", "NVM", "is no NVM file"),
        ("reconstruction.nvm", " -0.1 0", "", r"nvm:4: .* 11 fields, not 9"),
        ("dataset_train.txt", "seq1/frame00001.png", "seq1/frame00009.png", "1 of 6 .*missing"),
        ("dataset_test.txt", "seq2/frame00001.png", "seq1/frame00001.png", "has 2 poses"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, file, old, new, message):
    write_cambridge(tmp_path)
    path = tmp_path / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        load_scene(tmp_path, LoadOptions())
