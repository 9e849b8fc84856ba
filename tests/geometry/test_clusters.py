"""Two groups of points."""

import torch

from reloc.geometry.clusters import bisect, extent, local_extent


def test_two_groups_are_told_apart_whatever_their_sizes_and_order() -> None:
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    far = torch.randn(5, 3, generator=generator, dtype=torch.float64) + torch.tensor([0, 40.0, 0])
    order = torch.randperm(35, generator=generator)
    second = bisect(torch.cat([near, far])[order])
    assert second is not None
    is_far = order >= 30
    assert torch.equal(second, is_far) or torch.equal(second, ~is_far)


def test_one_point_has_no_halves() -> None:
    assert bisect(torch.ones(6, 3, dtype=torch.float64)) is None
    assert bisect(torch.ones(1, 3, dtype=torch.float64)) is None


def test_extent_is_the_diagonal_of_the_box() -> None:
    assert extent(torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])) == 5.0


def test_local_extent_is_that_of_one_place() -> None:
    generator = torch.Generator().manual_seed(0)
    room = torch.rand(60, 3, generator=generator, dtype=torch.float64)
    assert local_extent(room) == extent(room)
    far = torch.tensor([[200.0, 0.0, 0.0]]).double()
    for several in (torch.cat([room, far]), torch.cat([room, room + 40 * far])):
        assert local_extent(several) < 6 * extent(room)


def test_local_extent_has_the_unit_of_the_points_and_few_points_have_their_box() -> None:
    generator = torch.Generator().manual_seed(1)
    several = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    several[0] += 100.0
    torch.testing.assert_close(local_extent(7.0 * several), 7.0 * local_extent(several))
    assert local_extent(several[:2]) == extent(several[:2])
    assert local_extent(torch.ones(5, 3).double()) == 0.0
