"""What a map of the relative family is learned from, and how: views, matched pairs, the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.contract import Run
from reloc.estimation.trials import left_out
from reloc.estimation.view_selection import select_distinct_views
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.relative.config import RelativeConfig
from reloc.methods.relative.correlation import Guess, coarse_codes, coarse_grid
from reloc.methods.relative.frames import FrameReader, Frames, map_size, read_views
from reloc.methods.relative.network import Edges, PairNetwork, edge_loss
from reloc.methods.relative.pairs import Pairs, choose_pairs, match_pairs, targets
from reloc.nn.descriptors.whitening import Whitening, fit_whitening
from reloc.nn.weights import encoder_path, load_encoder
from reloc.scenes.scene import View
from reloc.training.fit import FitConfig, fit
from reloc.training.schedule import one_cycle
from reloc.training.stages import stage

# To learn how far the covariances are to be trusted, one view of so many, and at most so many, are
# left out of the map and asked for.
_VIEWS_PER_TRIAL, _MAX_TRIALS = 12, 16
_CHECKPOINT_S = 10.0
# Views are distinct that are further apart than this share of the extent, or are turned so far.
_MIN_VIEW_DISTANCE, _MIN_VIEW_ANGLE_DEG = 0.012, 2.5


@dataclass(frozen=True, eq=False)
class Place:
    """Mapping views as references.

    Attributes:
        names: of the views.
        cam_from_world: batch (N,).
        frames: their codes and rays.
        vectors_ND: whitened, float32.
        whitening: of vectors.
        unit: length of the network's unit in the scene's.
    """

    names: Sequence[str]
    cam_from_world: Rigid3d
    frames: Frames
    vectors_ND: Tensor
    whitening: Whitening
    unit: float


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a map is learned from.

    Attributes:
        reader: of images.
        place: the references.
        pairs: of these, matched.
        trials: views that are in none of them.
    """

    reader: FrameReader
    place: Place
    pairs: Pairs
    trials: Sequence[View]


def prepare(views: Sequence[View], config: RelativeConfig, run: Run) -> Lesson:
    """Read the distinct mapping views, and match pairs of them.

    Raises:
        InputError: fewer than two views can be read and show anything.
    """
    encoder = load_encoder(encoder_path(config.encoder), config.encoder).to(run.device)
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    distinct = select_distinct_views(poses, _MIN_VIEW_DISTANCE, _MIN_VIEW_ANGLE_DEG)
    step = max(1.0, len(distinct) / config.num_images)
    chosen = [distinct[int(number * step)] for number in range(int(len(distinct) / step))]
    trials = left_out(len(chosen), _VIEWS_PER_TRIAL, _MAX_TRIALS)
    # A handful of views can spare none.
    trials = trials if len(chosen) > 2 * _VIEWS_PER_TRIAL else range(0)
    learned = [views[index] for number, index in enumerate(chosen) if number not in trials]
    size = map_size(learned, config.short_side_px)
    reader, frames, kept = read_views(encoder, learned, size, config.code, run)
    if len(kept) < 2:
        raise InputError(
            f"only {learned[kept[0]].name} of {len(views)} mapping views can be used: relative "
            "poses are learned from pairs of views"
        )
    used = [learned[index] for index in kept]
    cam_from_world = Rigid3d.stack([view.cam_from_world for view in used])
    whitening = fit_whitening(frames.vectors_NG, config.num_dimensions)
    vectors_ND = whitening(frames.vectors_NG).half().float()
    coarse_NLP = coarse_codes(frames.codes(torch.arange(len(used))), reader.grid)
    pairs_P2 = choose_pairs(
        vectors_ND, coarse_NLP, coarse_grid(reader.grid), config.pairs_per_view, run.seed, run
    )
    centers_N3 = cam_from_world.inverse().translation
    apart = (centers_N3[pairs_P2[:, 0]] - centers_N3[pairs_P2[:, 1]]).norm(dim=-1)
    unit = float(apart.median()) or 1.0
    place = Place([view.name for view in used], cam_from_world, frames, vectors_ND, whitening, unit)
    pairs = match_pairs(frames, pairs_P2, reader.grid, run, config.consensus)
    return Lesson(reader, place, pairs, [views[chosen[number]] for number in trials])


def train_pair_network(
    lesson: Lesson,
    config: RelativeConfig,
    run: Run,
    index_M: Tensor | None = None,
    name: str = "pairs",
    begin_with: PairNetwork | None = None,
) -> PairNetwork:
    """A network that has learned the relative poses of the lesson's pairs.

    Args:
        lesson: what is learned.
        config: of the network and its training.
        run: seed, progress.
        index_M: which pairs; None: all.
        name: of the work, for its checkpoints.
        begin_with: a network whose weights are the first.
    """
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        network = new_pair_network(config)
    if begin_with is not None:
        network.load_state_dict(begin_with.state_dict())
    network = network.to(run.device)
    if index_M is None:
        index_M = torch.arange(len(lesson.pairs))
    place, pairs = lesson.place, lesson.pairs

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
        index_B = index_M[torch.randint(len(index_M), (config.batch_size,), generator=generator)]
        edges = network(*pair_input(pairs, index_B, place.frames, config, run))
        target = targets(pairs, index_B, place.cam_from_world, place.unit).to(run.device)
        return edge_loss(edges, config.head, target)

    steps = fit_config(config.steps, config.max_learning_rate)
    fit(network, loss_at, steps, stage(run, name), f"learning {name}")
    return network.eval().requires_grad_(False)


def fit_config(steps: int, peak: float) -> FitConfig:
    """One cycle of AdamW."""
    return FitConfig(
        steps=steps,
        learning_rate=lambda step: one_cycle(step, steps, peak, rise=0.1),
        checkpoint_s=_CHECKPOINT_S,
    )


def pair_input(
    pairs: Pairs, index_B: Tensor, frames: Frames, config: RelativeConfig, run: Run
) -> tuple[Tensor, Guess]:
    """Channels (B, C, h, w) and guesses of pairs, for a network."""
    channels = pairs.channels_PChw[index_B].to(run.device).float()
    codes_BLP = frames.codes(pairs.query_P[index_B])[..., : config.scene_codes].to(run.device)
    guess = pairs.guess
    return with_codes(channels, codes_BLP), Guess(
        guess.turn_B33[index_B].to(run.device), guess.heading_B3[index_B].to(run.device)
    )


def with_codes(channels_BChw: Tensor, codes_BLP: Tensor) -> Tensor:
    """Channels with numbers of the query's codes, scaled to about the same size."""
    codes = 4 * codes_BLP.mT.unflatten(-1, channels_BChw.shape[-2:])
    return torch.cat([channels_BChw, codes.expand(len(channels_BChw), -1, -1, -1)], dim=1)


def new_pair_network(config: RelativeConfig) -> PairNetwork:
    """An untrained network of pairs."""
    return PairNetwork(config.head, config.scene_codes, config.width)


def some_edges(edges: Edges, index: Tensor) -> Edges:
    """Those with these indices."""
    return Edges(
        Guess(edges.guess.turn_B33[index], edges.guess.heading_B3[index]),
        edges.numbers[index],
        edges.log_scale_2[index],
        edges.embedding_D[index],
    )
