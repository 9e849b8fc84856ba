"""Laws of leaves: a fair sample of what came, its densest places, and what trees agree on."""

import pytest
import torch

from reloc.methods.forests.leaves import Guesses, Modes, Reservoirs
from reloc.methods.forests.localizer import surest


def _points(count: int, center: tuple[float, ...], spread: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor(center) + spread * torch.randn(count, 3, generator=generator)


def _filled(points_P3: torch.Tensor, chunk: int, num_leaves: int = 1) -> Reservoirs:
    reservoirs = Reservoirs(num_leaves, seed=0)
    shuffled = points_P3[torch.randperm(len(points_P3), generator=torch.Generator().manual_seed(9))]
    for part in shuffled.split(chunk):
        reservoirs.add(torch.zeros(len(part), 1, dtype=torch.int64), part)
    return reservoirs


@pytest.mark.parametrize("chunk", [7, 500])
def test_a_reservoir_is_a_fair_sample_of_all_that_came(chunk):
    """In 400 leaves, each of 1000 points is kept about as often as any other."""
    reservoirs = Reservoirs(400, seed=1)
    order = torch.arange(1000.0)[:, None].expand(-1, 3)
    leaf_PT = torch.arange(400).expand(1000, -1)
    for points, leaf in zip(order.split(chunk), leaf_PT.split(chunk), strict=True):
        reservoirs.add(leaf, points)
    kept = torch.from_numpy(reservoirs._points_LC3[..., 0])
    assert bool(kept.isfinite().all())
    count = kept.flatten().long().bincount(minlength=1000)
    # No point is kept twice in a leaf.
    assert all(len(leaf.unique()) == kept.shape[1] for leaf in kept)
    # Binomial: 19 of 400 and a standard deviation of 4; the first, the middle and the last alike.
    expected = 400 * kept.shape[1] / 1000
    for part in count.float().split(100):
        assert float(part.mean()) == pytest.approx(expected, abs=2.0)


def test_modes_are_the_dense_places_largest_first():
    points = torch.cat(
        [
            _points(700, (1.0, 0.0, 2.0), 0.03, 0),
            _points(300, (-2.0, 1.0, 0.0), 0.02, 1),
        ]
    )
    guesses = _filled(points, 100).modes(3, 0.1).of(torch.zeros(1, 1, dtype=torch.int64))
    expected = torch.tensor([[1.0, 0.0, 2.0], [-2.0, 1.0, 0.0]])
    torch.testing.assert_close(guesses.points_PM3[0, :2], expected, rtol=0, atol=0.02)
    assert guesses.weights_PM[0].tolist() == pytest.approx([0.7, 0.3, 0.0], abs=0.15)
    assert guesses.spreads_PM[0, :2].tolist() == pytest.approx([0.03, 0.02], rel=0.3)


def test_a_leaf_that_nothing_came_to_has_no_mode():
    reservoirs = _filled(_points(50, (1.0, 1.0, 1.0), 0.01, 0), 50, num_leaves=3)
    guesses = reservoirs.modes(2, 0.1).of(torch.tensor([[0], [1], [2]]))
    assert (guesses.weights_PM > 0).tolist() == [[True, False], [False, False], [False, False]]
    assert bool(guesses.points_PM3.isfinite().all())
    empty = Reservoirs(2, seed=0).modes(2, 0.1).of(torch.tensor([[0, 1]]))
    assert not bool(empty.weights_PM.any())
    assert bool(empty.points_PM3.isfinite().all())


def test_two_bytes_an_axis_are_a_tenth_of_a_millimetre_in_a_room():
    generator = torch.Generator().manual_seed(0)
    means = 6 * torch.rand(500, 2, 3, generator=generator) + 100
    modes = Modes.packed(means, torch.full((500, 2), 0.5), torch.full((500, 2), 0.05))
    again = Modes.from_tensors(modes.tensors()).of(torch.arange(500)[:, None])
    torch.testing.assert_close(again.points_PM3, means, rtol=0, atol=1e-4)


def test_trees_that_agree_outweigh_one_that_is_sure():
    """Three trees say nearly the same with 0.4 each, a fourth says 0.9 elsewhere."""
    points = torch.tensor([[[0.0, 0, 0], [0.02, 0, 0], [-0.02, 0, 0], [1.0, 1, 1], [5.0, 5, 5]]])
    weights = torch.tensor([[0.4, 0.4, 0.4, 0.9, 0.0]])
    fused = Guesses(points, weights, torch.full((1, 5), 0.03)).fused(4, 0.05)
    expected = torch.tensor([[0.0, 0, 0], [1.0, 1, 1]])
    torch.testing.assert_close(fused.points_PM3[0, :2], expected, rtol=0, atol=1e-4)
    assert 1.0 < float(fused.weights_PM[0, 0]) <= 1.2
    assert float(fused.weights_PM[0, 1]) == pytest.approx(0.9, abs=1e-3)
    # There is no third: what weighs nothing is no guess.
    assert fused.weights_PM[0, 2:].tolist() == [0.0, 0.0]


def test_of_two_guesses_with_equal_weight_the_surer_is_asked_first():
    points = torch.tensor([[[0.0, 0, 0], [3.0, 0, 0]], [[6.0, 0, 0], [9.0, 0, 0]]])
    spreads = torch.tensor([[0.1, 0.01], [0.01, 0.01]])
    weights = torch.tensor([[0.5, 0.5], [0.6, 0.0]])
    guesses = Guesses(points, weights, spreads).fused(2, 0.05)
    # What weighs nothing is asked last, however sure.
    assert surest(guesses, mode_radius=0.1).tolist() == [2, 1, 0, 3]


def test_trees_that_disagree_are_less_sure_than_each_of_them():
    """Two that say 0.01 each, 0.06 apart along an axis."""
    points = torch.tensor([[[0.0, 0, 0], [0.06, 0, 0]], [[0.0, 0, 0], [0.0, 0, 0]]])
    spreads = torch.full((2, 2), 0.01)
    fused = Guesses(points, torch.full((2, 2), 0.5), spreads).fused(1, 0.1)
    assert float(fused.spreads_PM[1, 0]) == pytest.approx(0.01, rel=1e-3)
    # A third of the variance along the axis: leaves are round.
    expected = (0.01**2 + 0.03**2 / 3) ** 0.5
    assert float(fused.spreads_PM[0, 0]) == pytest.approx(expected, rel=0.02)
