"""The spatial memory: what is level, what moves with what, and what is declined."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.methods.allocentric.allocentric_mapnet import METHOD
from reloc.methods.allocentric.grid import Grid, correlate
from reloc.methods.allocentric.ground import (
    about_z,
    heading_of,
    level_direction,
    level_from_world,
    surface_normals,
)
from reloc.methods.allocentric.heights import Heights
from reloc.methods.allocentric.learning import Lesson, diffused, pose_loss, train
from reloc.methods.allocentric.localizer import AllocentricLocalizer
from reloc.methods.allocentric.mapping import build_map
from reloc.methods.allocentric.memory import Asked, SpatialMemory, Written
from reloc.methods.allocentric.peak import find_peak
from reloc.scenes.scene import Scene

GRID = Grid(torch.tensor([-3.0, -2.0], dtype=torch.float64), 0.25, (24, 16), 24, 8)
CODE = 16
EYE = 1.5


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def known_place(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Codes and points of a place whose every part looks another way."""
    points_N3 = torch.rand(600, 3, generator=generator, dtype=torch.float64)
    points_N3 = points_N3 * torch.tensor([6.0, 4.0, 2.5]) + torch.tensor([-3.0, -2.0, 0.0])
    return torch.randn(600, CODE, generator=generator), points_N3


def lesson_at(
    codes_NC: Tensor, points_N3: Tensor, place: tuple[float, float], heading_rad: float
) -> Lesson:
    """What a camera sees of the points within two metres."""
    place_3 = torch.tensor([*place, EYE], dtype=torch.float64)
    near = (points_N3[:, :2] - place_3[:2]).norm(dim=1) < 2.0
    turn_33 = about_z(torch.tensor(heading_rad, dtype=torch.float64))
    from_camera_N3 = (points_N3[near] - place_3) @ turn_33
    return Lesson(
        Written(codes_NC[near], points_N3[near]),
        Asked(codes_NC[near], from_camera_N3),
        place_3,
        heading_rad,
        0.0,
    )


def memory_of(codes_NC: Tensor, update: str = "mean") -> SpatialMemory:
    torch.manual_seed(0)
    memory = SpatialMemory(CODE, 8, 3, 1.0, update)  # type: ignore[arg-type]
    memory.start(codes_NC, EYE)
    return memory


# ------------------------------------------------------------------------------ which way is up


def test_the_direction_that_surfaces_agree_on_is_found_from_a_candidate_nearby(
    generator: torch.Generator,
) -> None:
    true_3 = torch.nn.functional.normalize(torch.tensor([0.1, -0.9, 0.3]).double(), dim=0)
    axes_33 = level_from_world(true_3)
    normals_N3 = axes_33[torch.randint(3, (900,), generator=generator)]
    normals_N3 = normals_N3 + 0.05 * torch.randn(900, 3, generator=generator)
    normals_N3 = torch.nn.functional.normalize(normals_N3, dim=1)
    clutter_N3 = torch.nn.functional.normalize(torch.randn(300, 3, generator=generator), dim=1)
    candidate_3 = torch.nn.functional.normalize(true_3 + 0.25 * axes_33[0], dim=0)
    found_3 = level_direction(candidate_3[None], torch.cat([normals_N3, clutter_N3.double()]))
    assert math.degrees(math.acos(float(candidate_3 @ true_3))) > 10
    assert math.degrees(math.acos(min(1.0, float(found_3 @ true_3)))) < 1


def test_one_wall_leaves_the_candidate_where_it_was_but_for_the_tilt_towards_it() -> None:
    """About the wall's normal nothing is known."""
    wall_N3 = torch.tensor([[1.0, 0.0, 0.0]]).expand(200, 3)
    candidate_3 = torch.nn.functional.normalize(torch.tensor([0.1, 0.2, 1.0]).double(), dim=0)
    found_3 = level_direction(candidate_3[None], wall_N3)
    expected_3 = torch.nn.functional.normalize(torch.tensor([0.0, 0.2, 1.0]).double(), dim=0)
    torch.testing.assert_close(found_3, expected_3, atol=0.01, rtol=0)


