"""Material, objective and difficulty of the dense encoder's training, at the same number of steps.

    python benchmarks/encoder_objectives.py --data ../shared/data --rooms FOLDER --rows rows.jsonl

Trains the small encoder for each variant from the same weights, prints a row of JSON each, and adds
it to --rows; a variant that has a row of the same steps and seed there is left out. FOLDER keeps
rendered rooms, those to learn from and those to judge by. A row has the processor seconds that a
step took, and how good the codes are:

- `match_*`: points found again among all cells of another view, within 12 px: of rooms kept apart,
  as they are, with one view turned by 45 degrees, with one view enlarged twice; and of South
  Building's mapping views, where --data has them;
- `coordinates`: cells of kept views of the rooms kept apart that a small head places within 25 cm.
  Matching by cosine is what the contrastive objective trains; a map asks this.

`contrast` is the base: rooms only, scale changes up to 2.5, turns up to 35 degrees. Each other
variant differs from it in what its name says. `regress` is ACE's idea, one encoder and a head for
each room, here with true coordinates and at a quarter of the learning rate: in few steps a head of
many sees few pairs, so it is there with 12 rooms, too. `both` is the sum of the two losses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.mapping import build_point_map, match_views
from reloc.nn.encoder import SIZES, Encoder, grey_from_rgb
from reloc.nn.heads import CoordinateHead
from reloc.nn.precision import autocast
from reloc.progress import Bars
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes import LoadOptions, load_scene
from reloc.training.correspondences import CollageConfig, Correspondences
from reloc.training.fit import FitConfig, fit
from reloc.training.normalization import fold
from reloc.training.prefetch import prefetch
from reloc.training.pretrain_encoder import (
    PretrainEncoderConfig,
    codes_of_points,
    contrast,
    gather_material,
    make_batch,
    new_encoder,
)
from reloc.training.probe import (
    center_and_scale,
    coordinate_accuracy,
    matching_accuracy,
    pairs_to_match,
)
from reloc.training.room_pairs import FIRST_TRAINING_SEED, RenderedRoom, points_shown, render_room
from reloc.training.schedule import trapezoid

_ROOMS_KEPT_APART = range(5, 9)
_PROBE_PAIRS, _PROBE_POINTS, _FEWEST_PROBE_POINTS = 40, 150, 40
_HEAD_WIDTH = 128
# More than an image's diagonal.
_EVERYWHERE_PX = 1e3


@dataclass(frozen=True)
class Variant:
    """What is trained with, on, and by which loss."""

    config: PretrainEncoderConfig
    objective: Literal["contrast", "regress", "both"] = "contrast"


_BASE = PretrainEncoderConfig(
    size="small", num_pictures=0, num_rooms=60, room_share=1.0, max_learning_rate=8e-3
)
# At the base's learning rate the heads' loss falls more slowly than at a quarter of it.
_REGRESS = replace(_BASE, max_learning_rate=2e-3)
_PICTURES = replace(_BASE, num_pictures=300, num_rooms=0)
_PHOTOS = replace(_BASE, photos=Path("photos"), num_rooms=0)


def _with(**collage: float) -> Variant:
    return Variant(replace(_BASE, collage=replace(CollageConfig(), **collage)))


VARIANTS: Mapping[str, Variant] = {
    "contrast": Variant(_BASE),
    "regress": Variant(_REGRESS, "regress"),
    "regress-12-rooms": Variant(replace(_REGRESS, num_rooms=12), "regress"),
    "both": Variant(_BASE, "both"),
    "no-hard-negatives": Variant(replace(_BASE, ignored_px=_EVERYWHERE_PX)),
    "scale-1.2": _with(max_scale=1.2),
    "scale-3": _with(max_scale=3.0),
    "turn-0": _with(max_turn_deg=0.0),
    "turn-90": _with(max_turn_deg=90.0),
    "pictures": Variant(_PICTURES),
    "photos": Variant(_PHOTOS),
    "pictures-rooms": Variant(replace(_PICTURES, num_rooms=60, room_share=0.5)),
    "photos-rooms": Variant(replace(_PHOTOS, num_rooms=60, room_share=0.5)),
}


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    rooms: Path
    """Folder of rendered rooms; those that it lacks are rendered into it."""
    data: Path | None = None
    """Folder with photos and south_building; without it neither is used."""
    rows: Path | None = None
    """File that rows are added to."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    steps: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.variants:
            if name not in VARIANTS:
                raise ValueError(f"{name} is no variant: there are {', '.join(VARIANTS)}")


class Network(nn.Module):
    """An encoder and, for regression, a head for each room."""

    def __init__(self, variant: Variant, rooms: list[RenderedRoom], run: Run) -> None:
        super().__init__()
        self.variant = variant
        self.encoder = new_encoder(variant.config, run)
        num_heads = 0 if variant.objective == "contrast" else len(rooms)
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            self.heads = nn.ModuleList(
                CoordinateHead(self.encoder.size.code, _HEAD_WIDTH, num_blocks=1)
                for _ in range(num_heads)
            )
        self.frames = [_frame(room) for room in rooms[:num_heads]]

    def loss(self, batch: Correspondences, run: Run) -> Tensor:
        config, objective = self.variant.config, self.variant.objective
        with autocast(run):
            codes_a_NC, codes_b_NC = codes_of_points(self.encoder, batch, run)
            parts = []
            if objective != "regress":
                parts.append(contrast(codes_a_NC, codes_b_NC, batch, config))
            if objective != "contrast":
                parts.append(self._regression(torch.stack([codes_a_NC, codes_b_NC]), batch))
        return torch.stack(parts).sum()

    def _regression(self, codes_2NC: Tensor, batch: Correspondences) -> Tensor:
        """Mean of the hyperbolic tangents of errors, in the scale of each point's room."""
        assert batch.room_B is not None
        assert batch.world_N3 is not None
        room_N = batch.room_B[batch.pair_N]
        errors = []
        for room in room_N.unique().tolist():
            center_3, scale = self.frames[room]
            target_N3 = (batch.world_N3[room_N == room] - center_3) / scale
            found_N3 = self.heads[room](codes_2NC[:, room_N == room].flatten(0, 1))
            errors.append((found_N3 - target_N3.repeat(2, 1)).norm(dim=1))
        return torch.cat(errors).tanh().mean()


