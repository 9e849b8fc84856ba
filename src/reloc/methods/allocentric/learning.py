"""Learning what to keep: mapping views are asked of memories that were written without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run
from reloc.methods.allocentric.grid import Grid
from reloc.methods.allocentric.memory import Asked, SpatialMemory, Written
from reloc.training.fit import FitConfig, fit
from reloc.training.schedule import one_cycle

# Neighbours of a view in the video, as a share of the views, that a memory is written without.
_GAP = 0.03
_MAX_WRITTEN = 16
_SHARPNESS_TRIED = torch.logspace(0, 3, 61)


@dataclass(frozen=True, eq=False)
class Lesson:
    """A mapping view that can be written and asked.

    Attributes:
        written: the view.
        asked: the same, as if its pose were unknown.
        place_3: float64, of the camera in the level frame.
        heading_rad: of the camera.
        tilt_error_rad: between up as the view's own surfaces say it, and as it is.
    """

    written: Written
    asked: Asked
    place_3: Tensor
    heading_rad: float
    tilt_error_rad: float


def pose_loss(logits_RXY: Tensor, grid: Grid, place_2: Tensor, heading_rad: float) -> Tensor:
    """Cross-entropy of the distribution over headings and cells; the truth lies between eight."""
    log_share_RXY = logits_RXY.flatten().log_softmax(0).reshape(logits_RXY.shape)
    x, y = grid.cells_of(place_2).tolist()
    turn = heading_rad / (2 * math.pi) * grid.num_headings
    loss = logits_RXY.new_zeros(())
    for heading in (math.floor(turn), math.floor(turn) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            for row in (math.floor(y), math.floor(y) + 1):
                share = (1 - abs(turn - heading)) * (1 - abs(x - column)) * (1 - abs(y - row))
                inside = 0 <= column < grid.shape[0] and 0 <= row < grid.shape[1]
                if share > 0 and inside:
                    found = log_share_RXY[heading % grid.num_headings, column, row]
                    loss = loss - share * found
    return loss


def train(
    memory: SpatialMemory,
    grid: Grid,
    lessons: Sequence[Lesson],
    steps: int,
    learning_rate: float,
    run: Run,
) -> None:
    """Train the projection, the update and the sharpness in place, by cross-entropy.

    Args:
        memory: to be trained.
        grid: of the ground.
        lessons: two at least, in the order in which they were filmed.
        steps: of training.
        learning_rate: at its peak.
        run: seed, progress.
    """
    count, generator = len(lessons), torch.Generator()
    gap = max(1, round(_GAP * count))

    def loss_at(step: int) -> Tensor:
        generator.manual_seed(run.seed * 1_000_003 + step)
        left_out = int(torch.randint(count, (1,), generator=generator))
        order = torch.randperm(count, generator=generator).tolist()
        far = [number for number in order if abs(number - left_out) > gap]
        # Of two or three views, all are neighbours.
        chosen = far or [number for number in order if number != left_out]
        kept = memory.write(grid, [lessons[number].written for number in chosen[:_MAX_WRITTEN]])
        lesson = lessons[left_out]
        logits = memory.logits(grid, kept, lesson.asked, grid.headings_rad)
        return pose_loss(logits, grid, lesson.place_3[:2], lesson.heading_rad)

    config = FitConfig(
        steps=steps,
        learning_rate=lambda step: one_cycle(step, steps, learning_rate, 0.1),
        weight_decay=0.0,
    )
    fit(memory, loss_at, config, run, "training the memory")


@torch.no_grad()
def sharpen(
    memory: SpatialMemory, grid: Grid, kept_MXY: Tensor, lessons: Sequence[Lesson]
) -> float:
    """Set the sharpness by which views that the memory has not seen are least surprising.

    Returns:
        Their mean cross-entropy; NaN without any.
    """
    if not lessons:
        return math.nan
    losses_T = torch.zeros(len(_SHARPNESS_TRIED))
    for lesson in lessons:
        logits = memory.logits(grid, kept_MXY, lesson.asked, grid.headings_rad)
        scores = logits / memory.log_sharpness.exp()
        losses_T += torch.stack(
            [
                pose_loss(sharpness * scores, grid, lesson.place_3[:2], lesson.heading_rad)
                for sharpness in _SHARPNESS_TRIED
            ]
        )
    best = int(losses_T.argmin())
    memory.log_sharpness.fill_(_SHARPNESS_TRIED[best].log())
    return float(losses_T[best]) / len(lessons)


def diffused(log_share_RXY: Tensor, turn: float, move: float, lost: float) -> Tensor:
    """What is expected of the next frame: blurred, and with a share for anywhere.

    Args:
        log_share_RXY: logarithms of the distribution over headings and cells.
        turn: standard deviation of the heading from frame to frame, in headings.
        move: and of the place, in cells.
        lost: share of the probability that is spread over everywhere.
    """
    share = log_share_RXY.exp()
    for axis, sigma in ((0, turn), (1, move), (2, move)):
        reach = min(max(1, math.ceil(3 * sigma)), share.shape[axis] - 1)
        offsets = torch.arange(-reach, reach + 1, device=share.device)
        weights = (-0.5 * (offsets / max(sigma, 1e-3)) ** 2).exp()
        weights = (weights / weights.sum()).to(share)
        lines = share.movedim(axis, -1)
        shape = lines.shape
        lines = lines.reshape(-1, 1, shape[-1])
        mode = "circular" if axis == 0 else "constant"
        lines = functional.conv1d(functional.pad(lines, (reach, reach), mode), weights[None, None])
        share = lines.reshape(shape).movedim(-1, axis)
    everywhere = 1 / share.numel()
    return ((1 - lost) * share / share.sum() + lost * everywhere).log()
