"""A paper's own network, trained from nothing on the mapping views of one scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.methods.coordinates.cameras import MappingCameras
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.points import Loss
from reloc.nn.heads import CoordinateHead
from reloc.nn.precision import autocast
from reloc.scenes.scene import View
from reloc.training.buffer import FeatureBuffer, Look, take_look
from reloc.training.fit import FitConfig, fit
from reloc.training.prefetch import prefetch
from reloc.training.schedule import one_cycle

# Views that are drawn for a step until one can be read.
_MOST_DRAWS = 100


class Trunk(nn.Module):
    """Grey images (B, 1, H, W) in [0, 1] to codes (B, `code`, H // 8, W // 8)."""

    code: int


def train_from_nothing(
    trunk: Trunk,
    head: CoordinateHead,
    views: Sequence[View],
    learned: Sequence[int],
    cameras: MappingCameras,
    config: CoordinatesConfig,
    loss: Loss,
    run: Run,
) -> None:
    """Train a network in place: a step is one view in a new look, and `batch_size` of its cells.

    Args:
        trunk: from images to codes.
        head: from codes to points.
        views: the mapping views.
        learned: indices of those to learn from.
        cameras: of all views.
        config: of the training.
        loss: of a batch of cells, as for a head on a frozen encoder.
        run: device, seed, progress.

    Raises:
        InputError: hardly a view can be read and shows something.
    """
    network = nn.ModuleList([trunk, head])

    left_out: set[int] = set()

    def look_at(step: int) -> tuple[int, Look, Tensor]:
        rng = np.random.default_rng((run.seed, step))
        for _ in range(_MOST_DRAWS):
            index = learned[int(rng.integers(len(learned)))]
            try:
                look = take_look(
                    views[index], config.short_side_px, config.augmentation, rng, config.depth
                )
            except InputError as error:
                if index not in left_out:
                    run.log.warning("left out: %s", error)
                left_out.add(index)
                continue
            cells = look.usable_N.nonzero()[:, 0]
            return index, look, cells[torch.from_numpy(rng.permutation(len(cells)))]
        raise InputError(
            f"hardly one of the {len(learned)} mapping images can be read and has texture: the "
            "warnings name them"
        )

    coming = None

    def loss_at(step: int) -> Tensor:
        # The next looks are taken beside the step; the first step says where to begin.
        nonlocal coming
        if coming is None:
            coming = prefetch(look_at, range(step, config.steps))
        index, look, cells_N = next(coming)
        cells_N = cells_N[: config.batch_size]
        with autocast(run):
            codes_NC = trunk(grey_batch(look.grey_HW, run.device))[0].flatten(1).mT
            cells = FeatureBuffer(
                codes_NC[cells_N.to(run.device)],
                look.rays_N2[cells_N].float().to(run.device),
                torch.full((len(cells_N),), index, dtype=torch.int32, device=run.device),
                look.depth_N[cells_N].to(run.device),
            )
            every = torch.arange(len(cells), device=run.device)
            return loss(head, cells, cameras, every, step / config.steps)

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: one_cycle(step, config.steps, config.max_learning_rate),
    )
    fit(network, loss_at, schedule, run, "training from nothing")


def grey_batch(grey_HW: Tensor, device: str) -> Tensor:
    """One uint8 image as a batch (1, 1, H, W) in [0, 1]."""
    return grey_HW.to(device)[None, None].float() / 255
