"""Laws over the table of layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from written_scenes import WRITERS

from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.scenes import LAYOUTS, LoadOptions, get_layout, load_scene
from reloc.scenes.scene import Scene

# The published relation of 7-Scenes' two cameras is known to 0.1 mm only.
TOLERANCE = {"7scenes": 2e-4}


def assert_is_truth(scene: Scene, truth, tolerance: float) -> None:
    for view in (*scene.mapping, *scene.queries):
        expected = truth.world_from_cam[view.name]
        np.testing.assert_allclose(
            view.cam_from_world.inverse().matrix.numpy(), expected, atol=tolerance
        )


def test_every_layout_has_a_written_scene():
    assert list(WRITERS) == list(LAYOUTS)
    assert [get_layout(name).name for name in LAYOUTS] == list(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
class TestEachLayout:
    @pytest.fixture
    def folder(self, layout, tmp_path):
        folder = tmp_path / "place"
        folder.mkdir()
        self.truth = WRITERS[layout](folder)
        return folder

    def test_is_recognised_and_loads_the_truth(self, layout, folder):
        scene = load_scene(folder, LoadOptions())
        assert scene.layout == layout
        assert [view.name for view in scene.mapping] == self.truth.mapping
        assert [view.name for view in scene.queries] == self.truth.queries
        assert_is_truth(scene, self.truth, TOLERANCE.get(layout, 1e-7))
        for view in (*scene.mapping, *scene.queries):
            assert view.cam_from_world.rotation.dtype == torch.float64
            image = view.read_image()
            assert image.shape == (3, view.camera.height, view.camera.width)
            assert image.dtype == torch.uint8
            # The marked corner is where it was put, in RGB.
            assert abs(image[:, 2, 2].int() - torch.tensor([60, 200, 10])).max() < 12
            depth = view.read_depth()
            if depth is not None:
                assert depth.shape == image.shape[1:]
                assert depth.dtype == torch.float32

    def test_auto_split_takes_every_posed_image_at_most_once(self, layout, folder):
        scene = load_scene(folder, LoadOptions(split="auto"))
        names = [view.name for view in (*scene.mapping, *scene.queries)]
        assert set(names) <= set(self.truth.world_from_cam)
        assert len(names) == len(set(names))

    def test_a_list_of_queries_leaves_the_rest_to_map(self, layout, folder, tmp_path):
        asked = self.truth.mapping[0]
        (tmp_path / "asked.txt").write_text(asked + "\n")
        scene = load_scene(folder, LoadOptions(split=str(tmp_path / "asked.txt")))
        assert [view.name for view in scene.queries] == [asked]
        assert len(scene.mapping) == len(self.truth.world_from_cam) - 1

    def test_inverted_and_opengl_poses_are_mended_by_options(self, layout, folder):
        """What options say replaces what the layout says, and nothing else."""
        right = load_scene(folder, LoadOptions()).mapping[0].cam_from_world.matrix
        said = get_layout(layout).load
        flipped = {
            direction: said(folder, LoadOptions(poses=direction)).mapping[0].cam_from_world.matrix
            for direction in ("cam_from_world", "world_from_cam")
        }
        same = [d for d, matrix in flipped.items() if torch.allclose(matrix, right)]
        assert len(same) == 1
        gl, cv = (
            said(folder, LoadOptions(axes=axes)).mapping[0].cam_from_world.matrix
            for axes in ("opengl", "opencv")
        )
        assert torch.allclose(gl, right) != torch.allclose(cv, right)
        if layout != "7scenes":  # there the axes are those of the depth camera
            torch.testing.assert_close(torch.diag(torch.tensor([1.0, -1, -1, 1])).double() @ cv, gl)

    def test_half_turn_turns_the_camera_about_its_axis(self, layout, folder):
        right = load_scene(folder, LoadOptions()).mapping[0]
        turned = load_scene(folder, LoadOptions(half_turn=True)).mapping[0]
        expected = right.cam_from_world.matrix * torch.tensor([[-1.0], [-1], [1], [1]])
        torch.testing.assert_close(turned.cam_from_world.matrix, expected)
        torch.testing.assert_close(turned.center_world, right.center_world)

    def test_focal_and_metric_win_over_files(self, layout, folder):
        scene = load_scene(folder, LoadOptions(focal=77.0, metric=False))
        assert not scene.metric
        assert all(view.camera.focal.tolist() == [77.0, 77.0] for view in scene.mapping)
        assert load_scene(folder, LoadOptions(metric=True)).metric

    def test_unknown_focal_hides_the_intrinsics_of_queries_only(self, layout, folder):
        right = load_scene(folder, LoadOptions())
        scene = load_scene(folder, LoadOptions(unknown_focal=True))
        for view, known in zip(scene.queries, right.queries, strict=True):
            guess = Camera.guess(known.camera.width, known.camera.height)
            assert not view.camera.has_prior_focal
            assert view.camera.params.tolist() == guess.params.tolist()
        for view, known in zip(scene.mapping, right.mapping, strict=True):
            assert view.camera.params.tolist() == known.camera.params.tolist()

    def test_special_options_are_refused_where_they_mean_nothing(self, layout, folder):
        special = {"ground_truth": "d-slam", "quaternion": "wxyz", "time_offset_s": 0.001}
        for name, value in special.items():
            options = LoadOptions(**{name: value})
            if name in get_layout(layout).options:
                assert load_scene(folder, options).mapping
            else:
                with pytest.raises(InputError, match=f"no --{name.replace('_', '-')}"):
                    load_scene(folder, options)

    def test_missing_and_cut_short_images_are_one_line(self, layout, folder):
        scene = load_scene(folder, LoadOptions())
        path = scene.mapping[0].image_reader.args[0]
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(InputError, match=r"cut short|damaged"):
            load_scene(folder, LoadOptions()).mapping[0].read_image()
        path.write_text("no image")
        with pytest.raises(InputError, match=path.name):
            load_scene(folder, LoadOptions())

    def test_pose_that_is_no_rotation_is_refused(self, layout, folder):
        """A scaled rotation: every layout's first pose, with its first rotation number doubled."""
        _spoil_first_pose(layout, folder)
        with pytest.raises(InputError) as caught:
            load_scene(folder, LoadOptions())
        assert "\n" not in str(caught.value)


