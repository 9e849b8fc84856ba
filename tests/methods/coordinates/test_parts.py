"""Maps of several parts: how views are split, and that a query gets the best of the answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from reloc.contract import PoseEstimate, Run, Tensors, UnfinishedMapError
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates import parts
from reloc.methods.coordinates.ace import reprojection_loss
from reloc.methods.coordinates.localizer import (
    MAX_ITERATIONS,
    Asked,
    EncodedQuery,
    encode_queries,
)
from reloc.methods.coordinates.looks import add_looks, describe_parts, most_alike
from reloc.methods.coordinates.parts import (
    PartsConfig,
    PartsLocalizer,
    ask_all,
    parts_of,
    split_views,
    train_parts,
)
from reloc.nn.encoder import SIZES, Encoder
from reloc.nn.shared_encoder import encoder_record
from reloc.progress import Item, Silent
from reloc.scenes.scene import Query, Scene

CONFIG = PartsConfig(
    short_side_px=64, width=32, num_images=8, steps=20, batch_size=128, points_until=0.0
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(SIZES["small"]).eval().requires_grad_(False)


def _cameras(centers_V3: torch.Tensor, turns_rad: torch.Tensor) -> Rigid3d:
    """Upright cameras that look along z, turned about y."""
    turn_V6 = torch.zeros(len(centers_V3), 6, dtype=torch.float64)
    turn_V6[:, 1] = turns_rad
    rotation = Rigid3d.exp(turn_V6).rotation
    return Rigid3d(rotation, centers_V3.double()).inverse()


# How views are split


def test_one_room_is_split_by_what_its_cameras_see() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = 0.2 * torch.rand(40, 3, generator=generator)
    ahead = torch.arange(40) % 2 == 0
    halves = split_views(_cameras(centers, torch.where(ahead, 0.0, torch.pi)), 2)
    assert sorted(map(sorted, halves)) == [list(range(0, 40, 2)), list(range(1, 40, 2))]


def test_places_that_lie_apart_are_split_before_any_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, places = (30, 9, 12), (0.0, 60.0, 140.0)
    centers = torch.cat(
        [
            torch.rand(size, 3, generator=generator) + torch.tensor([place, 0, 0])
            for size, place in zip(sizes, places, strict=True)
        ]
    )
    turns = 6.28 * torch.rand(len(centers), generator=generator)
    found = sorted(split_views(_cameras(centers, turns), 3))
    assert found == [list(range(30)), list(range(30, 39)), list(range(39, 51))]


def test_parts_are_not_made_too_small_and_no_view_is_lost() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(20, 3, generator=generator)
    cameras = _cameras(centers, 6.28 * torch.rand(20, generator=generator))
    found = split_views(cameras, 50)
    assert sorted(index for part in found for index in part) == list(range(20))
    assert all(len(part) >= 8 for part in found)
    assert split_views(cameras[:9], 4) == [list(range(9))]
    standing = _cameras(torch.zeros(20, 3), torch.linspace(0, 6, 20))
    assert split_views(standing, 4) == [list(range(20))]


# Training


def _train(encoder: Encoder, scene: Scene, run: Run) -> Tensors:
    loss = partial(reprojection_loss, loose_px=100.0, tight_px=1.0)
    halves = [list(range(0, 40, 4)), list(range(2, 40, 4))]
    return train_parts(encoder, scene.mapping, halves, CONFIG, loss, run, replay_cells=64)


@dataclass
class _InterruptedIn(Silent):
    """Ctrl-C in the middle of the training of a part, or of another work on it."""

    part: int
    work: str = "training the map"
    step: int = 12
    begun: int = 0

    def track(
        self, items: Iterable[Item], description: str, total: int | None = None
    ) -> Iterator[Item]:
        del total
        meant = description == self.work
        self.begun += meant
        for number, item in enumerate(items):
            if meant and self.begun == self.part + 1 and number == self.step:
                raise KeyboardInterrupt
            yield item


def test_an_interrupted_map_has_the_parts_so_far_and_goes_on_to_the_same_map(
    encoder: Encoder, small_room: Scene, tmp_path: Path
) -> None:
    whole = _train(encoder, small_room, Run())
    run = Run(checkpoint_folder=tmp_path)
    with pytest.raises(UnfinishedMapError) as stopped:
        _train(encoder, small_room, replace(run, progress=_InterruptedIn(part=1)))
    early = parts_of(stopped.value.tensors)
    assert list(early) == list(parts_of(whole)) == ["part_0.", "part_1."]
    assert torch.equal(early["part_0."]["head.point.weight"], whole["part_0.head.point.weight"])
    assert not torch.equal(early["part_1."]["head.point.weight"], whole["part_1.head.point.weight"])
    again = _train(encoder, small_room, run)
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert sum(len(part["replay.codes"]) for part in parts_of(whole).values()) == 64


def test_a_map_that_was_interrupted_in_its_first_part_can_be_asked(
    encoder: Encoder, small_room: Scene
) -> None:
    run = Run(progress=_InterruptedIn(part=0))
    with pytest.raises(UnfinishedMapError) as stopped:
        _train(encoder, small_room, run)
    tensors = {**stopped.value.tensors, **encoder_record("base")}
    assert list(parts_of(tensors)) == ["part_0."]
    localizer = parts.localizer(tensors, CONFIG, Run())
    (answer,) = localizer.localize([small_room.queries[0].query()])
    # Its one part was asked.
    assert answer.stage_ms["head"] > 0


def test_what_was_trained_is_there_when_a_later_part_is_interrupted_before_its_training(
    encoder: Encoder, small_room: Scene
) -> None:
    first = _train(encoder, small_room, Run(progress=Silent()))
    run = Run(progress=_InterruptedIn(1, "encoding", 3))
    with pytest.raises(UnfinishedMapError) as stopped:
        _train(encoder, small_room, run)
    early = stopped.value.tensors
    assert list(parts_of(early)) == ["part_0."]
    assert all(torch.equal(early[name], first[name]) for name in early)
    # Before any part is trained there is nothing to answer with.
    with pytest.raises(KeyboardInterrupt) as nothing:
        _train(encoder, small_room, Run(progress=_InterruptedIn(0, "encoding", 3)))
    assert not isinstance(nothing.value, UnfinishedMapError)


def test_a_map_of_so_few_landmarks_is_refused() -> None:
    """It was one of layers, whatever could be triangulated."""
    with pytest.raises(ValueError, match="num_landmarks is 99"):
        PartsConfig(head="landmarks", num_landmarks=99)
    assert PartsConfig(num_landmarks=100).num_landmarks == 100


# Asking


class _Part:
    """A part whose answer is known, and which remembers what it was allowed."""

    def __init__(self, num_inliers: int | None, num_cells: int | None = None) -> None:
        self._num_inliers, self._num_cells, self.allowed = num_inliers, num_cells, 0

    def points(self, encoded: EncodedQuery) -> tuple[torch.Tensor, torch.Tensor]:
        return encoded.pixels_N2, encoded.codes_NC[:, :3].float()

    def settled(self, asked: Asked) -> PoseEstimate:
        return asked.answer

    def pose(
        self, query: Query, pixels_N2: torch.Tensor, points_N3: torch.Tensor, max_iterations: int
    ) -> PoseEstimate:
        del query, points_N3
        self.allowed = max_iterations
        if self._num_inliers is None:
            return PoseEstimate(None)
        pose = Rigid3d(
            torch.eye(3, dtype=torch.float64), torch.full((3,), self._num_inliers).double()
        )
        return PoseEstimate(
            pose,
            num_inliers=self._num_inliers,
            inlier_ratio=self._num_inliers / (self._num_cells or len(pixels_N2)),
        )


def _asked(
    encoder: Encoder,
    query: Query,
    inliers: list[int | None],
    choose: parts.Choose,
    cells: list[int | None] | None = None,
) -> tuple[PoseEstimate, list[int]]:
    localizer = PartsLocalizer(encoder, {}, choose, CONFIG, Run())
    members = list(map(_Part, inliers, cells or [None] * len(inliers)))
    localizer._parts = members  # type: ignore[assignment]
    (answer,) = localizer.localize([query])
    return answer, [member.allowed for member in members]


def test_the_answer_counts_that_most_of_its_cells_agree_on(
    encoder: Encoder, small_room: Scene
) -> None:
    query = small_room.queries[0].query()
    answer, _ = _asked(encoder, query, [3, None, 40, 20], partial(ask_all, 4))
    assert answer.num_inliers == 40
    assert set(answer.stage_ms) == {"encode", "choose", "head", "pose"}
    # A part of layers, of more cells, and one of landmarks.
    for inliers, cells in (([44, 40], [80, 60]), ([40, 44], [60, 80])):
        answer, _ = _asked(encoder, query, list(inliers), partial(ask_all, 2), list(cells))
        assert answer.num_inliers == 40
    answer, _ = _asked(encoder, query, [None, None], partial(ask_all, 2))
    assert answer.cam_from_world is None


def test_only_the_chosen_are_asked_and_within_their_budget(
    encoder: Encoder, small_room: Scene
) -> None:
    query = small_room.queries[0].query()
    answer, allowed = _asked(encoder, query, [90, 20, 30], lambda _: {2: 700, 1: 300})
    assert answer.num_inliers == 30
    assert allowed[0] == 0
    assert allowed[2] == 700
    assert allowed[1] == 300


def test_those_who_come_later_need_not_look_for_less_than_there_is(
    encoder: Encoder, small_room: Scene
) -> None:
    query = small_room.queries[0].query()
    _, allowed = _asked(encoder, query, [30, 20], partial(ask_all, 2))
    assert allowed[0] == MAX_ITERATIONS
    # 30 of the 8 x 10 cells agree: every fiftieth sample of four is without an outlier.
    assert 300 < allowed[1] < 700


def test_a_part_is_known_by_the_looks_its_views(encoder: Encoder, small_room: Scene) -> None:
    views = small_room.mapping
    halves = [list(range(20)), list(range(20, 40))]
    looks = describe_parts(encoder, views, halves, CONFIG, Run())
    for index in (3, 33):
        (encoded,) = encode_queries(encoder, [views[index].query()], CONFIG.short_side_px, Run())
        assert most_alike(looks, encoded.codes_NC)[0] == index // 20
    more = add_looks(encoder, {**looks}, [[], [views[0]]], CONFIG, Run())
    assert more["look_parts"].tolist() == [*looks["look_parts"].tolist(), 1]
    assert len(more["looks"]) == len(more["look_parts"])


def test_a_map_of_one_part_is_a_plain_map() -> None:
    with pytest.raises(ValueError, match="num_parts is 0"):
        PartsConfig(num_parts=0)
    assert list(parts_of({"center_3": torch.zeros(3), "scale": torch.ones(())})) == [""]
    many = {f"part_{number}.center_3": torch.full((3,), number) for number in (10, 2, 0)}
    assert [int(part["center_3"][0]) for part in parts_of(many).values()] == [0, 2, 10]
