from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.scenes import images
from reloc.scenes.images import ImageHeader, query_from_image, read_depth, read_header, read_image

ORIENTATION, FOCAL_35MM, FOCAL_MM = 0x0112, 0xA405, 0x920A
X_RESOLUTION, RESOLUTION_UNIT, EXIF_WIDTH = 0xA20E, 0xA210, 0xA002


def picture(width: int = 40, height: int = 24) -> np.ndarray:
    """(H, W, 3) RGB with four corners that differ, smooth enough for JPEG."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[: height // 2, : width // 2] = (200, 30, 30)
    image[: height // 2, width // 2 :] = (30, 200, 30)
    image[height // 2 :, : width // 2] = (30, 30, 200)
    return image


def write(path, image, orientation=None, **exif_ifd) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    for tag, value in exif_ifd.items():
        exif.get_ifd(0x8769)[int(tag[1:], 16)] = value
    options: dict[str, Any] = {"quality": 95} if path.suffix == ".jpg" else {}
    Image.fromarray(image).save(path, exif=exif, **options)


# What EXIF says a viewer must do, as numpy does it.
UPRIGHT = {
    1: lambda i: i,
    2: lambda i: i[:, ::-1],
    3: lambda i: i[::-1, ::-1],
    4: lambda i: i[::-1],
    5: lambda i: i.transpose(1, 0, 2),
    6: lambda i: np.rot90(i, -1),
    7: lambda i: np.rot90(i, 2).transpose(1, 0, 2),
    8: lambda i: np.rot90(i, 1),
}


def assert_close(read: torch.Tensor, expected: np.ndarray) -> None:
    difference = np.abs(read.permute(1, 2, 0).numpy().astype(int) - expected.astype(int))
    assert read.dtype == torch.uint8
    # JPEG blurs the borders between the corners.
    assert np.median(difference) <= 3
    assert np.mean(difference > 20) < 0.2


class TestOrientation:
    @pytest.mark.parametrize("ending", [".jpg", ".png"])
    @pytest.mark.parametrize("orientation", UPRIGHT)
    def test_upright_and_as_stored(self, tmp_path, orientation, ending):
        path = tmp_path / f"image{ending}"
        write(path, picture(), orientation)
        header = read_header(path)
        upright = UPRIGHT[orientation](picture())
        assert header.size == (40, 24)
        assert header.upright_size == (upright.shape[1], upright.shape[0])
        assert_close(read_image(path, upright=True), upright)
        assert_close(read_image(path, upright=False), picture())

    def test_the_camera_says_which(self, tmp_path):
        path = tmp_path / "portrait.jpg"
        write(path, picture(), orientation=6)
        stored = query_from_image(path, Camera.simple_pinhole(40.0, 40, 24))
        assert_close(stored.image, picture())
        turned = query_from_image(path, Camera.simple_pinhole(40.0, 24, 40))
        assert_close(turned.image, np.rot90(picture(), -1))
        unknown = query_from_image(path)
        assert_close(unknown.image, np.rot90(picture(), -1))
        assert (unknown.camera.width, unknown.camera.height) == (24, 40)
        assert not unknown.camera.has_prior_focal
        with pytest.raises(InputError, match=r"is 40x24 pixels but its intrinsics are for 80x48"):
            query_from_image(path, Camera.simple_pinhole(40.0, 80, 48))

    @pytest.mark.parametrize("orientation", UPRIGHT)
    @pytest.mark.parametrize("width", [40, 24])
    def test_a_focal_length_does_not_take_the_turn_away(self, tmp_path, orientation, width):
        path = tmp_path / "image.jpg"
        write(path, picture(width, 24), orientation)
        query = query_from_image(path, focal=33.0)
        assert torch.equal(query.image, query_from_image(path).image)
        assert_close(query.image, UPRIGHT[orientation](picture(width, 24)))
        assert query.camera.focal.tolist() == [33.0, 33.0]
        assert query.camera.has_prior_focal
        with pytest.raises(InputError, match="cannot have focal length -1"):
            query_from_image(path, focal=-1.0)

    @pytest.mark.parametrize("orientation", UPRIGHT)
    def test_a_tiff_is_upright_already(self, tmp_path, orientation):
        path = tmp_path / "image.tif"
        write(path, picture(), orientation)
        upright = UPRIGHT[orientation](picture())
        height, width = upright.shape[:2]
        assert read_header(path) == ImageHeader(width, height)
        for camera in (None, Camera.simple_pinhole(40.0, width, height)):
            query = query_from_image(path, camera)
            assert_close(query.image, upright)
            assert (query.camera.width, query.camera.height) == (width, height)

    def test_pixels_that_are_not_as_the_header_says_are_refused(self, tmp_path, monkeypatch):
        path = tmp_path / "image.png"
        write(path, picture())
        monkeypatch.setattr(images, "read_header", lambda _: ImageHeader(40, 24, orientation=6))
        with pytest.raises(InputError, match=r"should be 24x40 .* but is read as 40x24"):
            query_from_image(path)

    def test_an_orientation_that_is_none_is_upright(self, tmp_path):
        write(tmp_path / "image.jpg", picture(), orientation=9)
        assert read_header(tmp_path / "image.jpg").orientation == 1


class TestExifFocal:
    def test_35mm_equivalent_compares_diagonals(self, tmp_path):
        path = tmp_path / "image.jpg"
        write(path, picture(360, 240), xA405=36)
        # On 36 mm x 24 mm film, 36 mm is as long as the film is wide.
        assert read_header(path).focal == pytest.approx(360.0)
        camera = query_from_image(path).camera
        assert camera.has_prior_focal
        assert camera.focal.tolist() == pytest.approx([360.0, 360.0])

    def test_density_of_the_sensor(self, tmp_path):
        path = tmp_path / "image.jpg"
        # 100 pixels a mm (2540 an inch), 6 mm: 600 pixels of the 3600 it was taken with.
        write(path, picture(360, 240), x920A=6.0, xA20E=2540.0, xA210=2, xA002=3600)
        assert read_header(path).focal == pytest.approx(60.0)
        write(path, picture(360, 240), x920A=6.0, xA20E=1000.0, xA210=3)
        assert read_header(path).focal == pytest.approx(600.0)

    @pytest.mark.parametrize("tags", [{}, {"xA405": 0}, {"x920A": 6.0}, {"xA405": 60000}])
    def test_no_or_absurd_tags_leave_a_guess(self, tmp_path, tags):
        path = tmp_path / "image.jpg"
        write(path, picture(360, 240), **tags)
        assert read_header(path).focal is None
        assert not read_header(path).camera().has_prior_focal


class TestPixels:
    def test_grey_deep_and_transparent_become_rgb(self, tmp_path):
        grey = np.arange(24 * 40).reshape(24, 40)
        stored = {
            "grey.png": grey.astype(np.uint8),
            "deep.png": (grey * 60).astype(np.uint16),
            "alpha.png": np.dstack([picture(), np.full((24, 40), 7, np.uint8)]),
        }
        for name, image in stored.items():
            assert cv2.imwrite(str(tmp_path / name), image)
        grey_read = read_image(tmp_path / "grey.png")
        assert (grey_read.numpy() == stored["grey.png"]).all()
        deep = read_image(tmp_path / "deep.png").numpy().astype(int)
        assert np.abs(deep - stored["deep.png"] / 257).max() <= 1
        alpha = read_image(tmp_path / "alpha.png").permute(1, 2, 0).numpy()
        assert (alpha == picture()[..., ::-1]).all()

    @pytest.mark.parametrize("ending", [".jpg", ".png"])
    @settings(max_examples=25, deadline=None)
    @given(share=st.floats(0, 0.999))
    def test_a_file_that_is_cut_short_is_refused(self, tmp_path_factory, ending, share):
        path = tmp_path_factory.mktemp("cut") / f"image{ending}"
        noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
        # With a thumbnail, which is a whole JPEG inside.
        write(path, noise, 1)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(InputError, match=path.name):
            read_image(path)

    def test_a_whole_jpeg_inside_does_not_hide_the_cut(self, tmp_path):
        path = tmp_path / "image.jpg"
        write(path, picture(160, 120))
        data = path.read_bytes()
        inside = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data
        whole = data[:2] + inside + data[2:]
        path.write_bytes(whole)
        assert read_image(path).shape == (3, 120, 160)
        path.write_bytes(whole[:-40])
        with pytest.raises(InputError, match="cut short"):
            read_image(path)

    def test_bytes_behind_the_end_are_no_cut(self, tmp_path):
        path = tmp_path / "image.jpg"
        write(path, picture())
        path.write_bytes(path.read_bytes() + b"a video\xff\xda behind")
        assert read_image(path).shape == (3, 24, 40)

    def test_missing(self, tmp_path):
        for read in (read_image, read_header, query_from_image):
            with pytest.raises(InputError, match="is missing"):
                read(tmp_path / "none.jpg")

    @settings(max_examples=60, deadline=None)
    @given(
        start=st.sampled_from(
            [b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF", b"II*\0"]
        ),
        data=st.binary(max_size=200),
    )
    def test_any_bytes_are_an_image_or_refused(self, tmp_path_factory, start, data):
        path = tmp_path_factory.mktemp("any") / "image"
        path.write_bytes(start + data)
        for read, kind in ((read_header, ImageHeader), (read_image, torch.Tensor)):
            try:
                assert isinstance(read(path), kind)
            except InputError as error:
                assert "\n" not in str(error)


class TestDepth:
    def test_unit_and_both_marks_of_unknown(self, tmp_path):
        stored = np.array([[0, 1000], [65535, 2500]], dtype=np.uint16)
        assert cv2.imwrite(str(tmp_path / "depth.png"), stored)
        depth = read_depth(tmp_path / "depth.png", 1e-3)
        np.testing.assert_allclose(depth, [[0, 1.0], [0, 2.5]])
        assert depth.dtype == np.float32

    def test_colour_is_no_depth(self, tmp_path):
        write(tmp_path / "image.png", picture())
        with pytest.raises(InputError, match="one channel of 16 bits"):
            read_depth(tmp_path / "image.png", 1e-3)
