"""ACE's loss and map on scenes whose truth is known."""

import torch

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates.ace import AceConfig, mapping_loss, reprojection_loss
from reloc.methods.coordinates.cameras import MappingCameras, mapping_cameras
from reloc.methods.coordinates.points import point_loss
from reloc.nn.heads import CoordinateHead
from reloc.scenes.scene import View
from reloc.training.buffer import FeatureBuffer


class _Fixed(torch.nn.Module):
    """A head whose answer is its input."""

    def forward(self, codes_NC: torch.Tensor) -> torch.Tensor:
        return codes_NC


def _setting(depth: float = torch.nan) -> tuple[FeatureBuffer, MappingCameras, torch.Tensor]:
    """Two cameras that see points two to four units away, in a frame with scale 5 and a centre."""
    generator = torch.Generator().manual_seed(0)
    cam_from_world = Rigid3d.exp(0.2 * torch.randn(2, 6, generator=generator, dtype=torch.float64))
    center, scale = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64), 5.0
    view = torch.randint(2, (40,), generator=generator)
    rays = torch.rand(40, 2, generator=generator, dtype=torch.float64) - 0.5
    z = 2 + 2 * torch.rand(40, 1, generator=generator, dtype=torch.float64)
    points_cam = torch.cat([rays, torch.ones(40, 1)], 1) * z
    world = (cam_from_world.inverse()[view] @ points_cam[:, None])[:, 0]
    cameras = MappingCameras(
        center,
        scale,
        cam_from_world.rotation.float(),
        ((cam_from_world.rotation @ center) + cam_from_world.translation).float() / scale,
        torch.tensor([500.0, 400.0]),
    )
    codes = ((world - center) / scale).float()
    buffer = FeatureBuffer(codes, rays.float(), view.int(), torch.full((40,), depth))
    return buffer, cameras, z[:, 0].float()


def _loss(buffer: FeatureBuffer, cameras: MappingCameras, done: float) -> float:
    cells = torch.arange(len(buffer))
    head = _Fixed()
    return float(reprojection_loss(head, buffer, cameras, cells, done, 100.0, 1.0))  # type: ignore[arg-type]


def test_true_points_cost_nothing_and_the_tolerance_tightens() -> None:
    buffer, cameras, _ = _setting()
    assert _loss(buffer, cameras, 0.0) < 0.01
    moved = FeatureBuffer(buffer.codes_NC + 0.02, buffer.rays_N2, buffer.view_N, buffer.depth_N)
    loose, tight = _loss(moved, cameras, 0.0), _loss(moved, cameras, 1.0)
    assert loose > 5
    assert 0.5 < tight <= 1


def test_points_behind_the_camera_are_drawn_to_their_rays() -> None:
    buffer, cameras, _ = _setting()
    behind = FeatureBuffer(-buffer.codes_NC * 3, buffer.rays_N2, buffer.view_N, buffer.depth_N)
    behind.codes_NC.requires_grad_(True)
    loss = reprojection_loss(_Fixed(), behind, cameras, torch.arange(40), 0.0, 100.0, 1.0)  # type: ignore[arg-type]
    loss.backward()
    gradient = behind.codes_NC.grad
    assert gradient is not None
    assert bool((gradient.norm(dim=1) > 0).all())
    assert bool(gradient.isfinite().all())


def test_a_head_learns_how_far_off_its_points_are_and_the_points_do_not_suffer() -> None:
    """Cells of one kind are placed right, those of the other at random within 100 px."""
    buffer, cameras, _ = _setting()
    head = CoordinateHead(3, 16, 1)
    before = [value.clone() for value in head.point.parameters()]
    true_NC = buffer.codes_NC
    noise_NC = torch.randn(true_NC.shape, generator=torch.Generator().manual_seed(1)) * 0.05
    vague_N = torch.arange(40) % 2 == 1

    class Placed(CoordinateHead):
        """Its points are given; what it learns is their error."""

        def with_error(self, codes_NC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            _, log_error_N = super().with_error(codes_NC + 3.0 * vague_N[:, None])
            return torch.where(vague_N[:, None], codes_NC + noise_NC, codes_NC), log_error_N

    placed = Placed(3, 16, 1)
    placed.load_state_dict(head.state_dict())
    optimizer = torch.optim.Adam(placed.parameters(), lr=0.05)
    cells = torch.arange(40)
    for _ in range(200):
        optimizer.zero_grad()
        mapping_loss(placed, buffer, cameras, cells, 0.5, 100.0, 1.0).backward()
        optimizer.step()
    log_error_N = placed.with_error(true_NC)[1].detach()
    assert float(log_error_N[~vague_N].max()) < 1.0
    assert float(log_error_N[vague_N].exp().median()) > 10
    after = placed.point.parameters()
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_known_point_counts_along_its_ray_too() -> None:
    buffer, cameras, depth_N = _setting()
    cells = torch.arange(40)
    head = _Fixed()
    assert float(point_loss(head, buffer, cameras, cells, depth_N)) < 0.01  # type: ignore[arg-type]
    # Half as far again: the same rays, the same reprojection, another point.
    wrong = float(point_loss(head, buffer, cameras, cells, 1.5 * depth_N))  # type: ignore[arg-type]
    focal_px = 450.0
    assert 0.5 * focal_px / 3 < wrong < 2 * focal_px / 3


def test_known_depth_refuses_a_point_that_is_right_in_the_image_alone() -> None:
    buffer, cameras, z = _setting()
    known = FeatureBuffer(buffer.codes_NC, buffer.rays_N2, buffer.view_N, z)
    assert _loss(known, cameras, 0.5) < 0.01
    wrong = FeatureBuffer(buffer.codes_NC, buffer.rays_N2, buffer.view_N, 2 * z)
    assert _loss(wrong, cameras, 0.5) > 0.1


def test_cameras_of_portrait_and_landscape_have_the_focal_of_their_shorter_side() -> None:
    views = [
        View(
            str(width),
            Camera.simple_pinhole(800.0, width, height),
            Rigid3d(torch.eye(3, dtype=torch.float64), torch.tensor([float(x), 0, 0]).double()),
            lambda: torch.zeros(3, 1, 1, dtype=torch.uint8),
        )
        for x, (width, height) in enumerate([(960, 1280), (1280, 960)])
    ]
    cameras = mapping_cameras(views, AceConfig(), "cpu")
    assert cameras.focal_px_V.tolist() == [400.0, 400.0]
    assert cameras.scale == 1.0
    assert cameras.center_3.tolist() == [-0.5, 0, 0]
