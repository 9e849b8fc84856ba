"""Bag of words: the pose of the view with the most visual words in common, rare ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.retrieval import family
from reloc.nn.descriptors.bow import BowConfig
from reloc.scenes.scene import View


@dataclass(frozen=True)
class BowRetrievalConfig:
    """Settings of retrieval by bags of words."""

    descriptor: BowConfig = field(default_factory=BowConfig)
    """The descriptor."""
    min_confidence: float = 0.05
    """A query whose answer is less sure is declined."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; it must be in [0, 1]")


def build_map(views: Sequence[View], config: BowRetrievalConfig, run: Run) -> Tensors:
    """Vocabulary and vectors of the mapping images, and their poses."""
    return family.fit_and_build_map("bow", views, config.descriptor, run)


def localizer(tensors: Tensors, config: BowRetrievalConfig, run: Run) -> Localizer:
    """Answers by the most similar vector."""
    del run
    return family.localizer(tensors, "bow", config.descriptor, config.min_confidence)


METHOD = Method(
    name="bow",
    family="retrieval",
    summary="The pose of the image with most SIFT or ORB words in common, rare ones first.",
    paper="Sivic and Zisserman, Video Google: A Text Retrieval Approach to Object Matching in "
    "Videos, ICCV 2003",
    published="no figure to compare: recall on other data",
    config=BowRetrievalConfig,
    tiny=BowRetrievalConfig(BowConfig(max_keypoints=300, num_words=256)),
    build_map=build_map,
    localizer=localizer,
    presets={"orb": BowRetrievalConfig(BowConfig(features="orb"))},
)
