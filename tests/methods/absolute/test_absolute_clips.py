"""How sequence methods are trained and asked: clips, photos by themselves, motions."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import pytest
import roma
import torch
from torch import Tensor, nn

import reloc
from reloc.contract import Run
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods import METHODS, get_method
from reloc.methods.absolute import family, mapnet_plus
from reloc.methods.absolute.family import AbsoluteLocalizer, Step
from reloc.methods.absolute.features import KeptMaps, Looks
from reloc.methods.absolute.feedback import FeedbackNetwork, pose_loss
from reloc.methods.absolute.looks import look_list
from reloc.methods.absolute.mapnet_plus import MapNetPlusConfig, mapping_motions, motion_loss
from reloc.methods.absolute.odometry import Motion
from reloc.methods.absolute.sequences import ClipRegressor, SequenceLocalizer
from reloc.methods.absolute.vlocnet import METHOD as VLOCNET
from reloc.nn.pose_losses import PoseLoss, PredictedPose
from reloc.scenes.scene import Scene

SEQUENCE_ROWS = [
    name
    for name, module in METHODS.items()
    if ".absolute." in module and get_method(name).context == "sequence"
]


def looks_of(count: int) -> Looks:
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        rotation_L33 = roma.random_rotmat(count)
    return Looks(
        KeptMaps(torch.randn(count, 8, 5, 6, generator=generator).half()),
        torch.randn(count, 3, generator=generator),
        rotation_L33,
        torch.arange(count),
    )


def step_of(looks: Looks) -> Step:
    config = VLOCNET.tiny
    return Step(looks, torch.Generator().manual_seed(0), 1.0, PoseLoss(config.loss, "quaternion"))


@pytest.mark.parametrize("name", SEQUENCE_ROWS)
def test_clips_of_one_frame_are_learned(name: str, small_room: Scene) -> None:
    row = get_method(name)
    config = dataclasses.replace(row.tiny, clip_length=1, num_looks=8, steps=2, batch_size=4)
    tensors = row.build_map(small_room.mapping[:6], config, Run())
    (answer,) = row.localizer(tensors, config, Run()).localize([small_room.queries[0].query()])
    assert answer.cam_from_world is not None


def test_a_training_that_diverged_makes_no_map(small_room: Scene) -> None:
    row = get_method("posenet-learned")
    config = dataclasses.replace(row.tiny, num_looks=6, steps=2)
    plain = family.plain_objective
    broken = family.Design(objective=lambda *given: plain(*given) * torch.nan)
    with pytest.raises(InputError, match="lower --max-learning-rate"):
        family.build_map(small_room.mapping[:6], broken, config, Run())


# ------------------------------------------------------------------------------ photos alone


@pytest.mark.parametrize("name", ["vidloc", "vlocnet"])
def test_photos_of_no_sequence_are_answered_each_by_itself(name: str, small_room: Scene) -> None:
    row = get_method(name)
    config = dataclasses.replace(row.tiny, num_looks=8, steps=2)
    few = Scene("few", small_room.mapping[:6], [], "synthetic")
    map_ = reloc.build_map(name, few, config)
    photos = [dataclasses.replace(view, sequence="") for view in small_room.queries[:2]]

    def poses(asked: Sequence) -> dict[str, Tensor]:
        found = reloc.localize(map_, asked).by_name
        return {name: entry.cam_from_world.matrix for name, entry in found.items()}  # type: ignore[union-attr]

    together = poses(photos)
    for asked in (photos[::-1], photos[:1], photos[1:]):
        for key, matrix in poses(asked).items():
            torch.testing.assert_close(matrix, together[key], rtol=0, atol=1e-6)
    localizer = row.localizer(map_.tensors, config, Run())
    at_once = localizer.localize([photo.query() for photo in photos])
    for photo, answer in zip(photos, at_once, strict=True):
        assert answer.cam_from_world is not None
        torch.testing.assert_close(
            answer.cam_from_world.matrix, together[photo.name], rtol=0, atol=1e-6
        )
    # Frames of one video are not: the second is answered in the light of the first.
    frames = poses(small_room.queries[:2])
    second = photos[1].name
    assert float((frames[second] - together[second]).abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["posenet-learned", "vidloc", "vlocnet", "lsg"])
def test_what_is_explained_is_what_is_answered(
    name: str, small_room: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "_SALIENCY_NOISE", 0.0)
    row = get_method(name)
    config = dataclasses.replace(row.tiny, num_looks=8, steps=2)
    localizer = row.localizer(row.build_map(small_room.mapping[:6], config, Run()), config, Run())
    assert isinstance(localizer, (AbsoluteLocalizer, SequenceLocalizer))
    heard: list[Tensor] = []
    head = localizer.network.get_submodule("head")
    head.register_forward_hook(
        lambda module, given, made: heard.append(made.position_B3.detach().clone())
    )
    query = small_room.queries[0].query()
    localizer.localize([query])
    answered = heard[-1]
    heard.clear()
    assert localizer.explain(query, 1) is not None
    assert len(heard) == 2
    for explained in heard:
        torch.testing.assert_close(explained, answered, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------ motions


def moved(looks: Looks, first: int, second: int) -> Motion:
    """The true motion between two looks, of length 1."""
    frame_from_cam = Rigid3d(looks.rotation_L33.double(), looks.position_L3.double())
    second_from_first = frame_from_cam[second].inverse() @ frame_from_cam[first]
    direction = second_from_first.translation / second_from_first.translation.norm()
    return Motion(first, second, Rigid3d(second_from_first.rotation, direction), True)


class Tells(nn.Module):
    """Poses that were told, for maps whose first number says which."""

    def __init__(self, position_L3: Tensor, rotation_L33: Tensor) -> None:
        super().__init__()
        self.position_L3, self.rotation_L33 = position_L3, rotation_L33

    def forward(self, maps_2MChw: Tensor) -> PredictedPose:
        index = maps_2MChw.flatten(0, 1)[:, 0, 0, 0].long()
        numbers = self.rotation_L33[index].flatten(1)
        return PredictedPose(self.position_L3[index], numbers)


def test_motions_cost_nothing_at_the_true_poses_wherever_the_world_is() -> None:
    looks = looks_of(10)
    numbered = torch.arange(10.0).view(-1, 1, 1, 1).expand(-1, 8, 5, 6).half()
    looks = dataclasses.replace(looks, source=KeptMaps(numbered))
    motions = [moved(looks, first, first + 4) for first in range(6)]
    config = MapNetPlusConfig(rotation="9d")
    position, rotation = looks.position_L3, looks.rotation_L33

    def cost(position: Tensor, rotation: Tensor) -> float:
        return float(motion_loss(Tells(position, rotation), step_of(looks), motions, config))

    assert cost(position, rotation) < 2e-3
    turn = roma.rotvec_to_rotmat(torch.tensor([0.3, -0.5, 1.0]))
    assert cost(3 * position @ turn.mT + 1, turn @ rotation) < 2e-3
    assert cost(position.flip(0), rotation) > 0.1
    assert cost(position, rotation.flip(0)) > 0.1


def test_motions_are_between_views_that_are_learned(
    small_room: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where there are so many views that only some are."""
    config = MapNetPlusConfig(num_looks=8, odometry_skip=4)
    used = {look.view for look in look_list(40, 8, 0)}
    looks = looks_of(8)
    looks = dataclasses.replace(looks, view_L=torch.tensor(sorted(used)))

    def measured(frame_at: object, pairs: Sequence[tuple[int, int]], run: Run) -> list[Motion]:
        del frame_at, run
        turn = Rigid3d.exp(torch.tensor([0.1, 0.2, 0.3, 1.0, 0.0, 0.0]).double())
        return [Motion(first, second, turn, True) for first, second in pairs]

    monkeypatch.setattr(mapnet_plus, "motions_between", measured)
    motions = mapping_motions(small_room.mapping, config, Run())
    assert motions
    for motion in motions:
        assert {motion.first, motion.second} <= used
        assert motion.second >= motion.first + 4
    network = ClipRegressor(looks.shape, dataclasses.replace(config, channels=8, width=16))
    assert float(motion_loss(network, step_of(looks), motions, config).detach()) > 0
    assert not caplog.records
    apart = [
        dataclasses.replace(view, sequence=str(number))
        for number, view in enumerate(small_room.mapping)
    ]
    with caplog.at_level(logging.WARNING):
        assert mapping_motions(apart, config, Run()) == []
    assert "odometry is left out" in caplog.text


