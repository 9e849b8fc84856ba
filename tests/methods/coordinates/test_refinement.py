"""Poses refined on a map of landmarks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from reloc.cli import main
from reloc.contract import PoseEstimate, Run
from reloc.estimation.absolute import reprojection_error_px
from reloc.evaluation.report import Threshold
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import Map
from reloc.methods import get_method
from reloc.methods.coordinates import localizer as coordinates_localizer
from reloc.methods.coordinates.localizer import CoordinatesLocalizer, EncodedQuery
from reloc.nn.weights import encoder_sha256
from reloc.scenes.scene import Query, Scene
from reloc.steps import build_map, evaluate, localize, open_map, open_refiner

RUN = Run(seed=0)


@pytest.fixture(scope="module")
def exact_map(small_room: Scene) -> Map:
    """Landmarks whose points are those of the room: what is left is the refinement's own error."""
    return build_map("ace", small_room, replace(get_method("ace").tiny, depth=True), RUN)


def test_a_map_says_which_weights_it_needs(exact_map: Map) -> None:
    assert exact_map.provenance.pretrained_sha256 == {"encoder": encoder_sha256("base")}


def _error_cm(estimate: PoseEstimate, truth: Rigid3d) -> float:
    assert estimate.cam_from_world is not None
    way = estimate.cam_from_world.inverse().translation - truth.inverse().translation
    return 100 * float(way.norm())


def _cut(query: Query, width: int) -> Query:
    """The left part of an image."""
    camera = replace(query.camera, width=width)
    return replace(query, image=query.image[..., :width].contiguous(), camera=camera)


@pytest.mark.parametrize("width", [240, 233])
def test_poses_that_are_about_right_become_right(
    width: int, small_room: Scene, exact_map: Map
) -> None:
    """From 15 cm and 3 degrees off to a fifth of it, at 180 px, for most queries.

    Of 233 pixels, enlarged to 311, the cells show 304: those at the side belong to none.
    """
    views = small_room.queries
    off = Rigid3d.exp(torch.tensor([0.03, -0.04, 0.02, 0.1, -0.05, 0.1], dtype=torch.float64))
    starts = [PoseEstimate(off @ view.cam_from_world) for view in views]
    queries = [_cut(view.query(), width) for view in views]
    refined = open_refiner(exact_map, RUN).refine(queries, starts)
    errors_cm = torch.tensor(
        [
            _error_cm(answer, view.cam_from_world)
            for answer, view in zip(refined, views, strict=True)
        ]
    )
    assert float(errors_cm.median()) < 3.0
    sure = [answer for answer in refined if answer.covariance is not None]
    assert len(sure) >= 0.6 * len(views)
    assert all(answer.num_inliers and answer.inlier_ratio for answer in sure)


def test_what_nothing_agrees_with_stays_as_it_is(small_room: Scene, exact_map: Map) -> None:
    view = small_room.queries[0]
    away = Rigid3d.exp(torch.tensor([0, 3.0, 0, 5.0, 1.0, 9.0], dtype=torch.float64))
    lost = PoseEstimate(away @ view.cam_from_world, confidence=0.3)
    grey = Query("grey", torch.full((3, 180, 240), 128, dtype=torch.uint8), view.camera)
    refiner = open_refiner(exact_map, RUN)
    assert refiner.refine([grey], [lost]) == [lost]
    declined = PoseEstimate(None)
    assert refiner.refine([view.query()], [declined]) == [declined]


def test_the_poses_of_retrieval_are_refined(small_room: Scene, exact_map: Map) -> None:
    thumbnails = build_map("thumbnail", small_room, None, RUN)
    alone = evaluate(localize(thumbnails, small_room.queries, RUN), small_room)
    answers = localize(thumbnails, small_room.queries, RUN, refine_on=exact_map)
    assert answers.method == "thumbnail refined on ace"
    refined = evaluate(answers, small_room)
    loose = Threshold(0.25, 5.0)
    assert refined.recall(loose) >= alone.recall(loose) + 0.25


def test_maps_that_cannot_refine_are_refused_in_one_line(small_room: Scene, exact_map: Map) -> None:
    thumbnails = build_map("thumbnail", small_room, None, RUN)
    with pytest.raises(InputError, match=r"maps of thumbnail cannot refine poses: refine on .*ace"):
        localize(exact_map, small_room.queries, RUN, refine_on=thumbnails)
    elsewhere = replace(exact_map, provenance=replace(exact_map.provenance, scene="attic"))
    with pytest.raises(InputError, match="cannot be refined on one of attic"):
        localize(thumbnails, small_room.queries, RUN, refine_on=elsewhere)
    layers = {name: value for name, value in exact_map.tensors.items() if "landmarks" not in name}
    with pytest.raises(InputError, match="a map of layers cannot refine poses"):
        open_refiner(replace(exact_map, tensors=layers), RUN)


