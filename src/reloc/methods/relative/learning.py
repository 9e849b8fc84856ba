"""What a map of the relative family is learned from, and how: views, matched pairs, the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
from reloc.methods.relative.heads import HEADS
from reloc.methods.relative.network import Edges, PairNetwork, edge_loss
from reloc.methods.relative.pairs import Pairs, choose_pairs, match_pairs, targets
from reloc.methods.relative.shared import NETWORK, Shared, open_shared
from reloc.nn.descriptors.whitening import Whitening, fit_whitening
from reloc.nn.shared_encoder import open_encoder
from reloc.nn.unfilled import unfilled
from reloc.scenes.scene import View
from reloc.training.fit import FitConfig, fit
from reloc.training.schedule import one_cycle
from reloc.training.stages import stage

# To learn how far the covariances are to be trusted, one view of so many, and at most so many, are
# left out of the map and asked for.
_VIEWS_PER_TRIAL, _MAX_TRIALS = 12, 16
_CHECKPOINT_S = 10.0
# From how many pairs a scene's unit is read, where the network is from elsewhere.
_UNIT_PAIRS_PER_VIEW, _MAX_UNIT_PAIRS = 4, 128
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
        shared: networks from elsewhere, where nothing is learned here.
    """

    reader: FrameReader
    place: Place
    pairs: Pairs
    trials: Sequence[View]
    shared: Shared | None = None


def distinct_views(views: Sequence[View], count: int) -> list[int]:
    """Indices of the views that differ, evenly spaced where these are more than `count`."""
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    distinct = select_distinct_views(poses, _MIN_VIEW_DISTANCE, _MIN_VIEW_ANGLE_DEG)
    step = max(1.0, len(distinct) / count)
    return [distinct[int(number * step)] for number in range(int(len(distinct) / step))]


