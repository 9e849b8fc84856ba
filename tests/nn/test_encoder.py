"""The dense encoder: what its codes are of, and what it costs."""

import json
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional

from reloc.nn.encoder import SIZES, STRIDE, Encoder, cell_centers, grey_from_rgb
from reloc.nn.weights import FOLDER, EncoderName, encoder_path, load_encoder
from reloc.scenes.scene import Scene, View


def _giga_macs(encoder: Encoder, height: int, width: int) -> float:
    total = 0

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()  # type: ignore[index]

    handles = [
        module.register_forward_hook(count)
        for module in encoder.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        encoder(torch.zeros(1, 1, height, width))
    for handle in handles:
        handle.remove()
    return total / 1e9


@pytest.mark.parametrize(("name", "most_gmac"), [("base", 5.0), ("small", 1.5)])
def test_cost_of_a_vga_frame(name: str, most_gmac: float) -> None:
    assert _giga_macs(Encoder(SIZES[name]), 480, 640) <= most_gmac


@pytest.mark.parametrize("name", SIZES)
def test_a_cell_sees_at_least_80_pixels_around_its_own_centre(name: str) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 240, 256, requires_grad=True)
    # The projection before the normalisation is linear in the last hidden layer: every path counts.
    Encoder(SIZES[name])(image)[0, :, 15, 16].abs().sum().backward()
    gradient = image.grad[0, 0]  # type: ignore[index]
    for axis, cell in ((1, 15), (0, 16)):
        seen = gradient.abs().sum(axis).nonzero()[:, 0]
        assert seen[-1] - seen[0] + 1 >= 80
        middle = (seen[0] + seen[-1] + 1) / 2
        assert float(middle) == STRIDE * (cell + 0.5)


@pytest.mark.parametrize("name", get_args(EncoderName))
def test_what_ships_is_small_knows_a_place_again_and_says_what_it_is_made_of(
    name: EncoderName, small_room: Scene
) -> None:
    path = encoder_path(name)
    assert path.stat().st_size <= 8e6
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["config"]["photos"] is None, "the card speaks of procedural material alone"
    assert record["commit"].removesuffix("+") in (FOLDER / "README.md").read_text(encoding="utf-8")
    trained = load_encoder(path, name)
    torch.manual_seed(0)
    untrained = Encoder(SIZES[name]).eval()
    first, second = small_room.mapping[0], small_room.mapping[1]
    assert _share_found(trained, first, second) > 0.5
    assert _share_found(trained, first, second) > 2 * _share_found(untrained, first, second)


@torch.no_grad()
def _share_found(encoder: Encoder, first: View, second: View) -> float:
    """How many of the cells that two views share are most similar to each other, within 12 px."""
    codes = [encoder(grey_from_rgb(view.read_image())[None] / 255)[0] for view in (first, second)]
    pixels_N2 = cell_centers(*codes[0].shape[1:]).double()
    depth_HW = first.read_depth()
    assert depth_HW is not None
    column_N, row_N = pixels_N2.long().unbind(1)
    rays_N3 = functional.pad(first.camera.cam_from_img(pixels_N2), (0, 1), value=1.0)
    world_N3 = first.cam_from_world.inverse() @ (rays_N3 * depth_HW[row_N, column_N, None])
    true_N2 = second.camera.img_from_cam(second.cam_from_world @ world_N3)
    limits = torch.tensor([second.camera.width, second.camera.height])
    shared_N = ((true_N2 > 0) & (true_N2 < limits)).all(1)
    nearest_N = (codes[0].flatten(1).T @ codes[1].flatten(1)).argmax(1)
    found_N2 = cell_centers(*codes[1].shape[1:])[nearest_N]
    return float(((found_N2 - true_N2).norm(dim=1) < 12)[shared_N].double().mean())


def test_sides_that_are_no_multiple_of_eight_lose_their_rest() -> None:
    codes = Encoder()(torch.rand(2, 1, 45, 71))
    assert codes.shape == (2, 128, 5, 8)
    torch.testing.assert_close(codes.square().mean(1), torch.ones(2, 5, 8))


def test_cell_centers_are_those_of_the_pixels_in_the_cell() -> None:
    centers = cell_centers(2, 3)
    assert centers.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_grey_weighs_red_green_and_blue_as_luma_does() -> None:
    image = torch.zeros(3, 1, 3, dtype=torch.uint8)
    image[0, 0, 0] = image[1, 0, 1] = image[2, 0, 2] = 255
    assert grey_from_rgb(image).tolist() == [[[76, 150, 29]]]
