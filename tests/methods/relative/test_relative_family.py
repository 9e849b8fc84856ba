"""Laws of what the relative family is made of: matches, guesses, overlaps, graphs, answers."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

import reloc
from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.methods.relative import family
from reloc.methods.relative.camnet import CamNetConfig
from reloc.methods.relative.combine import combine
from reloc.methods.relative.config import TINY, RelativeConfig
from reloc.methods.relative.correlation import (
    Matches,
    beliefs,
    channels_of,
    guess_pose,
    match_both_ways,
    mean_belief,
)
from reloc.methods.relative.frames import cell_rays, read_views
from reloc.methods.relative.mapfree import METHOD as MAPFREE
from reloc.methods.relative.mapfree import MapfreeConfig
from reloc.methods.relative.relocnet import frustum_overlap
from reloc.methods.relative.relpose_gnn import METHOD as RELPOSE_GNN
from reloc.nn.shared_encoder import open_encoder
from reloc.scenes.images import query_from_image
from reloc.scenes.scene import Scene, View

GRID, SIZE = (12, 16), (128, 96)
CAMERA = Camera.simple_pinhole(110.0, *SIZE)
POSE = Rigid3d.exp(torch.tensor([0.05, -0.2, 0.03, 0.4, 0.1, -0.1], dtype=torch.float64))


def _exact_matches(pose: Rigid3d, seed: int = 0) -> tuple[Matches, torch.Tensor]:
    """Each cell of a query with the ray by which a reference sees its point."""
    rays = cell_rays(CAMERA, SIZE)
    depth = 1.5 + 2 * torch.rand(len(rays), generator=torch.Generator().manual_seed(seed))
    points = torch.cat([rays, torch.ones(len(rays), 1)], 1).double() * depth[:, None]
    seen = pose.inverse() @ points
    matched = (seen[:, :2] / seen[:, 2:]).float()
    ones = torch.ones(1, len(rays))
    return Matches(matched[None], ones, ones.clone()), rays[None]


def test_exact_matches_give_the_turn_and_the_heading():
    matches, rays = _exact_matches(POSE)
    guess = guess_pose(matches, rays)
    angle_deg = angle_between_rad(guess.turn_B33[0].double(), POSE.rotation).rad2deg()
    unit = POSE.translation / POSE.translation.norm()
    assert float(angle_deg) < 0.5
    assert float(guess.heading_B3[0].double() @ unit) > 0.995


def test_wrong_matches_that_are_not_believed_change_little():
    matches, rays = _exact_matches(POSE)
    generator = torch.Generator().manual_seed(3)
    wrong = torch.rand(matches.weight_BL.shape, generator=generator) < 0.4
    spoilt = dataclasses.replace(
        matches,
        rays_BL2=torch.where(wrong[..., None], -matches.rays_BL2, matches.rays_BL2),
        weight_BL=torch.where(wrong, 0.05, 1.0),
    )
    guess = guess_pose(spoilt, rays)
    angle_deg = angle_between_rad(guess.turn_B33[0].double(), POSE.rotation).rad2deg()
    assert float(angle_deg) < 1.0


def test_where_nothing_moved_channels_show_no_parallax():
    turned = Rigid3d(POSE.rotation, torch.zeros(3, dtype=torch.float64))
    matches, rays = _exact_matches(turned)
    channels = channels_of(matches, rays, guess_pose(matches, rays), GRID)
    moved, rays_there = _exact_matches(POSE)
    channels_moved = channels_of(moved, rays_there, guess_pose(moved, rays_there), GRID)
    assert float(channels[:, 2:4].abs().max()) < 0.02
    assert float(channels_moved[:, 2:4].abs().max()) > 0.5


@pytest.mark.parametrize("consensus", [False, True])
def test_a_shifted_image_is_matched_by_its_shift(consensus):
    """Codes that are all different, moved by two columns: matches lead back, with belief."""
    rows, columns = GRID
    codes = torch.randn(rows, columns + 2, 32, generator=torch.Generator().manual_seed(0))
    codes = torch.nn.functional.normalize(codes, dim=-1)
    first = codes[:, :-2].reshape(1, -1, 32)
    second = codes[:, 2:].reshape(1, -1, 32)
    rays = cell_rays(CAMERA, SIZE)[None]
    there, back = match_both_ways(first, second, rays, rays, GRID, consensus)
    shift = there.rays_BL2.unflatten(1, GRID)[0, :, 2:] - rays.unflatten(1, GRID)[0, :, :-2]
    assert float(shift.abs().max()) < 1e-3
    assert float(there.weight_BL.unflatten(1, GRID)[0, :, 2:].min()) > 0.4
    moved_back = back.rays_BL2.unflatten(1, GRID)[0, :, :-2] - rays.unflatten(1, GRID)[0, :, 2:]
    assert float(moved_back.abs().max()) < 1e-3
    # An image of other codes is believed less than this one.
    other = torch.nn.functional.normalize(torch.randn(1, rows * columns, 32), dim=-1)
    both = beliefs(first[0], torch.cat([second, other]), GRID)
    assert float(both[0]) > 2 * float(both[1])


def test_frusta_overlap_with_themselves_and_not_with_those_behind():
    eye = torch.eye(3, dtype=torch.float64)
    back = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    moved = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    poses = Rigid3d(torch.stack([eye, back, eye]), torch.stack([zero, zero, moved]))
    rays = cell_rays(CAMERA, SIZE)
    corners = torch.stack([rays.amin(0), rays.amax(0)]).expand(3, 2, 2)
    pairs = torch.tensor([[0, 0], [0, 1], [0, 2], [2, 0]])
    overlap = frustum_overlap(poses, corners, pairs, 4.0)
    assert float(overlap[0]) == 1
    assert float(overlap[1]) == 0
    # Ahead by a quarter: part of each is in the other.
    assert 0.1 < float(overlap[2]) < 1
    assert 0.1 < float(overlap[3]) < 1


def _answers(signed: bool = True) -> tuple[Rigid3d, Rigid3d, Rigid3d]:
    """A query's pose, those of references round it, and the relative poses between."""
    generator = torch.Generator().manual_seed(4)
    tangents = torch.randn(6, 6, generator=generator, dtype=torch.float64) * 0.3
    references = Rigid3d.exp(tangents)
    between = Rigid3d(POSE.rotation.expand(6, 3, 3), POSE.translation.expand(6, 3))
    relative = between @ references.inverse()
    sign = 1.0 if signed else torch.tensor([1.0, -1, 1, -1, 1, -1]).double()[:, None]
    unit = torch.nn.functional.normalize(relative.translation, dim=-1) * sign
    return references, relative, Rigid3d(relative.rotation, unit)


