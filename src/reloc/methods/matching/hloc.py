"""Hierarchical localization: views by a global descriptor, learned features, a robust pose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.matching import family
from reloc.methods.matching.by_matcher import by_matched_views
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.localizer import Propose, by_similar_views
from reloc.methods.matching.mapping import MatchedViews
from reloc.methods.matching.point_map import PointMap
from reloc.nn.descriptors import DescriptorName, fit_descriptor, open_descriptor
from reloc.nn.descriptors.descriptor import Descriptor
from reloc.nn.local_features import FeatureKind, LocalFeatures
from reloc.nn.matchers import MatcherChoice, check_matcher, load_matcher
from reloc.scenes.scene import Query, View

_STATE = "descriptor."


@dataclass(frozen=True)
class HlocConfig(MatchingConfig):
    """Settings of hierarchical localization."""

    features: FeatureKind = "encoder"
    """Detector and descriptor; weights of others are looked for in the folder RELOC_WEIGHTS."""
    descriptor: DescriptorName = "netvlad"
    """By which similar views are found; its words are those of k-means, as mapping images have."""
    max_side_px: int = 640
    """Larger images are reduced to this longer side; errors in pixels are of the reduced image."""
    max_ratio: float = 0.95
    """Nearest over second nearest descriptor distance up to which a match counts as distinctive."""
    matcher: MatcherChoice = "nearest"
    """How a query is matched: nearest neighbours among the points that similar views saw, or a
    network that sees it with each of these views, which needs the features superpoint and weights
    of its own in the folder RELOC_WEIGHTS. Mapping views are matched by nearest neighbours."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_matcher(self.matcher, self.features)


def build_map(views: Sequence[View], config: HlocConfig, run: Run) -> Tensors:
    """Points of learned features, and global descriptors of the distinct views."""
    if config.matcher != "nearest":
        # Weights that are missing are told of before the work, not after it.
        load_matcher(config.matcher, run.device)
    return family.build_prepared_map(views, config, run, _prepare)


def localizer(tensors: Tensors, config: HlocConfig, run: Run) -> Localizer:
    """Answers by the points of the views with the most similar global descriptors."""
    state = {
        name.removeprefix(_STATE): value
        for name, value in tensors.items()
        if name.startswith(_STATE)
    }
    descriptor = open_descriptor(config.descriptor, state)
    return family.open_prepared_map(tensors, config, run, _proposer(descriptor, config, run))


def _prepare(matched: MatchedViews, config: HlocConfig, run: Run) -> family.Prepared:
    descriptor, vectors_VL = fit_descriptor(config.descriptor, matched.views, run)
    state: Mapping[str, Tensor] = descriptor.state()
    return family.Prepared(
        replace(
            matched,
            image_vectors_VL=vectors_VL,
            vocabulary_KD=torch.zeros(0, 0),
            keep_keypoints=config.matcher != "nearest",
        ),
        _proposer(descriptor, config, run),
        {f"{_STATE}{name}": value for name, value in state.items()},
    )


def _proposer(
    descriptor: Descriptor, config: HlocConfig, run: Run
) -> Callable[[PointMap], Propose]:
    def image_vector(query: Query, features: LocalFeatures) -> Tensor:
        del features
        return descriptor.describe(query.image)

    def propose(point_map: PointMap) -> Propose:
        if config.matcher == "nearest":
            return by_similar_views(point_map, config, image_vector)
        match = load_matcher(config.matcher, run.device)
        return by_matched_views(point_map, config, image_vector, match)

    return propose


METHOD = Method(
    name="hloc",
    family="matching",
    summary="Views by a global descriptor, learned features matched with their points, robust PnP.",
    paper="Sarlin, Cadena, Siegwart and Dymczyk, From Coarse to Fine: Robust Hierarchical "
    "Localization at Large Scale, CVPR 2019",
    published="95.7 % within 5 cm, 5° (7-Scenes, SfM); not reproduced",
    config=HlocConfig,
    tiny=HlocConfig(
        descriptor="gem", max_keypoints=500, pairs_by_pose=4, pairs_by_retrieval=2, vocabulary=16
    ),
    build_map=build_map,
    localizer=localizer,
    presets={
        "alike": replace(HlocConfig(), features="alike"),
        "superpoint": replace(HlocConfig(), features="superpoint"),
        "lightglue": replace(
            HlocConfig(), features="superpoint", matcher="lightglue", max_keypoints=1024
        ),
        "superglue": replace(
            HlocConfig(), features="superpoint", matcher="superglue", max_keypoints=1024
        ),
        "densevlad-r2d2": replace(
            HlocConfig(), features="r2d2", descriptor="densevlad", max_side_px=480
        ),
    },
    maps_depth=True,
)
