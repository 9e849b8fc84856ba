"""ADPoseNet: cells that may show what moves are left out more often; attention over the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Method
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY, AbsoluteConfig
from reloc.methods.absolute.family import Design, steps_of
from reloc.methods.absolute.features import Looks, Shape
from reloc.nn.descriptors.vlad import learn_vocabulary
from reloc.nn.pose_layers import ImageVector, PoseHead
from reloc.nn.pose_losses import PredictedPose
from reloc.nn.rotations import RotationName

# Cells of which the vocabulary is learned.
_MAX_CELLS = 20_000
# Views by which it is judged how often a word is seen.
_MAX_VIEWS = 400
_SPATIAL_KERNEL = 3


@dataclass(frozen=True)
class ADPoseNetConfig(AbsoluteConfig):
    """Settings of ADPoseNet.

    The paper's prior is a table of things that move, found by a network that names things. No such
    network ships here: the prior is how seldom the mapping views show a cell's like.
    """

    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    num_words: int = 64
    """Kinds of cells."""
    max_cell_dropout: float = 0.5
    """Share in which cells of the rarest kind are left out in training; of the commonest none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_words < 1 or not 0 <= self.max_cell_dropout < 1:
            raise ValueError("num_words is at least 1, and max_cell_dropout in [0, 1)")


class ADPoseNet(nn.Module):
    """Cells under guided dropout; attention over channels and places; position and rotation."""

    def __init__(self, shape: Shape, config: ADPoseNetConfig) -> None:
        super().__init__()
        channels = config.channels
        self.vector = ImageVector(shape, channels, config.width, config.dropout)
        self.channel = nn.Sequential(
            nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels)
        )
        self.spatial = nn.Conv2d(2, 1, _SPATIAL_KERNEL, padding=_SPATIAL_KERNEL // 2)
        self.head = PoseHead(config.width, config.rotation)
        self.register_buffer("words_KC", torch.zeros(config.num_words, shape[0]))
        self.register_buffer("left_out_K", torch.zeros(config.num_words))

    def forward(self, map_BChw: Tensor) -> PredictedPose:
        """Poses of feature maps."""
        if self.training:
            map_BChw = map_BChw * self._kept(map_BChw)
        hidden = self.vector.first(map_BChw)
        pooled = torch.stack([hidden.mean((-2, -1)), hidden.amax((-2, -1))])
        hidden = hidden * self.channel(pooled).sum(0).sigmoid()[..., None, None]
        places = torch.stack([hidden.mean(1), hidden.amax(1)], dim=1)
        hidden = hidden * self.spatial(places).sigmoid()
        return self.head(self.vector.vector(self.vector.second(hidden)))

    def words(self, map_BChw: Tensor) -> Tensor:
        """The kind (B, h, w) of each cell: its nearest word."""
        cells = map_BChw.movedim(1, -1)
        words_KC = self.get_buffer("words_KC")
        # Argmin of the distances, without the part that is the same for all words.
        return (cells @ words_KC.T - words_KC.square().sum(-1) / 2).argmax(-1)

    def _kept(self, map_BChw: Tensor) -> Tensor:
        """Which cells (B, 1, h, w) are kept, scaled so that their mean is as before."""
        share = 1 - self.get_buffer("left_out_K")[self.words(map_BChw)]
        return (torch.rand_like(share) < share)[:, None] / share[:, None]


def prepare(network: nn.Module, looks: Looks, config: ADPoseNetConfig) -> None:
    """Learn kinds of cells, and how seldom the views show each."""
    assert isinstance(network, ADPoseNet)
    some_L = torch.linspace(0, len(looks) - 1, min(len(looks), _MAX_VIEWS)).long()
    maps = looks.maps(some_L).cpu()
    cells_NC = maps.movedim(1, -1).flatten(0, 2)
    cells_NC = cells_NC[:: max(1, len(cells_NC) // _MAX_CELLS)]
    words_KC = learn_vocabulary(cells_NC, config.num_words, seed=0)
    network.get_buffer("words_KC")[: len(words_KC)].copy_(words_KC)
    words = network.words(maps.to(looks.view_L.device)).flatten(1)
    shows_LK = functional.one_hot(words, config.num_words).amax(1).float()
    seldom_K = 1 - shows_LK.mean(0) / shows_LK.mean(0).max()
    network.get_buffer("left_out_K").copy_(config.max_cell_dropout * seldom_K)


build_map, localizer = steps_of(Design(ADPoseNet, prepare=prepare))

METHOD = Method(
    name="adposenet",
    family="absolute",
    summary="Leaves out cells of rare kinds in training; channel and spatial attention.",
    paper="Huang et al., Prior Guided Dropout for Robust Visual Localization in Dynamic "
    "Environments, ICCV 2019",
    published="1.60 m, 4.2° (three scenes of Cambridge); not reproduced",
    config=ADPoseNetConfig,
    tiny=ADPoseNetConfig(**TINY, num_words=16),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
)