def test_true_answers_combine_to_the_truth_however_they_are_combined():
    references, relative, directions = _answers()
    scales = torch.zeros(6, 2)
    for how in ("average", "single"):
        found = combine(relative, references, scales, how, 1.0, 10.0)
        assert found is not None
        torch.testing.assert_close(found.cam_from_world.matrix, POSE.matrix, rtol=0, atol=1e-6)
    found = combine(directions, references, scales, "triangulate", 1.0, 10.0)
    assert found is not None
    torch.testing.assert_close(found.cam_from_world.matrix, POSE.matrix, rtol=0, atol=1e-5)
    assert bool(found.agreeing_K.all())
    _, _, either_way = _answers(signed=False)
    found = combine(either_way, references, scales, "triangulate", 1.0, 10.0, signed=False)
    assert found is not None
    torch.testing.assert_close(found.cam_from_world.matrix, POSE.matrix, rtol=0, atol=1e-5)


def test_nearly_true_answers_combine_to_nearly_the_truth():
    """Each is off by a degree and a hundredth, or its direction is by a degree."""
    references, relative, _ = _answers()
    noise = torch.randn(6, 6, generator=torch.Generator().manual_seed(7)).double()
    size = torch.tensor([math.radians(1.0)] * 3 + [0.01] * 3, dtype=torch.float64)
    off = Rigid3d.exp(noise * size) @ relative
    turned = Rigid3d.exp(noise.roll(1, 0) * size * (torch.arange(6) < 3)).rotation
    unit = torch.nn.functional.normalize(relative.translation, dim=-1)[..., None]
    directions = Rigid3d(off.rotation, (turned @ unit)[..., 0])
    for how, answers in (("average", off), ("single", off), ("triangulate", directions)):
        found = combine(answers, references, torch.zeros(6, 2), how, 1.0, 10.0)
        assert found is not None
        error = (found.cam_from_world @ POSE.inverse()).log()
        assert 1e-4 < float(error[:3].norm().rad2deg()) < 4
        assert 1e-5 < float(error[3:].norm()) < 0.06
        assert float(found.covariance[0, 0].sqrt().rad2deg()) > 0.1


