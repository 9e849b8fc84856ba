"""Laws of trees: a pixel falls as its nodes say, and leaves hold points near each other."""

import pytest
import torch

from reloc.contract import Run
from reloc.methods.forests.features import Looks, look
from reloc.methods.forests.trees import Forest, GrowthConfig, grow_forest

CONFIG = GrowthConfig(num_trees=3, num_probes=40, tried_probes=20, pixels_per_view=400)


@pytest.fixture(scope="module")
def seen(small_room) -> list[tuple[Looks, torch.Tensor]]:
    """Looks of views and the points of their pixels."""
    views = []
    for number, view in enumerate(small_room.mapping[:10]):
        image, depth = view.read_image(), view.read_depth()
        looks = look(image, view.camera, depth, 180, 600, number, reads_depth=True)
        assert looks is not None
        views.append((looks, (view.cam_from_world.inverse() @ looks.points_cam_P3).float()))
    return views


@pytest.fixture(scope="module")
def forest(seen) -> Forest:
    return grow_forest([looks for looks, _ in seen], [points for _, points in seen], CONFIG, Run())


def test_a_pixel_falls_as_its_nodes_say(seen, forest):
    """Node by node, in plain words, for some pixels."""
    looks, _ = seen[0]
    leaves_PT = forest.leaves(looks)
    assert leaves_PT.shape == (len(looks), 3)
    for pixel in range(0, len(looks), 37):
        for tree in range(3):
            node = int(forest.roots_T[tree])
            while (child := int(forest.child_N[node])) >= 0:
                probe = forest.probe_N[node].long()
                response = looks.responses(torch.tensor(pixel), forest.probes, probe)
                node = child + int(response > forest.threshold_N[node])
            assert leaves_PT[pixel, tree] == -1 - child


def test_nodes_make_trees(forest):
    """Each node but the roots is the child of one; the leaves are numbered without a gap."""
    child_N = forest.child_N[forest.child_N >= 0]
    children = torch.cat([child_N, child_N + 1, forest.roots_T])
    assert torch.equal(children.sort().values, torch.arange(len(forest.child_N), dtype=torch.int32))
    numbers = (-1 - forest.child_N[forest.child_N < 0]).sort().values
    assert torch.equal(numbers, torch.arange(forest.num_leaves, dtype=torch.int32))


def test_leaves_hold_points_that_are_near_each_other(seen, forest):
    """On pixels that the trees have not seen, too: the rest of the same views."""
    leaves = torch.cat([forest.leaves(looks) for looks, _ in seen])
    points = torch.cat([points for _, points in seen])
    for tree in range(3):
        leaf = leaves[:, tree]
        count = leaf.bincount(minlength=forest.num_leaves).clamp_min(1)
        mean = torch.zeros(forest.num_leaves, 3).index_add(0, leaf, points) / count[:, None]
        inside = (points - mean[leaf]).norm(dim=1).median()
        overall = (points - points.mean(0)).norm(dim=1).median()
        # A tree that knows nothing would leave them as far apart as they are.
        assert inside < 0.65 * overall


def test_trees_differ_and_a_seed_decides(seen):
    looks, points = [looks for looks, _ in seen[:3]], [points for _, points in seen[:3]]
    forests = [grow_forest(looks, points, CONFIG, Run(seed=seed)) for seed in (1, 1, 2)]
    tensors = [forest.tensors() for forest in forests]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert not torch.equal(forests[0].probe_N[:50], forests[2].probe_N[:50])
    offsets_TF22 = forests[0].probes.offsets_F22.unflatten(0, (3, 40))
    assert not torch.equal(offsets_TF22[0], offsets_TF22[1])


def test_tensors_and_back(seen, forest):
    again = Forest.from_tensors(forest.tensors())
    assert torch.equal(again.leaves(seen[1][0]), forest.leaves(seen[1][0]))


def test_nodes_ask_their_own_probes_however_many_there_are(seen):
    """More in all than 16 bits can count: the nodes of the second tree ask the second half."""
    looks, points = seen[0]
    num_probes = 30_000
    config = GrowthConfig(2, num_probes, 8, pixels_per_view=100)
    forest = grow_forest([looks], [points], config, Run())
    first, second = forest.roots_T.tolist()
    asked_N = torch.where(forest.child_N >= 0, forest.probe_N.long(), -1)
    assert bool((asked_N[first:second] < num_probes).all())
    inner = forest.child_N[second:] >= 0
    assert int(inner.sum()) > 3
    assert bool((asked_N[second:][inner] >= num_probes).all())
    assert int(asked_N.max()) < 2 * num_probes
    assert bool((forest.leaves(looks) < forest.num_leaves).all())


@pytest.mark.parametrize(
    "change", [{"num_trees": 0}, {"nearest": 0.0}, {"nearest": 2.0}, {"depth_share": 1.5}]
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=r"wide|share|trees"):
        GrowthConfig(**change)
