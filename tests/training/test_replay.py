"""Cells that a map keeps: what is left of them, and that they still belong to their cameras."""

import torch

from reloc.geometry.rigid3d import Rigid3d
from reloc.training.buffer import FeatureBuffer
from reloc.training.replay import PosedCells

NUM_CELLS, NUM_CAMERAS = 200, 9


def _cells(seed: int, depth: bool = False) -> PosedCells:
    """Cells whose codes begin with the number of their camera, whose centre is there."""
    generator = torch.Generator().manual_seed(seed)
    view_N = torch.randint(NUM_CAMERAS, (NUM_CELLS,), generator=generator, dtype=torch.int32)
    codes_NC = torch.randn(NUM_CELLS, 16, generator=generator)
    codes_NC[:, 0] = view_N / 3
    depth_N = torch.rand(NUM_CELLS, generator=generator) + 1
    depth_N[::2] = torch.nan
    poses = Rigid3d(
        torch.eye(3, dtype=torch.float64).expand(NUM_CAMERAS, 3, 3),
        torch.arange(3 * NUM_CAMERAS, dtype=torch.float64).view(-1, 3),
    )
    buffer = FeatureBuffer(
        codes_NC.half(),
        torch.rand(NUM_CELLS, 2, generator=generator),
        view_N,
        depth_N if depth else torch.full((NUM_CELLS,), torch.nan),
    )
    return PosedCells(buffer, poses, 500.0 + torch.arange(NUM_CAMERAS), 40)


def _of_camera(cells: PosedCells) -> tuple[torch.Tensor, torch.Tensor]:
    """What the codes say of the cameras of cells, and what the cells say."""
    view_N = cells.buffer.view_N.long()
    says_N = (3 * cells.buffer.codes_NC[:, 0].float()).round()
    torch.testing.assert_close(cells.focal_px_V[view_N].float(), 500 + says_N)
    return says_N.double(), cells.cam_from_world.translation[view_N, 0] / 3


def test_samples_keep_cells_with_their_cameras_and_no_others() -> None:
    for some in (_cells(0).sample(12, seed=3), _cells(0).of_views([2, 5])):
        says_N, is_N = _of_camera(some)
        torch.testing.assert_close(says_N, is_N)
        assert sorted(set(some.buffer.view_N.tolist())) == list(range(len(some.focal_px_V)))
        assert some.num_views == 40
    assert len(_cells(0).sample(12, seed=3)) == 12
    assert len(_cells(0).sample(10**6, seed=3)) == NUM_CELLS


def test_joined_cells_see_with_their_own_cameras() -> None:
    both = _cells(0).sample(30, seed=0).joined(_cells(1).of_views([4]))
    says_N, is_N = _of_camera(both)
    torch.testing.assert_close(says_N, is_N)
    assert both.num_views == 80


def test_a_map_holds_them_in_few_bytes_and_to_a_hundredth() -> None:
    for depth in (False, True):
        cells = _cells(0, depth)
        tensors = cells.tensors()
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        opened = PosedCells.from_tensors({**tensors, "head.enter.weight": torch.ones(1)}, "cpu")
        assert opened is not None
        off = (opened.buffer.codes_NC - cells.buffer.codes_NC).float()
        assert float(off.square().mean().sqrt()) < 0.015
        off_px = 500 * (opened.buffer.rays_N2 - cells.buffer.rays_N2).abs()
        assert float(off_px.max()) < 0.2
        assert torch.equal(opened.buffer.view_N, cells.buffer.view_N)
        torch.testing.assert_close(
            opened.buffer.depth_N, cells.buffer.depth_N, equal_nan=True, rtol=0, atol=0
        )
        assert torch.equal(opened.cam_from_world.matrix, cells.cam_from_world.matrix)
        assert opened.num_views == 40
    assert tensors["replay.codes"].dtype == torch.int8


def test_a_map_without_them_has_none() -> None:
    assert PosedCells.from_tensors({"head.enter.weight": torch.ones(1)}, "cpu") is None