def test_normals_of_a_slanted_plane() -> None:
    camera = Camera.simple_pinhole(200.0, 320, 240)
    normal_3 = torch.nn.functional.normalize(torch.tensor([0.2, -0.8, -0.5]).double(), dim=0)
    columns, rows = torch.meshgrid(torch.arange(320), torch.arange(240), indexing="xy")
    rays_HW2 = camera.cam_from_img(torch.stack([columns, rows], -1).double() + 0.5)
    rays_HW3 = torch.cat([rays_HW2, torch.ones(240, 320, 1).double()], -1)
    depth_HW = -1.0 / (rays_HW3 @ normal_3)
    depth_HW = torch.where((depth_HW > 0) & (depth_HW < 4), depth_HW, 0.0)
    normals_N3 = surface_normals(depth_HW.float(), camera)
    assert len(normals_N3) > 500
    cos_N = (normals_N3.double() @ normal_3).abs()
    assert float(cos_N.median().clamp(max=1).acos().rad2deg()) < 1


def test_a_heading_and_the_rest_make_the_rotation(generator: torch.Generator) -> None:
    rotation_33 = about_z(torch.tensor(2.0).double()) @ level_from_world(
        torch.nn.functional.normalize(torch.tensor([0.1, -0.9, -0.4]).double(), dim=0)
    )
    heading_rad, rest_33 = heading_of(rotation_33)
    torch.testing.assert_close(about_z(heading_rad) @ rest_33, rotation_33)
    # Before the turn the camera looks along x.
    forward_3 = rest_33[:, 2]
    assert float(forward_3[0]) > 0
    assert abs(float(forward_3[1])) < 1e-9


# ------------------------------------------------------------------------------ matching


def test_correlation_is_the_sum_of_products_at_every_shift(generator: torch.Generator) -> None:
    memory_CXY = torch.randn(3, 7, 5, generator=generator)
    copies_RCKK = torch.randn(4, 3, 9, 9, generator=generator)
    direct_RXY = torch.nn.functional.conv2d(memory_CXY[None], copies_RCKK, padding=4)[0]
    torch.testing.assert_close(correlate(memory_CXY, copies_RCKK), direct_RXY, atol=1e-4, rtol=0)


def test_a_memory_shifted_by_cells_moves_the_answer_by_as_many(
    generator: torch.Generator,
) -> None:
    codes_NC, points_N3 = known_place(generator)
    memory, lesson = memory_of(codes_NC), lesson_at(codes_NC, points_N3, (0.1, -0.2), 0.7)
    # Only what the query sees: nothing leaves the memory when it is shifted.
    kept_MXY = memory.write(GRID, [lesson.written]).detach()
    far_MXY = torch.zeros(len(kept_MXY), 40, 40)
    far_MXY[:, 8:32, 8:24] = kept_MXY
    shifted_MXY = far_MXY.roll((3, -2), (1, 2))
    headings = GRID.headings_rad
    before_RXY = memory.logits(GRID, far_MXY, lesson.asked, headings)
    after_RXY = memory.logits(GRID, shifted_MXY, lesson.asked, headings)
    best = [int(index) for index in torch.unravel_index(before_RXY.argmax(), before_RXY.shape)]
    moved = [int(index) for index in torch.unravel_index(after_RXY.argmax(), after_RXY.shape)]
    assert moved == [best[0], best[1] + 3, best[2] - 2]
    inner = slice(10, 30)
    torch.testing.assert_close(
        after_RXY.roll((-3, 2), (1, 2))[:, inner, inner],
        before_RXY[:, inner, inner],
        atol=1e-3,
        rtol=0,
    )


