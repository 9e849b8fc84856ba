"""Laws of nearest-neighbour matching, for descriptors of both kinds."""

import pytest
import torch

from reloc.estimation.matching import descriptor_distance, match_mutual, match_nearest


def _descriptors(count: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, columns), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("columns", [128, 32])
def test_a_shuffled_copy_is_matched_to_itself(columns):
    first = _descriptors(60, columns, seed=0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    pairs = match_mutual(first, first[order])
    assert pairs[:, 0].tolist() == list(range(60))
    assert torch.equal(order[pairs[:, 1]], pairs[:, 0])


@pytest.mark.parametrize("columns", [128, 32])
def test_matching_backwards_gives_the_same_pairs_without_a_ratio(columns):
    first, second = _descriptors(50, columns, 0), _descriptors(40, columns, 1)
    forth = {tuple(pair) for pair in match_mutual(first, second, 1.0).tolist()}
    back = {tuple(pair[::-1]) for pair in match_mutual(second, first, 1.0).tolist()}
    assert forth == back
    assert forth


@pytest.mark.parametrize("columns", [128, 32])
def test_what_stands_twice_is_not_distinctive(columns):
    first = _descriptors(20, columns, 0)
    one, other = first.clone(), first.clone()
    one[:, 0] ^= 1
    other[:, 1] ^= 1
    # Both copies are equally near: a distance of one, a ratio of one.
    assert not len(match_nearest(first, torch.cat([one, other]), 0.8))
    assert len(match_nearest(first, one, 0.8)) == 20


@pytest.mark.parametrize(("count", "other"), [(0, 5), (5, 0), (5, 1), (0, 0)])
@pytest.mark.parametrize("columns", [128, 32])
def test_too_few_give_no_pairs(count, other, columns):
    pairs = match_mutual(_descriptors(count, columns, 0), _descriptors(other, columns, 1))
    assert pairs.shape == (0, 2)


def test_distances():
    black, white = torch.zeros(32, dtype=torch.uint8), torch.full((32,), 255, dtype=torch.uint8)
    assert float(descriptor_distance(black, white)) == 256
    one = torch.zeros(128, dtype=torch.uint8)
    other = one.clone()
    one[0], other[1] = 3, 4
    assert float(descriptor_distance(one, other)) == 5
