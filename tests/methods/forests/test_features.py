"""Laws of what a pixel looks like: the same surface looks alike from near and far."""

import numpy as np
import pytest
import torch

from reloc.geometry.camera import Camera
from reloc.methods.forests.features import Probes, draw_probes, look

CAMERA = Camera.simple_pinhole(300.0, 320, 240)


def _smooth_picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 12, generator=generator) * 255
    size = (height, width)
    picture = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return picture[0].clamp(0, 255).to(torch.uint8)


def _looks(image, camera, depth, count=500, short_side_px=240, reads_depth=True):
    found = look(image, camera, depth, short_side_px, count, 0, reads_depth=reads_depth)
    assert found is not None
    return found


def test_a_wall_looks_the_same_from_twice_as_far():
    """Offsets in metres cover the same part of it, whatever the distance."""
    near_image = _smooth_picture(480, 640)
    near = _looks(near_image, CAMERA.resized(640, 480), torch.full((480, 640), 1.0), 20000, 480)
    far_image = near_image.float().unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2)).to(torch.uint8)
    far = _looks(far_image, CAMERA, torch.full((240, 320), 1.0), 20000)
    # The half-size picture of the whole wall is what half the focal length sees of it.
    probes = draw_probes(200, 0.02, 0.2, 0.0, np.random.default_rng(0))
    near_at = {key: number for number, key in enumerate(map(tuple, (near.pixels_P2 // 2).tolist()))}
    pairs = [
        (near_at[key], number)
        for number, key in enumerate(map(tuple, (far.pixels_P2 // 1).tolist()))
        if key in near_at
    ]
    first, second = torch.tensor(pairs[:300]).T
    every = torch.arange(200)
    near_values = near.responses(first[:, None], probes, every)
    far_values = far.responses(second[:, None], probes, every)
    assert near_values.std() > 20
    assert (near_values - far_values).abs().mean() < 0.1 * near_values.abs().mean()


def test_reach_is_the_focal_length_over_depth_and_the_focal_length_without():
    image, depth = _smooth_picture(480, 640), torch.full((480, 640), 2.5)
    camera = Camera.of("PINHOLE", 640, 480, [500.0, 540.0, 320.0, 240.0])
    with_depth = _looks(image, camera, depth)
    without = _looks(image, camera, depth, reads_depth=False)
    # In pixels of the picture at half the size.
    torch.testing.assert_close(with_depth.reach_P, torch.full((500,), 260 / 2.5))
    torch.testing.assert_close(without.reach_P, torch.full((500,), 260.0))
    assert with_depth.values_CHW.shape == (4, 240, 320)
    assert without.values_CHW.shape == (3, 240, 320)


def test_points_lie_at_their_depth_behind_their_pixels():
    camera = Camera.of("SIMPLE_RADIAL", 640, 480, [500.0, 320.0, 240.0, -0.05])
    depth = 1 + torch.arange(480.0)[:, None].expand(480, 640) / 480
    looks = _looks(_smooth_picture(480, 640), camera, depth)
    points = looks.points_cam_P3
    torch.testing.assert_close(camera.img_from_cam(points), looks.pixels_P2, rtol=0, atol=1e-6)
    rows = looks.pixels_P2[:, 1].long()
    torch.testing.assert_close(points[:, 2].float(), depth[rows, 0], rtol=0, atol=2 / 480)


def test_responses_are_differences_of_what_lies_at_the_offsets():
    image = torch.zeros(3, 240, 320, dtype=torch.uint8)
    image[0, :, 160:] = 200
    depth = torch.full((240, 320), 1.0)
    depth[:, 160:] = 3.0
    looks = _looks(image, CAMERA, depth, 5000)
    # Red far right less red far left; depth far left less depth here.
    probes = Probes(
        torch.tensor([[[9.0, 0.0], [-9.0, 0.0]], [[-9.0, 0.0], [0.0, 0.0]]]).half(),
        torch.tensor([[0, 0], [3, 3]], dtype=torch.uint8),
    )
    every = torch.arange(len(looks))
    assert torch.equal(looks.responses(every, probes, torch.tensor(0)), torch.full((5000,), 200.0))
    nearer = looks.responses(every, probes, torch.tensor(1))
    assert torch.equal(nearer, torch.where(looks.columns_P < 160, 0.0, -2.0))


def test_pixels_without_depth_are_not_asked():
    depth = torch.zeros(240, 320)
    depth[100:140, 50:90] = 2.0
    depth[0, :] = torch.nan
    looks = _looks(_smooth_picture(240, 320), CAMERA, depth, 10_000)
    assert len(looks) == 40 * 40
    assert bool((looks.depth_P == 2.0).all())


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (9, 7), (240, 320)])
def test_what_shows_nothing_is_not_looked_at(size):
    flat = torch.full((3, *size), 130, dtype=torch.uint8)
    camera = Camera.guess(size[1], size[0])
    depth = torch.ones(size)
    assert look(flat, camera, depth, 240, 100, 0, reads_depth=True) is None
    noise = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    assert look(noise, camera, torch.zeros(size), 240, 100, 0, reads_depth=True) is None


def test_probes_are_drawn_as_asked():
    probes = draw_probes(4000, 0.02, 0.2, 0.25, np.random.default_rng(1))
    largest = probes.offsets_F22.float().abs().amax((1, 2))
    assert 0.19 < float(largest.max()) <= 0.2001
    assert float(largest.min()) < 0.02
    reads_depth = (probes.planes_F2 == 3).all(1)
    assert reads_depth.float().mean() == pytest.approx(0.25, abs=0.03)
    # Depth is never compared with a colour.
    assert torch.equal(reads_depth, (probes.planes_F2 == 3).any(1))