def test_single_takes_the_surest_and_a_minority_of_wrong_ones_is_outvoted():
    references, relative, _ = _answers()
    wrong = relative.translation.clone()
    wrong[:2] += 5.0
    spoilt = Rigid3d(relative.rotation, wrong)
    scales = torch.zeros(6, 2)
    scales[3] = -1.0
    for how in ("average", "single"):
        found = combine(spoilt, references, scales, how, 1.0, 10.0)
        assert found is not None
        torch.testing.assert_close(found.cam_from_world.matrix, POSE.matrix, rtol=0, atol=1e-4)


def test_one_view_cannot_be_learned_from(small_room: Scene):
    with pytest.raises(InputError, match="pairs"):
        family.build_map(small_room.mapping[:1], RelativeConfig(**TINY), Run())


@pytest.mark.data
def test_photos_of_elsewhere_are_declined_and_views_of_the_place_are_not(shared_data: Path):
    scene = reloc.load_scene(shared_data / "7scenes" / "redkitchen")
    config = RelativeConfig(steps=2, num_images=12, pairs_per_view=2, num_candidates=12)
    tensors = family.build_map(scene.mapping[:360:30], config, Run())
    localizer = family.localizer(tensors, config, Run())
    asked = [view.query() for view in scene.mapping[15:360:90]]
    assert all(answer.cam_from_world is not None for answer in localizer.localize(asked))
    photos = sorted((shared_data / "photos").glob("*/*.jpg"))[::150]
    assert len(photos) >= 5
    elsewhere = [query_from_image(path) for path in photos]
    assert all(answer.cam_from_world is None for answer in localizer.localize(elsewhere))


def test_a_graph_that_has_learned_nothing_changes_nothing(small_room: Scene):
    views = list(small_room.mapping[:8])
    tiny = dataclasses.replace(RELPOSE_GNN.tiny, steps=4)
    tensors = dict(RELPOSE_GNN.build_map(views, tiny, Run()))
    for name in ("graph.leave.weight", "graph.leave.bias"):
        tensors[name] = torch.zeros_like(tensors[name])
    query = [small_room.queries[0].query()]
    alone = dataclasses.replace(tiny, recursions=0)
    with_graph = RELPOSE_GNN.localizer(tensors, tiny, Run()).localize(query)[0]
    without = RELPOSE_GNN.localizer(tensors, alone, Run()).localize(query)[0]
    assert with_graph.cam_from_world is not None
    assert without.cam_from_world is not None
    assert torch.equal(with_graph.cam_from_world.matrix, without.cam_from_world.matrix)


def test_of_two_views_a_graph_learns_nothing_and_the_map_answers(
    small_room: Scene, caplog: pytest.LogCaptureFixture
):
    first, second = _neighbours(small_room)
    tiny = dataclasses.replace(RELPOSE_GNN.tiny, steps=4)
    tensors = RELPOSE_GNN.build_map([first, second], tiny, Run())
    assert "nothing to learn the graph from" in caplog.text
    assert not bool(tensors["graph.leave.weight"].any())
    assert not bool(tensors["graph.leave.bias"].any())
    (answer,) = RELPOSE_GNN.localizer(tensors, tiny, Run()).localize([first.query()])
    assert answer.cam_from_world is not None


def _of_unknown_focal(view: View) -> View:
    return dataclasses.replace(
        view, camera=Camera.guess(view.camera.width, view.camera.height), depth_reader=None
    )


def test_a_photo_of_unknown_focal_length_has_that_of_the_mapping_views(small_room: Scene):
    """The room has one camera, whose focal length is not the usual guess."""
    views = list(small_room.mapping[:3])
    encoder = open_encoder("base", Run())
    _, true, _ = read_views(encoder, views, SIZE, 16, Run())
    unknown = [_of_unknown_focal(view) for view in views]
    reader, some, _ = read_views(encoder, [views[0], *unknown[1:]], SIZE, 16, Run())
    for index in range(3):
        assert torch.equal(some.rays(torch.tensor(index)), true.rays(torch.tensor(index)))
    frame = reader.read(views[2].read_image(), unknown[2].camera)
    assert frame is not None
    assert torch.equal(frame.rays_L2, true.rays(torch.tensor(2)))
    # It is what a map keeps that tells.
    guessed = cell_rays(unknown[2].camera, SIZE)
    assert float((guessed - frame.rays_L2).abs().max()) > 0.01
    with pytest.raises(InputError, match=r"none of the 3 .* focal length"):
        read_views(encoder, unknown, SIZE, 16, Run())


