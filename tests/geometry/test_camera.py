import dataclasses
import math

import numpy as np
import pycolmap
import pytest
import torch
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rotation import turned_from_cam

WIDTH, HEIGHT = 640, 480
# Gentle, and as strong as lenses come: wide angle, barrel and pincushion, 180 degrees.
CAMERAS = {
    "pinhole": Camera.of("SIMPLE_PINHOLE", WIDTH, HEIGHT, [525.5, 315, 246]),
    "two focals": Camera.of("PINHOLE", WIDTH, HEIGHT, [520, 530, 322.5, 238]),
    "south building": Camera.of("SIMPLE_RADIAL", WIDTH, HEIGHT, [530, 318, 241, -0.0204]),
    "wide angle": Camera.of("SIMPLE_RADIAL", WIDTH, HEIGHT, [600, 318, 241, -0.3]),
    "pincushion": Camera.of("SIMPLE_RADIAL", WIDTH, HEIGHT, [400, 318, 241, 0.3]),
    "moustache": Camera.of("RADIAL", WIDTH, HEIGHT, [450, 318, 241, -0.35, 0.15]),
    "action": Camera.of("OPENCV", WIDTH, HEIGHT, [430, 425, 318, 241, -0.3, 0.1, 0.002, -0.004]),
    "180 degrees": Camera.of(
        "OPENCV_FISHEYE", WIDTH, HEIGHT, [255, 254, 318, 241, 0.02, -0.01, 0.003, -0.001]
    ),
}


@pytest.fixture(params=CAMERAS.values(), ids=list(CAMERAS))
def camera(request: pytest.FixtureRequest) -> Camera:
    return request.param


def random_pixels(camera: Camera, count: int = 2000) -> Tensor:
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 2, dtype=torch.float64, generator=generator) * size


def lifted(plane: Tensor, depth: float = 1.0) -> Tensor:
    """Points of the plane z = 1, moved along their rays."""
    return depth * torch.cat([plane, torch.ones_like(plane[..., :1])], dim=-1)


def of_pycolmap(camera: Camera) -> pycolmap.Camera:
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=camera.params.numpy()
    )


def random_camera(model: str, seed: int) -> Camera:
    """Any camera of a model whose picture stays inside the fold of its distortion."""
    generator = np.random.default_rng(seed)
    low, high = (255, 400) if model == "OPENCV_FISHEYE" else (450, 900)
    focal = generator.uniform(low, high) * generator.uniform(0.98, 1.02, size=2)
    principal_point = generator.uniform([300, 220], [340, 260])
    spread = {
        "SIMPLE_PINHOLE": [],
        "PINHOLE": [],
        "SIMPLE_RADIAL": [0.12],
        "RADIAL": [0.1, 0.03],
        "OPENCV": [0.1, 0.03, 0.005, 0.005],
        "OPENCV_FISHEYE": [0.02, 0.01, 0.003, 0.001],
    }[model]
    distortion = generator.uniform(-1, 1, size=len(spread)) * np.array(spread)
    num_focal = 1 if model in {"SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"} else 2
    return Camera.of(model, WIDTH, HEIGHT, [*focal[:num_focal], *principal_point, *distortion])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("model", Camera.MODELS)
def test_agrees_with_colmap(model: str, seed: int) -> None:
    camera = random_camera(model, seed)
    theirs = of_pycolmap(camera)
    pixels = random_pixels(camera)

    plane = camera.cam_from_img(pixels)
    their_plane = torch.from_numpy(np.array(theirs.cam_from_img(pixels.numpy())))
    seen = plane.isfinite().all(-1)
    assert float(seen.double().mean()) > 0.9
    # Near 90 degrees from the axis the plane z = 1 is far away, and COLMAP stops at 1e-10 there.
    scale = 1 + plane.square().sum(-1, keepdim=True)
    assert float(((plane - their_plane) / scale)[seen].abs().max()) < 1e-9

    points = lifted(plane[seen], depth=3.0)
    their_pixels = torch.from_numpy(np.array(theirs.img_from_cam(points.numpy())))
    torch.testing.assert_close(camera.img_from_cam(points), their_pixels, rtol=0, atol=1e-9)


def test_pixels_come_back_from_their_rays(camera: Camera) -> None:
    pixels = random_pixels(camera)
    plane = camera.cam_from_img(pixels)
    assert bool(plane.isfinite().all())
    for depth in (0.01, 1.0, 50.0):
        back = camera.img_from_cam(lifted(plane, depth))
        torch.testing.assert_close(back, pixels, rtol=0, atol=1e-9)


