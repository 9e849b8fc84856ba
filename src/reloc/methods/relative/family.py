"""The relative family: retrieve mapping views, say where the query is from each, combine.

Map: codes and vectors of distinct mapping views, and a small network that learned from pairs of
them. Query: its most similar views, the network's answer for each, and a robust mean of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from reloc.contract import Localizer, PoseEstimate, Run, Tensors
from reloc.estimation.trials import covariance_scale, left_out
from reloc.estimation.view_selection import select_distinct_views
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.relative.combine import Combination, Combined, combine
from reloc.methods.relative.correlation import (
    Guess,
    beliefs,
    coarse_codes,
    coarse_grid,
    match_both_ways,
)
from reloc.methods.relative.frames import Frame, FrameReader, Frames, map_size, read_views
from reloc.methods.relative.heads import HEADS, HeadName
from reloc.methods.relative.network import Edges, PairNetwork, edge_loss
from reloc.methods.relative.pairs import (
    Pairs,
    choose_pairs,
    look,
    match_pairs,
    nearest_frames,
    targets,
)
from reloc.nn.descriptors.whitening import Whitening, fit_whitening
from reloc.nn.weights import EncoderName, encoder_path, encoder_sha256, load_encoder
from reloc.scenes.scene import Query, View
from reloc.training.fit import FitConfig, fit
from reloc.training.schedule import one_cycle
from reloc.training.stages import stage

NETWORK, GROWTH = "network.", "covariance_scale"
# To learn how far the covariances are to be trusted, one view of so many, and at most so many, are
# left out of the map and asked for.
_VIEWS_PER_TRIAL, _MAX_TRIALS = 12, 16
_CHECKPOINT_S = 10.0
# Views are distinct that are further apart than this share of the extent, or are turned so far.
_MIN_VIEW_DISTANCE, _MIN_VIEW_ANGLE_DEG = 0.012, 2.5
# Belief of the matches at which a query shows the place as likely as not, by
# `benchmarks/relative_ablations.py belief`, and how steeply it decides.
_BELIEF_SLOPE = 4.0


@dataclass(frozen=True)
class RelativeConfig:
    """Settings of a map of the relative family."""

    encoder: EncoderName = "base"
    """The shared encoder."""
    short_side_px: int = 240
    """Images are brought to this shorter side."""
    code: int = 48
    """Numbers of a cell's code that are kept."""
    num_images: int = 320
    """Mapping views that are kept, the most distinct; each is a reference, and learned from."""
    num_dimensions: int = 96
    """Of the vectors by which views are retrieved."""
    num_neighbours: int = 8
    """Mapping views that a query is related to."""
    num_candidates: int = 24
    """Most similar views that these are chosen from: those that show most of the same."""
    neighbours: Literal["retrieved", "random", "sequential"] = "retrieved"
    """Which: the most similar; any; or the most similar one and those filmed after it."""
    head: HeadName = "6d+t"
    """How the network says a relative pose."""
    consensus: bool = False
    """Hold matches less likely whose neighbours match elsewhere."""
    scene_codes: int = 16
    """Numbers of the query's codes that the network sees beside the matches: they tell depths in
    the place that it was trained in. 0 for a network that is to know none."""
    width: int = 64
    """Channels of the network."""
    pairs_per_view: int = 12
    """Pairs of each view to learn from."""
    steps: int = 1200
    """Steps of training."""
    batch_size: int = 48
    """Pairs of a step."""
    max_learning_rate: float = 3e-3
    """Peak of the one-cycle schedule."""
    combination: Combination = "average"
    """How the answers become one: their robust mean, a triangulation of their directions with the
    robust mean of their rotations, or the single one that the network is surest of."""
    max_angle_deg: float = 15.0
    """Up to which rotations, or directions, agree."""
    min_belief: float = 0.08
    """With less mean belief in the matches with its best view, a query is declined: it shows
    another place."""

    def __post_init__(self) -> None:
        for name in (
            "code",
            "num_images",
            "num_dimensions",
            "num_neighbours",
            "num_candidates",
            "pairs_per_view",
            "batch_size",
            "steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.short_side_px < 48:
            raise ValueError(f"short_side_px is {self.short_side_px}; it must be at least 48")
        if self.width < 8 or self.width % 2:
            raise ValueError(f"width is {self.width}; it must be even and at least 8")
        if not 0 <= self.scene_codes <= self.code:
            raise ValueError(f"scene_codes is {self.scene_codes}, not between 0 and {self.code}")
        if not 0 < self.max_angle_deg <= 180:
            raise ValueError(f"max_angle_deg is {self.max_angle_deg}; it must be in (0, 180]")


ConfigT = TypeVar("ConfigT", bound=RelativeConfig)

# What the tests' configs of all rows have in common: seconds on one core.
TINY: Any = {
    "short_side_px": 96,
    "code": 32,
    "num_dimensions": 24,
    "num_neighbours": 6,
    "num_candidates": 16,
    "width": 32,
    "pairs_per_view": 4,
    "steps": 40,
    "batch_size": 16,
    "min_belief": 0.25,
}


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


def map_tensors(lesson: Lesson, config: RelativeConfig) -> dict[str, Tensor]:
    """All of a map but for its networks and how far its covariances are to be trusted."""
    place, frames = lesson.place, lesson.place.frames
    return {
        "encoder_sha256": text_to_tensor([encoder_sha256(config.encoder)]),
        "size": torch.tensor(lesson.reader.size),
        "components": lesson.reader.components_CP,
        "codes": frames.codes_NLP,
        "rays": frames.rays_KL2,
        "camera": frames.camera_N.int(),
        "vectors": place.vectors_ND.half(),
        "rotations": place.cam_from_world.rotation,
        "translations": place.cam_from_world.translation,
        "unit": torch.tensor(place.unit, dtype=torch.float64),
        "names": text_to_tensor(place.names),
        **place.whitening.state(),
    }


def network_tensors(network: nn.Module, prefix: str = NETWORK) -> dict[str, Tensor]:
    """The weights of a network, for a map."""
    return {prefix + name: value.cpu() for name, value in network.state_dict().items()}


def load_network(
    network: nn.Module, tensors: Mapping[str, Tensor], run: Run, prefix: str = NETWORK
) -> None:
    """Put the weights of a map into a network that was made with meta tensors."""
    state = {
        name.removeprefix(prefix): value.clone()
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    network.load_state_dict(state, assign=True)
    network.to(run.device).eval().requires_grad_(False)


def open_place(tensors: Tensors, config: RelativeConfig, run: Run) -> tuple[FrameReader, Place]:
    """The reader and the references of a map.

    Raises:
        InputError: the encoder is not the one that the map was made with.
    """
    if tensor_to_text(tensors["encoder_sha256"]) != [encoder_sha256(config.encoder)]:
        raise InputError(
            f"the map was built with another {config.encoder} encoder than this installation has: "
            "build it again"
        )
    width, height = tensors["size"].tolist()
    encoder = load_encoder(encoder_path(config.encoder), config.encoder).to(run.device)
    vectors = tensors["vectors"].float()
    frames = Frames(tensors["codes"], tensors["rays"], tensors["camera"].long(), vectors)
    place = Place(
        tensor_to_text(tensors["names"]),
        Rigid3d(tensors["rotations"], tensors["translations"]),
        frames,
        vectors,
        Whitening.from_state(tensors),
        float(tensors["unit"]),
    )
    return FrameReader(encoder, (width, height), tensors["components"]), place


def build_map(views: Sequence[View], config: RelativeConfig, run: Run) -> Tensors:
    """Read views, match pairs, train the network of pairs.

    Raises:
        InputError: fewer than two views can be read and show anything.
    """
    return finish_map(prepare(views, config, run), config, localizer, run)


def finish_map(
    lesson: Lesson,
    config: ConfigT,
    open_localizer: Callable[[Tensors, ConfigT, Run], Localizer],
    run: Run,
) -> Tensors:
    """Train the network of pairs, and try the map."""
    network = train_pair_network(lesson, config, run)
    tensors = {**map_tensors(lesson, config), **network_tensors(network)}
    return with_trials(tensors, lesson.trials, lambda t: open_localizer(t, config, run), run)


def with_trials(
    tensors: dict[str, Tensor],
    trials: Sequence[View],
    open_localizer: Callable[[Tensors], Localizer],
    run: Run,
) -> Tensors:
    """The map with what views that it has not seen say of its covariances."""
    tensors[GROWTH] = torch.tensor(1.0, dtype=torch.float64)
    growth = covariance_scale(open_localizer(tensors), trials, run)
    run.log.info("errors are %.1f times their sigmas", growth**0.5)
    return {**tensors, GROWTH: torch.tensor(growth, dtype=torch.float64)}


def new_pair_network(config: RelativeConfig) -> PairNetwork:
    """An untrained network of pairs."""
    return PairNetwork(config.head, config.scene_codes, config.width)


def open_pair_network(
    tensors: Tensors, config: RelativeConfig, run: Run, prefix: str = NETWORK
) -> PairNetwork:
    """The network of pairs of a map."""
    with torch.device("meta"):
        network = new_pair_network(config)
    load_network(network, tensors, run, prefix)
    return network


def localizer(tensors: Tensors, config: RelativeConfig, run: Run) -> RelativeLocalizer:
    """Answers by the mean of what the most similar views say."""
    reader, place = open_place(tensors, config, run)
    network = open_pair_network(tensors, config, run)
    return RelativeLocalizer(reader, place, network, float(tensors[GROWTH]), config, run)


def some_edges(edges: Edges, index: Tensor) -> Edges:
    """Those with these indices."""
    return Edges(
        Guess(edges.guess.turn_B33[index], edges.guess.heading_B3[index]),
        edges.numbers[index],
        edges.log_scale_2[index],
        edges.embedding_D[index],
    )


@dataclass(frozen=True, eq=False)
class Asked:
    """A query and its references.

    Attributes:
        frame: of the query.
        reference_K: int64, which references.
        edges: what the network says of each.
        belief_K: mean belief of the matches with each.
    """

    frame: Frame
    reference_K: Tensor
    edges: Edges
    belief_K: Tensor

    def keep(self, index: Tensor) -> Asked:
        """Some of the references."""
        kept = some_edges(self.edges, index)
        return replace(
            self, reference_K=self.reference_K[index], edges=kept, belief_K=self.belief_K[index]
        )


class RelativeLocalizer:
    """Answers queries from references, each query for itself.

    Args:
        reader: of images.
        place: the references.
        network: of pairs.
        growth: by which squared errors are larger than the spread says.
        config: of the map.
        run: device, seed.
        refine: changes what the network says, seeing all references at once; None: nothing does.
    """

    def __init__(
        self,
        reader: FrameReader,
        place: Place,
        network: PairNetwork,
        growth: float,
        config: RelativeConfig,
        run: Run,
        refine: Callable[[Asked], Asked] | None = None,
    ) -> None:
        self.reader, self.place, self.network = reader, place, network
        self.config, self.run, self.refine = config, run, refine
        self._growth = growth
        codes = place.frames.codes(torch.arange(len(place.names)))
        self._coarse_NLP = coarse_codes(codes, reader.grid)

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, in order."""
        return [self._localize(query) for query in queries]

    @torch.no_grad()
    def _localize(self, query: Query) -> PoseEstimate:
        asked = self.asked(query)
        if asked is None:
            return PoseEstimate(None)
        return self.answer(asked, self.combined(asked))

    @torch.no_grad()
    def asked(self, query: Query) -> Asked | None:
        """A query and what is said of it; None where it shows nothing, or another place."""
        frame = self.reader.read(query.image, query.camera)
        if frame is None:
            return None
        asked = self.ask(frame, self.neighbours(frame))
        if float(asked.belief_K.max()) < self.config.min_belief:
            return None
        return self.refine(asked) if self.refine else asked

    def neighbours(self, frame: Frame) -> Tensor:
        """The references (K,) of a query."""
        place, config = self.place, self.config
        count = min(config.num_neighbours, len(place.names))
        ranked = nearest_frames(place.vectors_ND, place.whitening(frame.vector_G), len(place.names))
        if config.neighbours == "sequential":
            return (ranked[0] + torch.arange(count)) % len(place.names)
        if config.neighbours == "random":
            # The same for the same query, alone and in company.
            seed = self.run.seed + int(ranked[0]) * 1009 + int(ranked[-1])
            generator = torch.Generator().manual_seed(seed)
            return torch.randperm(len(ranked), generator=generator)[:count]
        candidates = ranked[: max(count, config.num_candidates)]
        coarse_1LP = coarse_codes(frame.codes_LP[None], self.reader.grid)
        grid = coarse_grid(self.reader.grid)
        belief = beliefs(coarse_1LP[0], self._coarse_NLP[candidates], grid)
        return candidates[belief.argsort(descending=True, stable=True)[:count]]

    def ask(self, frame: Frame, reference_K: Tensor, network: PairNetwork | None = None) -> Asked:
        """What the network (or another one) says of a query and references."""
        frames, device = self.place.frames, self.run.device
        count, grid = len(reference_K), self.reader.grid
        codes_1LP = frame.codes_LP[None].to(device)
        rays_KL2 = frame.rays_L2[None].expand(count, -1, -1).to(device)
        matches, _ = match_both_ways(
            codes_1LP.expand(count, -1, -1),
            frames.codes(reference_K).to(device),
            rays_KL2,
            frames.rays(reference_K).to(device),
            grid,
            self.config.consensus,
        )
        guess, channels_KChw = look(matches, rays_KL2, grid)
        # As the pairs that were learned from, which are kept in half precision.
        channels = with_codes(
            channels_KChw.half().float(), codes_1LP[..., : self.config.scene_codes]
        )
        edges = (network or self.network)(channels, guess)
        return Asked(frame, reference_K, edges, matches.weight_BL.mean(1).cpu())

    def combined(self, asked: Asked) -> Combined | None:
        """One pose of the references' answers."""
        config, place = self.config, self.place
        poses = asked.edges.query_from_reference(config.head, place.unit)
        has_scale = HEADS[config.head].has_scale
        return combine(
            poses.to("cpu"),
            place.cam_from_world[asked.reference_K],
            asked.edges.log_scale_2.cpu(),
            config.combination if has_scale else "triangulate",
            place.unit,
            config.max_angle_deg,
            HEADS[config.head].has_sign,
        )

    def answer(self, asked: Asked, combined: Combined | None) -> PoseEstimate:
        """The estimate of a query."""
        if combined is None:
            return PoseEstimate(None)
        agreeing = int(combined.agreeing_K.sum())
        share = agreeing / len(asked.reference_K)
        belief = float(asked.belief_K.max())
        odds = share * (belief / (2 * max(self.config.min_belief, 0.01))) ** _BELIEF_SLOPE
        return PoseEstimate(
            combined.cam_from_world,
            confidence=odds / (1 + odds),
            covariance=self._growth * combined.covariance,
            num_inliers=agreeing,
            inlier_ratio=share,
            reference=self.place.names[int(asked.reference_K[int(asked.belief_K.argmax())])],
        )
