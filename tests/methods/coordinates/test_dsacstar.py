"""DSAC*'s losses and network."""

import pytest
import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates.cameras import MappingCameras
from reloc.methods.coordinates.dsacstar import LeanTrunk, initial_loss, pose_loss
from reloc.methods.coordinates.sightings import see, soft_clamped
from reloc.training.buffer import FeatureBuffer

FOCAL_PX, SCALE = 400.0, 2.0


class Answers(torch.nn.Module):
    """A head that answers with what it is asked."""

    def forward(self, codes_NC: Tensor) -> Tensor:
        return codes_NC


def setting(*points_cam: tuple[float, float, float], depth: float = torch.nan):
    """A view that looks along the ray of each cell at (0, 0), and points where it sees them.

    Points are in units of the scale; depth is in the scene's.
    """
    cam_from_center = Rigid3d.exp(torch.tensor([0.3, -0.2, 0.5, 0.1, 0.4, -0.3]))
    cameras = MappingCameras(
        torch.zeros(3, dtype=torch.float64),
        SCALE,
        cam_from_center.rotation[None],
        cam_from_center.translation[None],
        torch.tensor([FOCAL_PX]),
    )
    count = len(points_cam)
    points = (cam_from_center.inverse() @ torch.tensor(points_cam)).requires_grad_()
    buffer = FeatureBuffer(
        points,
        torch.zeros(count, 2),
        torch.zeros(count, dtype=torch.int32),
        torch.full((count,), depth),
    )
    return Answers(), buffer, cameras, torch.arange(count)


def _loss(*points_cam, depth: float = torch.nan, plain_depth: bool = False) -> float:
    return float(initial_loss(*setting(*points_cam, depth=depth), 0.0, plain_depth))


def test_a_point_is_seen_where_it_projects() -> None:
    seen = see(*setting((0.03, 0.04, 1.0), (0.0, 0.0, -1.0), depth=4.0))
    torch.testing.assert_close(seen.error_px_N[:1], torch.tensor([FOCAL_PX * 0.05]))
    assert seen.plausible_N.tolist() == [True, False]
    torch.testing.assert_close(seen.depth_N, torch.full((2,), 2.0))
    known = torch.tensor([(0.05**2 + 1) ** 0.5, 3.0])
    torch.testing.assert_close(seen.distance_to_known(), known)
    torch.testing.assert_close(seen.distance_at(0.5)[:1], torch.tensor([0.57]))


def test_the_loss_is_the_error_in_pixels_and_its_root_above_a_hundred() -> None:
    assert _loss((0.1, 0.0, 1.0)) == pytest.approx(40, rel=1e-4)
    assert _loss((1.0, 0.0, 1.0)) == pytest.approx(200, rel=1e-4)
    assert _loss((0.1, 0.0, 1.0), (0.0, 0.0, 1.0)) == pytest.approx(20, rel=1e-4)


def test_a_point_behind_the_camera_is_drawn_to_its_ray() -> None:
    assert _loss((0.0, 0.0, -1.0)) == pytest.approx(3, rel=1e-4)
    assert _loss((5.0, 0.0, 1.0)) == pytest.approx(6, rel=1e-4)


def test_known_depth_draws_until_a_point_is_near_then_the_image_decides() -> None:
    assert _loss((0.0, 0.0, 1.0), depth=4.0) == pytest.approx(1, rel=1e-4)
    assert _loss((0.02, 0.0, 2.0), depth=4.0) == pytest.approx(4, rel=1e-4)


def test_a_map_for_queries_with_depth_learns_distances_alone() -> None:
    assert _loss((0.02, 0.0, 2.0), depth=4.0, plain_depth=True) == pytest.approx(0.02, rel=1e-3)
    assert _loss((0.1, 0.0, 1.0), plain_depth=True) == 0


@pytest.mark.parametrize("points_cam", [(0.0, 0.0, -1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
def test_gradients_are_finite(points_cam: tuple[float, float, float]) -> None:
    head, buffer, cameras, cells = setting(points_cam, depth=2.0)
    (gradient,) = torch.autograd.grad(
        initial_loss(head, buffer, cameras, cells, 0.0, False),
        buffer.codes_NC,
    )
    assert bool(gradient.isfinite().all())


def test_the_loss_of_a_clamped_pose_has_the_gradient_of_what_it_says() -> None:
    """The public code's is ten times too small there."""
    position = torch.tensor([400.0], dtype=torch.float64, requires_grad=True)
    angle = torch.zeros(1, dtype=torch.float64)
    loss = pose_loss(angle, position)
    assert float(loss) == 200
    assert torch.autograd.gradcheck(lambda position: pose_loss(angle, position), position)
    assert float(soft_clamped(torch.tensor(99.0), 100.0)) == 99


def receptive_field(trunk: torch.nn.Module) -> int:
    """Side of the square of pixels that a code depends on."""
    for parameter in trunk.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    image = torch.ones(1, 1, 160, 160, requires_grad=True)
    trunk(image)[0, :, 10, 10].sum().backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero()[:, 0]
    return int(rows.max() - rows.min()) + 1


def test_the_networks_see_what_the_paper_says() -> None:
    full, tiny = LeanTrunk((256, 512)), LeanTrunk((128, 128))
    assert receptive_field(full) == 81
    assert full(torch.zeros(1, 1, 60, 83)).shape == (1, 512, 7, 10)
    assert tiny(torch.zeros(1, 1, 64, 80)).shape == (1, 128, 8, 10)
    assert not any(True for _ in tiny.skip.parameters())
