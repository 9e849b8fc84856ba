from __future__ import annotations

import numpy as np
import pytest
from written_scenes import (
    OPENGL_FROM_OPENCV,
    quat_wxyz,
    random_poses,
    text,
    w2c_line,
    write_folder,
    write_image,
)

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene

NAMES = [f"{i}.png" for i in range(6)]


@pytest.fixture
def truth(tmp_path):
    for name in NAMES:
        write_image(tmp_path / name)
    return random_poses(NAMES)


def write_poses(folder, heading, line_of, truth, name="poses.txt") -> None:
    lines = [heading, *(line_of(image, pose) for image, pose in truth.items())]
    (folder / name).write_text("\n".join(lines) + "\n")


def assert_read(folder, truth, **options) -> None:
    scene = load_scene(folder, LoadOptions(split="auto", **options))
    assert len(scene.mapping) + len(scene.queries) >= 5
    for view in (*scene.mapping, *scene.queries):
        np.testing.assert_allclose(
            view.cam_from_world.inverse().matrix, truth[view.name], atol=1e-7
        )


def c2w_xyzw(image, pose):
    return f"{image} {text(np.roll(quat_wxyz(pose[:3, :3]), -1))} {text(pose[:3, 3])}"


class TestConventions:
    @pytest.mark.parametrize(
        ("heading", "line_of"),
        [
            ("# world-to-camera", lambda i, p: f"{i} {w2c_line(p)}"),
            ("# poses are W2C", lambda i, p: f"{i} {w2c_line(p)}"),
            ("# convention: cam_from_world", lambda i, p: f"{i} {text(np.linalg.inv(p))}"),
            ("# camera to world", lambda i, p: f"{i} {text(p[:3])}"),
            ("# c2w, axes:opengl", lambda i, p: f"{i} {text(p @ OPENGL_FROM_OPENCV)}"),
            ("# convention: world_from_cam, quaternion:xyzw", c2w_xyzw),
            (
                "# name tx ty tz qx qy qz qw, camera-to-world",
                lambda i, p: f"{i} {text(p[:3, 3])} {text(np.roll(quat_wxyz(p[:3, :3]), -1))}",
            ),
            ("# c2w\nimage,qx,qy,qz,qw,x,y,z", lambda i, p: c2w_xyzw(i, p).replace(" ", ", ")),
        ],
    )
    def test_said_in_the_file(self, tmp_path, truth, heading, line_of):
        write_poses(tmp_path, heading, line_of, truth)
        assert_read(tmp_path, truth)

    def test_said_by_options_against_the_file(self, tmp_path, truth):
        write_poses(tmp_path, "# world-to-camera, opengl, wxyz", c2w_xyzw, truth)
        assert_read(tmp_path, truth, poses="world_from_cam", axes="opencv", quaternion="xyzw")

    def test_a_csv_with_a_name_that_has_spaces(self, tmp_path, truth):
        moved = {f"my {name}": pose for name, pose in truth.items()}
        for name in NAMES:
            (tmp_path / name).rename(tmp_path / f"my {name}")
        line_of = lambda i, p: f"{i}," + ",".join(w2c_line(p).split()) + ",31.5"  # noqa: E731
        write_poses(tmp_path, "name,qw,qx,qy,qz,tx,ty,tz,f", line_of, moved, "poses.csv")
        assert_read(tmp_path, moved, poses="cam_from_world")

    def test_nobody_says_it(self, tmp_path, truth):
        write_poses(
            tmp_path, "# name qw qx qy qz tx ty tz", lambda i, p: f"{i} {w2c_line(p)}", truth
        )
        with pytest.raises(InputError, match=r"does not say .*--poses"):
            load_scene(tmp_path, LoadOptions())
        assert_read(tmp_path, truth, poses="cam_from_world")

    def test_the_file_contradicts_itself(self, tmp_path, truth):
        write_poses(tmp_path, "# c2w\n# w2c", lambda i, p: f"{i} {w2c_line(p)}", truth)
        with pytest.raises(InputError, match=r"says both w2c and c2w|says both c2w and w2c"):
            load_scene(tmp_path, LoadOptions())


