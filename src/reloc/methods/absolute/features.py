"""What networks of the family learn: feature maps of the mapping views, and their poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reloc.contract import Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.absolute.config import AbsoluteConfig
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.looks import Look, SmallCamera, exposed, look_list, take_look
from reloc.methods.absolute.trunks import as_rgb, encode, pooled, trunk_of, trunk_to_train
from reloc.nn.backbones import Trunk
from reloc.scenes.scene import View
from reloc.training.prefetch import prefetch
from reloc.training.stages import kept

Shape = tuple[int, int, int]
"""Channels, height and width of a feature map."""

# Pictures that the trunk is shown at once, at most.
_BATCH_OF_PICTURES = 16


class MapSource(Protocol):
    """Where the feature maps of looks come from."""

    @property
    def shape(self) -> Shape:
        """Of a feature map."""
        ...

    def maps(self, index_B: Tensor) -> Tensor:
        """Maps (B, C, h, w) float32 of some looks."""
        ...


@dataclass(frozen=True, eq=False)
class KeptMaps:
    """Maps that a frozen trunk made once.

    Attributes:
        maps_LChw: float16.
    """

    maps_LChw: Tensor

    @property
    def shape(self) -> Shape:
        """Of a feature map."""
        channels, height, width = self.maps_LChw.shape[1:]
        return channels, height, width

    def maps(self, index_B: Tensor) -> Tensor:
        """Maps (B, C, h, w) of some looks."""
        return self.maps_LChw[index_B].float()


@dataclass(frozen=True, eq=False)
class ShownPictures:
    """Maps that a trunk makes whenever they are asked for, with gradients, as it is trained.

    Attributes:
        picture_LHW3: uint8 RGB.
        trunk: that is trained.
        pooling: cells that are averaged, along each side.
        jitter: largest relative change of a picture's brightness, and of its contrast.
    """

    picture_LHW3: Tensor
    trunk: Trunk
    pooling: int
    jitter: float

    @property
    def shape(self) -> Shape:
        """Of a feature map."""
        with torch.no_grad():
            channels, height, width = self._map_of(self.picture_LHW3[:1], 0.0).shape[1:]
        return channels, height, width

    def maps(self, index_B: Tensor) -> Tensor:
        """Maps (B, C, h, w) of some looks: with gradients, each picture in a random exposure.

        The exposure draws from the process, as dropout does. Where gradients are off, nothing is
        learned: pictures are shown as they are.
        """
        if torch.is_grad_enabled():
            return self._map_of(self.picture_LHW3[index_B], self.jitter)
        parts = index_B.split(_BATCH_OF_PICTURES)
        return torch.cat([self._map_of(self.picture_LHW3[part], 0.0) for part in parts])

    def _map_of(self, picture_BHW3: Tensor, jitter: float) -> Tensor:
        rgb_B3HW = as_rgb(picture_BHW3)
        return pooled(self.trunk(exposed(rgb_B3HW, jitter) if jitter else rgb_B3HW), self.pooling)


@dataclass(frozen=True, eq=False)
class Looks:
    """The mapping views as the network learns them, in the order of the views.

    Attributes:
        source: of their feature maps.
        position_L3: camera centres in the map's frame and unit, float32.
        rotation_L33: frame_from_cam, float32.
        view_L: index of each look's view.
    """

    source: MapSource
    position_L3: Tensor
    rotation_L33: Tensor
    view_L: Tensor

    def __len__(self) -> int:
        return len(self.view_L)

    @property
    def shape(self) -> Shape:
        """Of a feature map."""
        return self.source.shape

    def maps(self, index: Tensor) -> Tensor:
        """Maps (..., C, h, w) of some looks (...), as the network takes them."""
        return self.source.maps(index.flatten()).unflatten(0, index.shape)

    @property
    def trunk(self) -> Trunk | None:
        """That is trained with the network; None where it is frozen."""
        return self.source.trunk if isinstance(self.source, ShownPictures) else None


def looks_of(
    views: Sequence[View], camera: SmallCamera, frame: Frame, config: AbsoluteConfig, run: Run
) -> Looks:
    """The looks at some views, with their maps, or, where the trunk is trained, their pictures.

    Both are kept where the run keeps what it needs to go on.

    Raises:
        InputError: no view can be used, or the trunk's weights are missing.
    """
    if config.train_trunk:
        # First: whether its weights are there shows before minutes of reading.
        trunk = trunk_to_train(config, run)
        tensors = kept(
            run, "pictures", lambda part: look_tensors(views, camera, frame, config, part)
        )
        picture_LHW3 = tensors["picture_LHW3"].to(run.device)
        source = ShownPictures(picture_LHW3, trunk, config.pooling, config.turning.jitter)
    else:
        tensors = kept(run, "looks", lambda part: look_tensors(views, camera, frame, config, part))
        source = KeptMaps(tensors["maps_LChw"].to(run.device))
    poses = [tensors[name].to(run.device) for name in ("position_L3", "rotation_L33", "view_L")]
    return Looks(source, *poses)


def look_tensors(
    views: Sequence[View], camera: SmallCamera, frame: Frame, config: AbsoluteConfig, run: Run
) -> Tensors:
    """Maps or pictures, poses and views. A view that cannot be read, or shows nothing, is logged.

    Raises:
        InputError: no view can be used.
    """
    trunk = None if config.train_trunk else trunk_of(config, run)
    # A trunk that is trained sees each picture in another exposure in each step.
    turning = replace(config.turning, jitter=0.0) if config.train_trunk else config.turning
    by_view: dict[int, list[Look]] = {}
    for look in look_list(len(views), config.num_looks, run.seed):
        by_view.setdefault(look.view, []).append(look)

    def pictures_of(index: int) -> list[tuple[NDArray[np.uint8], Rigid3d]]:
        view = views[index]
        try:
            image_3HW = view.read_image()
            return [take_look(view, image_3HW, look, camera, turning) for look in by_view[index]]
        except InputError as error:
            run.log.warning("left out: %s", error)
            return []

    seen: list[Tensor] = []
    poses: list[Rigid3d] = []
    indices: list[int] = []
    waiting: list[NDArray[np.uint8]] = []

    def see() -> None:
        """What is kept of the waiting pictures."""
        if trunk is None:
            seen.append(torch.from_numpy(np.stack(waiting)))
        else:
            seen.append(encode(trunk, waiting, config.pooling, run).half().cpu())
        waiting.clear()

    coming = prefetch(pictures_of, by_view)
    for index in run.progress.track(list(by_view), "encoding" if trunk else "reading"):
        for picture, cam_from_world in next(coming):
            waiting.append(picture)
            poses.append(cam_from_world)
            indices.append(index)
            if len(waiting) == _BATCH_OF_PICTURES:
                see()
    if waiting:
        see()
    if not seen:
        raise InputError(f"none of the {len(views)} mapping images can be read and has texture")
    position_L3, rotation_L33 = frame.poses(Rigid3d.stack(poses))
    return {
        "maps_LChw" if trunk else "picture_LHW3": torch.cat(seen),
        "position_L3": position_L3,
        "rotation_L33": rotation_L33,
        "view_L": torch.tensor(indices),
    }
