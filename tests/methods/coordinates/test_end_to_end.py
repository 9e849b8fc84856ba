"""Training through RANSAC: it learns, is kept only where it helps, goes on after a kill; depth."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from reloc.contract import PoseEstimate, Run, Tensors, UnfinishedMapError
from reloc.estimation.observations import point_errors
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.methods.coordinates import dsac, dsacpp, dsacstar
from reloc.methods.coordinates.dsacstar import DsacstarConfig, LeanTrunk, pose_loss
from reloc.methods.coordinates.end_to_end import HypothesisLocalizer, grid_cells, observe
from reloc.methods.coordinates.expectation import Expectation, Network, Picture, Recipe
from reloc.methods.coordinates.scorers import SoftInliers
from reloc.nn.heads import CoordinateHead
from reloc.scenes.scene import Query, Scene, View
from reloc.training.buffer import depth_at

QUICK = DsacstarConfig(
    short_side_px=96,
    width=32,
    num_images=12,
    cells_per_image=128,
    steps=30,
    batch_size=128,
    grid=12,
    num_hypotheses=16,
    num_draws=128,
    end_to_end_images=8,
    end_to_end_steps=6,
)


def _same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


# ------------------------------------------------------------------------------ the expectation


def _pictures(count: int, size: int = 12) -> list[Picture]:
    """Pictures whose codes are the points themselves, moved by what all have in common."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for _ in range(count):
        pose = Rigid3d.exp(0.3 * torch.randn(6, generator=generator, dtype=torch.float64))
        rays = torch.rand(size * size, 2, generator=generator, dtype=torch.float64) - 0.5
        depth = 1 + 2 * torch.rand(size * size, generator=generator)
        observations, usable = observe(rays, depth, 400.0, QUICK, "cpu")
        cam = torch.cat([rays, torch.ones(size * size, 1)], 1) * depth[:, None]
        points = pose.inverse() @ cam
        points = points + 0.01 * torch.randn(points.shape, generator=generator)
        pictures.append(
            Picture(
                torch.empty(0),
                torch.arange(size * size),
                (size, size),
                points.float(),
                observations,
                usable,
                pose[None, None],
            )
        )
    return pictures


class _Moved(torch.nn.Module):
    """A head whose only fault is that all its points are moved."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor([0.05, -0.04, 0.03]))

    def forward(self, codes_NC: Tensor) -> Tensor:
        return codes_NC + self.offset


@pytest.mark.parametrize("target_bits", [None, 3.0])
def test_poses_alone_teach_a_head_where_its_points_are(target_bits: float | None) -> None:
    """A common offset does not show in any reprojection: only the poses' loss can mend it."""
    head: Any = _Moved()
    scorer = SoftInliers(10.0, 5.0, 100.0, target_bits)
    recipe = Recipe(
        lambda *_: torch.zeros(()), lambda: LeanTrunk((8, 8)), lambda: scorer, pose_loss
    )
    network = Network(None, head, scorer)
    expectation = Expectation(network, 1.0, QUICK, recipe, Run(precision="fp32"))
    pictures = _pictures(6)
    before = expectation.mean_loss(pictures)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for step in range(18):
        optimizer.zero_grad()
        expectation.loss(pictures[step % 6], step).backward()
        optimizer.step()
    assert before > 10
    assert expectation.mean_loss(pictures) < 0.35 * before
    assert float(head.offset.detach().norm()) < 0.03


def test_what_is_judged_is_the_poses_loss_alone() -> None:
    """The entropy's control teaches the scale; it says nothing of how good the poses are."""
    head: Any = _Moved()
    pictures = _pictures(3)
    judged, learned = {}, {}
    for name, target_bits, log_gain in (
        ("without", None, 0.0),
        ("with", 4.0, 0.0),
        ("less sure", 4.0, -0.02),
    ):
        scorer = SoftInliers(10.0, 5.0, 100.0, target_bits)
        if target_bits is not None:
            scorer.log_gain.data.fill_(log_gain)
        recipe = Recipe(
            lambda *_: torch.zeros(()), lambda: LeanTrunk((8, 8)), lambda s=scorer: s, pose_loss
        )
        network = Network(None, head, scorer)
        expectation = Expectation(network, 1.0, QUICK, recipe, Run(precision="fp32"))
        judged[name] = expectation.mean_loss(pictures)
        learned[name] = float(expectation.loss(pictures[0], 0).detach())
    assert judged["with"] == judged["without"]
    assert judged["less sure"] == pytest.approx(judged["with"], abs=0.05)
    assert learned["with"] > learned["without"] + 0.5


