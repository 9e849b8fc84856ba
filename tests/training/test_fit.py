"""The loop: stopped and gone on with, it ends where it would have ended."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reloc.contract import Run
from reloc.training.fit import FitConfig, fit

CONFIG = FitConfig(steps=30, learning_rate=lambda step: 1e-2 / (1 + step))


def _network(seed: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 1))


def _loss_at(network: nn.Module, step: int) -> Tensor:
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
    return (network(inputs)[:, 0] - inputs.sum(1)).square().mean()


def _slow_at_first(name: str) -> float:
    return 0.1 if name.startswith("0.") else 1.0


def _weights(network: nn.Module) -> list[float]:
    return nn.utils.parameters_to_vector(network.parameters()).tolist()


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, average=0.9),
        replace(CONFIG, muon=2.0),
        replace(CONFIG, muon=2.0, rate_of=_slow_at_first),
    ],
)
def test_interrupted_and_gone_on_with_is_as_if_never_interrupted(
    tmp_path: Path, config: FitConfig
) -> None:
    whole = _network()
    fit(whole, lambda step: _loss_at(whole, step), config, Run(), "whole")

    run = Run(checkpoint_folder=tmp_path)
    stopped = _network()

    def interrupted(step: int) -> Tensor:
        if step == 17:
            raise KeyboardInterrupt
        return _loss_at(stopped, step)

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, interrupted, config, run, "stopped")
    resumed = _network(seed=5)
    steps: list[int] = []

    def remaining(step: int) -> Tensor:
        steps.append(step)
        return _loss_at(resumed, step)

    fit(resumed, remaining, config, run, "resumed")
    assert steps == list(range(17, 30))
    assert _weights(resumed) == _weights(whole)


def test_a_step_that_was_interrupted_half_way_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is the one before it, not its weights under the number of that before."""
    config = FitConfig(30, lambda _: 0.01, checkpoint_s=0.0)
    whole = _network()
    fit(whole, lambda step: _loss_at(whole, step), config, Run(), "whole")
    run, stopped, steps_taken = Run(checkpoint_folder=tmp_path), _network(), 0
    step_of_adamw = torch.optim.AdamW.step

    def interrupted(self: torch.optim.AdamW, *args: Any) -> None:
        nonlocal steps_taken
        step_of_adamw(self, *args)
        steps_taken += 1
        if steps_taken == 17:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(stopped, lambda step: _loss_at(stopped, step), config, run, "stopped")
    resumed = _network(seed=5)
    fit(resumed, lambda step: _loss_at(resumed, step), config, run, "resumed")
    assert _weights(resumed) == _weights(whole)


@pytest.mark.parametrize("muon", [None, 2.0])
def test_parameters_have_the_rates_that_are_asked_for(muon: float | None) -> None:
    """One step: AdamW's and Muon's first have a length that does not hang on the gradient's."""
    moved = []
    for ratio in (0.0, 0.1, 1.0):
        network = _network()
        before = [parameter.detach().clone() for parameter in network.parameters()]
        config = replace(
            CONFIG,
            steps=1,
            weight_decay=0.0,
            muon=muon,
            rate_of=lambda name, ratio=ratio: ratio if name.startswith("1.") else 1.0,
        )
        fit(network, lambda step, network=network: _loss_at(network, step), config, Run(), "once")
        after = zip(network.parameters(), before, strict=True)
        moved.append([float((new.detach() - old).norm()) for new, old in after])
    for none, tenth, all_of_it in zip(*moved, strict=True):
        slowed = none == 0
        assert tenth == pytest.approx(0.1 * all_of_it if slowed else all_of_it, rel=1e-3)
    assert [value == 0 for value in moved[0]] == [False, False, True, True, False, False]


def test_a_checkpoint_is_handed_on_with_the_steps_done() -> None:
    network = _network()
    seen: list[int] = []
    config = replace(CONFIG, checkpoint_s=0.0)
    fit(
        network,
        lambda step: _loss_at(network, step),
        config,
        Run(),
        "often",
        on_checkpoint=lambda _weights, step, _seconds: seen.append(step),
    )
    assert seen[0] == 1
    assert seen[-1] == 30
