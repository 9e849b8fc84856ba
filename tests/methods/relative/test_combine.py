"""Laws of combining answers: one that agrees with some, no surer than they are, or none."""

import math

import pytest
import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.methods.relative.combine import combine

LIMIT_DEG = 10.0


def _turned(turns_deg_K3: Tensor) -> Tensor:
    rotvec_K3 = turns_deg_K3.double().deg2rad()
    return Rigid3d.exp(torch.cat([rotvec_K3, torch.zeros_like(rotvec_K3)], dim=1)).rotation


def _average(angles_deg: list[float], places: list[list[float]], weights: list[float]):
    """Of answers that are turned about one axis, at these places, by references at the origin."""
    turns_K3 = torch.zeros(len(angles_deg), 3)
    turns_K3[:, 1] = torch.tensor(angles_deg)
    rotation_K33 = _turned(turns_K3)
    places_K3 = torch.tensor(places, dtype=torch.float64)
    said = Rigid3d(rotation_K33, -(rotation_K33 @ places_K3[..., None])[..., 0])
    nowhere = Rigid3d.exp(torch.zeros(len(angles_deg), 6, dtype=torch.float64))
    log_scale_K2 = -torch.tensor(weights).log()[:, None].expand(-1, 2)
    return said, combine(said, nowhere, log_scale_K2, "average", 1.0, 15.0)


def test_answers_that_contradict_one_another_are_not_averaged():
    """A pose between them is one that no reference has said."""
    places = [[0.0, 0, 0], [1.5, 0, 0], [0, 2.0, 0], [0, 0, 2.5]]
    said, found = _average([0.0, 175, 178, 119], places, [52.0, 20, 22, 17])
    assert found is not None
    assert found.agreeing_K.tolist() == [True, False, False, False]
    torch.testing.assert_close(found.cam_from_world.matrix, said[0].matrix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", ["average", "triangulate"])
def test_an_answer_agrees_with_one_reference_at_least(how):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        some = Rigid3d.exp(torch.randn(8, 6, generator=generator, dtype=torch.float64))
        others = Rigid3d.exp(torch.randn(8, 6, generator=generator, dtype=torch.float64))
        found = combine(some, others, torch.zeros(8, 2), how, 1.0, 60.0)
        assert found is None or bool(found.agreeing_K.any())
        assert how == "triangulate" or found is not None


def test_answers_that_are_not_finite_play_no_part():
    places = [[0.0, 0, 0], [math.nan, 0, 0], [0.1, 0, 0]]
    _, found = _average([0.0, 0, 2], places, [1.0, 100, 2])
    assert found is not None
    assert found.agreeing_K.tolist() == [True, False, True]
    _, alone = _average([0.0, 0], places[:2], [1.0, 100])
    assert alone is not None
    # One is left, and does not scatter: it is as wrong as is said of it.
    assert float(alone.covariance[0, 0]) == pytest.approx(1.0)
    assert _average([0.0], [[math.inf, 0, 0]], [1.0])[1] is None


def test_two_answers_are_no_surer_than_they_differ():
    here = [[0.0, 0, 0], [0.0, 0, 0]]
    _, found = _average([0.0, 14], here, [1.0, 1])
    assert found is not None
    assert math.degrees(float(found.covariance[0, 0].sqrt())) >= 5
    sigmas_rad, sigmas = [], []
    for far in range(1, 18):
        _, turned = _average([0.0, 10.0 * far], here, [1.0, 1.1])
        _, moved = _average([0.0, 0], [[0.0, 0, 0], [0.2 * far, 0, 0]], [1.0, 1.1])
        assert turned is not None
        assert moved is not None
        sigmas_rad.append(float(turned.covariance[0, 0]))
        sigmas.append(float(moved.covariance[3, 3]))
    assert sigmas_rad == sorted(sigmas_rad)
    assert sigmas == sorted(sigmas)


def _seen_from(
    places_K3: Tensor, center_3: Tensor, noise_deg: float, signed: bool, seed: int
) -> tuple[Rigid3d, Rigid3d, Rigid3d]:
    """References there, what they say of a camera's rotation and direction, and its pose."""
    generator = torch.Generator().manual_seed(seed)
    count = len(places_K3)

    def turns(size_deg: float) -> Tensor:
        return _turned(size_deg * torch.randn(count, 3, generator=generator))

    places_K3 = places_K3.double()
    rotation_K33 = turns(20.0)
    references = Rigid3d(rotation_K33, -(rotation_K33 @ places_K3[..., None])[..., 0])
    rotation_33 = _turned(torch.tensor([[5.0, -10, 3]]))[0]
    truth = Rigid3d(rotation_33, -rotation_33 @ center_3.double())
    true = (
        Rigid3d(truth.rotation.expand(count, 3, 3), truth.translation.expand(count, 3))
        @ references.inverse()
    )
    unit_K3 = torch.nn.functional.normalize(true.translation, dim=-1)
    off_K3 = (turns(noise_deg) @ unit_K3[..., None])[..., 0]
    if not signed:
        off_K3 = off_K3 * torch.tensor([1.0, -1.0]).repeat(count)[:count, None]
    return references, Rigid3d(turns(noise_deg / 3) @ true.rotation, off_K3), truth


LINE = torch.tensor([[0.4 * number, 0.0, 0.0] for number in range(6)])
FIX_NOTHING = {
    "at one place": (torch.zeros(8, 3), torch.tensor([0.0, 0, 2]), 3.0, 0),
    "a cm apart": (0.01 * torch.eye(3).repeat(2, 1), torch.tensor([0.0, 0, 2]), 3.0, 0),
    # By chance one direction in many agrees with a place that is not there.
    "in a line": (LINE, torch.tensor([5.0, 0, 0]), 2.0, 2),
    "too near together": (LINE[:2] * 0.75, torch.tensor([0.0, 0, 5]), 3.0, 2),
}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("case", FIX_NOTHING)
def test_directions_that_fix_no_place_give_none(case, signed):
    places_K3, center_3, noise_deg, most = FIX_NOTHING[case]
    answered = 0
    for seed in range(12):
        references, said, _ = _seen_from(places_K3, center_3, noise_deg, signed, seed)
        scales = torch.zeros(len(said.rotation), 2)
        found = combine(said, references, scales, "triangulate", 1.0, LIMIT_DEG, signed)
        answered += found is not None
    assert answered <= most


@pytest.mark.parametrize("signed", [True, False])
def test_directions_from_all_round_fix_a_place_as_well_as_is_said(signed):
    angle_K = torch.arange(8) * math.pi / 4
    ring_K3 = torch.stack([angle_K.cos(), angle_K.sin(), torch.zeros(8)], dim=1)
    squared = []
    for seed in range(12):
        center_3 = torch.tensor([0.2, 0.1, 0.3])
        references, said, truth = _seen_from(ring_K3, center_3, 3.0, signed, seed)
        scales = torch.zeros(8, 2)
        found = combine(said, references, scales, "triangulate", 1.0, LIMIT_DEG, signed)
        assert found is not None
        assert int(found.agreeing_K.sum()) >= 6
        error = (truth @ found.cam_from_world.inverse()).log()
        assert float(error[3:].norm()) < 0.2
        angle_rad = angle_between_rad(found.cam_from_world.rotation, truth.rotation)
        assert math.degrees(float(angle_rad)) < 2
        squared.append(float(error @ torch.linalg.solve(found.covariance, error)))
    # Of chi-square in six dimensions the median is 5.3.
    assert 1 < sorted(squared)[6] < 20
