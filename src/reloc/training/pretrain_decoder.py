"""Train SANet's decoder on rendered rooms: from raw material to a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.nn.scene_agnostic import CoordinateDecoder, Decoded, KnownPoints, look_up
from reloc.nn.shared_encoder import open_encoder
from reloc.nn.weights import EncoderName
from reloc.provenance import training_record, working_copy_commit, write_record
from reloc.training.fit import FitConfig, fit
from reloc.training.prefetch import prefetch
from reloc.training.records import refuse_another_run
from reloc.training.retrieval_examples import (
    CellCount,
    EncodedRoom,
    Example,
    encode_room,
    make_example,
    on_device,
)
from reloc.training.room_pairs import render_room, render_rooms
from reloc.training.schedule import trapezoid

_FILE = "sanet_rooms.safetensors"
# Rooms kept apart, which have seeds below those that are learned from.
_FIRST_JUDGING_SEED = 900
# A cell whose point lies further than this from all retrieved ones has nothing to be read off.
_MAX_GAP = 0.05
# Share of the coarse errors in the loss.
_COARSE_SHARE = 0.5


@dataclass(frozen=True)
class PretrainSanetConfig:
    """Settings of `reloc pretrain sanet`."""

    encoder: EncoderName = "base"
    """The shared encoder, which stays as it is."""
    num_rooms: int = 36
    """Procedural rooms to render; they are kept beside the checkpoint."""
    num_judging_rooms: int = 3
    """Rooms more, which nothing is learned from: the record says the errors there."""
    width: int = 64
    """Of the decoder's vectors."""
    num_neighbours: int = 16
    """Points that a cell looks up."""
    fine_cells: int = 600
    """Cells that are known of a view..."""
    coarse_cells: int = 200
    """...and of its half-size copy."""
    asked_cells: int = 256
    """Cells of a query that are learned from."""
    batch_queries: int = 4
    """Queries of a step."""
    steps: int = 5000
    """Steps in all, those before a resumption included."""
    max_learning_rate: float = 2e-3
    """Reached after the warm-up, and left again in the last third."""
    average: float = 0.998
    """Decay of the running mean of the weights, which is what is kept."""

    def __post_init__(self) -> None:
        for name in ("num_rooms", "width", "num_neighbours", "batch_queries", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def count(self) -> CellCount:
        """Of the examples."""
        return CellCount(self.coarse_cells, self.fine_cells, self.asked_cells)


def pretrain_decoder(config: PretrainSanetConfig, folder: Path, run: Run) -> Path:
    """Train a decoder, or go on from the checkpoint in `folder`.

    Returns:
        The path of the weights in fp16. They lie there from the first checkpoint on, with what they
        are made of in the .json beside them; the errors in the rooms kept apart are added at the
        end.

    Raises:
        InputError: there is no renderer, or `folder` has a run of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FILE
    refuse_another_run(config, run.seed, path.with_suffix(".json"))
    encoder = open_encoder(config.encoder, run)
    rendered = render_rooms(config.num_rooms, folder / "rooms", run)
    decoder = new_decoder(config, run)
    commit = working_copy_commit()

    # When it is asked for: a run that is done and judged once more needs none.
    @cache
    def room_of(number: int) -> EncodedRoom:
        return encode_room(encoder, rendered[number], number, run)

    def keep(weights: dict[str, Tensor], step: int, seconds: float) -> None:
        halved = {name: value.half().cpu().contiguous() for name, value in weights.items()}
        partial = path.with_name(f".{path.name}")
        safetensors.torch.save_file(halved, partial)
        partial.rename(path)
        record = {
            "config": asdict(config),
            **training_record(step, seconds, run.seed, run.device, commit),
        }
        write_record(record, path.with_suffix(".json"))

    coming: Iterator[list[Example]] | None = None

    def loss_at(step: int) -> Tensor:
        nonlocal coming
        if coming is None:
            coming = prefetch(
                lambda number: make_batch(room_of, config, run.seed, number),
                range(step, config.steps),
            )
        losses = [decoding_loss(decoder, on_device(one, run.device)) for one in next(coming)]
        return torch.stack(losses).mean()

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: trapezoid(step, config.steps, config.max_learning_rate),
        average=config.average,
    )
    fit(decoder, loss_at, schedule, replace(run, checkpoint_folder=folder), "decoder", keep)
    seeds = range(_FIRST_JUDGING_SEED, _FIRST_JUDGING_SEED + config.num_judging_rooms)
    kept_apart = [
        encode_room(encoder, render_room(seed, folder / "rooms"), seed, run) for seed in seeds
    ]
    if kept_apart:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        record["rooms_kept_apart"] = judge(decoder, kept_apart, config, run)
        write_record(record, path.with_suffix(".json"))
    return path


def new_decoder(config: PretrainSanetConfig, run: Run) -> CoordinateDecoder:
    """A decoder that answers with the soft nearest neighbour."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        decoder = CoordinateDecoder(width=config.width, num_neighbours=config.num_neighbours)
    return decoder.to(run.device)


def make_batch(
    room_of: Callable[[int], EncodedRoom], config: PretrainSanetConfig, seed: int, step: int
) -> list[Example]:
    """The examples of a step, from rooms by their number: the same whenever the step is taken."""
    rng = np.random.default_rng((seed, step))
    examples = []
    for _ in range(config.batch_queries):
        room = room_of(int(rng.integers(config.num_rooms)))
        examples.append(make_example(room, int(rng.integers(len(room.views))), config.count, rng))
    return examples


def decoding_loss(decoder: CoordinateDecoder, example: Example) -> Tensor:
    """L1 in three dimensions, of both levels, and how likely the errors are that it expects.

    Cells that show nothing that was retrieved count in the second only: there is nothing to be
    read off, and that is what they have to say.
    """
    decoded: Decoded = decoder(example.query, example.coarse, example.fine)
    loss = _mean_off(decoded.points_N3, example.target_N3, example.fine)
    for points_M3 in decoded.coarse:
        target_M3 = example.coarse_target_M3
        loss = loss + _COARSE_SHARE * _mean_off(points_M3, target_M3, example.coarse)
    off_N = (decoded.points_N3.detach() - example.target_N3).norm(dim=1)
    # Laplace's distribution.
    surprise_N = off_N * (-decoded.log_error_N).exp() + decoded.log_error_N
    return loss + _COARSE_SHARE * surprise_N.mean()


def _mean_off(points_N3: Tensor, target_N3: Tensor, known: KnownPoints) -> Tensor:
    """Mean L1 error of the cells whose points are near known ones."""
    gap_N = torch.cdist(target_N3, known.points_S3).amin(1)
    shown_N = gap_N < _MAX_GAP
    off_N = (points_N3 - torch.where(shown_N[:, None], target_N3, points_N3)).abs().sum(1)
    return off_N.sum() / shown_N.sum().clamp_min(1)


@torch.no_grad()
def judge(
    decoder: CoordinateDecoder, rooms: Sequence[EncodedRoom], config: PretrainSanetConfig, run: Run
) -> dict[str, float]:
    """Median errors, in metres, of random cells of all views of rooms.

    Of the decoder, of the half of the cells of each view that it is surest of, and of the soft
    nearest neighbour.
    """
    decoder.eval()
    errors: dict[str, list[Tensor]] = {"soft_nearest": [], "decoder": [], "surer_half": []}
    for number, room in enumerate(rooms):
        for asked in range(len(room.views)):
            rng = np.random.default_rng((run.seed, number, asked))
            one = on_device(make_example(room, asked, config.count, rng), run.device)
            decoded = decoder(one.query, one.coarse, one.fine)
            found = look_up(one.query.fine_NC, one.fine, decoder.num_neighbours)
            points = {"soft_nearest": found.soft_nearest(), "decoder": decoded.points_N3}
            for name, points_N3 in points.items():
                errors[name].append(one.unit_m * (points_N3 - one.target_N3).norm(dim=1))
            surer = decoded.log_error_N.argsort()[: len(decoded.log_error_N) // 2]
            errors["surer_half"].append(errors["decoder"][-1][surer])
    decoder.train()
    return {
        f"{name}_median_error_m": round(float(torch.cat(parts).median()), 4)
        for name, parts in errors.items()
    }
