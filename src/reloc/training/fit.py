"""The loop: steps of AdamW under a schedule, which can be stopped and gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reloc.contract import Run
from reloc.nn.precision import uses_bf16
from reloc.training.muon import Muon

_CHECKPOINT = "checkpoint.pt"
_LOG_EVERY = 100
# In a group of parameters: what the learning rate is multiplied by.
_RATIO = "rate_ratio"
# An output of a few numbers has no directions to make orthogonal.
_MIN_MUON_SIDE = 16


@dataclass(frozen=True)
class FitConfig:
    """How a network is trained.

    Attributes:
        steps: in all, those before a resumption included.
        learning_rate: of a step.
        weight_decay: AdamW's.
        max_gradient_norm: above which a gradient is shortened to it.
        muon: where it is given, matrices inside the network take Muon's orthogonal steps at so many
            times the learning rate; the others, and all where it is None, those of AdamW. Small
            perceptrons reach in one such step what takes AdamW two (Jordan et al., "Muon", 2024).
        average: decay of a running mean of the weights, which is then the result; None: the last.
        checkpoint_s: seconds between checkpoints.
        rate_of: what a parameter's learning rate is multiplied by, by its name; None: nothing.
    """

    steps: int
    learning_rate: Callable[[int], float]
    weight_decay: float = 1e-2
    max_gradient_norm: float = 1.0
    muon: float | None = None
    average: float | None = None
    checkpoint_s: float = 60.0
    rate_of: Callable[[str], float] | None = None


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
    optimizers = _optimizers(network, config, run)
    averaged = {name: value.clone() for name, value in network.state_dict().items()}
    first, spent_s = 0, 0.0
    checkpoint = run.checkpoint_folder / _CHECKPOINT if run.checkpoint_folder else None
    if checkpoint and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=run.device)
        network.load_state_dict(saved["network"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        averaged, first, spent_s = saved["averaged"], saved["step"], saved["seconds"]
        run.log.info("%s goes on from step %d", description, first)
    started = last_saved = time.monotonic()

    def save(step: int) -> None:
        seconds = spent_s + time.monotonic() - started
        if checkpoint:
            state = {
                "network": network.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "averaged": averaged,
                "step": step,
                "seconds": seconds,
            }
            _write(state, checkpoint)
        if on_checkpoint:
            on_checkpoint(averaged if config.average else network.state_dict(), step, seconds)

    done, whole = first, True
    recent: list[Tensor] = []
    try:
        for step in run.progress.track(range(first, config.steps), description):
            rate = config.learning_rate(step)
            for optimizer, factor in zip(optimizers, (1.0, config.muon), strict=False):
                for group in optimizer.param_groups:
                    group["lr"] = rate * (factor or 1.0) * group.get(_RATIO, 1.0)
            network.zero_grad()
            loss = loss_at(step)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.max_gradient_norm)
            whole = False
            for optimizer in optimizers:
                optimizer.step()
            if config.average:
                _average(averaged, network, min(config.average, (step + 1) / (step + 10)))
            done, whole = step + 1, True
            recent.append(loss.detach())
            if (step + 1) % _LOG_EVERY == 0:
                mean = float(torch.stack(recent).mean())
                # `step` tells these lines from those that say what came of the work.
                more = {"step": step + 1}
                run.log.info("%s: step %d, loss %.4f", description, step + 1, mean, extra=more)
                recent = []
            if time.monotonic() - last_saved > config.checkpoint_s:
                save(step + 1)
                last_saved = time.monotonic()
    except KeyboardInterrupt:
        # Half of a step would be taken twice: the checkpoint before it serves.
        if whole:
            save(done)
        raise
    save(config.steps)
    if config.average:
        network.load_state_dict(averaged)


def _optimizers(network: nn.Module, config: FitConfig, run: Run) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the matrices where it is asked for."""
    parameters = list(network.parameters())
    matrices = [
        parameter
        for parameter in parameters
        if parameter.ndim == 2 and min(parameter.shape) >= _MIN_MUON_SIDE
    ]
    if config.muon is None or not matrices:
        matrices = []
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in parameters if id(parameter) not in chosen]
    names = {id(parameter): name for name, parameter in network.named_parameters()}

    def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
        """Those of one rate together."""
        if config.rate_of is None:
            return [{"params": parameters}]
        by_ratio: dict[float, list[nn.Parameter]] = {}
        for parameter in parameters:
            by_ratio.setdefault(config.rate_of(names[id(parameter)]), []).append(parameter)
        return [{"params": alike, _RATIO: ratio} for ratio, alike in by_ratio.items()]

    adamw = torch.optim.AdamW(groups(others), lr=0.0, weight_decay=config.weight_decay, fused=True)
    if not matrices:
        return [adamw]
    return [adamw, Muon(groups(matrices), torch.bfloat16 if uses_bf16(run) else torch.float32)]


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
