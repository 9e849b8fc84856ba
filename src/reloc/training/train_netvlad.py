"""Training of NetVLAD on one scene: views near each other are to be alike, others are not.

The poses say which views may show the same and which cannot; whether two near views really do is
not known, which is why the supervision is called weak. Source: Arandjelović et al., "NetVLAD: CNN
architecture for weakly supervised place recognition", CVPR 2016, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run
from reloc.geometry.near_views import is_within
from reloc.geometry.rigid3d import Rigid3d
from reloc.nn.descriptors.codes import ImageCodes
from reloc.nn.descriptors.descriptor import Descriptor, spread_over
from reloc.nn.descriptors.netvlad import (
    NetVladConfig,
    NetVladLayer,
    initial_layer,
    with_whitening,
)
from reloc.scenes.scene import View
from reloc.training.fit import FitConfig, fit

# Views that a layer is trained on, and cells of each: more add time and little else.
_MAX_VIEWS, _CELLS = 300, 400
# Views whose vectors are computed at once.
_BATCH = 32


@dataclass(frozen=True)
class NetVladTraining:
    """Settings of the training of NetVLAD."""

    steps: int = 300
    """Steps; 0 leaves the words as k-means found them."""
    learning_rate: float = 2e-4
    """Of AdamW."""
    margin: float = 0.1
    """By how much a view that shows something else must be farther, in squared distances."""
    tuples: int = 4
    """Views asked for in a step."""
    negatives: int = 5
    """Views of other places that each is compared with: those that look most like it."""
    refresh: int = 50
    """Steps after which it is found anew which these are."""
    near_share: float = 0.12
    """Views within this share of the scene's extent..."""
    near_deg: float = 35.0
    """...and turned by no more than this show the same place."""
    far_share: float = 0.3
    """Views farther apart than this share of the extent..."""
    far_deg: float = 60.0
    """...or turned by more than this show another."""

    def __post_init__(self) -> None:
        for name in ("tuples", "negatives", "refresh"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.steps < 0 or self.learning_rate <= 0:
            raise ValueError("steps cannot be negative, and learning_rate must be positive")
        if self.near_share > self.far_share or self.near_deg > self.far_deg:
            raise ValueError("views that show the same must be nearer than views that do not")


def fit_netvlad(
    views: Sequence[View], config: NetVladConfig, training: NetVladTraining, run: Run
) -> tuple[Descriptor, Tensor]:
    """NetVLAD trained on the views, and their vectors (N, D): as `fit_descriptor` gives them.

    A scene without pairs of near and of far views keeps the words of k-means.

    Raises:
        InputError: an image cannot be read, or none has any contrast.
    """
    codes = ImageCodes(config.encoder, config.short_side_px)
    layer = initial_layer(views, codes, config.num_words, run.seed)
    if training.steps:
        train_layer(layer, views, codes, training, run)
    return with_whitening(codes, layer, views, config.num_dimensions, run)


def near_and_far(cam_from_world: Rigid3d, training: NetVladTraining) -> tuple[Tensor, Tensor]:
    """(V, V) bool: pairs of views that are near each other, and that are far; none with itself."""
    near_VV = is_within(cam_from_world, training.near_share, training.near_deg)
    far_VV = ~is_within(cam_from_world, training.far_share, training.far_deg)
    return near_VV.fill_diagonal_(False), far_VV


def train_layer(
    layer: NetVladLayer,
    views: Sequence[View],
    codes: ImageCodes,
    training: NetVladTraining,
    run: Run,
) -> None:
    """Train a layer in place, with the triplet loss of equation 7."""
    chosen = list(spread_over(len(views), _MAX_VIEWS))
    generator = torch.Generator().manual_seed(run.seed)
    kept, rows = [], []
    for index in run.progress.track(chosen, "encoding"):
        codes_NC = codes(views[index].read_image())
        if codes_NC is not None:
            # As many of each, so that they stack: an image of fewer cells shows some twice.
            cells_N = torch.randperm(len(codes_NC), generator=generator)
            cells_N = cells_N.repeat(-(-_CELLS // len(cells_N)))[:_CELLS]
            kept.append(index)
            rows.append(codes_NC[cells_N].half())
    codes_VNC = torch.stack(rows)
    poses = Rigid3d.stack([views[index].cam_from_world for index in kept])
    near_VV, far_VV = near_and_far(poses, training)
    askable_V = (near_VV.any(1) & (far_VV.sum(1) >= training.negatives)).nonzero()[:, 0]
    if not len(askable_V):
        run.log.info("no views are near enough and far enough to train NetVLAD with")
        return
    vectors_VL = torch.empty(0)

    def loss_at(step: int) -> Tensor:
        nonlocal vectors_VL
        if step % training.refresh == 0 or not len(vectors_VL):
            vectors_VL = _vectors(layer, codes_VNC)
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
        picked_T = torch.randint(len(askable_V), (training.tuples,), generator=generator)
        asked_T = askable_V[picked_T]
        positive_T = torch.multinomial(near_VV[asked_T].float(), 1, generator=generator)[:, 0]
        likeness_TV = vectors_VL[asked_T] @ vectors_VL.T
        likeness_TV = likeness_TV.masked_fill(~far_VV[asked_T], -torch.inf)
        negative_TJ = likeness_TV.topk(training.negatives, dim=1).indices
        rows = torch.cat([asked_T, positive_T, negative_TJ.flatten()])
        vectors = layer(codes_VNC[rows].float())
        asked, positive, negative = vectors.split(
            [training.tuples, training.tuples, negative_TJ.numel()]
        )
        negative = negative.reshape(*negative_TJ.shape, -1)
        to_positive_T1 = (asked - positive).square().sum(-1, keepdim=True)
        to_negative_TJ = (asked[:, None] - negative).square().sum(-1)
        return functional.relu(to_positive_T1 + training.margin - to_negative_TJ).mean()

    schedule = FitConfig(training.steps, lambda step: training.learning_rate, weight_decay=1e-3)
    # Seconds of work: not worth a checkpoint, whose folder is that of the map.
    fit(layer, loss_at, schedule, replace(run, checkpoint_folder=None), "NetVLAD")


@torch.no_grad()
def _vectors(layer: NetVladLayer, codes_VNC: Tensor) -> Tensor:
    return torch.cat([layer(batch.float()) for batch in codes_VNC.split(_BATCH)])
