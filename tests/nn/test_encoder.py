"""The dense encoder: what its codes are of, and what it costs."""

import pytest
import torch
from torch import nn

from reloc.nn.encoder import SIZES, STRIDE, Encoder, cell_centers, grey_from_rgb


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