class TestIntrinsics:
    def cameras(self, folder, **options):
        scene = load_scene(folder, LoadOptions(**options))
        return {view.name: view.camera for view in (*scene.mapping, *scene.queries)}

    def test_focal_length_of_the_poses_file(self, tmp_path):
        write_folder(tmp_path)
        cameras = self.cameras(tmp_path)
        assert all(camera.params.tolist() == [31.5, 16, 12] for camera in cameras.values())

    def test_a_file_of_intrinsics_wins(self, tmp_path):
        write_folder(tmp_path)
        (tmp_path / "intrinsics.txt").write_text("OPENCV 32 24 30 31 16 12 .1 0 0 0\n")
        assert {camera.model for camera in self.cameras(tmp_path).values()} == {"OPENCV"}

    def test_intrinsics_of_each_image_of_its_size(self, tmp_path, truth):
        write_image(tmp_path / "2.png", (24, 32))
        write_poses(tmp_path, "# w2c", lambda i, p: f"{i} {w2c_line(p)}", truth)
        lines = [
            f"{name} PINHOLE {'24 32 30 30 12 16' if name == '2.png' else '32 24 30 30 16 12'}"
            for name in NAMES
        ]
        (tmp_path / "intrinsics.txt").write_text("\n".join(lines))
        assert self.cameras(tmp_path)["2.png"].height == 32
        (tmp_path / "intrinsics.txt").write_text("PINHOLE 32 24 30 30 16 12\n")
        with pytest.raises(InputError, match=r"2\.png is 24x32 pixels"):
            load_scene(tmp_path, LoadOptions())

    def test_one_focal_length_for_images_of_other_sizes(self, tmp_path, truth):
        write_poses(tmp_path, "# w2c", lambda i, p: f"{i} {w2c_line(p)}", truth)
        write_image(tmp_path / "2.png", (24, 32))
        assert len(self.cameras(tmp_path, focal=30.0)) == 6  # turned, the same camera
        write_image(tmp_path / "2.png", (64, 48))
        with pytest.raises(InputError, match=r"--focal is for all images, but 0\.png has 32x24"):
            load_scene(tmp_path, LoadOptions(focal=30.0))

    def test_unknown_ones_are_to_be_estimated_and_noted(self, tmp_path, truth):
        write_poses(tmp_path, "# w2c", lambda i, p: f"{i} {w2c_line(p)}", truth)
        scene = load_scene(tmp_path, LoadOptions())
        assert not any(view.camera.has_prior_focal for view in scene.mapping)
        assert any("6 images have no focal length" in note for note in scene.notes)


class TestSceneOfFolder:
    def test_two_files_are_a_split_and_units_are_said(self, tmp_path, truth):
        train = {name: truth[name] for name in NAMES[:4]}
        test = {name: truth[name] for name in NAMES[4:]}
        for name, part in (("poses_train.txt", train), ("poses_test.txt", test)):
            write_poses(
                tmp_path, "# w2c  metric: no", lambda i, p: f"{i} {w2c_line(p)}", part, name
            )
        scene = load_scene(tmp_path, LoadOptions())
        assert [view.name for view in scene.mapping] == NAMES[:4]
        assert [view.name for view in scene.queries] == NAMES[4:]
        assert not scene.metric

    def test_unsaid_units_are_metres_and_noted(self, tmp_path, truth):
        write_poses(tmp_path, "# w2c", lambda i, p: f"{i} {w2c_line(p)}", truth)
        scene = load_scene(tmp_path, LoadOptions())
        assert scene.metric
        assert any("taken to be metres" in note for note in scene.notes)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("0.png 1 0 0 0 0 0 0", r"0\.png has 2 poses"),
            ("9.png 1 0 0 0 0 0 0", r"1 of 7 images are missing, the first is .*9\.png"),
            ("9.png 1 0 0 0 0 0", r"poses\.txt:8: 6 numbers after '9\.png'"),
            ("9.png 1 0 0 0 0 0 x", r"poses\.txt:8: 'x' is no number"),
            ("9.png nan 0 0 0 0 0 0", r"poses\.txt:8: .*not finite"),
            ("9.png 2 0 0 0 0 0 0", r"poses\.txt:8: .*norm"),
        ],
    )
    def test_what_is_wrong_names_its_line(self, tmp_path, truth, line, message):
        write_poses(tmp_path, "# w2c", lambda i, p: f"{i} {w2c_line(p)}", truth)
        path = tmp_path / "poses.txt"
        path.write_text(path.read_text() + line + "\n")
        with pytest.raises(InputError, match=message):
            load_scene(tmp_path, LoadOptions())

    def test_empty(self, tmp_path):
        (tmp_path / "poses.txt").write_text("# w2c\n")
        with pytest.raises(InputError, match="the scene is empty"):
            load_scene(tmp_path, LoadOptions())