def test_a_camera_turned_by_headings_is_answered_as_many_headings_on(
    generator: torch.Generator,
) -> None:
    codes_NC, points_N3 = known_place(generator)
    memory = memory_of(codes_NC)
    kept_MXY = memory.write(GRID, [Written(codes_NC, points_N3)])
    step_rad = 2 * math.pi / GRID.num_headings
    logits = [
        memory.logits(
            GRID,
            kept_MXY,
            lesson_at(codes_NC, points_N3, (0.1, -0.2), turn * step_rad).asked,
            GRID.headings_rad,
        )
        for turn in (4, 9)
    ]
    torch.testing.assert_close(logits[1], logits[0].roll(5, 0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("update", ["mean", "gru"])
def test_a_known_place_tells_where_a_query_is(generator: torch.Generator, update: str) -> None:
    codes_NC, points_N3 = known_place(generator)
    memory = memory_of(codes_NC, update).requires_grad_(False)
    views = [
        lesson_at(codes_NC, points_N3, place, 0.0).written
        for place in ((-1.5, -0.8), (-0.5, 0.6), (0.7, -0.4), (1.6, 0.5))
    ]
    kept_MXY = memory.write(GRID, views)
    heights = Heights.of(GRID, points_N3, torch.tensor([EYE - 0.1, EYE + 0.2]))
    for place, heading_rad in (((0.33, 0.21), 1.1), ((-0.92, -0.34), -2.4)):
        lesson = lesson_at(codes_NC, points_N3, place, heading_rad)

        def logits_of(headings_rad_R: Tensor, asked: Asked = lesson.asked) -> Tensor:
            return memory.logits(GRID, kept_MXY, asked, headings_rad_R)

        logits_RXY = logits_of(GRID.headings_rad)
        log_share_RXY = logits_RXY.flatten().log_softmax(0).reshape(logits_RXY.shape)
        peak = find_peak(log_share_RXY, GRID, logits_of)
        assert float((peak.place_2 - lesson.place_3[:2]).norm()) < 0.3 * GRID.cell
        off_rad = math.remainder(peak.heading_rad - heading_rad, 2 * math.pi)
        assert abs(off_rad) < math.radians(3)
        assert float(torch.linalg.eigvalsh(peak.covariance_33).min()) > 0
        turned_N3 = lesson.asked.points_N3 @ about_z(torch.tensor(heading_rad).double()).T
        height = heights.of_camera(GRID, turned_N3, lesson.place_3[:2])
        assert height is not None
        assert abs(height - EYE) < 0.05


# ------------------------------------------------------------------------------ learning


def test_the_loss_is_the_surprise_at_the_truth() -> None:
    logits_RXY = torch.zeros(GRID.num_headings, *GRID.shape)
    logits_RXY[3, 10, 5] = 8.0
    place_2 = GRID.places_of(torch.tensor([10.0, 5.0]).double())
    step_rad = 2 * math.pi / GRID.num_headings
    expected = -float(logits_RXY.flatten().log_softmax(0).max())
    assert float(pose_loss(logits_RXY, GRID, place_2, 3 * step_rad)) == pytest.approx(expected)
    # A turn less is the same heading.
    turned = float(pose_loss(logits_RXY, GRID, place_2, 3 * step_rad - 2 * math.pi))
    assert turned == pytest.approx(expected, abs=1e-4)
    between = float(pose_loss(logits_RXY, GRID, place_2, 3.5 * step_rad))
    assert between == pytest.approx(expected + 4.0, abs=1e-3)


def test_training_makes_held_out_views_less_surprising(generator: torch.Generator) -> None:
    grid = Grid(GRID.origin_2, 0.5, (12, 8), 12, 4)
    codes_NC, points_N3 = known_place(generator)
    # Half of what a code says changes from view to view: principal components cannot tell.
    lessons = []
    for _ in range(8):
        noisy_NC = codes_NC.clone()
        noisy_NC[:, CODE // 2 :] = 1.2 * torch.randn(600, CODE // 2, generator=generator)
        place = (torch.rand(2, generator=generator) * 2 - 1).tolist()
        heading_rad = float(torch.rand((), generator=generator)) * 6
        lessons.append(lesson_at(noisy_NC, points_N3, (place[0], place[1]), heading_rad))
    memory = memory_of(torch.cat([lesson.written.codes_NC for lesson in lessons]), "gru")

    @torch.no_grad()
    def surprise() -> float:
        kept_MXY = memory.write(grid, [lesson.written for lesson in lessons[2:]])
        losses = [
            pose_loss(
                memory.logits(grid, kept_MXY, lesson.asked, grid.headings_rad),
                grid,
                lesson.place_3[:2],
                lesson.heading_rad,
            )
            for lesson in lessons[:2]
        ]
        return float(torch.stack(losses).mean())

    before = surprise()
    train(memory, grid, lessons[2:], 25, 3e-2, Run())
    after = surprise()
    assert after < before - 0.1


@pytest.mark.parametrize("update", ["mean", "gru"])
@pytest.mark.parametrize("num_views", [2, 3])
def test_few_views_are_learned_from(
    generator: torch.Generator, num_views: int, update: str
) -> None:
    """Even where all of them are neighbours of the one that is asked."""
    grid = Grid(GRID.origin_2, 0.5, (12, 8), 12, 4)
    codes_NC, points_N3 = known_place(generator)
    lessons = [
        lesson_at(codes_NC, points_N3, (0.3 * number, 0.0), 0.2) for number in range(num_views)
    ]
    memory = memory_of(codes_NC, update)
    before = memory.projection.weight.detach().clone()
    train(memory, grid, lessons, 6, 3e-2, Run())
    assert bool(memory.projection.weight.isfinite().all())
    assert not torch.equal(memory.projection.weight, before)


# ------------------------------------------------------------------------------ sequences


def test_what_is_expected_next_is_a_blurred_distribution_round_the_last() -> None:
    log_share_RXY = torch.full((8, 9, 7), -torch.inf)
    log_share_RXY[0, 4, 3] = 0.0
    expected_RXY = diffused(log_share_RXY, 0.5, 0.8, 0.1).exp()
    assert float(expected_RXY.sum()) == pytest.approx(1, abs=1e-4)
    assert int(expected_RXY.argmax()) == int(log_share_RXY.argmax())
    # Headings are a circle.
    torch.testing.assert_close(expected_RXY[1], expected_RXY[7])
    assert float(expected_RXY[1, 4, 3]) > 10 * float(expected_RXY[4, 4, 3])
    assert float(expected_RXY.min()) == pytest.approx(0.1 / expected_RXY.numel(), rel=0.1)


@pytest.fixture(scope="module")
def built(small_room: Scene) -> dict[str, Tensor]:
    return dict(build_map(small_room.mapping[:8], METHOD.tiny, Run()))


def test_frames_of_a_sequence_inform_the_next_and_photos_do_not(
    small_room: Scene, built: dict[str, Tensor]
) -> None:
    localizer = AllocentricLocalizer(built, METHOD.tiny, Run())
    frame = dataclasses.replace(small_room.mapping[3].query(), sequence="walk")
    first, second = localizer.localize([frame, dataclasses.replace(frame, name="next")])
    assert first.confidence is not None
    assert second.confidence is not None
    assert second.confidence > first.confidence
    photo = dataclasses.replace(frame, sequence="")
    answers = localizer.localize([photo, dataclasses.replace(photo, name="other")])
    assert answers[0].confidence == answers[1].confidence == first.confidence
    # Asked again, nothing is left of what was asked before.
    assert localizer.localize([frame])[0].confidence == first.confidence
    # What is expected decides between places that look alike.
    asked = localizer.ask(photo)
    assert asked is not None
    log_share_RXY = localizer.distribution(asked, None)
    elsewhere_RXY = torch.full_like(log_share_RXY, -50.0)
    elsewhere_RXY[7, 2, 3] = 0.0
    assert int(localizer.distribution(asked, elsewhere_RXY).argmax()) == int(elsewhere_RXY.argmax())


def test_a_memory_that_fits_nowhere_declines(small_room: Scene, built: dict[str, Tensor]) -> None:
    query = small_room.mapping[3].query()
    blank = {**built, "memory": torch.zeros_like(built["memory"])}
    (answer,) = AllocentricLocalizer(blank, METHOD.tiny, Run()).localize([query])
    assert answer.cam_from_world is None
    (answer,) = AllocentricLocalizer(built, METHOD.tiny, Run()).localize([query])
    assert answer.cam_from_world is not None


def test_depth_is_asked_for_in_a_line(small_room: Scene, built: dict[str, Tensor]) -> None:
    localizer = AllocentricLocalizer(built, METHOD.tiny, Run())
    query = small_room.mapping[3].query()
    with pytest.raises(InputError, match=rf"{query.name} has no depth map"):
        localizer.localize([query, dataclasses.replace(query, depth=None)])
    flat = [dataclasses.replace(view, depth_reader=None) for view in small_room.mapping[:2]]
    with pytest.raises(InputError, match=r"none of the 2 mapping views .* has a depth map"):
        build_map(flat, METHOD.tiny, Run())
    unknown = dataclasses.replace(query, depth=torch.zeros(query.image.shape[1:]))
    assert localizer.localize([unknown])[0].cam_from_world is None


def test_views_of_a_guessed_focal_length_are_not_placed(small_room: Scene) -> None:
    first, *others = small_room.mapping[:3]
    guessed = dataclasses.replace(first, camera=Camera.guess(240, 180))
    with pytest.raises(InputError, match=rf"1 of 3 .* {first.name}, .* focal length"):
        build_map([guessed, *others], METHOD.tiny, Run())