def test_a_view_that_cannot_be_read_costs_its_own_motions_only(
    small_room: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged() -> Tensor:
        raise InputError("image x is damaged")

    views = list(small_room.mapping[:6])
    config = MapNetPlusConfig(num_looks=6, odometry_skip=1)
    whole = {(motion.first, motion.second) for motion in mapping_motions(views, config, Run())}
    spoilt = max(first for first, _ in whole)
    views[spoilt] = dataclasses.replace(views[spoilt], image_reader=damaged)
    with caplog.at_level(logging.WARNING):
        motions = mapping_motions(views, config, Run())
    left = {(motion.first, motion.second) for motion in motions}
    assert left == {pair for pair in whole if spoilt not in pair}
    assert 0 < len(left) < len(whole)
    assert caplog.text.count("image x is damaged") == 1


# ------------------------------------------------------------------------------ feedback


def test_what_is_fed_back_in_training_is_predicted_and_not_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, config = looks_of(12), dataclasses.replace(VLOCNET.tiny, dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FeedbackNetwork(looks.shape, config).train()
    followed: list[PredictedPose] = []
    follow = network.follow

    def listen(maps_BTChw: Tensor) -> tuple[PredictedPose, PredictedPose]:
        followed.append(follow(maps_BTChw)[0])
        return follow(maps_BTChw)

    monkeypatch.setattr(network, "follow", listen)
    clips_BT = torch.tensor([[0, 1, 2], [5, 7, 9]])
    maps = looks.maps(clips_BT)
    other = dataclasses.replace(
        looks, position_L3=looks.position_L3 + 5, rotation_L33=looks.rotation_L33.mT
    )
    losses = [
        float(pose_loss(network, step_of(by), clips_BT, maps).detach()) for by in (looks, other)
    ]
    assert losses[0] != losses[1]
    assert torch.equal(followed[0].position_B3, followed[1].position_B3)
    assert torch.equal(followed[0].rotation_BK, followed[1].rotation_BK)
    # And it is fed back: another first frame changes what is said of the second.
    changed = looks.maps(torch.tensor([[3, 1, 2], [5, 7, 9]]))
    assert not torch.equal(follow(changed)[0].position_B3[1], followed[0].position_B3[1])