def test_a_learned_map_and_one_of_local_features_answer_a_photo_of_unknown_focal_length(
    small_room: Scene,
):
    first, second = _neighbours(small_room)
    unknown = _of_unknown_focal(second)
    blind = [dataclasses.replace(view, depth_reader=None) for view in small_room.mapping[:9]]
    unseen = dataclasses.replace(MAPFREE.presets["unseen"], short_side_px=160)
    sift = dataclasses.replace(MAPFREE.presets["sift"], max_keypoints=800)
    other = dataclasses.replace(small_room.mapping[4], name="asked", depth_reader=None)
    for config, mapped, asked in (
        (unseen, [first], [second, unknown]),
        (sift, [*blind[:4], *blind[5:]], [other, _of_unknown_focal(other)]),
    ):
        localizer = MAPFREE.localizer(MAPFREE.build_map(mapped, config, Run()), config, Run())
        known, guessed = localizer.localize([view.query() for view in asked])
        assert known.cam_from_world is not None
        assert guessed.cam_from_world is not None
        assert torch.equal(guessed.cam_from_world.matrix, known.cam_from_world.matrix)
    # With depth, the focal length is estimated, and told.
    localizer = MAPFREE.localizer(MAPFREE.build_map([first], sift, Run()), sift, Run())
    known, guessed = localizer.localize(
        [view.query(with_depth=False) for view in (second, unknown)]
    )
    assert known.camera is None
    assert guessed.camera is not None
    assert not guessed.camera.has_prior_focal
    assert float(guessed.camera.focal.mean() / second.camera.focal.mean()) == pytest.approx(1, 0.1)
    for config in (unseen, MAPFREE.presets["sift"]):
        with_depth = dataclasses.replace(unknown, depth_reader=second.depth_reader)
        with pytest.raises(InputError, match="focal length"):
            MAPFREE.build_map([with_depth], config, Run())


def _neighbours(room: Scene) -> tuple[View, View]:
    """The two mapping views that show most of the same."""
    centers = torch.stack([view.center_world for view in room.mapping])
    axes = torch.stack([view.cam_from_world.rotation[2] for view in room.mapping])
    cost = torch.cdist(centers, centers) - (axes @ axes.T) + 10 * torch.eye(len(centers))
    first, second = divmod(int(cost.argmin()), len(centers))
    return room.mapping[first], room.mapping[second]


def test_one_photo_with_depth_is_map_enough_for_local_features(small_room: Scene):
    """And without depth, one photo fixes no length: the query is declined."""
    config = MAPFREE.presets["sift"]
    reference, asked = _neighbours(small_room)
    tensors = MAPFREE.build_map([reference], config, Run())
    query = asked.query(with_depth=False)
    found = MAPFREE.localizer(tensors, config, Run()).localize([query])[0]
    assert found.cam_from_world is not None
    error = found.cam_from_world @ asked.cam_from_world.inverse()
    assert float(error.log()[:3].norm().rad2deg()) < 1.0
    assert float(error.log()[3:].norm()) < 0.05
    # Its error is what the covariance says: of chi-square in six dimensions, 1 in 1000 are larger.
    assert found.covariance is not None
    assert float(error.log() @ torch.linalg.solve(found.covariance, error.log())) < 22.5
    # Other photos of the same place add no doubt, and no certainty to the micrometre.
    named = [dataclasses.replace(reference, name=f"again {number}") for number in range(3)]
    tensors = MAPFREE.build_map(named, config, Run())
    again = MAPFREE.localizer(tensors, config, Run()).localize([query])[0]
    way = asked.cam_from_world @ reference.cam_from_world.inverse()
    assert again.covariance is not None
    sigmas = [float(covariance[3, 3].sqrt()) for covariance in (found.covariance, again.covariance)]
    assert max(sigmas) < float(way.translation.norm())
    assert min(sigmas) > 1e-3
    blind = dataclasses.replace(reference, depth_reader=None)
    tensors = MAPFREE.build_map([blind], config, Run())
    found = MAPFREE.localizer(tensors, config, Run()).localize([query])[0]
    assert found.cam_from_world is None


