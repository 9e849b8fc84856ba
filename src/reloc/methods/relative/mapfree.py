"""Map-free relocalization: metric relative poses to few photos, by network or by features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.estimation.two_photos import TwoPhotosConfig, usual_config
from reloc.methods.relative import family
from reloc.methods.relative.config import TINY, RelativeConfig
from reloc.methods.relative.photo_matching import PhotoMatchingLocalizer
from reloc.methods.relative.photo_matching import build_map as build_matching_map
from reloc.methods.relative.pretraining import pretrain
from reloc.scenes.scene import View


@dataclass(frozen=True)
class MapfreeConfig(RelativeConfig):
    """Settings of map-free relocalization."""

    matching: Literal["none", "sift", "orb", "encoder", "alike", "r2d2", "superpoint"] = "none"
    """Local features that say relative poses instead of the network: no training, and one photo is
    enough of a map where it has depth. Weights of the last three are looked for in the folder
    RELOC_WEIGHTS."""
    solver: Literal["essential", "pnp", "kabsch"] = "pnp"
    """Of local features: the essential matrix with its scale from depth, PnP with the depth of
    either photo, or points measured in both, which mapping views and queries then must have.
    Otherwise, without depth, essential matrices to several photos are triangulated."""
    max_keypoints: int = 2000
    """Of local features: strongest keypoints of each photo."""


def build_map(views: Sequence[View], config: MapfreeConfig, run: Run) -> Tensors:
    """Learn from pairs of the views, or only describe them."""
    if config.matching == "none":
        return family.build_map(views, config, run)
    return build_matching_map(views, _two_photos(config), config.num_images, run)


def localizer(tensors: Tensors, config: MapfreeConfig, run: Run) -> Localizer:
    """Answers by what the photos of the map say, together."""
    if config.matching == "none":
        return family.localizer(tensors, config, run)
    return PhotoMatchingLocalizer(
        tensors, _two_photos(config), config.num_neighbours, config.max_angle_deg, run
    )


def _two_photos(config: MapfreeConfig) -> TwoPhotosConfig:
    features = "sift" if config.matching == "none" else config.matching
    return replace(
        usual_config(features, 1024),
        max_keypoints=config.max_keypoints,
        # Without any depth there is nothing else to do than the essential matrix.
        solver=None if config.solver == "pnp" else config.solver,
    )


METHOD = Method(
    name="mapfree",
    family="relative",
    summary="Metric relative poses to few photos, by a network's heads or by local features.",
    paper="Arnold, Wynn, Vicente, Garcia-Hernando, Monszpart, Prisacariu, Turmukhambetov and "
    "Brachmann, Map-Free Visual Relocalization, ECCV 2022",
    published="no figure to compare: by VCRE, on 655 places",
    config=MapfreeConfig,
    tiny=MapfreeConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    pretrain=pretrain,
    presets={
        "3d3d": MapfreeConfig(head="3d3d"),
        "quaternion": MapfreeConfig(head="quat+t"),
        "direction": MapfreeConfig(head="direction"),
        "binned": MapfreeConfig(head="binned"),
        # Nothing is trained, and one photo is enough: a network that rendered rooms have taught.
        "unseen": MapfreeConfig(weights="shipped"),
        "sift": MapfreeConfig(matching="sift"),
        "sift-essential": MapfreeConfig(matching="sift", solver="essential"),
        "sift-kabsch": MapfreeConfig(matching="sift", solver="kabsch"),
        "orb": MapfreeConfig(matching="orb", max_keypoints=3000),
        "r2d2": MapfreeConfig(matching="r2d2"),
    },
    uses_depth=True,
    # Without training.
    min_views=1,
)
