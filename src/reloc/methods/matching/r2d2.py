"""Learned local features in the classical pipeline: R2D2, ALIKE, or corners on our own encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reloc.contract import Method
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.family import build_map, open_map
from reloc.nn.local_features import FeatureKind


@dataclass(frozen=True)
class LearnedConfig(MatchingConfig):
    """Settings of a map of learned features. R2D2 is used at one scale, not at the paper's many."""

    features: FeatureKind = "r2d2"
    """Detector and descriptor; weights of others are looked for in the folder RELOC_WEIGHTS."""
    max_side_px: int = 480
    """Larger images are reduced to this longer side; errors in pixels are of the reduced image."""
    max_ratio: float = 0.95
    """Nearest over second nearest descriptor distance up to which a match counts as distinctive."""


METHOD = Method(
    name="r2d2",
    family="matching",
    summary="As sift, with learned features: R2D2, ALIKE, or corners with our encoder's codes.",
    paper="Revaud, Weinzaepfel, De Souza and Humenberger, R2D2: Repeatable and Reliable Detector "
    "and Descriptor, NeurIPS 2019",
    published="95.7 % within 5 cm, 5° (7-Scenes, SfM); not reproduced",
    config=LearnedConfig,
    # R2D2's weights do not ship: the laws are tried with the features whose weights do. The
    # networks of others have tests of their own.
    tiny=LearnedConfig(
        features="encoder",
        max_keypoints=500,
        pairs_by_pose=4,
        pairs_by_retrieval=2,
        vocabulary=16,
    ),
    build_map=build_map,
    localizer=open_map,
    presets={
        "alike": replace(LearnedConfig(), features="alike", max_side_px=640),
        "superpoint": replace(LearnedConfig(), features="superpoint", max_side_px=640),
        "encoder": replace(LearnedConfig(), features="encoder", max_side_px=640),
    },
    maps_depth=True,
)
