"""Regions within regions, and a head that tells them."""

from __future__ import annotations

import pytest
import torch

from reloc.contract import Run
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.coordinates.cameras import MappingCameras, cameras_in_frame
from reloc.methods.coordinates.src import (
    RegionHead,
    SrcConfig,
    _points_in_frame,
    _train,
    build_map,
    cut_into_regions,
)
from reloc.scenes.scene import Scene
from reloc.training.buffer import FeatureBuffer
from reloc.training.replay import PosedCells

CONFIG = SrcConfig(width=32, num_blocks=0, steps=300, batch_size=256, branching=4, tight_px=5.0)


def _boxes(count: int) -> torch.Tensor:
    """Points in four clusters, far apart, of four clusters each."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.cartesian_prod(torch.tensor([0.0, 10.0]), torch.tensor([0.0, 10.0]))
    small = torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    places = (corners[:, None] + small).reshape(-1, 2)
    places = torch.cat([places, torch.full((16, 1), 3.0)], dim=1)
    points = places.repeat(count, 1)
    return points + 0.05 * torch.randn(points.shape, generator=generator)


def test_regions_are_clusters_within_clusters() -> None:
    points = _boxes(20)
    coarse, fine = cut_into_regions(points, 4, seed=0)
    assert coarse.shape == (4, 3)
    assert fine.shape == (4, 4, 3)
    # A fine region lies in its coarse one, and tells more of where a point is.
    assert torch.cdist(fine.flatten(0, 1), coarse).argmin(dim=1).tolist() == [
        number for number in range(4) for _ in range(4)
    ]
    off_coarse = torch.cdist(points, coarse).amin(dim=1).mean()
    off_fine = torch.cdist(points, fine.flatten(0, 1)).amin(dim=1).mean()
    assert float(off_fine) < 0.5 * float(off_coarse)


def test_too_few_points_for_all_regions_make_fewer() -> None:
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    coarse, fine = cut_into_regions(points, 3, seed=0)
    assert bool(fine.isfinite().all())
    assert coarse.shape == (3, 3)
    assert float(torch.cdist(points, fine.flatten(0, 1)).amin(dim=1).max()) < 1e-4


def _cells() -> tuple[PosedCells, MappingCameras, torch.Tensor]:
    """Cells of one camera whose codes tell their points, and how deep these are."""
    points = _boxes(40)
    pose = Rigid3d(
        torch.eye(3, dtype=torch.float64)[None], torch.tensor([[-5.0, -5.0, 5.0]]).double()
    )
    seen = (pose @ points.double()[None])[0].float()
    generator = torch.Generator().manual_seed(1)
    waves = torch.randn(3, 24, generator=generator)
    buffer = FeatureBuffer(
        torch.sin(points @ waves).half(),
        seen[:, :2] / seen[:, 2:],
        torch.zeros(len(points), dtype=torch.int32),
        torch.full((len(points),), torch.nan),
    )
    cells = PosedCells(buffer, pose, torch.tensor([500.0]), 1)
    center = torch.tensor([5.0, 5.0, 0.0], dtype=torch.float64)
    cameras = cameras_in_frame(pose, cells.focal_px_V, center, 10.0, "cpu")
    return cells, cameras, seen[:, 2]


def test_known_points_are_where_they_are_seen() -> None:
    cells, cameras, depth = _cells()
    every = torch.arange(len(depth))
    in_frame = _points_in_frame(cells, depth, every, cameras)
    expected = (_boxes(40).double() - cameras.center_3) / cameras.scale
    torch.testing.assert_close(in_frame, expected.float(), rtol=0, atol=1e-5)


def test_a_head_learns_regions_and_the_places_in_them() -> None:
    cells, cameras, depth = _cells()
    torch.manual_seed(0)
    head = RegionHead(24, CONFIG.width, 1, CONFIG.branching)
    _train(head, cells, cameras, depth, torch.arange(len(depth)), CONFIG, Run(precision="fp32"))
    expected = _points_in_frame(cells, depth, torch.arange(len(depth)), cameras)
    with torch.no_grad():
        said = head(cells.buffer.codes_NC.float())
    off = (said - expected).norm(dim=-1)
    # The clusters are 0.1 apart in the head's unit, and 0.005 wide.
    assert float((off < 0.03).float().mean()) > 0.95


def test_views_that_tell_no_depth_are_refused(small_room: Scene) -> None:
    config = SrcConfig(short_side_px=64, num_images=4, steps=2)
    with pytest.raises(InputError, match="--depth"):
        build_map(small_room.mapping[:3], config, Run())


def test_places_in_regions_are_said_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    head = RegionHead(16, 32, 1, 4).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        points_N3 = head(torch.randn(200, 16))
    assert points_N3.dtype == torch.float32
    # Numbers that bf16 could not say.
    assert float((points_N3 != points_N3.bfloat16().float()).float().mean()) > 0.9
