"""The loop: steps of AdamW under a schedule, which can be stopped and gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from reloc.contract import Run

_CHECKPOINT = "checkpoint.pt"
_LOG_EVERY = 100


@dataclass(frozen=True)
class FitConfig:
    """How a network is trained.

    Attributes:
        steps: in all, those before a resumption included.
        learning_rate: of a step.
        weight_decay: AdamW's.
        max_gradient_norm: above which a gradient is shortened to it.
        average: decay of a running mean of the weights, which is then the result; None: the last.
        checkpoint_s: seconds between checkpoints.
    """

    steps: int
    learning_rate: Callable[[int], float]
    weight_decay: float = 1e-2
    max_gradient_norm: float = 1.0
    average: float | None = None
    checkpoint_s: float = 60.0


def fit(
    network: nn.Module,
    loss_at: Callable[[int], Tensor],
    config: FitConfig,
    run: Run,
    description: str,
    on_checkpoint: Callable[[dict[str, Tensor], int, float], None] | None = None,
) -> None:
    """Train a network in place.

    What is random in a step must depend on its number alone: then a run that was stopped and one
    that was not end alike. A checkpoint is left in the run's folder every `checkpoint_s` seconds
    and when the run is interrupted; where one lies there, training goes on from it.

    Args:
        network: its parameters are trained and, at the end, are the result.
        loss_at: the loss of a step's batch, by the number of the step.
        config: steps, rates.
        run: where checkpoints go, and what progress is reported to.
        description: of the work, for the progress bar and the log.
        on_checkpoint: is given the weights so far, the steps done and the seconds spent.
    """
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=0.0, weight_decay=config.weight_decay, fused=True
    )
    averaged = {name: value.clone() for name, value in network.state_dict().items()}
    first, spent_s = 0, 0.0
    checkpoint = run.checkpoint_folder / _CHECKPOINT if run.checkpoint_folder else None
    if checkpoint and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=run.device)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        averaged, first, spent_s = saved["averaged"], saved["step"], saved["seconds"]
        run.log.info("%s goes on from step %d", description, first)
    started = last_saved = time.monotonic()

    def save(step: int) -> None:
        seconds = spent_s + time.monotonic() - started
        if checkpoint:
            state = {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "averaged": averaged,
                "step": step,
                "seconds": seconds,
            }
            _write(state, checkpoint)
        if on_checkpoint:
            on_checkpoint(averaged if config.average else network.state_dict(), step, seconds)

    step = first
    recent: list[Tensor] = []
    try:
        for step in run.progress.track(range(first, config.steps), description):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate(step)
            optimizer.zero_grad()
            loss = loss_at(step)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.max_gradient_norm)
            optimizer.step()
            if config.average:
                _average(averaged, network, min(config.average, (step + 1) / (step + 10)))
            recent.append(loss.detach())
            if (step + 1) % _LOG_EVERY == 0:
                mean = float(torch.stack(recent).mean())
                run.log.info("%s: step %d, loss %.4f", description, step + 1, mean)
                recent = []
            if time.monotonic() - last_saved > config.checkpoint_s:
                save(step + 1)
                last_saved = time.monotonic()
    except KeyboardInterrupt:
        # The step that was interrupted is taken again.
        save(step)
        raise
    save(config.steps)
    if config.average:
        network.load_state_dict(averaged)


def _average(averaged: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """Move the running mean towards the weights, in place."""
    for name, value in network.state_dict().items():
        averaged[name].lerp_(value, 1 - decay)


def _write(state: dict[str, object], path: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    torch.save(state, partial)
    partial.rename(path)
