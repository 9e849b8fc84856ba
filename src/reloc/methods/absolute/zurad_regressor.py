"""Żurad's Regressor: a plain network, and the logarithm of the quaternion error as its loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, steps_of
from reloc.nn.pose_losses import PoseLossConfig
from reloc.nn.rotations import RotationName


@dataclass(frozen=True)
class ZuradRegressorConfig(AbsoluteConfig):
    """Settings of the Regressor. The preset nh has the plain quaternion in its loss."""

    rotation: RotationName = "quaternion"
    """How rotations are written."""
    loss: PoseLossConfig = field(
        default_factory=lambda: PoseLossConfig(
            distance="quaternion-error", rotation_log_variance=0.0
        )
    )
    """Which loss: QEH, with log-variances that begin at 0."""
    dropout: float = 0.0
    """Share of the outputs that are left out in training."""


build_map, localizer = steps_of(Design())

METHOD = Method(
    name="zurad-regressor",
    family="absolute",
    summary="Frozen trunk and one hidden layer, learned by the log of the quaternion error.",
    paper="Żurad, Deep Convolutional Neural Networks for Camera Relocalization, University of "
    "Luxembourg 2017",
    published="0.188 m, 5.8° (chess); not reproduced",
    config=ZuradRegressorConfig,
    tiny=ZuradRegressorConfig(**TINY),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    presets={"nh": ZuradRegressorConfig(loss=PoseLossConfig(rotation_log_variance=0.0))},
)
