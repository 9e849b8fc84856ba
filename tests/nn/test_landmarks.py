"""Landmarks: what a cell is told, and what a map holds of them."""

import torch
from torch.nn import functional

from reloc.nn.landmarks import LandmarkHead, Landmarks, keys_of, principal_basis


def _landmarks(count: int, code: int = 32, length: int = 32) -> tuple[Landmarks, torch.Tensor]:
    """Random codes at random points of a cube, and the codes (count, code)."""
    generator = torch.Generator().manual_seed(count)
    codes = torch.randn(count, code, generator=generator)
    points = torch.rand(count, 3, generator=generator)
    basis = principal_basis(codes, length)
    return Landmarks(points, keys_of(codes, basis), basis, reach=0.0), codes


def test_a_code_of_a_landmark_is_told_its_point_among_few_and_among_many() -> None:
    """Few are compared one by one, many through lists."""
    for count in (50, 6000):
        landmarks, codes = _landmarks(count)
        points, unlike = LandmarkHead(landmarks).with_error(codes)
        assert torch.allclose(points, landmarks.points_L3, atol=1e-6)
        assert float(unlike.abs().max()) < 1e-5


def test_lists_find_what_comparing_all_finds_for_codes_that_resemble_landmarks() -> None:
    landmarks, codes = _landmarks(6000)
    noisy = functional.normalize(codes, dim=1)
    noisy = noisy + 0.05 * torch.randn(noisy.shape, generator=torch.Generator().manual_seed(0))
    nearest = (keys_of(noisy, landmarks.basis_CD) @ landmarks.keys_LD.T).argmax(1)
    found, _ = LandmarkHead(landmarks).with_error(noisy)
    same = (found - landmarks.points_L3[nearest]).norm(dim=1) < 1e-6
    assert float(same.float().mean()) > 0.95


def test_between_landmarks_within_reach_a_point_is_between_them_and_others_do_not_count() -> None:
    basis = torch.eye(3)
    keys = functional.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]), dim=1)
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [9, 0, 0]])
    code = torch.tensor([[1.0, 1.0, 0.999]])
    near, _ = LandmarkHead(Landmarks(points, keys, basis, reach=2.0)).with_error(code)
    assert torch.allclose(near, torch.tensor([[0.5, 0, 0]]), atol=0.02)
    alone, _ = LandmarkHead(Landmarks(points, keys, basis, reach=0.5)).with_error(code)
    assert float(alone[0, 0]) in (0.0, 1.0)


def test_an_unlike_code_is_the_less_sure() -> None:
    landmarks, codes = _landmarks(200)
    head = LandmarkHead(landmarks)
    _, known = head.with_error(codes)
    _, strange = head.with_error(torch.randn(200, 32, generator=torch.Generator().manual_seed(9)))
    assert float(strange.min()) > float(known.max()) + 0.1


def test_a_map_holds_a_landmark_of_40_numbers_in_46_bytes_and_loses_little() -> None:
    landmarks, codes = _landmarks(1000, code=128, length=40)
    tensors = landmarks.tensors("landmarks.")
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    assert sizes["landmarks.points"] + sizes["landmarks.keys"] == 46 * 1000
    names = {name.removeprefix("landmarks."): tensor for name, tensor in tensors.items()}
    again = Landmarks.from_tensors(names)
    assert float((again.keys_LD * landmarks.keys_LD).sum(1).min()) > 0.9999
    assert float((again.points_L3 - landmarks.points_L3).abs().max()) < 1e-4
    assert again.reach == landmarks.reach
    del codes


def _held(points_L3: torch.Tensor) -> torch.Tensor:
    """Points as a map gives them back."""
    keys = functional.normalize(torch.ones(len(points_L3), 8), dim=1)
    tensors = Landmarks(points_L3, keys, torch.eye(8), reach=0.0).tensors("")
    return Landmarks.from_tensors(tensors).points_L3


def test_a_place_is_kept_to_a_centimetre_in_a_long_street_however_far_a_few_points_are() -> None:
    generator = torch.Generator().manual_seed(0)
    street = 2 * torch.rand(2000, 3, generator=generator) - 1
    hills = torch.tensor([[90.0, -40.0, 5.0], [1e6, 0.0, 0.0]])
    again = _held(torch.cat([street, hills]))
    # The unit is the extent of the cameras, 200 m: half-precision floats lose 5 cm.
    assert 200 * float((again[:-2] - street).abs().max()) < 0.013
    assert 200 * float((again[:-2] - street).abs().median()) < 0.005
    assert torch.allclose(again[-2], hills[0], rtol=2e-3, atol=0.1)
    assert bool(again.isfinite().all())
    # An update that keeps a landmark does not move it.
    assert torch.equal(_held(again), again)


def test_points_of_earlier_maps_are_read_as_they_are() -> None:
    landmarks, _ = _landmarks(20)
    tensors = {**landmarks.tensors(""), "points": landmarks.points_L3.half()}
    assert torch.equal(
        Landmarks.from_tensors(tensors).points_L3, landmarks.points_L3.half().float()
    )


def test_the_basis_keeps_the_products_of_codes_that_differ_in_few_directions() -> None:
    generator = torch.Generator().manual_seed(3)
    plane = torch.linalg.qr(torch.randn(64, 8, generator=generator)).Q
    codes = 5 + torch.randn(300, 8, generator=generator)
    codes = codes @ plane.T
    keys = keys_of(codes, principal_basis(codes, 8))
    wanted = functional.normalize(codes, dim=1)
    assert torch.allclose(keys @ keys.T, wanted @ wanted.T, atol=1e-4)
