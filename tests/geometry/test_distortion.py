import math

import pytest
import torch

from reloc.geometry.distortion import Distortion

POLYNOMIALS = {
    "none": ([], [0.0, 0.0]),
    "barrel": ([-0.3], [0.0, 0.0]),
    "pincushion": ([0.2, 0.1], [0.0, 0.0]),
    "moustache": ([-0.35, 0.15], [0.003, -0.004]),
    "fisheye": ([0.02, -0.01, 0.003, -0.001], [0.0, 0.0]),
}


@pytest.fixture(params=POLYNOMIALS.values(), ids=list(POLYNOMIALS))
def distortion(request: pytest.FixtureRequest) -> Distortion:
    radial, tangential = request.param
    return Distortion(torch.tensor(radial).double(), torch.tensor(tangential).double())


def random_points(distortion: Distortion, count: int = 50) -> torch.Tensor:
    """Inside the fold, and within 45° of the axis."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 2, dtype=torch.float64, generator=generator) - 0.5
    return points * min(1.2 * distortion.max_radius, 1.4)


def test_jacobian_is_the_derivative(distortion: Distortion) -> None:
    points = random_points(distortion, 10)
    jacobian = distortion.jacobian(points)
    for point, expected in zip(points, jacobian, strict=True):
        derivative = torch.autograd.functional.jacobian(distortion, point)
        torch.testing.assert_close(derivative, expected)


def test_inverse_undoes_it(distortion: Distortion) -> None:
    points = random_points(distortion)
    torch.testing.assert_close(distortion.inverse(distortion(points)), points, rtol=0, atol=1e-12)


def test_the_fold_is_where_the_picture_stands_still(distortion: Distortion) -> None:
    radius = torch.tensor(distortion.max_radius, dtype=torch.float64)
    if radius == 1e3:
        return
    radial = Distortion(distortion.radial, torch.zeros(2, dtype=torch.float64))

    def slope_at(radius: torch.Tensor) -> float:
        return float(radial.jacobian(torch.stack([radius, torch.zeros_like(radius)]))[0, 0])

    assert slope_at(radius) == pytest.approx(0, abs=1e-9)
    steps = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    assert all(slope_at(step * radius) > 0 for step in steps)


def test_which_polynomials_fold() -> None:
    folds = {
        name: Distortion(torch.tensor(radial), torch.tensor(tangential)).max_radius < 1e3
        for name, (radial, tangential) in POLYNOMIALS.items()
    }
    assert folds == {
        "none": False,
        "barrel": True,
        "pincushion": False,
        "moustache": False,
        "fisheye": True,
    }
    barrel = Distortion(torch.tensor([-0.3]).double(), torch.zeros(2).double())
    assert barrel.max_radius == pytest.approx(math.sqrt(1 / 0.9))


def test_what_no_point_is_moved_to_has_no_inverse() -> None:
    barrel = Distortion(torch.tensor([-0.3]).double(), torch.zeros(2).double())
    rim = barrel.max_radius * (1 - 0.3 * barrel.max_radius**2)
    moved = torch.tensor([[rim + 1e-4, 0.0], [0.0, 1e6], [rim - 1e-4, 0.0]]).double()
    assert barrel.inverse(moved).isnan().all(-1).tolist() == [True, True, False]
