"""How the parts of a map look, so that a query is asked of those that it looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from reloc.contract import Run, Tensors
from reloc.input_error import InputError
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.nn.descriptors.pooled import pool_codes
from reloc.scenes.scene import View
from reloc.training.augment import Augmentation
from reloc.training.buffer import encode, take_look

# Views whose looks a part is known by.
_MAX_LOOKS = 64
_AS_IT_IS = Augmentation(max_turn_deg=0.0, min_scale=1.0, max_scale=1.0, jitter=0.0)


def describe_parts(
    encoder: nn.Module,
    views: Sequence[View],
    parts: Sequence[Sequence[int]],
    config: CoordinatesConfig,
    run: Run,
) -> Tensors:
    """Looks of some views of each part."""
    order = [index for part in parts for index in part[:: -(-len(part) // _MAX_LOOKS)]]
    looks_LD, view_L = _describe(encoder, views, order, config, run)
    part_of_view = {index: number for number, part in enumerate(parts) for index in part}
    standard = {
        "look_mean": looks_LD.mean(dim=0),
        "look_std": looks_LD.std(dim=0).clamp_min(1e-6),
    }
    return {
        **standard,
        "looks": _normalized(looks_LD, standard),
        "look_parts": torch.tensor([part_of_view[index] for index in view_L.tolist()]),
    }


def add_looks(
    encoder: nn.Module,
    tensors: Tensors,
    views_of: Sequence[Sequence[View]],
    config: CoordinatesConfig,
    run: Run,
) -> Tensors:
    """The looks that a map knows its parts by, and those of new views of each part."""
    added, part_of = [], []
    for number, views in enumerate(views_of):
        if views:
            order = range(0, len(views), -(-len(views) // _MAX_LOOKS))
            looks_LD, _ = _describe(encoder, views, order, config, run)
            added.append(_normalized(looks_LD, tensors))
            part_of += [number] * len(looks_LD)
    return {
        "looks": torch.cat([tensors["looks"], *added]),
        "look_parts": torch.cat([tensors["look_parts"], torch.tensor(part_of)]),
    }


def most_alike(tensors: Tensors, codes_NC: Tensor) -> list[int]:
    """Numbers of the parts, first that with the mapping view that looks most like a query."""
    look_1D = _normalized(pool_codes(codes_NC).cpu()[None], tensors)
    likeness_L = tensors["looks"].float() @ look_1D[0].float()
    part_L = tensors["look_parts"]
    likeness_K = torch.full((int(part_L.max()) + 1,), -torch.inf)
    likeness_K.scatter_reduce_(0, part_L, likeness_L, "amax")
    return likeness_K.argsort(descending=True, stable=True).tolist()


def _describe(
    encoder: nn.Module,
    views: Sequence[View],
    order: Sequence[int],
    config: CoordinatesConfig,
    run: Run,
) -> tuple[Tensor, Tensor]:
    """How views look: the mean and spread of their codes.

    A view that cannot be read, or shows nothing, is left out.

    Returns:
        (L, 2 C) float32, and the index (L,) of the view of each look.
    """
    looks, used = [], []
    rng = np.random.default_rng(run.seed)
    for index in run.progress.track(order, "describing images"):
        try:
            look = take_look(views[index], config.short_side_px, _AS_IT_IS, rng)
        except InputError as error:
            run.log.warning("left out: %s", error)
            continue
        looks.append(pool_codes(encode(encoder, look.grey_HW[None], run)[0]).cpu())
        used.append(index)
    if not looks:
        raise InputError(f"none of the {len(views)} mapping images can be read and has texture")
    return torch.stack(looks), torch.tensor(used)


def _normalized(looks_LD: Tensor, tensors: Tensors) -> Tensor:
    """Looks as a map holds them: their inner product says how alike two are."""
    standard_LD = (looks_LD - tensors["look_mean"]) / tensors["look_std"]
    return nn.functional.normalize(standard_LD, dim=1).half()