def test_pictures_without_a_pose_teach_nothing() -> None:
    head = CoordinateHead(3, 8, 0)
    scorer = SoftInliers(10.0, 5.0, 100.0, 3.0)
    recipe = Recipe(
        lambda *_: torch.zeros(()), lambda: LeanTrunk((8, 8)), lambda: scorer, pose_loss
    )
    expectation = Expectation(Network(None, head, scorer), 1.0, QUICK, recipe, Run())
    (picture,) = _pictures(1)
    # All points equal, and no cell that can be used.
    for spoiled in (
        replace(picture, codes_NC=torch.zeros_like(picture.codes_NC)),
        replace(picture, usable_BN=torch.zeros_like(picture.usable_BN)),
    ):
        loss = expectation.loss(spoiled, 0)
        loss.backward()
        # As bad as a pose that looks the other way, from the other end.
        assert float(loss.detach()) == pytest.approx((100 * (180 + 200)) ** 0.5)
        for parameter in expectation.network.parameters():
            assert parameter.grad is None or not bool(parameter.grad.any())


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (12, 7), (1, 240), (1, 1)])
def test_a_grid_is_spread_evenly_over_any_map(shape: tuple[int, int]) -> None:
    cells, (rows, columns) = grid_cells(*shape, 40)
    assert (rows, columns) == (min(shape[0], 40), min(shape[1], 40))
    assert len(cells.unique()) == rows * columns == len(cells)
    row, column = cells // shape[1], cells % shape[1]
    for place, side in ((row, shape[0]), (column, shape[1])):
        assert float(place.double().mean() + 0.5) == pytest.approx(side / 2, abs=0.5)


# ------------------------------------------------------------------------------ a map


