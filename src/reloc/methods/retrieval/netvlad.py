"""NetVLAD on the shared encoder, trained on the scene: near views are to be alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.methods.retrieval import family
from reloc.nn.descriptors.netvlad import NetVladConfig
from reloc.scenes.scene import View
from reloc.training.train_netvlad import NetVladTraining, fit_netvlad


@dataclass(frozen=True)
class NetVladRetrievalConfig:
    """Settings of retrieval by NetVLAD."""

    descriptor: NetVladConfig = field(default_factory=NetVladConfig)
    """The descriptor."""
    training: NetVladTraining = field(default_factory=NetVladTraining)
    """How its words are trained; with 0 steps they stay as k-means found them."""
    min_confidence: float = 0.2
    """A query whose answer is less sure is declined: most photos of other places are below."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; it must be in [0, 1]")


def build_map(views: Sequence[View], config: NetVladRetrievalConfig, run: Run) -> Tensors:
    """Words, whitening and vectors of the mapping images, and their poses."""
    fitted = fit_netvlad(views, config.descriptor, config.training, run)
    return family.build_map(views, fitted, run)


def localizer(tensors: Tensors, config: NetVladRetrievalConfig, run: Run) -> Localizer:
    """Answers by the most similar vector."""
    del run
    return family.localizer(tensors, "netvlad", config.descriptor, config.min_confidence)


METHOD = Method(
    name="netvlad",
    family="retrieval",
    summary="The pose of the most similar image by NetVLAD on the shared encoder.",
    paper="Arandjelović, Gronat, Torii, Pajdla and Sivic, NetVLAD: CNN Architecture for Weakly "
    "Supervised Place Recognition, CVPR 2016",
    published="no figure to compare: recall on Pittsburgh and Tokyo",
    config=NetVladRetrievalConfig,
    tiny=NetVladRetrievalConfig(
        NetVladConfig(short_side_px=120, num_words=16, num_dimensions=64),
        NetVladTraining(steps=20, tuples=2),
    ),
    build_map=build_map,
    localizer=localizer,
)