def test_a_very_wide_photo_of_another_place_is_declined(small_room: Scene):
    """What lies beyond the rays of a fisheye lens looks the same in all of its photos."""
    focal = 120 / math.radians(100)
    fisheye = Camera(
        "OPENCV_FISHEYE", 240, 240, torch.tensor([focal, focal, 120.0, 120, 0, 0, 0, 0]).double()
    )
    rays_L2 = cell_rays(fisheye, (240, 240))
    assert bool(rays_L2.isnan().any())
    rows, columns = torch.meshgrid(torch.arange(240), torch.arange(240), indexing="ij")
    lit = ((rows - 120) ** 2 + (columns - 120) ** 2) < 119**2

    def noise(seed: int) -> torch.Tensor:
        drawn = torch.rand(1, 3, 60, 60, generator=torch.Generator().manual_seed(seed))
        large = torch.nn.functional.interpolate(drawn, (240, 240), mode="bicubic")[0]
        return (255 * large.clamp(0, 1) * lit).to(torch.uint8)

    view = dataclasses.replace(
        small_room.mapping[0], camera=fisheye, image_reader=lambda: noise(0), depth_reader=None
    )
    unseen = MAPFREE.presets["unseen"]
    tensors = MAPFREE.build_map([view], unseen, Run())
    assert bool(tensors["rays"].isfinite().all())
    localizer = MAPFREE.localizer(tensors, unseen, Run())
    own, other = localizer.localize(
        [dataclasses.replace(view.query(), image=noise(seed)) for seed in (0, 1)]
    )
    assert own.cam_from_world is not None
    assert other.cam_from_world is None


def test_cells_without_a_code_match_nothing_and_do_not_count():
    codes = torch.randn(1, 192, 32, generator=torch.Generator().manual_seed(0))
    codes = torch.nn.functional.normalize(codes, dim=-1)
    rays = cell_rays(CAMERA, SIZE)[None]
    whole, _ = match_both_ways(codes, codes, rays, rays, GRID)
    assert torch.equal(mean_belief(whole.weight_BL, codes), whole.weight_BL.mean(1))
    some = codes.clone()
    some[:, ::3] = 0
    there, _ = match_both_ways(some, some, rays, rays, GRID)
    assert not bool(there.weight_BL[:, ::3].any())
    assert float(mean_belief(there.weight_BL, some)) > 0.95
    assert float(beliefs(some[0], some, GRID)) > 0.95


def test_settings_that_cannot_be_are_refused():
    for changes in (
        {"head": "essential"},
        {"head": "quat+direction", "combination": "single"},
        {"combination": "triangulate", "num_neighbours": 1},
    ):
        with pytest.raises(ValueError, match="triangulate"):
            RelativeConfig(**changes)
    with pytest.raises(ValueError, match="fine_neighbours"):
        CamNetConfig(combination="triangulate", fine_neighbours=1)
    _ = RelativeConfig(head="essential", combination="triangulate")


def test_points_measured_in_both_photos_need_depth_in_both(small_room: Scene):
    config = dataclasses.replace(MAPFREE.presets["sift-kabsch"], max_keypoints=400)
    reference, asked = _neighbours(small_room)
    blind = dataclasses.replace(reference, depth_reader=None)
    with pytest.raises(InputError, match=rf"{reference.name}, has depth.*--solver pnp"):
        MAPFREE.build_map([blind], config, Run())
    localizer = MAPFREE.localizer(MAPFREE.build_map([reference], config, Run()), config, Run())
    with pytest.raises(InputError, match=rf"{asked.name} has no depth.*--solver pnp"):
        localizer.localize([asked.query(with_depth=False)])


def test_a_map_of_local_features_keeps_as_many_views_as_it_is_told(small_room: Scene):
    config = dataclasses.replace(MAPFREE.presets["sift"], max_keypoints=50)
    views = small_room.mapping[:5]
    assert len(MAPFREE.build_map(views, config, Run())["counts"]) == 5
    config = dataclasses.replace(config, num_images=2)
    assert len(MAPFREE.build_map(views, config, Run())["counts"]) == 2


def test_other_local_features_are_for_relative_poses_too(small_room: Scene, monkeypatch):
    """Corners with the codes of our encoder; R2D2 says in a line what it lacks."""
    config = MapfreeConfig(matching="encoder", max_keypoints=400)
    reference, asked = _neighbours(small_room)
    localizer = MAPFREE.localizer(MAPFREE.build_map([reference], config, Run()), config, Run())
    (found,) = localizer.localize([asked.query(with_depth=False)])
    assert found.cam_from_world is not None
    error = found.cam_from_world @ asked.cam_from_world.inverse()
    assert float(error.log()[:3].norm().rad2deg()) < 3.0
    monkeypatch.delenv("RELOC_WEIGHTS", raising=False)
    with pytest.raises(InputError, match=r"^[^\n]*r2d2[^\n]*$"):
        MAPFREE.build_map([reference], MAPFREE.presets["r2d2"], Run())
