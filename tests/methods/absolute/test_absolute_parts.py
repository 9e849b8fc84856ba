from __future__ import annotations

import logging
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import roma
import torch

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.methods.absolute import features
from reloc.methods.absolute.adposenet import METHOD as ADPOSENET
from reloc.methods.absolute.adposenet import ADPoseNet
from reloc.methods.absolute.adposenet import prepare as prepare_words
from reloc.methods.absolute.anchorpoint import METHOD as ANCHORPOINT
from reloc.methods.absolute.anchorpoint import AnchorPoint
from reloc.methods.absolute.anchorpoint import prepare as prepare_anchors
from reloc.methods.absolute.config import AbsoluteConfig
from reloc.methods.absolute.features import KeptMaps, Looks
from reloc.methods.absolute.frame import Frame, mean_pose, spread
from reloc.methods.absolute.gposenet import SparseProcesses
from reloc.methods.absolute.grnet import clip_edges, nearest_edges
from reloc.methods.absolute.looks import Look, SmallCamera, Turning, look_list, take_look
from reloc.methods.absolute.ms_transformer import in_frames
from reloc.methods.absolute.posenet_geometric import _seen
from reloc.methods.absolute.scene_points import pairs_of, triangulated_points
from reloc.methods.absolute.sequences import Clips
from reloc.methods.absolute.svs_pose import METHOD as SVS_POSE
from reloc.methods.absolute.svs_pose import drawn_from, with_made_views
from reloc.nn.pose_layers import ChannelAttention, FourWayLstm
from reloc.nn.saliency import smooth_gradient
from reloc.scenes.scene import View


def poses(count: int, seed: int = 0) -> Rigid3d:
    generator = torch.Generator().manual_seed(seed)
    tangents = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return Rigid3d.exp(tangents * torch.tensor([0.3, 0.3, 0.3, 2.0, 2.0, 2.0]))


def looks_of(count: int, per_view: int = 1) -> Looks:
    generator = torch.Generator().manual_seed(1)
    return Looks(
        KeptMaps(torch.randn(count, 8, 5, 6, generator=generator).half()),
        torch.randn(count, 3, generator=generator),
        roma.random_rotmat(count),
        torch.arange(count) // per_view,
    )


# ------------------------------------------------------------------------------ frame


def test_frame_gives_poses_back_and_is_about_zero_and_one() -> None:
    cam_from_world = poses(40)
    frame = Frame.of(cam_from_world)
    position, rotation = frame.poses(cam_from_world)
    back = frame.cam_from_world(position, rotation)
    torch.testing.assert_close(back.matrix, cam_from_world.matrix, rtol=0, atol=1e-5)
    assert float(position.mean(0).norm()) < 1e-5
    assert float(position.square().sum(-1).mean()) == pytest.approx(1, abs=1e-4)
    again = Frame.from_tensors(frame.tensors)
    torch.testing.assert_close(again.poses(cam_from_world)[0], position)


