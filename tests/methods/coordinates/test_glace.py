"""GLACE: a global code tells places apart that look alike, and points are said from clusters."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.coordinates import ace, glace
from reloc.methods.coordinates.ace import mapping_loss
from reloc.methods.coordinates.cameras import MappingCameras, cameras_in_frame
from reloc.methods.coordinates.glace import GlaceConfig
from reloc.methods.coordinates.global_codes import GlobalCodes, with_global
from reloc.methods.coordinates.map_tensors import head_of, head_tensors
from reloc.methods.coordinates.mapping import cluster_centers, fit_head
from reloc.methods.coordinates.points import agreeing
from reloc.nn.heads import CoordinateHead
from reloc.scenes.scene import Scene
from reloc.training.buffer import FeatureBuffer

QUICK = GlaceConfig(
    short_side_px=64, width=32, num_images=10, steps=20, batch_size=128, num_clusters=3
)
CODE, GLOBAL = 16, 32
EXACT = Run(precision="fp32")


class _NoDescriptor:
    """Codes of the views are given."""

    def describe(self, image_3HW: Tensor) -> Tensor:
        raise AssertionError

    describe_known = describe

    def state(self) -> dict[str, Tensor]:
        return {}


def _global_codes(codes_VD: Tensor, noise: float = 0.1) -> GlobalCodes:
    return GlobalCodes(_NoDescriptor(), functional.normalize(codes_VD, dim=1), noise)


# ------------------------------------------------------------------------------ the global code


def _twins() -> tuple[FeatureBuffer, MappingCameras]:
    """Two places four units apart, whose points have the same codes, each seen by six views."""
    generator = torch.Generator().manual_seed(0)
    codes_PC = torch.randn(40, CODE, generator=generator)
    points_P3 = 2 * torch.rand(40, 3, generator=generator) - torch.tensor([1.0, 1.0, -3.0])
    codes, rays, views, eyes = [], [], [], []
    for view in range(12):
        place_3 = torch.tensor([4.0 * (view % 2), 0.0, 0.0])
        eye_3 = place_3 + torch.tensor([view / 6 - 1, 0.3 * (view % 3), 0.0])
        seen_P3 = points_P3 + place_3 - eye_3
        codes.append(codes_PC)
        rays.append(seen_P3[:, :2] / seen_P3[:, 2:])
        views.append(torch.full((40,), view, dtype=torch.int32))
        eyes.append(eye_3.double())
    eyes_V3 = torch.stack(eyes)
    rotation_V33 = torch.eye(3, dtype=torch.float64).expand(12, 3, 3)
    center_3 = eyes_V3.mean(0)
    scale = float((eyes_V3.amax(0) - eyes_V3.amin(0)).norm())
    focal_px_V = torch.full((12,), 200.0)
    cameras = cameras_in_frame(Rigid3d(rotation_V33, -eyes_V3), focal_px_V, center_3, scale, "cpu")
    buffer = FeatureBuffer(
        torch.cat(codes), torch.cat(rays), torch.cat(views), torch.full((480,), torch.nan)
    )
    return buffer, cameras


def _share_that_agrees(cameras: MappingCameras, buffer: FeatureBuffer, code: int) -> float:
    """Of the cells, after a short training: those whose points agree with the poses."""
    config = GlaceConfig(width=48, num_blocks=0, steps=400, batch_size=240, num_clusters=2)
    centers_K3 = cluster_centers(cameras, config.num_clusters, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = CoordinateHead(code, config.width, config.num_blocks, len(centers_K3))
    assert head.centers is not None
    head.centers.copy_(centers_K3)

    def draw(generator: torch.Generator) -> Tensor:
        return torch.randint(len(buffer), (config.batch_size,), generator=generator)

    loss = partial(mapping_loss, loose_px=config.loose_px, tight_px=config.tight_px)
    fit_head(head, buffer, cameras, draw, config, loss, EXACT)
    _, agrees_N = agreeing(head, buffer, cameras, config, EXACT)
    return float(agrees_N.float().mean())


def test_places_that_look_alike_cell_by_cell_are_told_apart_by_their_images_alone() -> None:
    buffer, cameras = _twins()
    generator = torch.Generator().manual_seed(1)
    places_2D = torch.randn(2, GLOBAL, generator=generator)
    codes_VD = places_2D[torch.arange(12) % 2] + 0.3 * torch.randn(12, GLOBAL, generator=generator)
    told = replace(cameras, global_codes=_global_codes(codes_VD))
    assert _share_that_agrees(told, buffer, CODE + GLOBAL) > 0.95
    # Of two points with one code, a head says one place at most.
    assert _share_that_agrees(cameras, buffer, CODE) < 0.6


def test_noise_is_of_the_step_keeps_the_norm_and_is_left_out_of_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = _global_codes(torch.randn(5, GLOBAL, generator=generator))
    view_N = torch.tensor([0, 3, 3, 1])
    assert torch.equal(codes.of_views(view_N), codes.codes_VD[view_N])
    first_ND = codes.noisy(generator.manual_seed(7)).of_views(view_N)
    again_ND = codes.noisy(generator.manual_seed(7)).of_views(view_N)
    assert torch.equal(first_ND, again_ND)
    torch.testing.assert_close(first_ND.norm(dim=1), torch.ones(4))
    # Two cells of one image are told differently, and 0.1 in each of 32 numbers is 0.57 in all.
    assert not torch.equal(first_ND[1], first_ND[2])
    many_ND = codes.noisy(generator.manual_seed(8)).of_views(torch.zeros(4000, dtype=torch.int64))
    cosine = float((many_ND @ codes.codes_VD[0]).mean())
    assert cosine == pytest.approx((1 + GLOBAL * 0.1**2) ** -0.5, abs=0.01)


def test_a_global_code_is_as_large_as_that_of_a_cell() -> None:
    global_ND = functional.normalize(torch.ones(3, GLOBAL), dim=1)
    both_NC = with_global(torch.ones(3, CODE), global_ND)
    torch.testing.assert_close(both_NC, torch.ones(3, CODE + GLOBAL))


# ------------------------------------------------------------------------------ the decoder


def test_points_are_offsets_from_a_mixture_of_the_centers() -> None:
    torch.manual_seed(0)
    head = CoordinateHead(4, 8, 1, num_clusters=3)
    assert head.centers is not None
    assert head.cluster is not None
    centers_K3 = torch.tensor([[10.0, 0, 0], [0, 20.0, 0], [0, 0, 30.0]])
    head.centers.copy_(centers_K3)
    codes_NC = torch.randn(6, 4)
    with torch.no_grad():
        head.point.weight.zero_()
        head.point.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 0.0]))
        head.cluster.weight.zero_()
        torch.testing.assert_close(
            head(codes_NC), (centers_K3.mean(0) + torch.tensor([1.0, 2.0, 3.0])).expand(6, 3)
        )
        head.cluster.bias.copy_(torch.tensor([0.0, 100.0, 0.0]))
        torch.testing.assert_close(head(codes_NC), torch.tensor([1.0, 22.0, 3.0]).expand(6, 3))
    head.zero_grad()
    head.cluster.bias.data.zero_()
    head(codes_NC).square().sum().backward()
    assert head.cluster.bias.grad is not None
    assert float(head.cluster.bias.grad.abs().min()) > 0


def test_centers_are_those_of_the_cameras_and_come_back_from_a_map_as_they_were() -> None:
    _, cameras = _twins()
    centers_K3 = cluster_centers(cameras, 2, 0)
    by_place_23 = torch.stack([cameras.centers_V3[::2].mean(0), cameras.centers_V3[1::2].mean(0)])
    assert float(torch.cdist(centers_K3, by_place_23).amin(1).max()) < 1e-3
    assert len(cluster_centers(cameras, 1, 0)) == 0
    head = CoordinateHead(CODE, 8, 1, 2)
    assert head.centers is not None
    head.centers.copy_(centers_K3)
    config = replace(QUICK, width=8)
    opened = head_of(head_tensors(head, cameras), config, "cpu")
    assert opened.centers is not None
    assert torch.equal(opened.centers, centers_K3)


# ------------------------------------------------------------------------------ the loss


class _Fixed(torch.nn.Module):
    """A head whose answer is its input."""

    def forward(self, codes_NC: Tensor) -> Tensor:
        return codes_NC


@pytest.mark.parametrize("depth", [0.5, 2.0, 8.0])
def test_adjusted_by_depth_near_points_count_less(depth: float) -> None:
    """A point 4 px off at some depth, of one camera at the origin with a focal length of 200."""
    buffer = FeatureBuffer(
        torch.tensor([[0.02 * depth, 0.0, depth]]),
        torch.zeros(1, 2),
        torch.zeros(1, dtype=torch.int32),
        torch.tensor([torch.nan]),
    )
    camera = MappingCameras(
        torch.zeros(3).double(), 1.0, torch.eye(3)[None], torch.zeros(1, 3), torch.tensor([200.0])
    )
    every_N = torch.zeros(1, dtype=torch.int64)

    def loss(depth_adjusted: float) -> float:
        """Where nothing flattens; without what teaches the error, which is 4 px in any case."""
        error = mapping_loss(_Fixed(), buffer, camera, every_N, 0.0, 1e5, 1.0, depth_adjusted)
        return float(error) - 4.0

    assert loss(0.0) == pytest.approx(4.0, rel=1e-3)
    assert loss(2.0) == pytest.approx(4.0 * depth / (depth**2 + 2.0**2) ** 0.5, rel=1e-3)


# ------------------------------------------------------------------------------ maps


def _same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_without_global_code_and_clusters_it_is_a_head_of_ace(small_room: Scene) -> None:
    views = small_room.mapping[::4]
    plain = replace(QUICK, global_dimensions=0, num_clusters=0)
    layers = replace(
        ace.METHOD.presets["layers"],
        short_side_px=64,
        width=32,
        num_images=10,
        steps=20,
        batch_size=128,
        replay_cells=0,
    )
    ours = glace.build_map(views, plain, EXACT)
    assert _same(ours, ace.build_map(views, layers, EXACT))
    both = glace.build_map(views, QUICK, EXACT)
    assert both.keys() > ours.keys()
    assert both["head.enter.weight"].shape[1] > ours["head.enter.weight"].shape[1]


def test_a_map_of_checkpoints_is_the_same_map(small_room: Scene, tmp_path: Path) -> None:
    views = small_room.mapping[::4]
    whole = glace.build_map(views, QUICK, EXACT)
    again = replace(EXACT, checkpoint_folder=tmp_path)
    assert _same(glace.build_map(views, QUICK, again), whole)
    # Its codes and its head are there now, and are read.
    assert _same(glace.build_map(views, QUICK, again), whole)


def test_a_view_that_cannot_be_read_is_left_out(
    small_room: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Tensor:
        raise InputError("frame.png is cut short")

    views = list(small_room.mapping[::4])
    views[3] = replace(views[3], image_reader=fail)
    glace.build_map(views, QUICK, EXACT)
    assert "frame.png is cut short" in caplog.text


def test_negative_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="global_noise is"):
        GlaceConfig(global_noise=-0.1)
