"""What is seen where: labels of the mapping views, for methods that learn them, too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run, Tensors
from reloc.input_error import InputError
from reloc.methods.absolute.config import AbsoluteConfig
from reloc.methods.absolute.features import Looks
from reloc.methods.absolute.looks import SmallCamera, look_list, take_labels
from reloc.scenes.scene import View

# Labels are kept of each so many pixels, along each side: cells of maps are larger.
_EVERY = 4


def label_tensors(views: Sequence[View], config: AbsoluteConfig, run: Run) -> Tensors:
    """Labels of all looks that a map is learned from.

    Returns:
        `label_LHW`: uint8 at every fourth pixel of the pictures; `view_L`: index of each look's
        view. In the order of the views; also those of views whose picture cannot be read.

    Raises:
        InputError: a view has no labels, or those of another size, or nothing is labelled.
    """
    without = [view.name for view in views if view.label_reader is None]
    if without:
        raise InputError(
            f"semantics are learned from labels, and {len(without)} of {len(views)} mapping views "
            f"have none ({without[0]}): only rendered rooms have them; leave semantics out"
        )
    camera = SmallCamera.of(views, config.short_side_px)
    looks = sorted(look_list(len(views), config.num_looks, run.seed), key=lambda look: look.view)
    labels, label_HW, read = [], torch.empty(0), -1
    for look in looks:
        view = views[look.view]
        if look.view != read:
            label_HW, read = _read(view), look.view
        taken = take_labels(view, label_HW, look, camera, config.turning)
        labels.append(taken[_EVERY // 2 :: _EVERY, _EVERY // 2 :: _EVERY])
    label_LHW = torch.from_numpy(np.stack(labels))
    if not bool(label_LHW.any()):
        raise InputError(f"the labels of all {len(views)} mapping views are 0: nothing is known")
    return {"label_LHW": label_LHW, "view_L": torch.tensor([look.view for look in looks])}


def _read(view: View) -> Tensor:
    """The labels of a view that has some.

    Raises:
        InputError: they are not of the size of its image.
    """
    label_HW = view.read_labels()
    assert label_HW is not None
    if tuple(label_HW.shape) != (view.camera.height, view.camera.width):
        raise InputError(
            f"the labels of {view.name} are {label_HW.shape[1]}x{label_HW.shape[0]} pixels but its "
            f"camera is for {view.camera.width}x{view.camera.height}"
        )
    return label_HW


def labels_of(looks: Looks, labels: Tensors) -> Tensor:
    """Of the labels of all looks, those (L, H, W) of the looks that are learned."""
    # A view that is left out is left out in all of its looks.
    kept_K = torch.isin(labels["view_L"], looks.view_L.cpu())
    return labels["label_LHW"][kept_K].to(looks.view_L.device)


def shares(label_BHW: Tensor, num_kinds: int, size: tuple[int, int]) -> Tensor:
    """How much of each cell is of each kind from 1 on: (B, num_kinds, *size), labels in uint8."""
    kinds_BHWK = functional.one_hot(label_BHW.long(), num_kinds + 1)[..., 1:].float()
    return functional.adaptive_avg_pool2d(kinds_BHWK.permute(0, 3, 1, 2), size)


def label_loss(logits_BKhw: Tensor, share_BKhw: Tensor) -> Tensor:
    """Cross-entropy of the kinds in a cell, the mean over all that is known."""
    known = share_BKhw.sum().clamp_min(1e-6)
    return -(share_BKhw * logits_BKhw.log_softmax(1)).sum() / known
