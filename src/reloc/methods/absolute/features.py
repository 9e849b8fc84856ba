"""Feature maps of the mapping views, as networks of the family learn them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text
from reloc.methods.absolute.config import AbsoluteConfig
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.looks import Look, SmallCamera, look_list, take_look
from reloc.nn.backbones import Trunk, load_trunk
from reloc.nn.backbones.checkpoint import checkpoint_sha256
from reloc.nn.weights import encoder_sha256
from reloc.scenes.scene import View
from reloc.training.prefetch import prefetch

Shape = tuple[int, int, int]
"""Channels, height and width of a feature map."""

# Pictures that the trunk is shown at once.
_BATCH_OF_PICTURES = 16


@dataclass(frozen=True, eq=False)
class Looks:
    """The mapping views as the network learns them, in the order of the views.

    Attributes:
        maps_LChw: float16 feature maps.
        position_L3: camera centres in the map's frame and unit, float32.
        rotation_L33: frame_from_cam, float32.
        view_L: index of each look's view.
    """

    maps_LChw: Tensor
    position_L3: Tensor
    rotation_L33: Tensor
    view_L: Tensor

    def __len__(self) -> int:
        return len(self.view_L)

    @property
    def shape(self) -> Shape:
        """Of a feature map."""
        channels, height, width = self.maps_LChw.shape[1:]
        return channels, height, width

    def maps(self, index_B: Tensor) -> Tensor:
        """Some of the maps, as the network takes them."""
        return self.maps_LChw[index_B].float()

    def to(self, device: str) -> Looks:
        """On a device."""
        return Looks(
            self.maps_LChw.to(device),
            self.position_L3.to(device),
            self.rotation_L33.to(device),
            self.view_L.to(device),
        )


def trunk_sha256(config: AbsoluteConfig) -> str:
    """What a map names the trunk by that it needs.

    Raises:
        InputError: the weights cannot be read.
    """
    if config.trunk == "encoder":
        return encoder_sha256("base")
    return checkpoint_sha256(Path(config.trunk_weights)) if config.trunk_weights else ""


def trunk_of(config: AbsoluteConfig, run: Run) -> Trunk:
    """The trunk of a config.

    Raises:
        InputError: its weights are missing.
    """
    weights = Path(config.trunk_weights) if config.trunk_weights else None
    return load_trunk(config.trunk, weights).to(run.device)


def encode_looks(
    views: Sequence[View], camera: SmallCamera, frame: Frame, config: AbsoluteConfig, run: Run
) -> dict[str, Tensor]:
    """The tensors of `Looks`. A view that cannot be read, or shows nothing, is named in the log.

    Raises:
        InputError: no view can be used.
    """
    trunk = trunk_of(config, run)
    by_view: dict[int, list[Look]] = {}
    for look in look_list(len(views), config.num_looks, run.seed):
        by_view.setdefault(look.view, []).append(look)

    def pictures_of(index: int) -> list[tuple[NDArray[np.uint8], Rigid3d]]:
        view = views[index]
        try:
            image_3HW = view.read_image()
            return [
                take_look(view, image_3HW, look, camera, config.turning) for look in by_view[index]
            ]
        except InputError as error:
            run.log.warning("left out: %s", error)
            return []

    maps: list[Tensor] = []
    poses: list[Rigid3d] = []
    indices: list[int] = []
    waiting: list[NDArray[np.uint8]] = []
    coming = prefetch(pictures_of, by_view)
    for index in run.progress.track(list(by_view), "encoding"):
        for picture, cam_from_world in next(coming):
            waiting.append(picture)
            poses.append(cam_from_world)
            indices.append(index)
        if len(waiting) >= _BATCH_OF_PICTURES:
            maps.append(encode(trunk, waiting, config.pooling, run).half().cpu())
            waiting = []
    if waiting:
        maps.append(encode(trunk, waiting, config.pooling, run).half().cpu())
    if not maps:
        raise InputError(f"none of the {len(views)} mapping images can be read and has texture")
    position_L3, rotation_L33 = frame.poses(Rigid3d.stack(poses))
    return {
        "maps_LChw": torch.cat(maps),
        "position_L3": position_L3,
        "rotation_L33": rotation_L33,
        "view_L": torch.tensor(indices),
    }


@torch.no_grad()
def encode(
    trunk: nn.Module, pictures: Sequence[NDArray[np.uint8]], pooling: int, run: Run
) -> Tensor:
    """Feature maps (B, C, h, w) float32 of pictures (h, w, 3) of one size."""
    rgb_B3HW = torch.from_numpy(np.stack(pictures)).to(run.device).permute(0, 3, 1, 2).float() / 255
    return pooled(trunk(rgb_B3HW), pooling)


def pooled(map_BChw: Tensor, pooling: int) -> Tensor:
    """The mean over squares of cells; at least one cell is left."""
    height, width = (max(1, side // pooling) for side in map_BChw.shape[-2:])
    return functional.adaptive_avg_pool2d(map_BChw, (height, width))


def check_trunk(tensors: Tensors, config: AbsoluteConfig) -> None:
    """See that a map's trunk is the one that is here.

    Raises:
        InputError: it is another one.
    """
    if tensor_to_text(tensors["trunk_sha256"]) != [trunk_sha256(config)]:
        raise InputError(
            f"the map needs other weights of the trunk {config.trunk} than are here: build it anew"
        )
