from __future__ import annotations

from pathlib import Path

import pytest

from reloc.input_error import InputError
from reloc.scenes.cameras import Intrinsics, camera_of_image, read_intrinsics
from reloc.scenes.images import ImageHeader
from reloc.scenes.options import LoadOptions

PINHOLE = Intrinsics((500.0, 510.0, 318.0, 242.0), "cameras.txt:1", "PINHOLE", (640, 480))


def camera(intrinsics, header, **options):
    return camera_of_image(intrinsics, header, LoadOptions(**options), Path("image.jpg"))


class TestCameraOfImage:
    def test_stated_size_is_taken_as_stored_or_upright(self):
        assert camera(PINHOLE, ImageHeader(640, 480, 6))[1] is False
        assert camera(PINHOLE, ImageHeader(480, 640, 6))[1] is True
        with pytest.raises(InputError, match=r"480x640 pixels but its intrinsics are for 640x480"):
            camera(PINHOLE, ImageHeader(480, 640, 1))

    def test_without_a_size_images_are_upright(self):
        read, upright = camera(Intrinsics((50.0,), "x"), ImageHeader(48, 64, 8))
        assert upright
        assert read.params.tolist() == [50.0, 32.0, 24.0]

    def test_scale_for_intrinsics_of_another_size(self):
        read, _ = camera(PINHOLE, ImageHeader(320, 240), intrinsics_scale=0.5)
        assert (read.width, read.height) == (320, 240)
        assert read.params.tolist() == [250.0, 255.0, 159.0, 121.0]
        with pytest.raises(InputError, match=r"multiply them by 0\.5 \(--intrinsics-scale\)"):
            camera(PINHOLE, ImageHeader(320, 240))

    def test_scale_where_only_the_size_was_right(self):
        doubled = Intrinsics((1000.0, 1020.0, 636.0, 484.0), "x", "PINHOLE", (640, 480))
        read, _ = camera(doubled, ImageHeader(640, 480), intrinsics_scale=0.5)
        expected, _ = camera(PINHOLE, ImageHeader(640, 480))
        assert read.params.tolist() == expected.params.tolist()

    def test_scale_leaves_distortion_and_the_middle_alone(self):
        radial = Intrinsics((100.0, 32.0, 24.0, -0.02), "x", "SIMPLE_RADIAL")
        read, _ = camera(radial, ImageHeader(64, 48), intrinsics_scale=2.0)
        assert read.params.tolist() == [200.0, 64.0, 48.0, -0.02]
        focal_only, _ = camera(Intrinsics((100.0,), "x"), ImageHeader(64, 48), intrinsics_scale=2.0)
        assert focal_only.params.tolist() == [200.0, 32.0, 24.0]

    def test_scale_needs_intrinsics(self):
        with pytest.raises(InputError, match="no intrinsics to multiply"):
            camera(None, ImageHeader(64, 48), intrinsics_scale=2.0)

    def test_a_said_focal_length_is_known(self):
        read, _ = camera(None, ImageHeader(64, 48), focal=70.0)
        assert read.has_prior_focal
        assert read.params.tolist() == [70.0, 32.0, 24.0]

    @pytest.mark.parametrize("params", [(-1.0,), (float("nan"),), (1.0, 2.0), (0.0,)])
    def test_what_is_no_camera_names_its_place(self, params):
        with pytest.raises(InputError, match=r"^file:3: "):
            camera(Intrinsics(params, "file:3"), ImageHeader(64, 48))


class TestReadIntrinsics:
    def read(self, tmp_path, text):
        (tmp_path / "intrinsics.txt").write_text(text)
        return read_intrinsics(tmp_path / "intrinsics.txt")

    def test_one_line_is_for_all(self, tmp_path):
        file = self.read(tmp_path, "# camera\nOPENCV_FISHEYE 64 48 30 31 32 24 .1 .2 .3 .4\n")
        intrinsics = file.of("any.jpg")
        assert intrinsics.model == "OPENCV_FISHEYE"
        assert intrinsics.size == (64, 48)
        assert intrinsics.params == (30, 31, 32, 24, 0.1, 0.2, 0.3, 0.4)

    def test_one_line_each_in_any_spelling(self, tmp_path):
        file = self.read(
            tmp_path, "a/1.jpg PINHOLE 64 48 30 31 32 24\n2 PINHOLE 64 48 40 41 32 24\n"
        )
        assert file.of("a/1.jpg").params[0] == 30
        assert file.of("b/2.png").params[0] == 40
        with pytest.raises(InputError, match=r"no intrinsics of a/3\.jpg"):
            file.of("a/3.jpg")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("PINHOLE 64 48 30 31 32", ":1: "),
            ("PINHOLE 64.5 48 30 31 32 24", "not whole"),
            ("PINHOLE 64 48 30 31 32 24\nPINHOLE 64 48 30 31 32 24", ":2: one camera was said"),
            ("525 525 320 240", "intrinsics are MODEL"),
            ("1.jpg PINHOLE 64 48 30 31 32 x", "'x' is no number"),
        ],
    )
    def test_anything_else_names_its_line(self, tmp_path, text, message):
        with pytest.raises(InputError, match=message):
            self.read(tmp_path, text)
