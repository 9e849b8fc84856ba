"""The feature buffer: rays that belong to the view as it was taken, whatever its lens and shape."""

import logging

import pytest
import torch

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.nn.encoder import Encoder, EncoderSize
from reloc.scenes.scene import View
from reloc.training.augment import Augmentation
from reloc.training.buffer import fill_buffer, resized_grey

ENCODER = Encoder(EncoderSize(stem=(4, 4), width=4, inner=4, num_blocks=1, code=3))
NOISE = torch.randint(256, (3, 200, 120), generator=torch.Generator().manual_seed(0)).byte()
PORTRAIT = Camera.of("OPENCV", 120, 200, [150.0, 140.0, 61.0, 98.0, -0.05, 0.01, 0.001, 0.002])


def _view(name: str, image: torch.Tensor | None, depth: torch.Tensor | None = None) -> View:
    def read() -> torch.Tensor:
        if image is None:
            raise InputError(f"{name} is no image")
        return image

    reader = None if depth is None else lambda: depth
    return View(name, PORTRAIT, Rigid3d.identity(), read, reader)


def test_rays_project_into_the_view_and_reach_its_borders() -> None:
    image = torch.randint(256, (3, 200, 120), dtype=torch.uint8)
    buffer = fill_buffer(
        ENCODER, [_view("a", image)], [0] * 6, 10_000, 96, Augmentation(), Run(seed=3)
    )
    points = torch.cat([buffer.rays_N2, torch.ones(len(buffer), 1)], 1).double()
    pixels = PORTRAIT.img_from_cam(points)
    assert bool((pixels > -1e-3).all())
    assert bool((pixels < torch.tensor([120, 200]) + 1e-3).all())
    assert float(pixels[:, 0].max() - pixels[:, 0].min()) > 100
    assert float(pixels[:, 1].max() - pixels[:, 1].min()) > 175
    assert buffer.codes_NC.dtype == torch.float16


def test_depth_is_that_of_the_cells_own_pixel() -> None:
    depth = torch.arange(200.0)[:, None].expand(200, 120).clone()
    image = NOISE
    view = _view("a", image, depth)
    buffer = fill_buffer(ENCODER, [view], [0, 0], 500, 120, Augmentation(), Run(), with_depth=True)
    points = torch.cat([buffer.rays_N2, torch.ones(len(buffer), 1)], 1).double()
    rows = PORTRAIT.img_from_cam(points)[:, 1].floor()
    known = buffer.depth_N.isfinite()
    assert bool((rows[~known] == 0).all())
    assert float((buffer.depth_N[known].double() - rows[known]).abs().max()) <= 1


def test_an_image_that_cannot_be_read_is_named_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = _view("good", NOISE)
    wrong_size = _view("small", torch.zeros(3, 100, 60, dtype=torch.uint8))
    views = [_view("bad", None), good, wrong_size]
    with caplog.at_level(logging.WARNING):
        buffer = fill_buffer(ENCODER, views, [0, 1, 2], 50, 120, Augmentation(), Run())
    assert buffer.view_N.unique().tolist() == [1]
    assert "bad is no image" in caplog.text
    assert "image small is 60x100" in caplog.text
    black = _view("black", torch.zeros_like(NOISE))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(InputError, match="none of the 1 mapping images"),
    ):
        fill_buffer(ENCODER, [black], [0], 50, 120, Augmentation(), Run())
    assert "image black has no texture" in caplog.text
    with pytest.raises(InputError, match="none of the 1 mapping images"):
        fill_buffer(ENCODER, [_view("bad", None)], [0], 50, 120, Augmentation(), Run())


def test_the_shorter_side_is_resized_whichever_it_is() -> None:
    assert resized_grey(NOISE, 60).shape == (100, 60)
    assert resized_grey(torch.zeros(3, 120, 200, dtype=torch.uint8), 60).shape == (60, 100)
    assert resized_grey(torch.zeros(3, 1, 1, dtype=torch.uint8), 480).shape == (480, 480)


def test_a_strip_is_not_blown_up() -> None:
    assert resized_grey(torch.zeros(3, 2, 9000, dtype=torch.uint8), 480).shape == (8, 1920)