def test_points_come_back_from_their_pixels(camera: Camera) -> None:
    generator = torch.Generator().manual_seed(1)
    plane = torch.rand(2000, 2, dtype=torch.float64, generator=generator) - 0.5
    back = camera.cam_from_img(camera.img_from_cam(lifted(plane)))
    torch.testing.assert_close(back, plane, rtol=0, atol=1e-11)


def test_float32_is_as_good_as_float32_can_be(camera: Camera) -> None:
    pixels = random_pixels(camera)
    plane = camera.cam_from_img(pixels.float())
    assert plane.dtype == torch.float32
    exact = camera.cam_from_img(pixels)
    # Across the plane z = 1 a ray near 90 degrees is worth fewer digits.
    error = (plane.double() - exact).abs() / (1 + exact.square().sum(-1, keepdim=True))
    assert float(error.max()) < 2e-6


def test_any_batch_shape(camera: Camera) -> None:
    pixels = random_pixels(camera, 12)
    plane = camera.cam_from_img(pixels)
    for shape in [(3, 4), (2, 1, 6), (12,)]:
        batch = pixels.reshape(*shape, 2)
        torch.testing.assert_close(camera.cam_from_img(batch), plane.reshape(*shape, 2))
        torch.testing.assert_close(camera.img_from_cam(lifted(plane).reshape(*shape, 3)), batch)
    assert camera.cam_from_img(pixels[:0]).shape == (0, 2)
    assert camera.cam_from_img(pixels[0]).shape == (2,)


@pytest.mark.parametrize("k1", [-0.4, -0.3, -0.2])
def test_a_folded_picture_is_undone_inside_the_fold_and_nowhere_else(k1: float) -> None:
    camera = Camera.of("SIMPLE_RADIAL", WIDTH, HEIGHT, [200, 320, 240, k1])
    fold_radius = math.sqrt(-1 / (3 * k1))
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(1000, 2, dtype=torch.float64, generator=generator)
    direction /= direction.norm(dim=-1, keepdim=True)
    radius = 2 * fold_radius * torch.rand(1000, 1, dtype=torch.float64, generator=generator)

    pixels = camera.img_from_cam(lifted(radius * direction))
    inside = radius[:, 0] < fold_radius
    assert bool((pixels.isfinite().all(-1) == inside).all())
    # Where the picture stands still no number of digits is enough.
    clear = radius[:, 0] < 0.999 * fold_radius
    back = camera.cam_from_img(pixels[clear])
    torch.testing.assert_close(back, (radius * direction)[clear], rtol=0, atol=1e-9)

    rim_px = 200 * fold_radius * (1 + k1 * fold_radius**2)
    beyond = camera.principal_point + (rim_px + 1) * direction
    assert bool(camera.cam_from_img(beyond).isnan().all())


