"""Depth of cells from codes and poses alone."""

import torch

from reloc.contract import Run
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates.cells import views_to_encode
from reloc.methods.coordinates.epipolar_depth import triangulated_depth
from reloc.training.buffer import FeatureBuffer
from reloc.training.replay import PosedCells

FOCAL_PX = 500.0


def _room(
    num_views: int = 6, num_points: int = 300, shared: bool = True, far_off: float = 0.0
) -> tuple[PosedCells, torch.Tensor]:
    """Cells of views along a line that see the same points, each with a code of its own.

    The pose of the last one is wrong by `far_off`.
    """
    torch.manual_seed(0)
    points_N3 = torch.rand(num_points, 3) * torch.tensor([4.0, 3.0, 2.0]) + torch.tensor(
        [-2, -1.5, 3]
    )
    codes_NC = torch.randn(num_points, 128)
    eye = torch.eye(3, dtype=torch.float64).expand(num_views, 3, 3)
    offset_V3 = torch.zeros(num_views, 3, dtype=torch.float64)
    offset_V3[:, 0] = -0.25 * torch.arange(num_views)
    rays, codes, view, depth = [], [], [], []
    for index in range(num_views):
        seen = points_N3 + offset_V3[index].float()
        # Cells are 8 px wide: a point is known no better than that.
        pixels = (seen[:, :2] / seen[:, 2:] * FOCAL_PX / 8).round() * 8
        rays.append(pixels / FOCAL_PX)
        codes.append(codes_NC if shared else torch.randn(num_points, 128))
        view.append(torch.full((num_points,), index, dtype=torch.int32))
        depth.append(seen[:, 2])
    code = torch.cat(codes)
    code = code / code.square().mean(1, keepdim=True).sqrt()
    unknown = torch.full((len(code),), torch.nan)
    buffer = FeatureBuffer(code.half(), torch.cat(rays), torch.cat(view), unknown)
    offset_V3[-1, 1] += far_off
    said = Rigid3d(eye.clone(), offset_V3)
    return PosedCells(buffer, said, torch.full((num_views,), FOCAL_PX), num_views), torch.cat(depth)


def test_depth_is_found_within_what_cells_of_8_px_allow() -> None:
    cells, true_depth_N = _room()
    depth_N = triangulated_depth(cells, Run())
    known_N = depth_N.isfinite()
    assert float(known_N.float().mean()) > 0.7
    error_N = (depth_N - true_depth_N).abs()[known_N] / true_depth_N[known_N]
    # Middles of cells are off by 3.3 px (one sigma of two), of a parallax of 30 to 100 px.
    assert float(error_N.median()) < 0.05
    # Twice the most that a mean of agreeing depths may be off by its own account.
    assert float(error_N.quantile(0.95)) < 0.16


def test_codes_that_nothing_shares_are_not_believed() -> None:
    cells, _ = _room(shared=False)
    assert float(triangulated_depth(cells, Run()).isfinite().float().mean()) < 0.01


def test_two_views_alone_are_no_witnesses_of_each_other() -> None:
    cells, _ = _room(num_views=2)
    assert not bool(triangulated_depth(cells, Run()).isfinite().any())


def test_one_camera_with_a_wrong_pose_leaves_the_others_their_partners() -> None:
    cells, true_depth_N = _room(num_views=12)
    astray, _ = _room(num_views=12, far_off=200.0)
    found, expected = triangulated_depth(astray, Run()), triangulated_depth(cells, Run())
    right_N = (found - true_depth_N).abs() < 0.2 * true_depth_N
    assert int(right_N.sum()) > 0.8 * int(expected.isfinite().sum())


def test_views_without_cells_leave_the_others_their_partners() -> None:
    """Of a long video a part is encoded: most views near a baseline have no cells."""
    cells, _ = _room(num_views=12)
    alone = triangulated_depth(cells, Run())
    eye = torch.eye(3, dtype=torch.float64).expand(400, 3, 3)
    offset_V3 = torch.zeros(400, 3, dtype=torch.float64)
    offset_V3[:, 0] = torch.linspace(0.0, -2.75, 400)
    more = Rigid3d.stack([*cells.cam_from_world, *Rigid3d(eye.clone(), offset_V3)])
    focal_px_V = torch.full((412,), FOCAL_PX)
    among = PosedCells(cells.buffer, more, focal_px_V, cells.num_views)
    found = triangulated_depth(among, Run())
    assert torch.equal(found, alone) or bool(torch.isclose(found, alone, equal_nan=True).all())
    assert float(found.isfinite().float().mean()) > 0.7


def test_no_view_is_encoded_twice_before_all_are_once() -> None:
    """Photos from tripods share their poses: the first of them was taken again and again."""
    eye = torch.eye(3, dtype=torch.float64).expand(60, 3, 3)
    offset_V3 = torch.arange(6.0).double().repeat(10)[:, None] * torch.ones(3).double()
    chosen = views_to_encode(Rigid3d(eye.clone(), offset_V3), 1.0, 40)
    assert len(set(chosen)) == 40
    assert set(offset_V3[chosen[:6], 0].tolist()) == set(range(6))