def _frame(room: RenderedRoom) -> tuple[Tensor, float]:
    """Centre and scale of what a room's views show."""
    height, width = room.grey_VHW.shape[-2:]
    y, x = torch.meshgrid(torch.arange(0, height, 8), torch.arange(0, width, 8), indexing="ij")
    pixels_N2 = torch.stack([x, y], -1).reshape(-1, 2).double()
    shown = [points_shown(room, view, pixels_N2) for view in range(len(room.grey_VHW))]
    center_3, scale = center_and_scale(torch.cat([points[there] for points, there in shown]))
    return center_3.float(), scale


def train(variant: Variant, arguments: Arguments, run: Run) -> tuple[Encoder, float]:
    """The plain encoder after all steps, and the processor seconds that they took."""
    config, steps = variant.config, arguments.steps
    if config.photos:
        if arguments.data is None:
            raise InputError("variants with photos need --data")
        config = replace(config, photos=arguments.data / config.photos)
    material = gather_material(config, arguments.rooms, run)
    network = Network(variant, list(material.rooms), run)
    started = time.process_time()
    coming = prefetch(lambda step: make_batch(material, config, run.seed, step), range(steps))
    schedule = FitConfig(
        steps, lambda step: trapezoid(step, steps, config.max_learning_rate, warm_up=steps // 5)
    )
    fit(network, lambda _: network.loss(next(coming), run), schedule, run, "training")
    seconds = time.process_time() - started
    encoder = Encoder(SIZES[config.size])
    encoder.load_state_dict(fold(network.encoder.state_dict()))
    encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder.eval().requires_grad_(False), seconds


def pairs_of_scene(folder: Path, run: Run) -> Correspondences:
    """Pairs of a scene's mapping views, at points that `sift` triangulates from half of them."""
    views = load_scene(folder, LoadOptions()).mapping[::2]
    config = MatchingConfig()
    point_map = build_point_map(match_views(views, config, run), config, run)
    views = {view.name: view for view in views}
    seen = [
        (views[name], set(points.tolist()))
        for name, points in zip(
            point_map.view_names,
            point_map.seen_S.split(point_map.num_seen_V.tolist()),
            strict=True,
        )
    ]
    world_N3 = point_map.points_N3.double() + point_map.origin_3
    candidates = [
        (view_a, view_b, sorted(points_a & points_b))
        for view_a, points_a in seen
        for view_b, points_b in seen
        if view_a is not view_b and len(points_a & points_b) >= _FEWEST_PROBE_POINTS
    ]
    rng = np.random.default_rng(run.seed)
    pairs = []
    for chosen in rng.permutation(len(candidates))[:_PROBE_PAIRS]:
        view_a, view_b, common = candidates[chosen]
        points_N3 = world_N3[rng.permutation(common)[:_PROBE_POINTS]]
        pixels_a_N2, pixels_b_N2 = (
            view.camera.img_from_cam(view.cam_from_world @ points_N3).float()
            for view in (view_a, view_b)
        )
        image_a, image_b = (grey_from_rgb(view.read_image())[None] for view in (view_a, view_b))
        pair_N = torch.zeros(len(points_N3), dtype=torch.int64)
        pairs.append(Correspondences(image_a, image_b, pair_N, pixels_a_N2, pixels_b_N2))
    return Correspondences.join(pairs)


def main(arguments: Arguments) -> None:
    run = Run(seed=arguments.seed, progress=Bars())
    # Now: the working copy may move on beside a run of hours.
    commit = working_copy_commit()
    done = arguments.rows.read_text("utf-8") if arguments.rows and arguments.rows.exists() else ""
    have = {
        (row["variant"], row["steps"], row["seed"]) for row in map(json.loads, done.splitlines())
    }
    rooms = [render_room(seed, arguments.rooms) for seed in _ROOMS_KEPT_APART]
    assert max(_ROOMS_KEPT_APART) < FIRST_TRAINING_SEED
    probes = {
        "match_rooms": pairs_to_match(rooms, _PROBE_PAIRS, seed=0),
        "match_rooms_turned": pairs_to_match(rooms, _PROBE_PAIRS, seed=0, turn_deg=45.0),
        "match_rooms_enlarged": pairs_to_match(rooms, _PROBE_PAIRS, seed=0, zoom=2.0),
    }
    if arguments.data is not None:
        probes["match_south_building"] = pairs_of_scene(arguments.data / "south_building", Run())
    for name in arguments.variants:
        if (name, arguments.steps, arguments.seed) in have:
            continue
        encoder, seconds = train(VARIANTS[name], arguments, run)
        row = {
            "variant": name,
            "steps": arguments.steps,
            "seed": arguments.seed,
            "cpu_s_per_step": round(seconds / arguments.steps, 4),
            **{
                probe: round(matching_accuracy(encoder, pairs, run), 4)
                for probe, pairs in probes.items()
            },
            "coordinates": round(
                float(np.mean([coordinate_accuracy(encoder, room, Run()) for room in rooms])), 4
            ),
            "threads": torch.get_num_threads(),
            "hardware": hardware(run.device),
            "commit": commit,
        }
        print(json.dumps(row), flush=True)
        if arguments.rows:
            with arguments.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
