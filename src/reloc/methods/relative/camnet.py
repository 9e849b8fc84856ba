"""CamNet, coarse to fine: a first pose picks views by pose, and these say it finely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.contract import Localizer, Method, PoseEstimate, Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.methods.relative import family, learning
from reloc.methods.relative.config import TINY, RelativeConfig
from reloc.methods.relative.family import GROWTH, Asked, RelativeLocalizer
from reloc.methods.relative.learning import Place
from reloc.scenes.scene import Query, View

_FINE = "fine."
# Distance that weighs as much as a turn of 40° in the search by pose (the authors' program), as a
# share of the extent of the references.
_TURN_DEG, _EXTENT_SHARE = 40.0, 0.25


@dataclass(frozen=True)
class CamNetConfig(RelativeConfig):
    """Settings of CamNet."""

    fine_share: float = 0.5
    """Share of the pairs, the nearest in pose, that the second network learns from."""
    fine_neighbours: int = 8
    """Mapping views, the nearest to the first pose, that the second network relates a query to."""
    steps: int = 700
    """Steps of training of each of the two networks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fine_share <= 1:
            raise ValueError(f"fine_share is {self.fine_share}; it must be in (0, 1]")
        if self.fine_neighbours < 1:
            raise ValueError(f"fine_neighbours is {self.fine_neighbours}; it must be at least 1")
        if self.combination == "triangulate" and self.fine_neighbours < 2:
            raise ValueError(
                "a camera is triangulated from several views: fine_neighbours must be at least 2"
            )


def pose_distance(place: Place, pose: Rigid3d, extent: float) -> Tensor:
    """How far references (N,) are from a pose: in angle, and in place over a part of the extent."""
    angle_deg = angle_between_rad(place.cam_from_world.rotation, pose.rotation).rad2deg()
    centers_N3 = place.cam_from_world.inverse().translation
    distance = (centers_N3 - pose.inverse().translation).norm(dim=-1)
    return angle_deg / _TURN_DEG + distance / max(_EXTENT_SHARE * extent, 1e-9)


def build_map(views: Sequence[View], config: CamNetConfig, run: Run) -> Tensors:
    """Learn relative poses of pairs, once of all and once of near ones."""
    lesson = learning.prepare(views, config, run)
    coarse = learning.train_pair_network(lesson, config, run)
    pairs, place = lesson.pairs, lesson.place
    between = (
        place.cam_from_world[pairs.query_P] @ place.cam_from_world[pairs.reference_P].inverse()
    )
    angle_deg = angle_between_rad(between.rotation, torch.eye(3, dtype=torch.float64)).rad2deg()
    cost_P = angle_deg / _TURN_DEG + between.translation.norm(dim=-1) / (
        _EXTENT_SHARE * _extent(place)
    )
    near = cost_P.argsort(stable=True)[: max(2, int(len(pairs) * config.fine_share))]
    fine = learning.train_pair_network(lesson, config, run, near, "fine", coarse)
    tensors = {
        **family.map_tensors(lesson, config),
        **family.network_tensors(coarse),
        **family.network_tensors(fine, _FINE),
    }
    return family.with_trials(tensors, lesson.trials, lambda t: localizer(t, config, run), run)


class CamNetLocalizer:
    """Answers in two steps, each query for itself."""

    def __init__(self, coarse: RelativeLocalizer, tensors: Tensors, config: CamNetConfig) -> None:
        self._coarse = coarse
        self._config = config
        self._extent = _extent(coarse.place)
        self._fine = family.open_pair_network(tensors, config, coarse.run, _FINE)

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, in order."""
        return [self._localize(query) for query in queries]

    @torch.no_grad()
    def _localize(self, query: Query) -> PoseEstimate:
        coarse = self._coarse
        asked = coarse.asked(query)
        first = None if asked is None else coarse.combined(asked)
        if asked is None or first is None:
            return PoseEstimate(None)
        distance_N = pose_distance(coarse.place, first.cam_from_world, self._extent)
        near_K = distance_N.argsort(stable=True)[: self._config.fine_neighbours]
        # Where the first pose is wrong, what is near it shows nothing of the query: the similar
        # images stay, and what each shows decides.
        chosen = torch.cat([near_K, asked.reference_K]).unique()
        fine: Asked = coarse.ask(asked.frame, chosen, self._fine)
        best_K = fine.belief_K.argsort(descending=True, stable=True)
        fine = fine.keep(best_K[: self._config.fine_neighbours])
        return coarse.answer(fine, coarse.combined(fine))


def localizer(tensors: Tensors, config: CamNetConfig, run: Run) -> Localizer:
    """Answers from coarse to fine."""
    reader, place = family.open_place(tensors, config, run)
    network = family.open_pair_network(tensors, config, run)
    coarse = RelativeLocalizer(reader, place, network, float(tensors[GROWTH]), config, run)
    return CamNetLocalizer(coarse, tensors, config)


def _extent(place: Place) -> float:
    centers_N3 = place.cam_from_world.inverse().translation
    return float((centers_N3.amax(0) - centers_N3.amin(0)).norm()) or 1.0


METHOD = Method(
    name="camnet",
    family="relative",
    summary="A first pose by similar views picks views by pose; a second network says it finely.",
    paper="Ding, Wang, Sun, Shi and Luo, CamNet: Coarse-to-Fine Retrieval for Camera "
    "Re-Localization, ICCV 2019",
    published="0.04 m, 1.7° (7-Scenes, mean of medians; nobody could repeat it); not reproduced",
    config=CamNetConfig,
    tiny=CamNetConfig(**{**TINY, "steps": 25}, fine_neighbours=6),
    build_map=build_map,
    localizer=localizer,
)
