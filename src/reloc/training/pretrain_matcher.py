"""Train GoMatch's matcher of bearings on rendered rooms: from raw material to a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run
from reloc.nn.geometric_matcher import Assigned, GeometricMatcher
from reloc.provenance import training_record, working_copy_commit, write_record
from reloc.training.bearing_pairs import (
    UNMATCHED,
    DetectedRoom,
    PairBatch,
    detect_room,
    make_pair,
)
from reloc.training.fit import FitConfig, fit
from reloc.training.prefetch import prefetch
from reloc.training.records import refuse_another_run
from reloc.training.room_pairs import render_room, render_rooms
from reloc.training.schedule import trapezoid

FILE = "geometric_matcher.safetensors"
_WARM_UP = 50
# Rooms kept apart, which have seeds below those that are learned from.
_FIRST_JUDGING_SEED = 900
_PAIRS_PER_ROOM = 40
# Shares in the loss: of points without a match, and of the judgement of matches.
_NONE_SHARE, _JUDGE_SHARE = 0.5, 0.5


@dataclass(frozen=True)
class PretrainGomatchConfig:
    """Settings of `reloc pretrain gomatch`."""

    num_rooms: int = 30
    """Procedural rooms to render; they are kept beside the checkpoint."""
    num_judging_rooms: int = 3
    """Rooms more, which nothing is learned from: the record says how many matches are right."""
    width: int = 64
    """Of the matcher's states."""
    num_layers: int = 3
    """Turns of telling within and across the sets."""
    max_points: int = 240
    """Points of a set, at most."""
    batch_pairs: int = 6
    """Pairs of a step."""
    steps: int = 2000
    """Steps in all, those before a resumption included."""
    max_learning_rate: float = 2e-3
    """Reached after the warm-up, and left again in the last third."""
    easing: float = 0.4
    """Share of the steps until pairs are as hard as they get."""
    average: float = 0.995
    """Decay of the running mean of the weights, which is what is kept."""

    def __post_init__(self) -> None:
        for name in ("num_rooms", "num_layers", "batch_pairs", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width is {self.width}; it must be a multiple of 8")
        if not 0 < self.easing <= 1:
            raise ValueError(f"easing is {self.easing}; it must be in (0, 1]")
        if self.max_points < 60:
            raise ValueError(f"max_points is {self.max_points}; it must be at least 60")


def pretrain_matcher(config: PretrainGomatchConfig, folder: Path, run: Run) -> Path:
    """Train a matcher, or go on from the checkpoint in `folder`.

    Returns:
        The path of the weights in fp16. They lie there from the first checkpoint on, with what they
        are made of in the .json beside them; what is right in the rooms kept apart is added at the
        end.

    Raises:
        InputError: there is no renderer, or `folder` has a run of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    refuse_another_run(config, run.seed, path.with_suffix(".json"))
    rendered = render_rooms(config.num_rooms, folder / "rooms", run)
    detected = [detect_room(room) for room in run.progress.track(rendered, "keypoints")]
    rooms = [room for room in detected if room.pairs]
    matcher = new_matcher(config, run)
    commit = working_copy_commit()
    run.log.info("%d pairs of views", sum(len(room.pairs) for room in rooms))

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

    coming: Iterator[PairBatch] | None = None

    def loss_at(step: int) -> Tensor:
        nonlocal coming
        if coming is None:
            coming = prefetch(
                lambda number: make_batch(
                    rooms, config, (run.seed, number), run.device, difficulty(number, config)
                ),
                range(step, config.steps),
            )
        return matching_loss(matcher, next(coming))

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: trapezoid(
            step, config.steps, config.max_learning_rate, _WARM_UP
        ),
        average=config.average,
    )
    fit(matcher, loss_at, schedule, replace(run, checkpoint_folder=folder), "matcher", keep)
    seeds = range(_FIRST_JUDGING_SEED, _FIRST_JUDGING_SEED + config.num_judging_rooms)
    kept_apart = [detect_room(render_room(seed, folder / "rooms")) for seed in seeds]
    if kept_apart:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        record["rooms_kept_apart"] = judge(matcher, kept_apart, config, run)
        write_record(record, path.with_suffix(".json"))
    return path


def new_matcher(config: PretrainGomatchConfig, run: Run) -> GeometricMatcher:
    """A matcher that knows nothing yet but that matches are near one another."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        matcher = GeometricMatcher(config.width, config.num_layers)
    return matcher.to(run.device)


def make_batch(
    rooms: Sequence[DetectedRoom],
    config: PretrainGomatchConfig,
    seed: tuple[int, ...],
    device: str,
    hard: float = 1.0,
) -> PairBatch:
    """The pairs of a step: the same whenever the step is taken."""
    rng = np.random.default_rng(seed)
    pairs = [
        make_pair(rooms[int(rng.integers(len(rooms)))], rng, config.max_points, hard)
        for _ in range(config.batch_pairs)
    ]
    return PairBatch.of(pairs, device)


def difficulty(step: int, config: PretrainGomatchConfig) -> float:
    """Of a step's pairs: without easy ones at first, nothing is learned for long."""
    return min(1.0, step / (config.easing * config.steps))


def matching_loss(matcher: GeometricMatcher, batch: PairBatch) -> Tensor:
    """How surprising the true matches are to every layer, and which are right to the judgement."""
    said, states = matcher(batch.asked, batch.known)
    losses = [assignment_loss(one, batch) for one in said]
    judged = matcher.judge_matches(batch.asked, batch.known, said[-1], states)
    certain_BN = judged.mutual_BN & (batch.match_BN >= UNMATCHED)
    right_BN = (judged.column_BN == batch.match_BN).float()
    judgement = functional.binary_cross_entropy_with_logits(
        judged.logit_BN[certain_BN], right_BN[certain_BN]
    )
    return torch.stack(losses).mean() + losses[-1] + _JUDGE_SHARE * judgement


def assignment_loss(said: Assigned, batch: PairBatch) -> Tensor:
    """Mean negative log-likelihood of the matches, and of the points without one."""
    pair_P, row_P = (batch.match_BN >= 0).nonzero(as_tuple=True)
    matched = said.log_BNM[pair_P, row_P, batch.match_BN[pair_P, row_P]].mean()
    none = (
        said.log_none_BN[batch.match_BN == UNMATCHED].mean()
        + said.log_none_BM[batch.match_BM == UNMATCHED].mean()
    ) / 2
    return -matched - _NONE_SHARE * none


@torch.no_grad()
def judge(
    matcher: GeometricMatcher,
    rooms: Sequence[DetectedRoom],
    config: PretrainGomatchConfig,
    run: Run,
) -> dict[str, float]:
    """Of random pairs of rooms: matches found that are right, and true matches that are found.

    Of all mutual matches, and of those that are held for right when looked at together.
    """
    matcher.eval()
    counts = torch.zeros(2, 2)
    num_true = 0.0
    for number, room in enumerate(rooms):
        for first in range(0, _PAIRS_PER_ROOM, config.batch_pairs):
            batch = make_batch([room], config, (run.seed, number, first), run.device)
            said, states = matcher(batch.asked, batch.known)
            judged = matcher.judge_matches(batch.asked, batch.known, said[-1], states)
            num_true += float((batch.match_BN >= 0).sum())
            certain_BN = judged.mutual_BN & (batch.match_BN >= UNMATCHED)
            right_BN = judged.column_BN == batch.match_BN
            for kind, kept_BN in enumerate((certain_BN, certain_BN & (judged.logit_BN > 0))):
                counts[kind] += torch.tensor(
                    [float(kept_BN.sum()), float((kept_BN & right_BN).sum())]
                )
    matcher.train()
    said_of: dict[str, float] = {}
    for name, (num_found, num_right) in zip(("all", "judged"), counts.tolist(), strict=True):
        said_of[f"{name}_precision"] = round(num_right / max(num_found, 1), 4)
        said_of[f"{name}_recall"] = round(num_right / max(num_true, 1), 4)
    return said_of
