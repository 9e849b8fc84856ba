"""GLACE: ACE's head, told what its image looks like as a whole, and points said from clusters.

Two places that look alike cell by cell differ as images: the head gets a global code of the image
beside the code of the cell. In training the global code is noisy, so that images of one place,
whose codes are similar, share what they learn. Points are said from a mixture of centres of the
mapping cameras, so that one small head says those of a large place, too. A map is a head as ACE's;
without the global code and the clusters it is ACE's.

Where this differs from the paper:

- The global code is the GeM descriptor of this package on the shared encoder, with a whitening of
  the mapping views, in at most `global_dimensions` numbers and fewer where there are few views; the
  paper's are the 256 of R2Former.
- It is scaled to the size of the cells' codes, number by number, after it was normalised.
- Head, encoder, training with triangulated points and sureness of cells are those of `ace` here.

Source: Wang et al., "GLACE: global local accelerated coordinate encoding", CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from reloc.contract import Localizer, Method, Run, Tensors, UnfinishedMapError
from reloc.input_error import InputError
from reloc.methods.coordinates.ace import mapping_loss
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.global_codes import GlobalCodes
from reloc.methods.coordinates.localizer import CoordinatesLocalizer
from reloc.methods.coordinates.map_tensors import shared_encoder
from reloc.methods.coordinates.mapping import train_head
from reloc.methods.coordinates.points import Loss
from reloc.nn.descriptors import fit_descriptor, open_descriptor
from reloc.nn.descriptors.descriptor import Descriptor
from reloc.nn.descriptors.gem import GemConfig
from reloc.nn.shared_encoder import encoder_of_map
from reloc.scenes.scene import View
from reloc.training.stages import kept

_GLOBAL, _CODES = "global.", "codes"


@dataclass(frozen=True)
class GlaceConfig(CoordinatesConfig):
    """Settings of GLACE. The defaults map a room on two cores; `paper` has the paper's sizes."""

    global_dimensions: int = 128
    """Numbers of the code of a whole image, at most; 0: cells are not told of their image."""
    global_noise: float = 0.1
    """Standard deviation of the noise on each of these numbers in training."""
    num_clusters: int = 8
    """Clusters of the mapping cameras from whose centres points are said; below 2, points are said
    from the one centre of all cameras."""
    depth_adjusted: float = 0.0
    """Above 0, errors of points at depth d count d / sqrt(d² + this²) times as much (R-SCoRe); in
    the extent of the mapping cameras."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("global_dimensions", "global_noise", "num_clusters", "depth_adjusted"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it cannot be negative")


def build_map(views: Sequence[View], config: GlaceConfig, run: Run) -> Tensors:
    """Describe the mapping views, and train a head on their cells by reprojection.

    Raises:
        InputError: no view can be read or shows anything, or all are taken from one place.
    """
    encoder, shared = shared_encoder(config, run)
    global_codes = None
    if config.global_dimensions:
        described = kept(run, "global_codes", partial(_describe, views, config))
        state = {name: tensor for name, tensor in described.items() if name != _CODES}
        codes_VD = described[_CODES].to(run.device)
        global_codes = GlobalCodes(_opened(state, config), codes_VD, config.global_noise)
        shared |= {_GLOBAL + name: tensor for name, tensor in state.items()}
    train = partial(train_head, global_codes=global_codes, num_clusters=config.num_clusters)
    try:
        return {**shared, **train(encoder, views, config, _loss(config), run)}
    except UnfinishedMapError as unfinished:
        raise UnfinishedMapError({**shared, **unfinished.tensors}) from None


def localizer(tensors: Tensors, config: GlaceConfig, run: Run) -> Localizer:
    """Answers by the pose that most predicted points agree on.

    Raises:
        InputError: the encoder that is installed is another one.
    """
    state = {
        name.removeprefix(_GLOBAL): tensor
        for name, tensor in tensors.items()
        if name.startswith(_GLOBAL)
    }
    descriptor = _opened(state, config) if state else None
    encoder = encoder_of_map(tensors, config.encoder, run)
    return CoordinatesLocalizer(encoder, tensors, config, run, descriptor=descriptor)


def _loss(config: GlaceConfig) -> Loss:
    return partial(
        mapping_loss,
        loose_px=config.loose_px,
        tight_px=config.tight_px,
        depth_adjusted=config.depth_adjusted,
    )


def _describe(views: Sequence[View], config: GlaceConfig, run: Run) -> Tensors:
    """The state of a descriptor of the views, and their codes (V, D)."""
    readable = [_black_if_broken(view) for view in views]
    descriptor, codes_VD = fit_descriptor("gem", readable, run, _gem(config))
    return {**descriptor.state(), _CODES: codes_VD}


def _opened(state: Tensors, config: GlaceConfig) -> Descriptor:
    return open_descriptor("gem", state, _gem(config))


def _gem(config: GlaceConfig) -> GemConfig:
    """What an image looks like as a whole shows at half the size."""
    return GemConfig(
        config.encoder,
        short_side_px=max(1, config.short_side_px // 2),
        num_dimensions=config.global_dimensions,
    )


def _black_if_broken(view: View) -> View:
    """The view; one that cannot be read looks black here, and no cell of it is learned from."""

    def read() -> Tensor:
        try:
            return view.read_image()
        except InputError:
            return torch.zeros(3, view.camera.height, view.camera.width, dtype=torch.uint8)

    return replace(view, image_reader=read)


METHOD = Method(
    name="glace",
    family="coordinates",
    summary="ACE's head, told a code of the whole image; points from a mixture of camera clusters.",
    paper="Wang et al., GLACE: Global Local Accelerated Coordinate Encoding, CVPR 2024",
    published="0.14 m, 0.3° (Cambridge, mean of medians); not reproduced",
    config=GlaceConfig,
    tiny=GlaceConfig(
        short_side_px=160,
        width=96,
        num_images=60,
        cells_per_image=400,
        steps=150,
        batch_size=512,
        num_clusters=4,
    ),
    build_map=build_map,
    localizer=localizer,
    presets={
        "paper": GlaceConfig(
            width=768,
            num_blocks=2,
            num_images=16_000,
            cells_per_image=1024,
            batch_size=40_960,
            steps=30_000,
            max_learning_rate=5e-3,
            warm_up=0.3,
            muon=None,
            points_until=0.0,
            loose_px=51.0,
            global_dimensions=256,
            num_clusters=50,
        ),
    },
    maps_depth=True,
)