@pytest.mark.parametrize("module", [dsacstar, dsacpp], ids=["dsacstar", "dsacpp"])
def test_training_that_makes_it_worse_is_not_kept(
    module: Any, small_room: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """At a ruinous learning rate the map is that of the initialisation, and the log says so."""
    config = next(case.config for case in CASES if case.module is module)
    views = small_room.mapping[:24]
    initial = module.build_map(views, replace(config, end_to_end_steps=0), Run())
    with caplog.at_level(logging.INFO):
        tensors = module.build_map(views, replace(config, end_to_end_learning_rate=3.0), Run())
    assert "the initialisation is kept" in caplog.text
    assert all(torch.equal(tensors[name], initial[name]) for name in initial if "head." in name)


class _Killed:
    """Progress that is interrupted at some step of some stage."""

    def __init__(self, stage: str, step: int) -> None:
        self._stage, self._step = stage, step

    def track(
        self, items: Iterable[Any], description: str, total: int | None = None
    ) -> Iterator[Any]:
        del total
        for number, item in enumerate(items):
            if self._stage in description and number == self._step:
                raise KeyboardInterrupt
            yield item


@dataclass(frozen=True)
class _Case:
    module: Any
    config: Any
    stages: tuple[tuple[str, int], ...]


CASES = [
    _Case(dsacstar, QUICK, (("training the map", 20), ("training end to end", 3))),
    _Case(
        dsacstar,
        replace(QUICK, start="nothing", channels=(8, 8), steps=4, points_until=0.0),
        (("training from nothing", 2), ("training end to end", 3)),
    ),
    _Case(
        dsac,
        dsac.DsacConfig(
            **{name: getattr(QUICK, name) for name in ("short_side_px", "width", "num_images")},
            **{name: getattr(QUICK, name) for name in ("cells_per_image", "steps", "batch_size")},
            **{name: getattr(QUICK, name) for name in ("grid", "num_hypotheses", "num_draws")},
            end_to_end_images=8,
            end_to_end_steps=4,
            score_steps=4,
        ),
        (("training the scores", 2), ("training end to end", 2)),
    ),
    _Case(
        dsacpp,
        dsacpp.DsacppConfig(
            **{name: getattr(QUICK, name) for name in ("short_side_px", "width", "num_images")},
            **{name: getattr(QUICK, name) for name in ("cells_per_image", "steps", "batch_size")},
            **{name: getattr(QUICK, name) for name in ("grid", "num_hypotheses", "num_draws")},
            end_to_end_images=8,
            end_to_end_steps=4,
        ),
        (("training end to end", 2),),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=["dsacstar", "nothing", "dsac", "dsacpp"])
def test_a_run_that_is_killed_goes_on_to_the_same_map(
    case: _Case, small_room: Scene, tmp_path: Path
) -> None:
    views = small_room.mapping[:24]
    whole = case.module.build_map(views, case.config, Run())
    for stage, step in case.stages:
        run = Run(progress=_Killed(stage, step), checkpoint_folder=tmp_path)
        with pytest.raises(UnfinishedMapError) as stopped:
            case.module.build_map(views, case.config, run)
        # What was learned by then answers already: all that a whole map has, but its growth.
        early = stopped.value.tensors
        assert {**early, "covariance_scale": None}.keys() == whole.keys()
        case.module.localizer(early, case.config, Run())
        if stage == "training end to end":
            # Nobody has judged it: what it answers with are the stages before, scores included.
            before = safetensors.torch.load_file(tmp_path / "initial.safetensors")
            assert all(torch.equal(early[name], before[name]) for name in before)
            scores = [name for name in early if name.startswith("scorer.")]
            fresh = case.module.build_map(
                views, replace(case.config, end_to_end_steps=0), Run(checkpoint_folder=tmp_path)
            )
            moved = any(not torch.equal(early[name], fresh[name]) for name in scores)
            assert moved == (case.module is dsac)
    gone_on = case.module.build_map(views, case.config, Run(checkpoint_folder=tmp_path))
    assert _same(whole, gone_on)


def test_from_nothing_a_view_that_cannot_be_read_is_named_and_left_out(
    small_room: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Tensor:
        raise InputError("frame.png is cut short")

    nothing = next(case for case in CASES if case.config.start == "nothing")
    config = replace(nothing.config, steps=12, end_to_end_steps=1)
    views = small_room.mapping[:6]
    broken = [replace(view, image_reader=fail) for view in views]
    nothing.module.build_map([broken[0], *views[1:]], config, Run())
    assert caplog.text.count("frame.png is cut short") >= 1
    with pytest.raises(InputError):
        nothing.module.build_map(broken, config, Run())


# ------------------------------------------------------------------------------ depth


RGBD = replace(QUICK, end_to_end_steps=2, depth=True, query_depth=True)


@pytest.fixture(scope="module")
def rgbd_map(small_room: Scene) -> Tensors:
    # A view without depth is left out.
    views = [*small_room.mapping, replace(small_room.mapping[0], name="x", depth_reader=None)]
    return dsacstar.build_map(views, RGBD, Run())


class _Knowing(HypothesisLocalizer):
    """Knows a share of the points of a view, to a centimetre; the others are nonsense."""

    def know(self, view: View, share: float) -> tuple[PoseEstimate, float]:
        """The answer, and the share of the points that agree with the true pose."""
        query, pixels_N2, points_N3 = self.seen(view)
        generator = torch.Generator().manual_seed(0)
        points_N3 = points_N3 + 0.01 * torch.randn(points_N3.shape, generator=generator)
        known_N = torch.rand(len(points_N3), generator=generator) < share
        nonsense_N3 = torch.rand(points_N3.shape, generator=generator).double()
        points_N3 = torch.where(known_N[:, None], points_N3, nonsense_N3)
        rays_N2 = query.camera.cam_from_img(pixels_N2)
        focal_px = float(query.camera.focal.mean()) * QUICK.short_side_px / view.camera.height
        config = self._end_to_end
        observed, usable_BN = observe(
            rays_N2, depth_at(query.depth, pixels_N2), focal_px, config, "cpu"
        )
        cam_from_center = view.cam_from_world @ Rigid3d(
            torch.eye(3, dtype=torch.float64), self._center_3
        )
        errors_BHN = point_errors(cam_from_center[None, None], observed, points_N3[None])
        agree_N = (errors_BHN[0, 0] < config.max_error) & usable_BN[0]
        return self._pose(query, pixels_N2, points_N3), float(agree_N.double().mean())

    def seen(self, view: View) -> tuple[Query, Tensor, Tensor]:
        """The query, pixels of its cells, and the points that are seen there, from the origin."""
        rows, columns = torch.meshgrid(torch.arange(22), torch.arange(30), indexing="ij")
        pixels_N2 = 8 * torch.stack([columns, rows], -1).reshape(-1, 2).double() + 4
        query = view.query()
        depth_N = depth_at(query.depth, pixels_N2).double()
        rays_N3 = functional.pad(query.camera.cam_from_img(pixels_N2), (0, 1), value=1.0)
        points_N3 = view.cam_from_world.inverse() @ (rays_N3 * depth_N[:, None]) - self._center_3
        return query, pixels_N2, points_N3


def _knowing(config: DsacstarConfig, tensors: Tensors) -> _Knowing:
    """With poses to two pixels, or to the centimetres of the config."""
    config = replace(config, grid=40, num_draws=2048, num_hypotheses=64, max_error_px=2.0)
    scorer = SoftInliers(config.max_error, config.softness, config.alpha)
    return _Knowing(torch.nn.Identity(), tensors, config, scorer, Run())


@pytest.mark.parametrize("config", [QUICK, RGBD], ids=["rays", "depth"])
def test_a_pose_is_found_from_a_third_of_the_points(
    config: DsacstarConfig, rgbd_map: Tensors, small_room: Scene
) -> None:
    knowing = _knowing(config, rgbd_map)
    for view in small_room.queries[::4]:
        answer, true_ratio = knowing.know(view, 0.35)
        assert answer.cam_from_world is not None
        # Near points, a centimetre wrong, are more than two pixels off.
        assert 0.25 < true_ratio < 0.4
        assert answer.inlier_ratio == pytest.approx(true_ratio, rel=0.03)
        turn = angle_between_rad(answer.cam_from_world.rotation, view.cam_from_world.rotation)
        assert float(turn.rad2deg()) < 0.5
        assert (
            float((answer.cam_from_world.inverse().translation - view.center_world).norm()) < 0.02
        )
        assert answer.covariance is not None
        assert float(answer.covariance.diagonal()[3:].sum().sqrt()) < 0.1
        by_chance, _ = knowing.know(view, 0.0)
        assert by_chance.cam_from_world is None or (by_chance.confidence or 0) < 0.5


@pytest.mark.parametrize("config", [QUICK, RGBD], ids=["rays", "depth"])
@pytest.mark.parametrize("prediction", ["equal", "on a line", "far off", "nan", "inf"])
def test_degenerate_predictions_are_declined_in_the_time_of_others(
    config: DsacstarConfig, prediction: str, rgbd_map: Tensors, small_room: Scene
) -> None:
    knowing = _knowing(config, rgbd_map)
    view = small_room.queries[0]
    query, pixels_N2, points_N3 = knowing.seen(view)
    spoiled_N3 = {
        "equal": torch.zeros_like(points_N3),
        "on a line": points_N3 * torch.tensor([1.0, 0.0, 0.0]),
        "far off": torch.full_like(points_N3, 1e30),
        "nan": points_N3 * torch.nan,
        "inf": points_N3 * torch.inf,
    }[prediction]
    started = time.process_time()
    assert knowing._pose(query, pixels_N2, points_N3).cam_from_world is not None
    usual_s, started = time.process_time() - started, time.process_time()
    assert knowing._pose(query, pixels_N2, spoiled_N3).cam_from_world is None
    assert time.process_time() - started < 3 * usual_s


@pytest.mark.parametrize("config", [QUICK, RGBD], ids=["rays", "depth"])
def test_points_behind_the_camera_agree_with_no_pose(
    config: DsacstarConfig, rgbd_map: Tensors, small_room: Scene
) -> None:
    """Walls that are mirrored at the camera look right from elsewhere; not from where it was."""
    knowing = _knowing(config, rgbd_map)
    view = small_room.queries[0]
    query, pixels_N2, points_N3 = knowing.seen(view)
    behind_N3 = 2 * (view.center_world - knowing._center_3) - points_N3
    answer = knowing._pose(query, pixels_N2, behind_N3)
    if answer.cam_from_world is not None:
        assert answer.num_inliers is not None
        in_front_N = (answer.cam_from_world @ (behind_N3 + knowing._center_3))[:, 2] > 0
        assert int(in_front_N.sum()) >= answer.num_inliers


def test_a_query_without_depth_is_refused_by_name(rgbd_map: Tensors, small_room: Scene) -> None:
    localizer = dsacstar.localizer(rgbd_map, RGBD, Run())
    query = small_room.queries[0].query()
    (answer,) = localizer.localize([query])
    assert answer.stage_ms["pose"] > 0
    with pytest.raises(InputError, match=rf"query {query.name} has no depth"):
        localizer.localize([replace(query, depth=None)])


def test_depth_does_not_hide_that_the_focal_length_is_unknown(
    rgbd_map: Tensors, small_room: Scene
) -> None:
    view = small_room.queries[0]
    true_px = float(view.camera.focal.mean())
    guess = view.camera.with_focal(1.5 * true_px, has_prior_focal=False)
    knowing = _knowing(RGBD, rgbd_map)
    query, pixels_N2, points_N3 = knowing.seen(view)
    answer = knowing._pose(replace(query, camera=guess), pixels_N2, points_N3)
    assert answer.camera is not None
    assert float(answer.camera.focal.mean()) == pytest.approx(true_px, rel=0.02)


def test_a_map_for_queries_with_depth_needs_views_with_depth(small_room: Scene) -> None:
    views = [replace(view, depth_reader=None) for view in small_room.mapping[:8]]
    with pytest.raises(InputError, match="0 of the 8 mapping views have depth"):
        dsacstar.build_map(views, RGBD, Run())
    with pytest.raises(ValueError, match="query_depth needs depth"):
        DsacstarConfig(query_depth=True)
