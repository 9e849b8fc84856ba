"""The matcher of bearings that ships: right on views of a room, silent on what has no match."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.nn.bearings import Bearings
from reloc.nn.geometric_matcher import GeometricMatcher, load_matcher
from reloc.nn.matchers.keypoints import Matches
from reloc.nn.weights import FOLDER

SHIPPED = FOLDER / "geometric_matcher.safetensors"
LEAST = 0.2


@pytest.fixture(scope="module")
def matcher() -> GeometricMatcher:
    return load_matcher(SHIPPED)


def _points(count: int, seed: int) -> Tensor:
    """(N, 3) before a camera, at places that a detector could find."""
    generator = torch.Generator().manual_seed(seed)
    plane_N2 = 1.2 * torch.rand(count, 2, generator=generator) - 0.6
    depth_N1 = 2 + torch.rand(count, 1, generator=generator)
    return torch.cat([plane_N2 * depth_N1, depth_N1], dim=1)


def _bearings(points_N3: Tensor) -> Tensor:
    return points_N3[:, :2] / points_N3[:, 2:]


def _match(matcher: GeometricMatcher, first_N2: Tensor, second_M2: Tensor) -> Matches:
    (found,) = matcher.match(Bearings.of([first_N2]), Bearings.of([second_M2]), LEAST)
    return found


def _mixed(seed: int, tangent: list[float]) -> tuple[Tensor, Tensor, int]:
    """Two sets whose first 120 points are the same ones; 60 more of each have no match."""
    moved = Rigid3d.exp(torch.tensor(tangent))
    common_N3 = _points(120, seed)
    first = torch.cat([common_N3, _points(60, seed + 1000)])
    second = moved @ torch.cat([common_N3, _points(60, seed + 2000)])
    return _bearings(first), _bearings(second), len(common_N3)


@pytest.mark.parametrize(
    ("tangent", "least_found"),
    [([0.0] * 6, 0.75), ([0.02, 0.05, 0.01, 0.05, 0.0, 0.04], 0.5)],
    ids=["the same camera", "another camera"],
)
def test_matches_are_mostly_right(
    matcher: GeometricMatcher, tangent: list[float], least_found: float
) -> None:
    num_right = num_found = 0
    for seed in range(3):
        first, second, num_common = _mixed(seed, tangent)
        found = _match(matcher, first, second)
        num_right += int((found.pairs_M2[:, 0] == found.pairs_M2[:, 1])[
            found.pairs_M2[:, 0] < num_common
        ].sum())  # fmt: skip
        num_found += len(found)
    assert num_right >= least_found * 3 * 120
    assert num_right >= 0.8 * num_found


def test_sets_that_have_nothing_in_common_have_few_matches(matcher: GeometricMatcher) -> None:
    first, second, _ = _mixed(0, [0.02, 0.05, 0.01, 0.05, 0.0, 0.04])
    of_one_scene = len(_match(matcher, first, second))
    # Each coordinate by itself is as before; together they are of no scene.
    shuffled = torch.stack([second[:, 0], second[torch.randperm(len(second),
        generator=torch.Generator().manual_seed(0)), 1]], dim=1)  # fmt: skip
    assert len(_match(matcher, first, shuffled)) < 0.4 * of_one_scene


def test_matches_do_not_depend_on_the_order_of_points(matcher: GeometricMatcher) -> None:
    first, second, _ = _mixed(0, [0.02, 0.05, 0.01, 0.05, 0.0, 0.04])
    generator = torch.Generator().manual_seed(1)
    order_N, order_M = (torch.randperm(len(one), generator=generator) for one in (first, second))
    found = _match(matcher, first, second)
    again = _match(matcher, first[order_N], second[order_M])
    there_N2 = torch.stack([order_N[again.pairs_M2[:, 0]], order_M[again.pairs_M2[:, 1]]], dim=1)
    # A match at the limit may fall on either side of it by rounding.
    expected = {tuple(pair) for pair in found.pairs_M2.tolist()}
    seen = {tuple(pair) for pair in there_N2.tolist()}
    assert len(expected ^ seen) <= 0.02 * len(expected)
    assert len(expected) > 50


def test_pairs_of_sets_do_not_see_one_another(matcher: GeometricMatcher) -> None:
    sets = [_mixed(seed, [0.0, 0.04, 0.0, 0.03, 0.0, 0.0])[:2] for seed in range(2)]
    # Of different lengths: the shorter one is filled up.
    sets[1] = (sets[1][0][:150], sets[1][1][:130])
    firsts, seconds = zip(*sets, strict=True)
    together = matcher.match(Bearings.of(list(firsts)), Bearings.of(list(seconds)), LEAST)
    for pair, found in zip(sets, together, strict=True):
        alone = _match(matcher, *pair)
        assert torch.equal(alone.pairs_M2, found.pairs_M2)
        torch.testing.assert_close(alone.probability_M, found.probability_M, rtol=0, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_points_give_finite_answers(matcher: GeometricMatcher, count: int) -> None:
    points = _bearings(_points(count, 0))
    for second in (points, points[:1], _bearings(_points(40, 1)), torch.zeros(count, 2)):
        found = _match(matcher, points, second)
        assert bool(found.probability_M.isfinite().all())
        assert len(found.pairs_M2[:, 1].unique()) == len(found)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"layers.0.within.own.weight": torch.zeros(2, 2)}, path)
    for wrong in (path, tmp_path / "missing.safetensors"):
        with pytest.raises(InputError, match="no matcher of bearings"):
            load_matcher(wrong)
