"""ACE's encoder architecture and ours, trained briefly and alike, for rows of the encoder table.

    python benchmarks/brief_training.py --network ace --out FOLDER --rooms ROOMS --steps 200

Trains as `reloc pretrain encoder` does (rooms and pictures, contrast), with a warm-up that suits
few steps, and writes FOLDER/brief_NETWORK.safetensors, which `benchmarks/encoder_table.py
--features brief-ace brief-small --weights FOLDER` reads. ROOMS is the folder that `reloc pretrain
encoder` renders rooms into. A run that was stopped goes on from its checkpoint in FOLDER/NETWORK.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Run
from reloc.nn.encoder import GREY_MEAN, GREY_STD, SIZES, Encoder
from reloc.nn.precision import autocast
from reloc.training.fit import FitConfig, fit
from reloc.training.normalization import fold, normalize
from reloc.training.prefetch import prefetch
from reloc.training.pretrain_encoder import (
    PretrainEncoderConfig,
    codes_of_points,
    contrast,
    gather_material,
    make_batch,
    new_encoder,
)
from reloc.training.schedule import trapezoid

NetworkName = Literal["ace", "small", "base"]
_CODE = 128


class AceArchitecture(nn.Module):
    """The layers of the encoder of DSAC* and ACE (Brachmann et al., CVPR 2023), and a projection.

    Strides 1, 2, 2, 2 to 256 channels, two residual stages of 3x3, 1x1 and 3x3 (256 and 512
    channels). The last layer brings 512 channels to codes of 128, as ours are.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 128, 256)
        self.stem = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2 if number else 1, padding=1)
            for number, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.stages = nn.ModuleList([_Stage(256, 256), _Stage(256, 512)])
        self.project = nn.Conv2d(512, _CODE, 1)

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        """Codes (B, 128, H // 8, W // 8) with mean square 1, from grey values in [0, 1]."""
        hidden = (grey_B1HW - GREY_MEAN) / GREY_STD
        for layer in self.stem:
            hidden = functional.relu(layer(hidden))
        for stage in self.stages:
            hidden = stage(hidden)
        return functional.normalize(self.project(hidden).float(), dim=1) * _CODE**0.5


class _Stage(nn.Module):
    """Three convolutions beside a skip connection."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.middle = nn.Conv2d(after, after, 1)
        self.last = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        inner = functional.relu(self.first(hidden))
        inner = functional.relu(self.middle(inner))
        return functional.relu(self.skip(hidden) + self.last(inner))


def load(name: NetworkName, folder: Path) -> nn.Module:
    """A trained network, frozen."""
    network = AceArchitecture() if name == "ace" else Encoder(SIZES[name])
    network.load_state_dict(safetensors.torch.load_file(_weights(name, folder)))
    return network.eval().requires_grad_(False)


def _weights(name: NetworkName, folder: Path) -> Path:
    return folder / f"brief_{name}.safetensors"


@dataclass(frozen=True)
class Arguments:
    """What to train, and where."""

    out: Path
    rooms: Path
    network: NetworkName = "ace"
    steps: int = 200
    seed: int = 0
    material: PretrainEncoderConfig = field(default_factory=PretrainEncoderConfig)


def train(arguments: Arguments) -> None:
    """Train it, or go on from the checkpoint; the weights lie there from the first one on."""
    name, folder = arguments.network, arguments.out / arguments.network
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(arguments.material, steps=arguments.steps)
    run = Run(seed=arguments.seed, checkpoint_folder=folder)
    material = gather_material(config, arguments.rooms, run)
    torch.manual_seed(run.seed)
    if name == "ace":
        network: nn.Module = AceArchitecture()
        normalize(network, branch_ends="last", bare="project")
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        network = new_encoder(replace(config, size=name), run)
    # Few steps: the running mean of the weights has to forget the first ones.
    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: trapezoid(
            step, config.steps, config.max_learning_rate, warm_up=config.steps // 5
        ),
        average=0.98,
    )
    coming = None

    def loss_at(step: int) -> Tensor:
        nonlocal coming
        if coming is None:
            coming = prefetch(
                lambda number: make_batch(material, config, run.seed, number),
                range(step, config.steps),
            )
        batch = next(coming)
        with autocast(run):
            return contrast(*codes_of_points(network, batch, run), batch, config)

    def keep(weights: dict[str, Tensor], step: int, seconds: float) -> None:
        plain = {name: value.contiguous() for name, value in fold(weights).items()}
        safetensors.torch.save_file(plain, _weights(name, arguments.out))
        print(f"{step} steps, {seconds:.0f} s", flush=True)

    fit(network, loss_at, schedule, run, name, keep)


if __name__ == "__main__":
    train(tyro.cli(Arguments))
