"""GIST: the pose of the view with the same directions and scales in the same parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.retrieval import family
from reloc.nn.descriptors.gist import GistConfig
from reloc.scenes.scene import View


@dataclass(frozen=True)
class GistRetrievalConfig:
    """Settings of retrieval by GIST."""

    descriptor: GistConfig = field(default_factory=GistConfig)
    """The descriptor."""
    min_confidence: float = 0.0
    """A query whose answer is less sure is declined. GIST tells other places too badly to decline
    by default."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; it must be in [0, 1]")


def build_map(views: Sequence[View], config: GistRetrievalConfig, run: Run) -> Tensors:
    """Whitening and vectors of the mapping images, and their poses."""
    return family.fit_and_build_map("gist", views, config.descriptor, run)


def localizer(tensors: Tensors, config: GistRetrievalConfig, run: Run) -> Localizer:
    """Answers by the most similar vector."""
    del run
    return family.localizer(tensors, "gist", config.descriptor, config.min_confidence)


METHOD = Method(
    name="gist",
    family="retrieval",
    summary="The pose of the most similar image by GIST: directions and scales in each part.",
    paper="Oliva and Torralba, Modeling the Shape of the Scene: A Holistic Representation of the "
    "Spatial Envelope, IJCV 2001",
    published="no figure to compare: recall on other data",
    config=GistRetrievalConfig,
    tiny=GistRetrievalConfig(GistConfig(size_px=64, grid=8)),
    build_map=build_map,
    localizer=localizer,
)
