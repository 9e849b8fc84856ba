"""The relative family: retrieve mapping views, say where the query is from each, combine.

Map: codes and vectors of distinct mapping views, and a small network that learned from pairs of
them. Query: its most similar views, the network's answer for each, and a robust mean of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reloc.contract import Localizer, PoseEstimate, Run, Tensors
from reloc.estimation.trials import covariance_scale
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.relative.combine import Combined, combine
from reloc.methods.relative.config import ConfigT, RelativeConfig
from reloc.methods.relative.correlation import (
    beliefs,
    coarse_codes,
    coarse_grid,
    match_both_ways,
    mean_belief,
)
from reloc.methods.relative.frames import Frame, FrameReader, Frames
from reloc.methods.relative.heads import HEADS
from reloc.methods.relative.learning import (
    Lesson,
    Place,
    new_pair_network,
    prepare,
    some_edges,
    train_pair_network,
    with_codes,
)
from reloc.methods.relative.network import Edges, PairNetwork
from reloc.methods.relative.pairs import look, nearest_frames
from reloc.methods.relative.shared import NETWORK
from reloc.nn.descriptors.whitening import Whitening
from reloc.nn.shared_encoder import encoder_of_map, encoder_record
from reloc.nn.unfilled import unfilled
from reloc.scenes.scene import Query, View

GROWTH = "covariance_scale"
# Belief of the matches with the best view at which a query shows the place as likely as not, and
# how steeply more decides: held-out views of redkitchen's mapping reach 0.5 to 0.9, photos of
# elsewhere 0.16 to 0.27. Set by hand between the two, not fitted.
_HALF_SURE_BELIEF, _BELIEF_SLOPE = 0.4, 6.0


def map_tensors(lesson: Lesson, config: RelativeConfig) -> dict[str, Tensor]:
    """All of a map but for its networks and how far its covariances are to be trusted."""
    place, frames = lesson.place, lesson.place.frames
    return {
        **encoder_record(config.encoder),
        "size": torch.tensor(lesson.reader.size),
        "components": lesson.reader.components_CP,
        "focal_ratio": torch.tensor(lesson.reader.focal_ratio, dtype=torch.float64),
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
        InputError: the encoder is not the one that the map was made with, or the map is of a
            version of reloc that kept no focal length.
    """
    if "focal_ratio" not in tensors:
        raise InputError(
            "the map is of an earlier version of reloc, which did not keep the focal length of "
            "the mapping views: build the map again"
        )
    encoder = encoder_of_map(tensors, config.encoder, run)
    width, height = tensors["size"].tolist()
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
    ratio = float(tensors["focal_ratio"])
    return FrameReader(encoder, (width, height), tensors["components"], ratio), place


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


def open_pair_network(
    tensors: Tensors, config: RelativeConfig, run: Run, prefix: str = NETWORK
) -> PairNetwork:
    """The network of pairs of a map."""
    with unfilled():
        network = new_pair_network(config)
    load_network(network, tensors, run, prefix)
    return network


def localizer(tensors: Tensors, config: RelativeConfig, run: Run) -> RelativeLocalizer:
    """Answers by the mean of what the most similar views say."""
    reader, place = open_place(tensors, config, run)
    network = open_pair_network(tensors, config, run)
    return RelativeLocalizer(reader, place, network, float(tensors[GROWTH]), config, run)


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
        belief_K = mean_belief(matches.weight_BL, codes_1LP)
        return Asked(frame, reference_K, edges, belief_K.cpu())

    def combined(self, asked: Asked) -> Combined | None:
        """One pose of the references' answers."""
        config, place = self.config, self.place
        poses = asked.edges.query_from_reference(config.head, place.unit)
        return combine(
            poses.to("cpu"),
            place.cam_from_world[asked.reference_K],
            asked.edges.log_scale_2.cpu(),
            config.combination,
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
        odds = share * (belief / _HALF_SURE_BELIEF) ** _BELIEF_SLOPE
        return PoseEstimate(
            combined.cam_from_world,
            confidence=odds / (1 + odds),
            covariance=self._growth * combined.covariance,
            num_inliers=agreeing,
            inlier_ratio=share,
            reference=self.place.names[int(asked.reference_K[int(asked.belief_K.argmax())])],
        )
