"""Regression trees as tensors: grown by scikit-learn, kept and asked without it."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from reloc.contract import Run, Tensors
from reloc.methods.forests.features import Looks, Probes, draw_probes


@dataclass(frozen=True)
class GrowthConfig:
    """How trees are grown."""

    num_trees: int = 5
    """Trees of the forest."""
    num_probes: int = 256
    """Random probes that the nodes of a tree choose from."""
    tried_probes: int = 128
    """Probes that are tried at a node, each with a random threshold; the best one stays."""
    nearest: float = 0.02
    """Least size of the squares that probes read from: in the scene's unit where pixels have a
    depth, else in focal lengths..."""
    farthest: float = 0.25
    """...and the largest one."""
    depth_share: float = 0.3
    """Share of the probes that read depth, where it is read."""
    pixels_per_view: int = 1000
    """Pixels of a view that a tree grows on."""
    min_leaf_pixels: int = 8
    """A node is not divided further where a side would have fewer."""

    def __post_init__(self) -> None:
        for name in (
            "num_trees",
            "num_probes",
            "tried_probes",
            "pixels_per_view",
            "min_leaf_pixels",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.nearest <= self.farthest:
            raise ValueError(f"probes cannot be {self.nearest} to {self.farthest} wide")
        if not 0 <= self.depth_share <= 1:
            raise ValueError(f"depth_share is {self.depth_share}; it must be in [0, 1]")


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees that send a pixel to one leaf each.

    Attributes:
        probes: of all trees.
        roots_T: int32, nodes.
        child_N: int32, the left child of a node, the right one follows it; of a leaf, -1 less its
            number.
        probe_N: int16, or int32 where there are too many probes for it; what a node asks.
        threshold_N: float16; a larger response goes right.
    """

    probes: Probes
    roots_T: Tensor
    child_N: Tensor
    probe_N: Tensor
    threshold_N: Tensor

    NAMES: ClassVar = (
        "offsets_F22",
        "planes_F2",
        "roots_T",
        "child_N",
        "probe_N",
        "threshold_N",
    )
    """Of its tensors in a map."""

    @property
    def num_leaves(self) -> int:
        """Of all trees."""
        return int((self.child_N < 0).sum())

    def leaves(self, looks: Looks) -> Tensor:
        """The leaf (P, T) int64 that each pixel falls into."""
        num_trees, num_pixels = len(self.roots_T), len(looks)
        leaves = torch.empty(num_pixels * num_trees, dtype=torch.int64)
        falling = torch.arange(num_pixels * num_trees)
        node = self.roots_T.long().repeat(num_pixels)
        while len(falling):
            child = self.child_N[node].long()
            inner = child >= 0
            leaves[falling[~inner]] = -1 - child[~inner]
            falling, node, child = falling[inner], node[inner], child[inner]
            probe = self.probe_N[node].long()
            response = looks.responses(falling // num_trees, self.probes, probe)
            node = child + (response > self.threshold_N[node])
        return leaves.view(num_pixels, num_trees)

    def tensors(self) -> dict[str, Tensor]:
        """For the map's folder."""
        parts = (
            self.probes.offsets_F22,
            self.probes.planes_F2,
            self.roots_T,
            self.child_N,
            self.probe_N,
            self.threshold_N,
        )
        return dict(zip(self.NAMES, parts, strict=True))

    @staticmethod
    def from_tensors(tensors: Tensors) -> Forest:
        """The inverse of `tensors`, from those of a map."""
        offsets_F22, planes_F2, *nodes = (tensors[name] for name in Forest.NAMES)
        return Forest(Probes(offsets_F22, planes_F2), *nodes)


def grow_forest(
    looks: Sequence[Looks], points: Sequence[Tensor], config: GrowthConfig, run: Run
) -> Forest:
    """Grow trees, all on the same views, as `grow_trees` does.

    Args:
        looks: of each view.
        points: (P, 3) in the world, of the pixels of each view.
        config: of the trees.
        run: seed, progress.
    """
    return grow_trees([looks] * config.num_trees, [points] * config.num_trees, config, run)


def grow_trees(
    looks: Sequence[Sequence[Looks]],
    points: Sequence[Sequence[Tensor]],
    config: GrowthConfig,
    run: Run,
) -> Forest:
    """Grow trees whose leaves hold pixels of points that are near each other.

    Each tree has its own random probes and pixels. A node tries random probes, each at a random
    threshold, and keeps the one that reduces the variance of the points most: extremely randomised
    trees (Geurts, Ernst and Wehenkel, Machine Learning 63, 2006), which need no sorting.

    Args:
        looks: of each view that a tree grows on, tree by tree.
        points: (P, 3) in the world, of the pixels of each of these views.
        config: of the trees.
        run: seed, progress.
    """
    regressor = _extra_tree_regressor()
    trees = []
    for number in run.progress.track(range(config.num_trees), "growing trees"):
        rng = np.random.default_rng((run.seed, number))
        probes = draw_probes(
            config.num_probes, config.nearest, config.farthest, config.depth_share, rng
        )
        responses, targets = [], []
        for seen, seen_points_P3 in zip(looks[number], points[number], strict=True):
            pixel = torch.from_numpy(rng.permutation(len(seen))[: config.pixels_per_view])
            every = torch.arange(config.num_probes)
            responses.append(seen.responses(pixel[:, None], probes, every).numpy())
            targets.append(seen_points_P3[pixel].numpy())
        tree = regressor(
            max_features=min(config.tried_probes, config.num_probes),
            min_samples_leaf=config.min_leaf_pixels,
            random_state=int(rng.integers(2**31)),
        )
        tree.fit(np.concatenate(responses), np.concatenate(targets))
        trees.append((tree.tree_, probes))
    return _packed(trees)


def _extra_tree_regressor() -> Any:
    """scikit-learn's class. Its import takes a second, draws numbers and sets variables."""
    before, drawn = dict(os.environ), random.getstate()
    from sklearn.tree import ExtraTreeRegressor

    random.setstate(drawn)
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    return ExtraTreeRegressor


def _packed(trees: Sequence[tuple[Any, Probes]]) -> Forest:
    """Trees of scikit-learn with their probes as one forest."""
    roots, children, asked, thresholds = [], [], [], []
    num_nodes = num_leaves = num_probes = 0
    for tree, probes in trees:
        order = _breadth_first(tree.children_left, tree.children_right)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        is_leaf = tree.children_left[order] < 0
        child = np.where(is_leaf, 0, num_nodes + place[tree.children_left[order]])
        child[is_leaf] = -1 - num_leaves - np.arange(is_leaf.sum())
        roots.append(num_nodes)
        children.append(child)
        asked.append(np.where(is_leaf, 0, num_probes + tree.feature[order]))
        thresholds.append(np.where(is_leaf, 0, tree.threshold[order]))
        num_nodes += len(order)
        num_leaves += int(is_leaf.sum())
        num_probes += len(probes.planes_F2)
    fits_short = num_probes - 1 <= torch.iinfo(torch.int16).max
    return Forest(
        probes=Probes.cat([probes for _, probes in trees]),
        roots_T=torch.tensor(roots, dtype=torch.int32),
        child_N=torch.from_numpy(np.concatenate(children)).int(),
        probe_N=torch.from_numpy(np.concatenate(asked)).to(
            torch.int16 if fits_short else torch.int32
        ),
        threshold_N=torch.from_numpy(np.concatenate(thresholds)).half(),
    )


def _breadth_first(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Nodes of a tree, level by level, so that the two children of a node are neighbours."""
    levels = [np.zeros(1, dtype=np.int64)]
    while len(levels[-1]):
        inner = levels[-1][left[levels[-1]] >= 0]
        levels.append(np.stack([left[inner], right[inner]], axis=1).ravel())
    return np.concatenate(levels)
