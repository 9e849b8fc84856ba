"""The feature buffer: codes of many cells of many views, shuffled together.

A cell keeps its code, the viewing ray of its centre and the index of its view. The ray is in the
frame of the view as it was taken: however an image was resized or turned before it was encoded, and
whatever its lens, the target is the same, and no matrix is kept per cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.nn.encoder import STRIDE, cell_centers, grey_from_rgb
from reloc.nn.precision import autocast
from reloc.scenes.scene import View
from reloc.training.augment import Augmentation, augment
from reloc.training.prefetch import prefetch

_MAX_ASPECT = 4
# Standard deviation, in grey values, below which an image shows nothing: black, or overexposed.
_MIN_CONTRAST = 1.0


@dataclass(frozen=True, eq=False)
class FeatureBuffer:
    """Cells to train a head with.

    Attributes:
        codes_NC: float16 or bfloat16.
        rays_N2: float32, on the plane z = 1 of the view's camera, without distortion.
        view_N: int32, which view a cell is of.
        depth_N: float32, along the optical axis, NaN where unknown.
    """

    codes_NC: Tensor
    rays_N2: Tensor
    view_N: Tensor
    depth_N: Tensor

    def __len__(self) -> int:
        return len(self.view_N)

    def at(self, index_N: Tensor) -> FeatureBuffer:
        """Some of the cells."""
        return FeatureBuffer(
            self.codes_NC[index_N],
            self.rays_N2[index_N],
            self.view_N[index_N],
            self.depth_N[index_N],
        )


@dataclass(frozen=True, eq=False)
class Look:
    """A view in one look, and what is known of its cells, row by row.

    Attributes:
        grey_HW: uint8, to be encoded.
        rays_N2: float64, on the plane z = 1 of the view's camera, without distortion.
        depth_N: float32, along the optical axis, NaN where unknown.
        usable_N: whether a cell lies in the view.
    """

    grey_HW: Tensor
    rays_N2: Tensor
    depth_N: Tensor
    usable_N: Tensor


def take_look(
    view: View,
    short_side_px: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
    with_depth: bool = False,
) -> Look:
    """Read a view and change its look.

    Raises:
        InputError: the view cannot be read, or shows nothing.
    """
    image_3HW = view.read_image()
    depth_HW = view.read_depth() if with_depth else None
    grey_HW = resized_grey(image_3HW, short_side_px)
    if grey_HW.std() < _MIN_CONTRAST:
        raise InputError(f"image {view.name} has no texture")
    height, width = grey_HW.shape
    image, original_from_augmented = augment(grey_HW, augmentation, rng)
    pixels_N2 = cell_centers(image.shape[0] // STRIDE, image.shape[1] // STRIDE).double()
    pixels_N2 = pixels_N2 @ original_from_augmented[:, :2].T + original_from_augmented[:, 2]
    # From pixels of the resized image to those of the one that the camera is for.
    pixels_N2 *= torch.tensor([view.camera.width / width, view.camera.height / height])
    rays_N2 = view.camera.cam_from_img(pixels_N2)
    limits = torch.tensor([view.camera.width, view.camera.height])
    usable_N = ((pixels_N2 >= 0) & (pixels_N2 < limits) & rays_N2.isfinite()).all(-1)
    return Look(image, rays_N2, depth_at(depth_HW, pixels_N2), usable_N)


def fill_buffer(
    encoder: nn.Module,
    views: Sequence[View],
    order: Sequence[int],
    cells_per_image: int,
    short_side_px: int,
    augmentation: Augmentation,
    run: Run,
    with_depth: bool = False,
) -> FeatureBuffer:
    """Encode views, each in a new look, and keep random cells of each.

    A view that cannot be read, or shows nothing, is named in the log and left out.

    Args:
        encoder: frozen: grey images (B, 1, H, W) to codes (B, C, H // 8, W // 8).
        views: the mapping views.
        order: indices of the views to encode; one that is listed twice is seen in two looks.
        cells_per_image: most cells kept of an image.
        short_side_px: to which the shorter side of an image is resized before its look is changed.
        augmentation: of the looks.
        run: device, seed, precision.
        with_depth: read the views' depth, where they have it.

    Raises:
        InputError: no view can be used.
    """

    def look_at(number: int) -> tuple[Look, Tensor] | None:
        """The number-th entry in a new look, and those of its cells that are kept."""
        rng = np.random.default_rng((run.seed, number))
        try:
            look = take_look(views[order[number]], short_side_px, augmentation, rng, with_depth)
        except InputError as error:
            run.log.warning("left out: %s", error)
            return None
        cells = look.usable_N.nonzero()[:, 0]
        return look, cells[torch.from_numpy(rng.permutation(len(cells)))][:cells_per_image]

    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    numbers = range(len(order))
    looks = prefetch(look_at, numbers)
    for number in run.progress.track(numbers, "encoding"):
        seen = next(looks)
        if seen is None:
            continue
        look, cells = seen
        codes_NC = encode(encoder, look.grey_HW[None], run)[0][cells.to(run.device)]
        view_N = torch.full((len(cells),), order[number], dtype=torch.int32)
        parts.append((codes_NC, look.rays_N2[cells].float(), view_N, look.depth_N[cells]))
    if not parts:
        raise InputError(f"none of the {len(views)} mapping images can be read and has texture")
    codes, rays, view, depth = (
        torch.cat(column).to(run.device) for column in zip(*parts, strict=True)
    )
    return FeatureBuffer(codes, rays, view, depth)


@torch.no_grad()
def encode(encoder: nn.Module, grey_BHW: Tensor, run: Run) -> Tensor:
    """Codes (B, h * w, C) of uint8 images of one size, in float16; the cells row by row."""
    with autocast(run):
        grey = grey_BHW.to(run.device)[:, None].contiguous(memory_format=torch.channels_last)
        codes_BChw = encoder(grey.float() / 255)
    return codes_BChw.half().flatten(2).mT.contiguous()


def resized_grey(image_3HW: Tensor, short_side_px: int) -> np.ndarray:
    """(H', W') uint8: grey, its shorter side as asked; never so small that it has no cell.

    The longer side is at most `_MAX_ASPECT` times as long as asked of the shorter one: a strip of
    a few pixels is not blown up to gigabytes.
    """
    grey = grey_from_rgb(image_3HW)[0].numpy()
    scale = min(short_side_px / min(grey.shape), _MAX_ASPECT * short_side_px / max(grey.shape))
    size = [max(8, round(side * scale)) for side in grey.shape[::-1]]
    if size == list(grey.shape[::-1]):
        return grey
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def depth_at(depth_HW: Tensor | None, pixels_N2: Tensor) -> Tensor:
    """Depth (N,) at pixels of the depth map's own image, NaN where there is none."""
    if depth_HW is None:
        return torch.full((len(pixels_N2),), torch.nan)
    limits = torch.tensor([depth_HW.shape[1] - 1, depth_HW.shape[0] - 1])
    # Of pixels outside, which are looked up too and not used, the nearest.
    columns, rows = pixels_N2.long().clamp_min(0).minimum(limits).unbind(-1)
    depth_N = depth_HW[rows, columns].float()
    return torch.where(depth_N > 0, depth_N, torch.nan)
