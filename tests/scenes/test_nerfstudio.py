from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_scenes import OPENGL_FROM_OPENCV, random_poses, write_image, write_nerfstudio

from reloc.geometry.epipolar import epipolar_error_px
from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.scene import Scene


def edited(folder, **changes) -> None:
    path = folder / "transforms.json"
    content = {**json.loads(path.read_text()), **changes}
    content = {key: value for key, value in content.items() if value != "removed"}
    path.write_text(json.dumps(content))


@pytest.mark.data
def test_fox_has_its_poses_in_opengl_axes(shared_data):
    """Neighbours agree to a fraction of a pixel, and only as the layout says."""
    scene = load_scene(shared_data / "fox", LoadOptions())
    assert (len(scene.mapping), len(scene.queries)) == (38, 10)
    assert (scene.layout, scene.metric) == ("nerfstudio", False)
    first, second = scene.mapping[0], scene.mapping[4]
    assert first.camera.model == "OPENCV"
    matches = sift_matches(first.read_image(), second.read_image())
    wrong = load_scene(shared_data / "fox", LoadOptions(axes="opencv")).mapping
    errors_px = [
        epipolar_error_px(
            *matches, one.camera, other.camera, other.cam_from_world @ one.cam_from_world.inverse()
        ).median()
        for one, other in ((first, second), (wrong[0], wrong[4]))
    ]
    assert errors_px[0] < 0.5
    assert errors_px[1] > 3


def sift_matches(first, second):
    sift = cv2.SIFT_create(2000)
    found = []
    for image in (first, second):
        keypoints, descriptors = sift.detectAndCompute(image.permute(1, 2, 0).numpy(), None)
        found.append((np.array([k.pt for k in keypoints]) + 0.5, descriptors))
    (points0, descriptors0), (points1, descriptors1) = found
    pairs = cv2.BFMatcher().knnMatch(descriptors0, descriptors1, k=2)
    good = [(m.queryIdx, m.trainIdx) for m, n in pairs if m.distance < 0.7 * n.distance]
    indices0, indices1 = np.array(good).T
    return torch.from_numpy(points0[indices0]), torch.from_numpy(points1[indices1])


class TestIntrinsics:
    def test_a_frames_own_win(self, tmp_path):
        write_nerfstudio(tmp_path)
        cameras = {view.name: view.camera for view in load_scene(tmp_path, LoadOptions()).mapping}
        # The frames lie in the file in reverse: the fourth that was written is images/0003.
        own = cameras.pop("images/0003.png")
        assert own.params.tolist() == [44, 45, 15.5, 12.5, 0.1, 0, 0, 0]
        assert all(c.model == "PINHOLE" for c in cameras.values())
        assert all(c.params.tolist() == [40, 41, 15.5, 12.5] for c in cameras.values())

    @pytest.mark.parametrize("key", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
    def test_fisheye(self, tmp_path, key):
        write_nerfstudio(tmp_path)
        edited(tmp_path, k1=0.1, k2=0.2, k3=0.3, k4=0.4, **key)
        camera = load_scene(tmp_path, LoadOptions()).mapping[0].camera
        assert camera.model == "OPENCV_FISHEYE"
        assert camera.distortion.tolist() == [0.1, 0.2, 0.3, 0.4]

    def test_angle_of_view(self, tmp_path):
        write_nerfstudio(tmp_path)
        edited(tmp_path, fl_x="removed", fl_y="removed", camera_angle_x=np.pi / 2)
        camera = load_scene(tmp_path, LoadOptions()).mapping[0].camera
        assert camera.focal.tolist() == pytest.approx([16, 16])

    def test_nothing_known_is_to_be_estimated(self, tmp_path):
        write_nerfstudio(tmp_path)
        edited(tmp_path, fl_x="removed")
        camera = load_scene(tmp_path, LoadOptions()).mapping[0].camera
        assert not camera.has_prior_focal

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"k3": 0.1}, "k3 and k4 are for fisheye"),
            ({"camera_model": "EQUIRECTANGULAR"}, "cannot be used"),
            ({"camera_model": ["OPENCV"]}, "cannot be used"),
            ({"w": 64, "h": 48}, r"multiply them by 0\.5"),
            ({"w": "removed", "cx": "removed"}, "needs cx and cy, or w and h"),
            ({"fl_x": "40"}, "'40' is no number"),
            ({"fl_x": -40.0}, "focal length"),
            ({"frames": []}, "the scene is empty"),
            ({"frames": "removed"}, "no list of `frames`"),
            ({"frames": [{"file_path": "images/0001.png"}]}, "frame 0 .*no transform_matrix"),
            ({"frames": [{}]}, "frame 0 has no file_path"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, tmp_path, changes, message):
        write_nerfstudio(tmp_path)
        edited(tmp_path, **changes)
        with pytest.raises(InputError, match=message):
            load_scene(tmp_path, LoadOptions())


class TestSplitsOfTheFormats:
    def test_nerfstudios_lists(self, tmp_path):
        truth = write_nerfstudio(tmp_path)
        names = list(truth.world_from_cam)
        edited(tmp_path, train_filenames=names[:6], val_filenames=names[6:8], applied_transform=[])
        scene = load_scene(tmp_path, LoadOptions())
        assert [view.name for view in scene.queries] == names[6:8]
        assert any("applied_transform" in note for note in scene.notes)

    def test_nerfs_train_and_test_files(self, tmp_path):
        names = [f"{part}/r_{i}" for part in ("train", "test") for i in range(3)]
        poses = random_poses(names)
        for part in ("train", "test"):
            frames = []
            for name in names:
                if name.startswith(part):
                    write_image(tmp_path / f"{name}.png")
                    matrix = poses[name] @ OPENGL_FROM_OPENCV
                    frames.append({"file_path": f"./{name}", "transform_matrix": matrix.tolist()})
            content = {"camera_angle_x": 1.0, "w": 32, "h": 24, "frames": frames}
            (tmp_path / f"transforms_{part}.json").write_text(json.dumps(content))
        scene = load_scene(tmp_path, LoadOptions())
        assert [view.name for view in scene.mapping] == [f"{name}.png" for name in names[:3]]
        assert [view.name for view in scene.queries] == [f"{name}.png" for name in names[3:]]
        np.testing.assert_allclose(
            scene.queries[1].cam_from_world.inverse().matrix, poses[names[4]], atol=1e-9
        )


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(
        ["frames", "fl_x", "w", "cx", "camera_model", "k1", "camera_angle_x", "train_filenames"]
    ),
    inside=st.sampled_from([None, "file_path", "transform_matrix", "fl_x"]),
    value=json_values,
)
def test_any_value_anywhere_is_a_scene_or_one_line(tmp_path, key, inside, value):
    if not (tmp_path / "transforms.json").exists():
        write_nerfstudio(tmp_path)
        (tmp_path / "whole.json").write_bytes((tmp_path / "transforms.json").read_bytes())
    content = json.loads((tmp_path / "whole.json").read_text())
    if inside is None:
        content[key] = value
    else:
        content["frames"][1][inside] = value
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    try:
        assert isinstance(load_scene(tmp_path, LoadOptions()), Scene)
    except InputError as error:
        assert "\n" not in str(error)