def test_strong_distortion_of_any_shape_is_undone_at_the_first_root() -> None:
    """Against bisection, which cannot miss the root that it brackets."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        k1, k2 = generator.uniform([-0.5, -0.3], [0.5, 0.3])
        camera = Camera.of("RADIAL", WIDTH, HEIGHT, [1, 0, 0, k1, k2])
        # Distances from the middle at which the picture stands still, nearest first.
        squares = np.roots([5 * k2, 3 * k1, 1])
        folds = [math.sqrt(s.real) for s in squares if abs(s.imag) < 1e-12 and s.real > 0]
        limit = min([*folds, 2.0])
        wanted = generator.uniform(0, limit * (1 + k1 * limit**2 + k2 * limit**4))
        low, high = 0.0, limit
        for _ in range(80):
            middle = (low + high) / 2
            below = middle * (1 + k1 * middle**2 + k2 * middle**4) < wanted
            low, high = (middle, high) if below else (low, middle)
        found = camera.cam_from_img(torch.tensor([0.0, wanted], dtype=torch.float64))
        assert found.tolist() == pytest.approx([0.0, low], abs=1e-7)


def test_a_fisheye_lens_is_undone_up_to_the_edge_of_its_half_space() -> None:
    camera = CAMERAS["180 degrees"]
    for angle_deg in (0.0, 1e-6, 30.0, 60.0, 80.0, 89.0, 89.99):
        angle_rad = math.radians(angle_deg)
        sin, cos = math.sin(angle_rad), math.cos(angle_rad)
        ray = torch.tensor([0.6 * sin, 0.8 * sin, cos], dtype=torch.float64)
        plane = camera.cam_from_img(camera.img_from_cam(ray))
        assert math.atan(float(plane.norm())) == pytest.approx(angle_rad, abs=1e-11)
    rim_px = 254 * float(torch.tensor(math.pi / 2))
    behind = camera.principal_point + torch.tensor([0.0, 1.2 * rim_px])
    assert bool(camera.cam_from_img(behind).isnan().all())


def test_what_is_behind_or_at_the_lens_is_nowhere(camera: Camera) -> None:
    points = torch.tensor(
        [[0.1, 0.2, -1.0], [0.0, 0.0, 0.0], [0.1, 0.2, 0.0], [0.0, 0.0, math.nan]],
        dtype=torch.float64,
    )
    assert bool(camera.img_from_cam(points).isnan().all())


def test_the_middle_of_a_lens(camera: Camera) -> None:
    axis = torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(camera.img_from_cam(axis)[0], camera.principal_point)
    back = camera.cam_from_img(camera.principal_point[None])
    torch.testing.assert_close(back, torch.zeros(1, 2, dtype=torch.float64))


def test_derivatives_by_points_pixels_and_params(camera: Camera) -> None:
    plane = torch.tensor(
        [[0.0, 0.0], [0.3, -0.2], [-0.1, 0.4]], dtype=torch.float64, requires_grad=True
    )
    points = lifted(plane.detach(), 2.0).requires_grad_()
    pixels = camera.img_from_cam(points.detach()).requires_grad_()
    params = camera.params.clone().requires_grad_()

    def projected(points: Tensor, params: Tensor) -> Tensor:
        return dataclasses.replace(camera, params=params).img_from_cam(points)

    def lifted_back(pixels: Tensor, params: Tensor) -> Tensor:
        return dataclasses.replace(camera, params=params).cam_from_img(pixels)

    assert torch.autograd.gradcheck(projected, (points, params))
    assert torch.autograd.gradcheck(lifted_back, (pixels, params))


def test_masked_points_leave_the_derivatives_of_the_others_alone(camera: Camera) -> None:
    points = torch.tensor(
        [[0.2, 0.1, 2.0], [0.2, 0.1, -1.0], [5.0, 9.0, 0.0], [1e12, 0.0, 1.0], [0.0, 0.0, -0.0]],
        requires_grad=True,
    )
    params = camera.params.clone().requires_grad_()
    lens = dataclasses.replace(camera, params=params)
    pixels = lens.img_from_cam(points)
    pixels[0].sum().backward()
    assert points.grad is not None
    assert params.grad is not None
    assert bool(points.grad.isfinite().all())
    assert bool(params.grad.isfinite().all())
    assert float(points.grad[0].abs().min()) > 1
    assert float(points.grad[1:].abs().max()) == 0

    # So do the usual ways to leave them out of a loss.
    points.grad = None
    pixels = lens.img_from_cam(points)
    torch.where(points[:, 2:] > 0, pixels, 0)[:3].square().sum().backward()
    assert bool(points.grad.isfinite().all())


def test_pixels_that_see_nothing_leave_the_derivatives_of_the_others_alone() -> None:
    camera = Camera.of("SIMPLE_RADIAL", WIDTH, HEIGHT, [300, 320, 240, -0.4])
    pixels = torch.tensor([[300.0, 250.0], [0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    plane = camera.cam_from_img(pixels)
    assert plane.isfinite().all(-1).tolist() == [True, False]
    plane[0].sum().backward()
    assert pixels.grad is not None
    assert bool(pixels.grad.isfinite().all())


@pytest.mark.parametrize("size", [(320, 240), (1280, 960), (640, 240), (213, 160), (1, 1)])
def test_resized_is_the_camera_of_the_resized_picture(
    camera: Camera, size: tuple[int, int]
) -> None:
    pixels = random_pixels(camera, 200)
    points = lifted(camera.cam_from_img(pixels))
    scale = torch.tensor([size[0] / WIDTH, size[1] / HEIGHT], dtype=torch.float64)
    resized = camera.resized(*size)
    assert (resized.width, resized.height) == size
    torch.testing.assert_close(resized.img_from_cam(points), pixels * scale, rtol=0, atol=1e-9)


def test_resizing_keeps_the_model_where_it_can() -> None:
    assert CAMERAS["wide angle"].resized(320, 240).model == "SIMPLE_RADIAL"
    assert CAMERAS["wide angle"].resized(320, 200).model == "OPENCV"
    assert CAMERAS["pinhole"].resized(320, 200).model == "PINHOLE"
    assert CAMERAS["180 degrees"].resized(320, 200).model == "OPENCV_FISHEYE"


def test_cropped_is_the_camera_of_the_cropped_picture(camera: Camera) -> None:
    pixels = random_pixels(camera, 200)
    points = lifted(camera.cam_from_img(pixels))
    cropped = camera.cropped(100, 30, 200, 350)
    assert (cropped.width, cropped.height) == (200, 350)
    shift = torch.tensor([100, 30])
    torch.testing.assert_close(cropped.img_from_cam(points), pixels - shift, rtol=0, atol=1e-9)


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3, 4, 5, -1])
def test_rotated_is_the_camera_of_the_turned_picture(camera: Camera, quarter_turns: int) -> None:
    """The pixel that numpy.rot90 moves is where the turned camera sees the turned point."""
    pixels = random_pixels(camera, 200)
    points = lifted(camera.cam_from_img(pixels))
    turned = camera.rotated(quarter_turns)

    for column, row in [(40, 30), (600, 50), (17, 300)]:
        picture = np.zeros((HEIGHT, WIDTH), dtype=bool)
        picture[row, column] = True
        turned_picture = np.rot90(picture, -quarter_turns)
        assert turned_picture.shape == (turned.height, turned.width)
        (turned_row,), (turned_column,) = np.nonzero(turned_picture)
        point = lifted(camera.cam_from_img(torch.tensor([[column + 0.5, row + 0.5]]).double()))
        seen = turned.img_from_cam(turned_from_cam(quarter_turns) @ point)[0]
        assert seen.tolist() == pytest.approx([turned_column + 0.5, turned_row + 0.5], abs=1e-9)

    seen = turned.img_from_cam(turned_from_cam(quarter_turns) @ points)
    back = turned.rotated(-quarter_turns).img_from_cam(points)
    torch.testing.assert_close(back, pixels, rtol=0, atol=1e-9)
    assert bool((seen >= 0).all())
    assert bool((seen <= torch.tensor([turned.width, turned.height])).all())


def test_a_portrait_camera_is_as_good_as_a_landscape_one() -> None:
    portrait = CAMERAS["action"].rotated(1)
    assert (portrait.width, portrait.height) == (HEIGHT, WIDTH)
    pixels = random_pixels(portrait)
    back = portrait.img_from_cam(lifted(portrait.cam_from_img(pixels)))
    torch.testing.assert_close(back, pixels, rtol=0, atol=1e-9)


def test_with_focal_changes_the_focal_length_only(camera: Camera) -> None:
    other = camera.with_focal(432.1, has_prior_focal=False)
    assert other.focal.tolist() == [432.1, 432.1]
    assert not other.has_prior_focal
    torch.testing.assert_close(other.principal_point, camera.principal_point)
    torch.testing.assert_close(other.distortion, camera.distortion)
    assert camera.with_focal(432.1).has_prior_focal


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (1, 1)])
def test_guess_is_colmaps_and_says_that_it_is_one(width: int, height: int) -> None:
    camera = Camera.guess(width, height)
    theirs = pycolmap.Camera.create_from_model_name(
        1, "SIMPLE_PINHOLE", 1.2 * max(width, height), width, height
    )
    assert camera.params.tolist() == pytest.approx(theirs.params.tolist())
    assert not camera.has_prior_focal


def test_matrix_projects_as_the_camera_without_distortion() -> None:
    camera = CAMERAS["two focals"]
    points = lifted(camera.cam_from_img(random_pixels(camera, 50)), 2.0)
    homogeneous = points @ camera.matrix.mT
    by_matrix = homogeneous[:, :2] / homogeneous[:, 2:]
    torch.testing.assert_close(by_matrix, camera.img_from_cam(points))


def test_as_dict_is_what_pycolmap_takes(camera: Camera) -> None:
    values = camera.as_dict()
    theirs = pycolmap.Camera(**values)
    assert theirs.model_name == camera.model
    again = Camera.of(values["model"], values["width"], values["height"], values["params"])
    assert again.as_dict() == values


@pytest.mark.parametrize(
    ("model", "width", "height", "params", "complaint"),
    [
        ("FULL_OPENCV", 640, 480, [500, 320, 240], "not one of"),
        ("SIMPLE_PINHOLE", 0, 480, [500, 320, 240], "0x480"),
        ("SIMPLE_PINHOLE", 640, 480, [500, 500, 320, 240], "takes 3 parameters"),
        ("PINHOLE", 640, 480, [500, 320, 240], "takes 4 parameters"),
        ("PINHOLE", 640, 480, [500, -3, 320, 240], "focal length is -3"),
        ("SIMPLE_RADIAL", 640, 480, [0, 320, 240, 0], "focal length is 0"),
        ("SIMPLE_RADIAL", 640, 480, [500, 320, 240, math.nan], "not finite"),
    ],
)
def test_refuses_what_is_no_camera(
    model: str, width: int, height: int, params: list[float], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Camera.of(model, width, height, params)
