"""DenseVLAD: the pose of the view with the most similar vector of densely sampled SIFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.retrieval import family
from reloc.nn.descriptors.densevlad import DenseVladConfig
from reloc.scenes.scene import View


@dataclass(frozen=True)
class DenseVladRetrievalConfig:
    """Settings of retrieval by DenseVLAD."""

    descriptor: DenseVladConfig = field(default_factory=DenseVladConfig)
    """The descriptor."""
    min_confidence: float = 0.2
    """A query whose answer is less sure is declined: most photos of other places are below."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; it must be in [0, 1]")


def build_map(views: Sequence[View], config: DenseVladRetrievalConfig, run: Run) -> Tensors:
    """Vocabulary, whitening and vectors of the mapping images, and their poses."""
    return family.fit_and_build_map("densevlad", views, config.descriptor, run)


def localizer(tensors: Tensors, config: DenseVladRetrievalConfig, run: Run) -> Localizer:
    """Answers by the most similar vector."""
    del run
    return family.localizer(tensors, "densevlad", config.descriptor, config.min_confidence)


METHOD = Method(
    name="densevlad",
    family="retrieval",
    summary="The pose of the most similar image by dense SIFT, aggregated and whitened.",
    paper="Torii, Arandjelović, Sivic, Okutomi and Pajdla, 24/7 Place Recognition by View "
    "Synthesis, CVPR 2015",
    published="0.26 m, 12.5° (7-Scenes, mean of medians); not reproduced",
    config=DenseVladRetrievalConfig,
    tiny=DenseVladRetrievalConfig(
        DenseVladConfig(max_side_px=120, bins_px=(4, 6), num_words=32, num_dimensions=64)
    ),
    build_map=build_map,
    localizer=localizer,
    presets={
        "paper": DenseVladRetrievalConfig(
            DenseVladConfig(max_side_px=640, grid_px=2, num_dimensions=4096)
        ),
    },
)
