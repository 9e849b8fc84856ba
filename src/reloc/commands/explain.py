"""`reloc explain`: what in a photo the pose hangs on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from torch import Tensor

from reloc import steps
from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.options import Machine, MachineOptions, start_run
from reloc.input_error import InputError
from reloc.maps import Map, refuse_existing
from reloc.nn.saliency import Explaining, Explanation
from reloc.progress import Progress
from reloc.scenes.images import query_from_image

_SCALE = 3
# Beyond this share of the pixels, those that matter most have one colour.
_BRIGHTEST = 0.995
_PICTURE_SHARE = 0.45


@dataclass(frozen=True)
class ExplainArguments(CommonArguments):
    """Show which pixels of a photo move the predicted pose: gradients under noise (SmoothGrad).

    Three pictures side by side: the photo as the network sees it, what moves the position, what
    turns the camera. For methods whose answers can be differentiated: absolute pose regression.
    """

    map: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MAP")]
    """Folder that `reloc map` wrote."""
    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")]
    """The photo."""
    out: Annotated[Path, tyro.conf.arg(metavar="PICTURE")]
    """PNG file to write; it must not exist."""
    samples: int = 16
    """Noisy copies of the photo whose gradients are averaged."""
    focal: float | None = None
    """Focal length of the photo in pixels; None: from EXIF, else the map's field of view."""
    machine: Machine = field(default_factory=MachineOptions)


def _run(arguments: ExplainArguments, progress: Progress) -> Answer:
    refuse_existing(arguments.out)
    if arguments.samples < 1:
        raise InputError(f"--samples {arguments.samples}: give 1 or more")
    if arguments.out.suffix != ".png":
        raise InputError(f"--out {arguments.out}: the picture is a PNG, name it so")
    run = start_run(arguments.machine, progress)
    map_ = Map.load(arguments.map)
    localizer = steps.open_map(map_, run)
    if not isinstance(localizer, Explaining):
        raise InputError(
            f"answers of {map_.method} have no gradient: explain maps of the family absolute"
        )
    photo = query_from_image(arguments.image, focal=arguments.focal)
    explanation = localizer.explain(photo, arguments.samples)
    if explanation is None:
        raise InputError(f"{arguments.image} shows nothing: there is no pose to explain")
    arguments.out.write_bytes(_png(explanation))
    values = {
        "picture": str(arguments.out),
        "method": map_.method,
        "top_pixel_position": _top(explanation.position_hw),
        "top_pixel_rotation": _top(explanation.rotation_hw),
    }
    line = f"{arguments.out}: the photo, what moves the position, what turns the camera"
    return Answer(values, [line])


def _top(saliency_hw: Tensor) -> list[float]:
    """Where the largest value lies: column and row as shares of width and height."""
    height, width = saliency_hw.shape
    row, column = divmod(int(saliency_hw.argmax()), width)
    return [(column + 0.5) / width, (row + 0.5) / height]


def _png(explanation: Explanation) -> bytes:
    """The three pictures side by side."""
    picture = cv2.cvtColor(explanation.picture_hw3.numpy(), cv2.COLOR_RGB2BGR)
    panels = [picture]
    for saliency_hw in (explanation.position_hw, explanation.rotation_hw):
        top = float(saliency_hw.quantile(_BRIGHTEST)) or 1.0
        level = (255 * (saliency_hw / top).clamp(0, 1)).numpy().astype(np.uint8)
        colour = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)
        panels.append(cv2.addWeighted(picture, _PICTURE_SHARE, colour, 1 - _PICTURE_SHARE, 0))
    row = np.concatenate(panels, axis=1)
    large = cv2.resize(row, None, fx=_SCALE, fy=_SCALE, interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".png", large)[1].tobytes()


COMMAND = Command(
    ExplainArguments,
    _run,
    [
        "reloc map posenet-learned data/kitchen --out kitchen.map",
        "reloc explain kitchen.map photo.jpg --out explained.png",
    ],
)