def prepare(views: Sequence[View], config: RelativeConfig, run: Run) -> Lesson:
    """Read the distinct mapping views, and match pairs of them.

    Networks from elsewhere speak in metres: then few pairs are matched, for the scene's unit.

    Raises:
        InputError: no view can be read and shows anything, or only one where the networks are to be
            trained; or networks from elsewhere are not to be had.
    """
    shared = None if config.trains else open_shared(config)
    encoder = open_encoder(config.encoder, run)
    chosen = distinct_views(views, config.num_images)
    trials = left_out(len(chosen), _VIEWS_PER_TRIAL, _MAX_TRIALS)
    # A handful of views can spare none.
    trials = trials if len(chosen) > 2 * _VIEWS_PER_TRIAL else range(0)
    learned = [views[index] for number, index in enumerate(chosen) if number not in trials]
    size = map_size(learned, config.short_side_px)
    known_CP = shared.components_CP if shared else None
    reader, frames, kept = read_views(encoder, learned, size, config.code, run, known_CP)
    if shared is None and len(kept) < 2:
        raise InputError(
            f"only {learned[kept[0]].name} of {len(views)} mapping views can be used, and relative "
            "poses are learned from pairs: add views, or map with --weights shipped"
        )
    used = [learned[index] for index in kept]
    cam_from_world = Rigid3d.stack([view.cam_from_world for view in used])
    whitening = fit_whitening(frames.vectors_NG, config.num_dimensions)
    vectors_ND = whitening(frames.vectors_NG).half().float()
    coarse_NLP = coarse_codes(frames.codes(torch.arange(len(used))), reader.grid)
    per_view = _UNIT_PAIRS_PER_VIEW if shared else config.pairs_per_view
    pairs_P2 = choose_pairs(
        vectors_ND, coarse_NLP, coarse_grid(reader.grid), per_view, run.seed, run
    )
    if shared:
        pairs_P2 = pairs_P2[:: -(-len(pairs_P2) // _MAX_UNIT_PAIRS) or 1]
    centers_N3 = cam_from_world.inverse().translation
    apart = (centers_N3[pairs_P2[:, 0]] - centers_N3[pairs_P2[:, 1]]).norm(dim=-1)
    unit = (float(apart.median()) if len(apart) else 0.0) or 1.0
    place = Place([view.name for view in used], cam_from_world, frames, vectors_ND, whitening, unit)
    pairs = match_pairs(frames, pairs_P2, reader.grid, run, config.consensus)
    lesson = Lesson(reader, place, pairs, [views[chosen[number]] for number in trials], shared)
    if shared is None or not HEADS[config.head].has_scale:
        return lesson
    unit = _unit_said(lesson, config, run)
    run.log.info("%d views; a metre of the network is %.3f here", len(used), unit)
    return replace(lesson, place=replace(place, unit=unit))


def _unit_said(lesson: Lesson, config: RelativeConfig, run: Run) -> float:
    """What a length of 1 of a network from elsewhere is in this scene; 1 where nothing tells.

    The unit u with the least sum of absolute errors |true - u said|_1 of the translations of the
    scene's pairs, each over its expected error: a median of ratios. Where a network knows not the
    direction it says little, so that lengths alone would tell too large a unit.
    """
    pairs, place = lesson.pairs, lesson.place
    believed_M = (pairs.belief_P >= config.min_belief).nonzero()[:, 0]
    if not len(believed_M):
        return 1.0
    edges = said_of(lesson, train_pair_network(lesson, config, run), config, run, believed_M)
    said_M3 = edges.query_from_reference(config.head, 1.0).translation.double().cpu()
    true_M3 = targets(pairs, believed_M, place.cam_from_world, 1.0).translation.double()
    weight_M3 = said_M3.abs() * (-edges.log_scale_2[:, 1:].double().cpu()).exp()
    ratio_E, order_E = (true_M3 / said_M3).flatten().nan_to_num(0.0).sort()
    so_far_E = weight_M3.flatten()[order_E].cumsum(0)
    unit = float(ratio_E[int(torch.searchsorted(so_far_E, so_far_E[-1] / 2))])
    if unit > 0:
        return unit
    # What is said has nothing to do with what is true: it shall at least be as large.
    return float(true_M3.norm(dim=-1).median() / said_M3.norm(dim=-1).median()) or 1.0


def said_of(
    lesson: Lesson, network: PairNetwork, config: RelativeConfig, run: Run, index_M: Tensor
) -> Edges:
    """What a network says of some of the lesson's pairs."""
    pairs, frames = lesson.pairs, lesson.place.frames
    with torch.no_grad():
        parts = [
            network(*pair_input(pairs, index, frames, config, run)) for index in index_M.split(256)
        ]
    guess = Guess(
        pairs.guess.turn_B33[index_M].to(run.device), pairs.guess.heading_B3[index_M].to(run.device)
    )
    said = [
        torch.cat([getattr(part, name) for part in parts])
        for name in ("numbers", "log_scale_2", "embedding_D")
    ]
    return Edges(guess, *said)


def train_pair_network(
    lesson: Lesson,
    config: RelativeConfig,
    run: Run,
    index_M: Tensor | None = None,
    name: str = "pairs",
    begin_with: PairNetwork | None = None,
    on_checkpoint: Callable[[dict[str, Tensor], int, float], None] | None = None,
) -> PairNetwork:
    """A network that has learned the relative poses of the lesson's pairs.

    Where the lesson has a network from elsewhere it is that one, and nothing is trained.

    Args:
        lesson: what is learned.
        config: of the network and its training.
        run: seed, progress.
        index_M: which pairs; None: all.
        name: of the work, for its checkpoints.
        begin_with: a network whose weights are the first.
        on_checkpoint: see `fit`.
    """
    if lesson.shared is not None:
        with unfilled():
            network = new_pair_network(config)
        return lesson.shared.fill(network, NETWORK, run)
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
    fit(network, loss_at, steps, stage(run, name), f"learning {name}", on_checkpoint)
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
