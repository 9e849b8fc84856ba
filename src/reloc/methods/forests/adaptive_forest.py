"""A forest that serves a new place at once: its trees stay, its leaves are filled as frames arrive.

The trees that ship were grown on rendered rooms (`reloc pretrain adaptive-forest`) and have seen no
photo. What a leaf stands for is found out in the scene: a fair sample of the points whose pixels
fall into it, and the modes of these. The paper's relocaliser has a bundle of further parts for a
video of frames (reservoirs that go on filling, a refinement against the reconstructed surface);
they are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.forests import family
from reloc.methods.forests.config import ForestConfig
from reloc.methods.forests.features import Looks
from reloc.methods.forests.localizer import ForestLocalizer
from reloc.methods.forests.trees import Forest, GrowthConfig, grow_forest, grow_trees
from reloc.nn import weights
from reloc.provenance import hardware, library_versions, working_copy_commit, write_record
from reloc.scenes.scene import View

_SHA256 = "forest_sha256"
# Rooms of one tree stand side by side, so that no two of their points are the same.
_ROOM_DISTANCE_M = 20.0


@dataclass(frozen=True)
class AdaptiveForestConfig(ForestConfig):
    """Settings of a forest whose leaves are filled with a new scene."""

    trees: Literal["shipped", "first-views"] = "shipped"
    """Where they are from: "shipped" ones were grown on rendered rooms, "first-views" are grown on
    the first views of the scene, as `growth` says."""
    growing_views: int = 30
    """How many first views."""
    num_modes: int = 5
    """Most modes of a leaf: trees that were not grown for a place mix more of it in a leaf."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.growing_views < 1:
            raise ValueError(f"growing_views is {self.growing_views}; it must be at least 1")


def build_map(views: Sequence[View], config: AdaptiveForestConfig, run: Run) -> Tensors:
    """Fill the leaves of trees that were grown elsewhere, or on the first views.

    Raises:
        InputError: the installation lacks the trees.
    """

    def grow(looks: Sequence[Looks], points: Sequence[Tensor]) -> Forest:
        if config.trees == "shipped":
            return shipped_forest()
        first = slice(config.growing_views)
        return grow_forest(looks[first], points[first], config.growth, run)

    tensors = family.build_map(views, config, grow, run, reads_depth=True)
    if config.trees == "first-views":
        return tensors
    # Shared trees are named, and not copied into each map.
    filled = {name: value for name, value in tensors.items() if name not in Forest.NAMES}
    return {**filled, _SHA256: text_to_tensor([_sha256()])}


def localizer(tensors: Tensors, config: AdaptiveForestConfig, run: Run) -> Localizer:
    """Answers queries that have depth, by the pose that most pixels agree on.

    Raises:
        InputError: the trees that are installed are not those that the map was filled with.
    """
    if config.trees == "shipped":
        if tensor_to_text(tensors[_SHA256]) != [_sha256()]:
            raise InputError("the map needs other trees than this reloc has: build it anew")
        tensors = {**tensors, **shipped_forest().tensors()}
    return ForestLocalizer(tensors, config, run, reads_depth=True)


def shipped_path() -> Path:
    """Where the trees lie in an installation that has them."""
    return weights.FOLDER / "forest_rooms.safetensors"


def _sha256() -> str:
    """What a map names the shipped trees by.

    Raises:
        InputError: the installation lacks them.
    """
    remedy = "install reloc again, or map with --trees first-views"
    return weights.weights_sha256(shipped_path(), "the trees", remedy)


def shipped_forest() -> Forest:
    """The trees that ship.

    Raises:
        InputError: the installation lacks them.
    """
    path = shipped_path()
    _sha256()
    try:
        return Forest.from_tensors(safetensors.torch.load_file(path))
    except (KeyError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} holds no forest ({error}): install reloc again") from error


# ------------------------------------------------------------------------------ trees that ship


@dataclass(frozen=True)
class PretrainForestConfig:
    """Settings of `reloc pretrain adaptive-forest`."""

    num_rooms: int = 10
    """Rendered rooms, shared out among the trees."""
    views_per_room: int = 30
    """Views of each."""
    short_side_px: int = 240
    """Of the views."""
    growth: GrowthConfig = field(default_factory=lambda: GrowthConfig(min_leaf_pixels=5))
    """Of the trees."""

    def __post_init__(self) -> None:
        if self.num_rooms < self.growth.num_trees:
            raise ValueError(
                f"{self.num_rooms} rooms are too few for {self.growth.num_trees} trees: each needs "
                "one at least"
            )


def pretrain(
    rooms: Iterable[Sequence[View]], config: PretrainForestConfig, folder: Path, run: Run
) -> Path:
    """Grow a forest on rooms, each tree on its own ones.

    Args:
        rooms: views of each, with depth; as many as `config` says.
        config: of the trees.
        folder: gets the trees, and what they are made of in a .json beside them.
        run: seed, progress.

    Returns:
        The path of the trees.
    """
    num_trees = config.growth.num_trees
    looks: list[list[Looks]] = [[] for _ in range(num_trees)]
    points: list[list[Tensor]] = [[] for _ in range(num_trees)]
    for number, views in enumerate(run.progress.track(rooms, "rooms", total=config.num_rooms)):
        origin_3 = torch.tensor([_ROOM_DISTANCE_M * (number // num_trees), 0.0, 0.0])
        seen = family.read_views(
            views,
            -origin_3.double(),
            config.short_side_px,
            config.growth.pixels_per_view,
            run,
            reads_depth=True,
        )
        looks[number % num_trees] += [view.looks for view in seen]
        points[number % num_trees] += [view.points_P3 for view in seen]
    forest = grow_trees(looks, points, config.growth, run)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / shipped_path().name
    partial_path = path.with_name(f".{path.name}")
    safetensors.torch.save_file(forest.tensors(), partial_path)
    partial_path.rename(path)
    record = {
        "config": asdict(config),
        "leaves": forest.num_leaves,
        "seed": run.seed,
        "hardware": hardware(run.device),
        "versions": library_versions(),
        "commit": working_copy_commit(),
    }
    write_record(record, path.with_suffix(".json"))
    return path


METHOD = Method(
    name="adaptive-forest",
    family="forests",
    summary="RGB-D: a grown forest's leaves are refilled with a new scene as its frames arrive.",
    paper="Cavallari et al., On-the-Fly Adaptation of Regression Forests for Online Camera "
    "Relocalisation, CVPR 2017",
    published="92 to 99 % within 5 cm, 5° (7-Scenes, with depth; unverified); not reproduced",
    config=AdaptiveForestConfig,
    tiny=AdaptiveForestConfig(filling_pixels=600, num_modes=3, query_pixels=500),
    build_map=build_map,
    localizer=localizer,
    pretrain=pretrain,
    uses_depth=True,
    needs_depth=True,
)