def test_frame_does_not_hang_on_where_the_world_is_or_how_it_is_turned() -> None:
    cam_from_world = poses(40)
    other_from_world = Rigid3d.exp(torch.tensor([0.5, -1.0, 2.0, 30.0, 5.0, -7.0]).double())
    stacked = Rigid3d.stack([other_from_world] * 40)
    moved = cam_from_world @ stacked.inverse()
    here, there = Frame.of(cam_from_world), Frame.of(moved)
    for one, other in zip(here.poses(cam_from_world), there.poses(moved), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_poses_in_the_frame_of_all_scenes_are_brought_to_those_of_each() -> None:
    cam_from_world = poses(24)
    scene = torch.arange(24) % 3
    whole = Frame.of(cam_from_world)
    frames = [Frame.of(cam_from_world[scene == number]) for number in range(3)]
    position, rotation = in_frames(*whole.poses(cam_from_world), scene, frames, whole)
    for number, frame in enumerate(frames):
        own = frame.poses(cam_from_world[scene == number])
        torch.testing.assert_close(position[scene == number], own[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(rotation[scene == number], own[1], rtol=0, atol=1e-5)


def test_cameras_in_one_place_are_refused() -> None:
    rotations = roma.random_rotmat(5, dtype=torch.float64)
    center = torch.tensor([1.0, 2.0, 3.0]).double()
    with pytest.raises(InputError, match="one place"):
        Frame.of(Rigid3d(rotations, -(rotations @ center)))


def test_mean_and_spread_of_poses() -> None:
    middle = poses(1)[0]
    generator = torch.Generator().manual_seed(2)
    sigma = torch.tensor([0.01, 0.02, 0.03, 0.1, 0.05, 0.2]).double()
    errors = sigma * torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    samples = Rigid3d.exp(errors) @ Rigid3d.stack([middle] * 4000)
    mean = mean_pose(samples)
    assert float(angle_between_rad(mean.rotation, middle.rotation)) < 2e-3
    covariance = spread(samples, mean)
    torch.testing.assert_close(covariance.diagonal().sqrt(), sigma, rtol=0.1, atol=0)


# ------------------------------------------------------------------------------ looks


@pytest.mark.parametrize(
    "camera",
    [
        Camera.of("PINHOLE", 160, 120, [150.0, 150.0, 83.0, 57.0]),
        Camera.of("OPENCV", 160, 120, [150.0, 152.0, 83.0, 57.0, -0.1, 0.02, 0.0, 0.0]),
    ],
)
@pytest.mark.parametrize("turn_seed", [None, (0, 1), (0, 2), (0, 3)])
def test_a_turned_picture_shows_points_where_its_pose_says(
    camera: Camera, turn_seed: tuple[int, ...] | None
) -> None:
    """A dot is painted where a view sees a point; the look must see it where its own pose does."""
    cam_from_world = poses(1, seed=3)[0]
    in_cam = torch.tensor([[0.1, -0.05, 1.0]], dtype=torch.float64)
    pixel = camera.img_from_cam(in_cam)[0]
    image = np.zeros((120, 160, 3), np.uint8)
    center = (round(float(pixel[0]) - 0.5), round(float(pixel[1]) - 0.5))
    cv2.circle(image, center, 3, (255, 255, 255), -1)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    view = View("dot", camera, cam_from_world, lambda: tensor)
    small = SmallCamera.of([view], 80)
    picture, look_from_world = take_look(
        view, tensor, Look(0, turn_seed), small, Turning(10.0, 6.0, 0.0)
    )
    world = cam_from_world.inverse() @ in_cam
    seen = look_from_world @ world
    expected = small.matrix @ (seen[0] / seen[0, 2]).numpy()
    weights = picture.astype(float).mean(-1)
    rows, columns = np.mgrid[: small.height, : small.width] + 0.5
    found = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
    # The dot was painted at whole pixels.
    assert np.abs(found - expected[:2]).max() < 0.8
    if turn_seed is not None:
        assert float(angle_between_rad(look_from_world.rotation, cam_from_world.rotation)) > 0.01
    center_before = cam_from_world.inverse().translation
    torch.testing.assert_close(look_from_world.inverse().translation, center_before)


@pytest.mark.parametrize(("num_views", "num_looks"), [(2, 40), (5, 37), (40, 40)])
def test_the_trunk_is_shown_few_pictures_at_once_and_all_in_order(
    num_views: int, num_looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = Camera.of("PINHOLE", 48, 40, [45.0, 45.0, 24.0, 20.0])
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 40, 48), np.uint8))
    cam_from_world = poses(num_views)
    views = [View(str(n), camera, cam_from_world[n], lambda: noise) for n in range(num_views)]
    config = AbsoluteConfig(short_side_px=32, pooling=1, num_looks=num_looks)
    shown: list[int] = []

    def encoded(trunk: object, pictures: list, *more: object) -> torch.Tensor:
        shown.append(len(pictures))
        return torch.from_numpy(np.stack(pictures)).float().mean((1, 2))[..., None, None]

    monkeypatch.setattr(features, "encode", encoded)
    small, frame = SmallCamera.of(views, 32), Frame.from_views(views)
    looks = features.looks_of(views, small, frame, config, Run())
    assert sum(shown) == len(looks) == num_looks
    assert max(shown) <= 16
    assert len(shown) == -(-num_looks // 16)
    assert torch.equal(looks.view_L, looks.view_L.sort().values)


def test_looks_are_spread_over_the_views() -> None:
    few = look_list(4, 10, seed=0)
    assert [look.view for look in few] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert [look.turn_seed is None for look in few] == [True] * 4 + [False] * 6
    assert len({look.turn_seed for look in few[4:]}) == 6
    many = look_list(100, 5, seed=0)
    assert [look.view for look in many] == [0, 24, 49, 74, 99]


# ------------------------------------------------------------------------------ clips and graphs


def test_clips_stay_in_their_sequence_and_keep_their_step() -> None:
    looks = looks_of(60, per_view=3)
    names = ["a"] * 12 + ["b"] * 8
    clips = Clips.of(looks.view_L, names)
    drawn = clips.draw(500, 4, 3, torch.Generator().manual_seed(0))
    views = looks.view_L[drawn]
    in_b = views >= 12
    assert bool((in_b == in_b[:, :1]).all())
    steps = views.diff(dim=1)
    assert int(steps.abs().max()) == 3
    # All steps of a clip go one way, and are equal until the sequence ends.
    assert bool((steps.sign().amax(1) - steps.sign().amin(1) <= 1).all())
    assert len(views[:, 0].unique()) == 20
    # Any look of a view may be drawn.
    assert len(drawn.unique()) == 60


def test_edges_of_clips() -> None:
    full = clip_edges(2, 3, "full", torch.device("cpu"))
    assert set(map(tuple, full.T.tolist())) == {
        (i, j) for i in range(6) for j in range(6) if i != j and i // 3 == j // 3
    }
    chain = clip_edges(2, 3, "chain", torch.device("cpu"))
    assert set(map(tuple, chain.T.tolist())) == {
        (0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3), (4, 5), (5, 4),
    }  # fmt: skip


def test_edge_pooling_keeps_the_most_alike_of_those_that_were_there() -> None:
    nodes = torch.zeros(4, 2, 1, 1)
    angles = torch.tensor([0.0, 0.1, 0.5, 1.4])
    nodes[:, 0, 0, 0], nodes[:, 1, 0, 0] = angles.cos(), angles.sin()
    edges = clip_edges(1, 4, "full", torch.device("cpu"))
    kept = set(map(tuple, nearest_edges(nodes, edges, 1).T.tolist()))
    assert kept == {(1, 0), (0, 1), (1, 2), (2, 3)}
    chain = clip_edges(1, 4, "chain", torch.device("cpu"))
    kept = set(map(tuple, nearest_edges(nodes, chain, 3).T.tolist()))
    assert kept == set(map(tuple, chain.T.tolist()))
    assert nearest_edges(nodes, edges, 0) is edges


# ------------------------------------------------------------------------------ layers


def test_four_way_lstm_reads_the_grid_from_all_sides_and_draws_nothing() -> None:
    torch.manual_seed(0)
    scan = FourWayLstm(4, 6, over_rows=5, over_columns=3)
    vector = torch.randn(2, 24)
    first = scan(vector)
    assert first.shape == (2, 16)
    torch.manual_seed(99)
    torch.testing.assert_close(scan(vector), first, rtol=0, atol=0)
    # Each number of the vector reaches the states of all four.
    vector = vector.requires_grad_()
    for part in scan(vector).split([5, 5, 3, 3], dim=1):
        (gradient,) = torch.autograd.grad(part.sum(), vector, retain_graph=True)
        assert float(gradient.abs().min()) > 0


def test_attention_begins_as_nothing_and_mixes_numbers_once_it_has_learned() -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(16, reduction=4)
    vector = torch.randn(3, 16)
    torch.testing.assert_close(attention(vector), vector)
    torch.nn.init.normal_(attention.out.weight)
    assert float((attention(vector) - vector).abs().max()) > 1e-3


def test_processes_are_sure_where_they_have_learned_and_unsure_elsewhere() -> None:
    torch.manual_seed(0)
    inputs = torch.linspace(-2, 2, 60)[:, None]
    target = (2 * inputs).sin()
    processes = SparseProcesses(1, 1, 12)
    optimizer = torch.optim.Adam(processes.parameters(), lr=3e-2)
    for _ in range(400):
        optimizer.zero_grad()
        mean, variance = processes(inputs)
        log_noise = processes.log_noise_K
        off = ((target - mean).square() + variance) * (-log_noise).exp() + log_noise
        (0.5 * off.mean() + processes.divergence() / len(inputs)).backward()
        optimizer.step()
    with torch.no_grad():
        mean, variance = processes(torch.tensor([[0.5], [8.0]]))
    assert float(mean[0, 0]) == pytest.approx(math.sin(1.0), abs=0.15)
    assert float(variance[1, 0]) > 5 * float(variance[0, 0])


def test_anchors_are_places_of_the_mapping_views_and_move_the_answer() -> None:
    looks, config = looks_of(30), ANCHORPOINT.tiny
    network = AnchorPoint((8, 5, 6), config)
    prepare_anchors(network, looks, config)
    anchors = network.get_buffer("anchors_K3")
    assert len(anchors) == config.num_anchors
    assert bool((anchors[:, None] == looks.position_L3).all(-1).any(1).all())
    with torch.no_grad():
        before = network.eval()(looks.maps(torch.arange(2))).position_B3
        anchors += 1
        after = network(looks.maps(torch.arange(2))).position_B3
    torch.testing.assert_close(after, before + 1)


def test_rare_cells_are_left_out_most() -> None:
    looks, config = looks_of(30), ADPOSENET.tiny
    maps = torch.zeros(30, 8, 5, 6)
    maps[:, 0] = 1.0
    # A cell that one picture in ten shows.
    maps[::10, 0, 2, 2], maps[::10, 1, 2, 2] = 0.0, 1.0
    looks = Looks(KeptMaps(maps.half()), looks.position_L3, looks.rotation_L33, looks.view_L)
    network = ADPoseNet(looks.shape, config)
    prepare_words(network, looks, config)
    left_out = network.get_buffer("left_out_K")[network.words(maps[:1])][0]
    assert float(left_out[2, 2]) == pytest.approx(config.max_cell_dropout * 0.9, abs=0.01)
    assert float(left_out[0, 0]) == 0


def test_saliency_finds_the_pixels_that_matter() -> None:
    def outputs_of(rgb: torch.Tensor) -> torch.Tensor:
        return torch.stack([rgb[:, :, 3, 4].sum(1), 2 * rgb[:, :, 5, 6].square().sum(1)], dim=1)

    generator = torch.Generator().manual_seed(0)
    picture = torch.full((1, 3, 8, 9), 0.5)
    found = smooth_gradient(outputs_of, picture, 64, 0.05, generator)
    assert set(found.nonzero().flatten().tolist()) == {3, 4, 5, 6}
    assert float(found[5, 6] / found[3, 4]) == pytest.approx(2.0, rel=0.35)


# ------------------------------------------------------------------------------ points


def test_views_are_matched_with_those_that_look_where_they_look_in_any_order() -> None:
    """Three walls, seen from one line by views that take turns: the next two are of no help."""
    turn = torch.tensor([0.0, math.pi / 2, 0.0]).double()
    views = []
    for number in range(24):
        rotation = roma.rotvec_to_rotmat(turn * (number % 3 - 1))
        center = torch.tensor([0.1 * number, 0.0, 0.0]).double()
        views.append(Rigid3d(rotation, -(rotation @ center)))
    pairs = pairs_of(views)
    assert all(first < second for first, second in pairs)
    assert len(set(pairs)) == len(pairs)
    assert {(first, first + 1) for first in range(23)} <= set(pairs)
    for number in range(24):
        alike = [pair for pair in pairs if number in pair and pair[0] % 3 == pair[1] % 3]
        assert alike
    # Their number grows as the list does, and no faster.
    assert len(pairs) <= 24 * 5
    assert pairs_of(views[:1]) == []


def test_points_count_as_seen_where_the_picture_ends() -> None:
    points = torch.tensor([[[0.0, 0.0, 2.0], [1.4, 0.0, 2.0], [0.0, 1.4, 2.0], [0.0, 0.0, -1.0]]])
    position, rotation = torch.zeros(1, 3), torch.eye(3)[None]
    for reach, expected in (((0.8, 0.6), 2), ((0.6, 0.8), 2), ((0.8, 0.8), 3), ((0.1, 0.1), 1)):
        _, pixels = _seen(points, position, rotation, torch.tensor(reach), 4)
        assert int(pixels.isfinite().all(-1).sum()) == expected


def test_a_scene_without_points_is_told(caplog: pytest.LogCaptureFixture) -> None:
    camera = Camera.of("PINHOLE", 64, 48, [60.0, 60.0, 32.0, 24.0])
    black, cam_from_world = torch.zeros(3, 48, 64, dtype=torch.uint8), poses(4)
    views = [View(str(n), camera, cam_from_world[n], lambda: black) for n in range(4)]
    with caplog.at_level(logging.WARNING):
        assert triangulated_points(views, Run()).shape == (0, 3)
    assert "no point of the scene" in caplog.text


# ------------------------------------------------------------------------------ made views


def test_views_are_made_of_sources_all_over_the_scene_in_the_size_that_is_learned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    camera = Camera.of("PINHOLE", 64, 48, [60.0, 60.0, 32.0, 24.0])
    image, depth = torch.zeros(3, 48, 64, dtype=torch.uint8), torch.full((48, 64), 4.0)

    def damaged() -> torch.Tensor:
        raise InputError("depth x is damaged")

    views = [
        View(str(number), camera, Rigid3d.identity(), lambda: image, lambda: depth)
        for number in range(20)
    ]
    views[8] = replace(views[8], depth_reader=damaged)
    config = replace(SVS_POSE.tiny, views_made=5, short_side_px=24)
    with caplog.at_level(logging.WARNING):
        made = list(with_made_views(views, config, Run()))[20:]
    assert [view.name.split()[0] for view in made] == ["0", "4", "12", "16"]
    assert "depth x is damaged" in caplog.text
    assert {(view.camera.width, view.camera.height) for view in made} == {(32, 24)}
    made = with_made_views(views[:3], config, Run())[3:]
    assert [view.name.split()[0] for view in made] == ["0", "1", "2", "0", "1"]
    caplog.clear()
    assert with_made_views(views, replace(config, views_made=0), Run()) is views
    assert not caplog.records


def test_a_made_view_shows_near_things_moved_more_than_far_ones() -> None:
    camera = Camera.of("PINHOLE", 64, 48, [60.0, 60.0, 32.0, 24.0])
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    depth = torch.full((48, 64), 4.0)
    image[:, 10:14, 30:34], image[:, 34:38, 30:34] = 255, 200
    depth[30:42, 26:38] = 1.0
    view = View("v", camera, Rigid3d.identity(), lambda: image, lambda: depth)
    # The camera moves to the right: things move to the left, by f x / z.
    made_from_source = Rigid3d(
        torch.eye(3, dtype=torch.float64), torch.tensor([-0.2, 0.0, 0.0]).double()
    )
    made = drawn_from(view, made_from_source, (64, 48), 0.1).float().mean(0)
    columns = torch.arange(64) + 0.5
    far, near = made[10:14], made[34:38]
    assert float((far.sum(0) * columns).sum() / far.sum()) == pytest.approx(32 - 3, abs=1.0)
    assert float((near.sum(0) * columns).sum() / near.sum()) == pytest.approx(32 - 12, abs=1.0)
