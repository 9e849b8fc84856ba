"""Probes of codes: what finds every point scores 1, what tells nothing apart scores by chance."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.nn.encoder import cell_centers
from reloc.training import probe
from reloc.training.correspondences import Correspondences
from reloc.training.probe import coordinate_accuracy, matching_accuracy, pairs_to_match
from reloc.training.room_pairs import RenderedRoom, points_shown

RUN = Run(precision="fp32")
WIDTH, HEIGHT = 320, 240


class Greys(nn.Module):
    """The 64 pixels of a cell, less their mean: an encoder of exactly what it sees."""

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        codes = nn.functional.pixel_unshuffle(grey_B1HW, 8)
        return codes - codes.mean(dim=1, keepdim=True)


class Silence(nn.Module):
    """The same code everywhere."""

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        return torch.ones_like(nn.functional.pixel_unshuffle(grey_B1HW, 8))


def _noise(*size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, size, generator=generator, dtype=torch.uint8)


def test_points_that_moved_are_found_where_they_went() -> None:
    scene, shift = _noise(2, 1, 96, 136), torch.tensor([16.0, 0.0])
    points_b_N2 = cell_centers(12, 13).repeat(2, 1)
    pairs = Correspondences(
        scene[..., :120],
        scene[..., 16:],
        torch.arange(2).repeat_interleave(12 * 13),
        points_b_N2 + shift,
        points_b_N2,
    )
    assert matching_accuracy(Greys(), pairs, RUN) == 1
    assert matching_accuracy(Silence(), pairs, RUN) < 0.1
    # They are found, but not where these say.
    wrong = replace(pairs, points_b_N2=points_b_N2 + shift)
    assert matching_accuracy(Greys(), wrong, RUN) == 0


def _wall() -> RenderedRoom:
    """Views of one wall from beside one another: the grey is noise that sticks to the wall."""
    steps = torch.arange(8).double()
    # Eight pixels a step: 3 m before the wall, with a focal length of 240 px.
    place = torch.stack([0.1 * steps, 0 * steps, 0 * steps], dim=1)
    cam_from_world = Rigid3d(torch.eye(3).double().expand(8, 3, 3), -place)
    wall = _noise(HEIGHT, WIDTH + 8 * 8)
    grey = torch.stack([wall[:, 8 * step : 8 * step + WIDTH] for step in range(8)])
    depth = torch.full((8, HEIGHT, WIDTH), 3.0).half()
    return RenderedRoom(grey, depth, cam_from_world, Camera.simple_pinhole(240.0, WIDTH, HEIGHT))


def test_pairs_from_rooms_are_found_by_what_they_show() -> None:
    room = _wall()
    pairs = pairs_to_match([room], 4, seed=0)
    assert matching_accuracy(Greys(), pairs, RUN) > 0.99
    turned = pairs_to_match([room], 4, seed=0, turn_deg=90.0)
    assert matching_accuracy(Greys(), turned, RUN) < 0.2


def test_a_head_places_cells_of_views_that_it_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "_HEAD_STEPS", 150)
    room = _wall()
    points_N3, shown_N = points_shown(room, 2, cell_centers(2, 3).double())
    assert bool(shown_N.all())
    torch.testing.assert_close(points_N3[:, 2], torch.full((6,), 3.0).double())
    assert coordinate_accuracy(Greys(), room, RUN) > 0.5
    assert coordinate_accuracy(Silence(), room, RUN) < 0.05