def _spoil_first_pose(layout: str, folder) -> None:
    file, line, field = {
        "7scenes": ("seq-01/frame-000000.pose.txt", 0, 0),
        "12scenes": ("data/frame-000000.pose.txt", 0, 0),
        "cambridge": ("dataset_train.txt", 3, 4),
        "robotcar": ("2014-06-26-08-53-56/gps/ins.csv", 1, 0),
        "mapfree": ("poses.txt", 1, 1),
        "nerfstudio": ("transforms.json", None, None),
        "colmap": ("sparse/0/images.txt", 1, 1),
        "tum": ("groundtruth.txt", 1, 4),
        "folder": ("poses.txt", 2, 1),
    }[layout]
    path = folder / file
    lines = path.read_text().split("\n")
    if layout == "nerfstudio":
        import json

        content = json.loads(path.read_text())
        content["frames"][0]["transform_matrix"][0][0] += 0.7
        path.write_text(json.dumps(content))
        return
    if layout == "robotcar":
        lines[line] = lines[line].replace(lines[line].split(",")[3], "nan")
    else:
        fields = lines[line].split(" ")
        fields[field] = str(float(fields[field]) + 0.7)
        lines[line] = " ".join(fields)
    path.write_text("\n".join(lines))


class TestLoadScene:
    def test_no_folder_file_or_empty_folder(self, tmp_path):
        with pytest.raises(InputError, match="no such folder"):
            load_scene(tmp_path / "nowhere", LoadOptions())
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="is a file"):
            load_scene(tmp_path / "file", LoadOptions())
        with pytest.raises(InputError, match="no layout is recognised"):
            load_scene(tmp_path, LoadOptions())

    def test_folder_of_scenes_names_them(self, tmp_path):
        for name in ("s00001", "s00002"):
            (tmp_path / name).mkdir()
            WRITERS["mapfree"](tmp_path / name)
        with pytest.raises(InputError, match="holds 2: s00001, s00002"):
            load_scene(tmp_path, LoadOptions())

    def test_unknown_layout_suggests_one(self, tmp_path):
        with pytest.raises(InputError, match="perhaps 'colmap'"):
            load_scene(tmp_path, LoadOptions(layout="colmp"))

    @pytest.mark.parametrize("name", ["focal", "intrinsics_scale"])
    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
    def test_options_must_be_positive(self, name, value):
        with pytest.raises(InputError, match=name.replace("_", "-")):
            LoadOptions(**{name: value})
