from __future__ import annotations

from pathlib import Path

import pycolmap
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from written_scenes import w2c_line, write_colmap, write_image

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.colmap_model import read_model


@pytest.mark.data
class TestSouthBuilding:
    def test_both_walks_with_one_camera(self, shared_data):
        scene = load_scene(shared_data / "south_building", LoadOptions())
        assert (len(scene.mapping), len(scene.queries)) == (85, 43)
        assert (scene.layout, scene.ground_truth, scene.metric) == ("colmap", "sfm", False)
        for view in (*scene.mapping, *scene.queries):
            assert view.camera.model == "SIMPLE_RADIAL"
            assert view.camera.params.tolist() == [666.1703, 400.0, 300.0, -0.020383]
        assert scene.extent == pytest.approx((8.7**2 + 2.0**2 + 5.9**2) ** 0.5, rel=0.02)

    def test_poses_bring_the_models_points_to_their_pixels(self, shared_data):
        """The model's own reprojection error, 0.34 px, with our poses and our camera."""
        path = shared_data / "south_building"
        scene = load_scene(path, LoadOptions())
        model = pycolmap.Reconstruction(str(path / "sparse"))
        images = {image.name: image for image in model.images.values()}
        errors_px = []
        for view in scene.mapping[::10]:
            observed = [p for p in images[view.name].points2D if p.has_point3D()]
            points = torch.tensor([model.points3D[p.point3D_id].xyz.tolist() for p in observed])
            pixels = torch.tensor([p.xy.tolist() for p in observed])
            errors_px.append(
                view.camera.img_from_cam(view.cam_from_world @ points.double()) - pixels
            )
        assert float(torch.cat(errors_px).norm(dim=-1).mean()) == pytest.approx(0.34, abs=0.06)

    def test_binary_is_text(self, shared_data, tmp_path):
        text = shared_data / "south_building" / "sparse"
        pycolmap.Reconstruction(str(text)).write_binary(str(tmp_path))
        from_text, from_binary = read_model(text), read_model(tmp_path)
        assert [image.name for image in from_binary.images] == [i.name for i in from_text.images]
        for one, other in zip(from_text.images, from_binary.images, strict=True):
            assert other.pose == pytest.approx(one.pose, abs=1e-7)
        (one,), (other,) = from_text.cameras.values(), from_binary.cameras.values()
        assert (one.model, one.params, one.size) == (other.model, other.params, other.size)


@pytest.fixture(scope="module")
def binary_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("binary")
    write_colmap(folder)
    model = folder / "sparse" / "0"
    pycolmap.Reconstruction(str(model)).write_binary(str(model))
    return model


class TestWrittenModel:
    def test_cameras_and_points_lines_are_those_of_their_images(self, tmp_path):
        write_colmap(tmp_path)
        scene = load_scene(tmp_path, LoadOptions())
        models = {view.name: view.camera.model for view in scene.mapping}
        assert models.pop("3.jpg") == "OPENCV"
        assert set(models.values()) == {"SIMPLE_RADIAL"}

    @pytest.mark.parametrize("place", ["sparse", "."])
    def test_other_places_of_the_model(self, tmp_path, place):
        write_colmap(tmp_path)
        for file in (tmp_path / "sparse" / "0").iterdir():
            file.rename(tmp_path / place / file.name)
        assert len(load_scene(tmp_path, LoadOptions()).mapping) == 8

    def test_query_list_with_intrinsics_for_images_outside_of_the_model(self, tmp_path):
        truth = write_colmap(tmp_path)
        write_image(tmp_path / "images" / "night.jpg", (20, 30))
        (tmp_path / "queries.txt").write_text(
            "night.jpg PINHOLE 20 30 21 22 10 15\nunposed.jpg PINHOLE 20 30 21 22 10 15\n"
        )
        pose = truth.world_from_cam["1.jpg"]
        (tmp_path / "poses_test.txt").write_text(f"night.jpg {w2c_line(pose)}\n")
        scene = load_scene(tmp_path, LoadOptions())
        assert len(scene.mapping) == 10
        (view,) = scene.queries
        assert view.camera.params.tolist() == [21, 22, 10, 15]
        torch.testing.assert_close(
            view.cam_from_world.matrix, scene.mapping[0].cam_from_world.matrix
        )
        assert any("unposed.jpg" in note for note in scene.notes)

    @pytest.mark.parametrize(
        ("file", "old", "new", "message"),
        [
            ("cameras", "SIMPLE_RADIAL", "FULL_OPENCV", r"cameras\.txt:2: .*undistort"),
            ("cameras", "7 SIMPLE", "8 SIMPLE", r"images\.txt:2: there is no camera 7"),
            ("cameras", "30.5", "-30.5", r"cameras\.txt:2: the focal length"),
            ("cameras", "32 24", "x 24", r"cameras\.txt:2: 'x' is no whole number"),
            ("cameras", "32 24", "64 48", r"multiply them by 0\.5"),
            ("images", " 7 1.jpg", " 1.jpg", r"images\.txt:2: an image has 10 fields"),
            ("images", "\n4 ", "\n4 nan", r"images\.txt:8: .*not finite"),
        ],
    )
    def test_what_is_wrong_names_its_line(self, tmp_path: Path, file, old, new, message):
        write_colmap(tmp_path)
        path = tmp_path / "sparse" / "0" / f"{file}.txt"
        path.write_text(path.read_text().replace(old, new, 1))
        if "nan" in new:
            lines = path.read_text().split("\n")
            fields = lines[7].split(" ")
            lines[7] = " ".join(["4", "nan", *fields[2:]])
            path.write_text("\n".join(lines))
        with pytest.raises(InputError, match=message):
            load_scene(tmp_path, LoadOptions())

    @pytest.mark.parametrize("file", ["cameras.bin", "images.bin"])
    @given(share=st.floats(0, 0.9999), flipped=st.integers(1, 255))
    def test_damaged_binary_files_are_read_or_refused(self, binary_model, file, share, flipped):
        """A file that is cut short anywhere is refused; of any other at most a line comes."""
        path = binary_model / file
        whole = path.read_bytes()
        place = int(share * len(whole))
        try:
            path.write_bytes(whole[:place])
            with pytest.raises(InputError, match="damaged or cut short"):
                read_model(binary_model)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flipped]) + whole[place + 1 :])
            try:
                read_model(binary_model)
            except InputError as error:
                assert "\n" not in str(error)
        finally:
            path.write_bytes(whole)

    def test_missing_images_are_counted(self, tmp_path):
        write_colmap(tmp_path)
        for name in ("2.jpg", "5.jpg"):
            (tmp_path / "images" / name).unlink()
        with pytest.raises(InputError, match=r"2 of 10 images are missing, the first is .*2\.jpg"):
            load_scene(tmp_path, LoadOptions())