def test_a_focal_length_that_nobody_said_is_estimated(small_room: Scene, exact_map: Map) -> None:
    """It is guessed a tenth off: poses fitted with the guess would be off in depth by as much."""
    found = []
    for view in small_room.queries:
        query = view.query()
        focal = float(view.camera.focal[0])
        guessed = view.camera.with_focal(1.1 * focal, has_prior_focal=False)
        start = PoseEstimate(view.cam_from_world)
        asked = Query("guess", query.image, guessed)
        (answer,) = open_refiner(exact_map, RUN).refine([asked], [start])
        if answer.camera is not None:
            found.append(abs(float(answer.camera.focal[0]) / focal - 1))
    assert len(found) >= 0.5 * len(small_room.queries)
    assert float(torch.tensor(found).median()) < 0.03


def test_maps_of_other_views_are_told_apart(
    small_room: Scene, exact_map: Map, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where one is of another split, and has seen the queries."""
    exact_map.save(tmp_path / "exact")
    view = small_room.queries[0]
    rgb = view.query().image.permute(1, 2, 0).numpy()
    cv2.imwrite(str(tmp_path / "photo.png"), np.ascontiguousarray(rgb[..., ::-1]))
    for number in (20, 40):
        some = replace(small_room, mapping=small_room.mapping[:number])
        build_map("thumbnail", some, None, RUN).save(tmp_path / f"near-{number}")
        focal = f"--focal={float(view.camera.focal[0])}"
        words = ["localize", str(tmp_path / f"near-{number}"), str(tmp_path / "photo.png"), focal]
        words += ["--refine", str(tmp_path / "exact"), "--out", str(tmp_path / f"{number}.jsonl")]
        assert main(words) == 0
        said = capfd.readouterr().out
        assert ("of 20 views and that of --refine of 40" in said) == (number == 20)


def test_of_two_poses_that_cells_agree_on_the_one_that_shows_the_landmarks_is_taken(
    small_room: Scene, exact_map: Map, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a wall of bricks has it: more cells agree on a pose that is a metre off."""
    view = small_room.queries[0]
    localizer = get_method("ace").localizer(
        exact_map.tensors, replace(get_method("ace").tiny, depth=True), RUN
    )
    assert isinstance(localizer, CoordinatesLocalizer)
    away = Rigid3d.exp(torch.tensor([0, 0, 0, 0.8, 0.0, 0.6], dtype=torch.float64))
    predicted = localizer.points

    def mostly_shifted(encoded: EncodedQuery) -> tuple[torch.Tensor, torch.Tensor]:
        pixels_N2, points_N3 = predicted(encoded)
        origin_3 = exact_map.tensors["center_3"]
        error_px_N = reprojection_error_px(
            view.cam_from_world, pixels_N2.double(), points_N3 + origin_3, view.camera
        )
        right = error_px_N.argsort()[:160]
        pixels_N2, points_N3 = pixels_N2[right], points_N3[right]
        shifted_N = torch.arange(len(right)) % 16 < 9
        points_N3[shifted_N] = (away @ points_N3[shifted_N].double()).float()
        wrong_N3 = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 4 - 2
        wrong_N2 = torch.rand(500, 2, generator=torch.Generator().manual_seed(1))
        wrong_N2 = wrong_N2 * torch.tensor([view.camera.width, view.camera.height])
        return torch.cat([pixels_N2, wrong_N2]), torch.cat([points_N3, wrong_N3])

    monkeypatch.setattr(localizer, "points", mostly_shifted)
    [answer] = localizer.localize([view.query()])
    assert _error_cm(answer, view.cam_from_world) < 10
    monkeypatch.setattr(coordinates_localizer, "_DOUBTFUL_RATIO", 0.0)
    [first] = localizer.localize([view.query()])
    assert _error_cm(first, view.cam_from_world) > 50


def _zoomed(query: Query, factor: int) -> Query:
    """The middle of an image as large as all of it: a longer lens, or a camera that went near."""
    _, height, width = query.image.shape
    top, left = (height - height // factor) // 2, (width - width // factor) // 2
    rgb = query.image[:, top : top + height // factor, left : left + width // factor]
    rgb = cv2.resize(rgb.permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_CUBIC)
    focal = factor * float(query.camera.focal[0])
    image = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
    return replace(query, image=image, camera=query.camera.with_focal(focal, has_prior_focal=True))


def test_images_that_show_things_larger_than_any_mapping_view_are_found(
    small_room: Scene, exact_map: Map, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes tell scales apart: such an image is asked again at other sizes."""

    def num_found() -> int:
        views = small_room.queries
        answers = open_map(exact_map, RUN).localize([_zoomed(view.query(), 3) for view in views])
        return sum(
            answer.cam_from_world is not None and _error_cm(answer, view.cam_from_world) < 25
            for answer, view in zip(answers, views, strict=True)
        )

    found = num_found()
    monkeypatch.setattr(coordinates_localizer, "_OTHER_SIZES", ())
    alone = num_found()
    assert found >= alone + 3
