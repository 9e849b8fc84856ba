"""MapNet: a network of single images, learned also by how its poses differ along a sequence."""

from __future__ import annotations

from dataclasses import dataclass

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY
from reloc.methods.absolute.sequences import (
    ClipRegressor,
    SequenceConfig,
    SequenceDesign,
    answer_in_clips,
    steps_of,
    with_steps_objective,
)
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class MapNetConfig(SequenceConfig):
    """Settings of MapNet.

    `paper` has the width and the spacing of the paper, and trains the trunk: slow on a processor.
    """

    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    clip_length: int = 3
    """Frames that are learned together."""
    max_skip: int = 10
    """Most mapping views from one frame of a clip to the next."""
    batch_size: int = 20
    """Clips of a step."""


build_map, localizer = steps_of(
    SequenceDesign(ClipRegressor, with_steps_objective, answer_in_clips)
)

METHOD = Method(
    name="mapnet",
    family="absolute",
    summary="Learns poses and their differences along a sequence; pose graph on demand.",
    paper="Brahmbhatt et al., Geometry-Aware Learning of Maps for Camera Localization, CVPR 2018",
    published="0.21 m, 7.8° (7-Scenes, mean of medians); not reproduced",
    config=MapNetConfig,
    tiny=MapNetConfig(**{**TINY, "batch_size": 11}),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
    presets={
        "pgo": MapNetConfig(pgo=True),
        "paper": MapNetConfig(
            width=2048, pgo_window=7, train_trunk=True, short_side_px=256, pooling=1
        ),
    },
)
