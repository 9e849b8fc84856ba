from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posed_views import random_poses, scene_of
from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import (
    RECALLS,
    RELATIVE_RECALLS,
    Report,
    Threshold,
    average_of_scenes,
    evaluate,
)
from reloc.exports import true_poses
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import Scene

SCENE = scene_of(random_poses(6))


def aside(pose: Rigid3d, distance: float | None) -> PoseEstimate:
    """The pose with its centre moved along its own x axis; None: declined."""
    if distance is None:
        return PoseEstimate(None)
    step = torch.tensor([distance, 0.0, 0.0], dtype=torch.float64)
    return PoseEstimate(Rigid3d(pose.rotation, pose.translation - step))


def report_of(*distances: float | None, metric: bool = True) -> Report:
    """Of queries whose answers are that far from the truth."""
    scene = scene_of(random_poses(len(distances)), metric=metric)
    answers = {
        view.name: aside(view.cam_from_world, distance)
        for view, distance in zip(scene.queries, distances, strict=True)
    }
    return evaluate(PoseEstimates(answers, "m", scene.name, "sfm"), scene)


def test_true_poses_have_no_error() -> None:
    report = evaluate(true_poses(SCENE.queries), SCENE)
    assert report.position_error.max() < 1e-12
    assert report.rotation_error_deg.max() < 1e-12
    assert all(report.recall(threshold) == 1 for threshold in RECALLS)


def test_a_declined_query_is_infinitely_wrong_and_stays_in_every_denominator() -> None:
    report = report_of(0.001, 0.03, None, 0.001)
    assert report.num_declined == 1
    np.testing.assert_allclose(report.position_error, [0.001, 0.03, math.inf, 0.001])
    assert report.rotation_error_deg[2] == math.inf
    assert report.median_position == pytest.approx((0.001 + 0.03) / 2)
    assert report.recall(Threshold(0.01, 1)) == 0.5
    assert report.recall(Threshold(5, 10)) == 0.75


def test_medians_are_infinite_when_half_declined() -> None:
    report = report_of(0.0, None, None, 0.0)
    assert report.median_position == report.median_rotation_deg == math.inf
    row = report.row()
    assert row["median_m"] is None
    assert row["vcre_median_px"] is None
    assert report_of(0.0, None, 0.0).median_position < 1e-12


def test_means_are_over_the_answered_and_say_over_how_many() -> None:
    report = report_of(0.2, None, 0.4, None)
    assert report.mean_position == pytest.approx(0.3)
    row = report.row()
    assert row["mean_m"] == pytest.approx(0.3)
    assert (row["mean_over"], row["n_queries"], row["declined"]) == (2, 4, 2)
    assert math.isnan(report_of(None, None).mean_position)
    assert report_of(None, None).row()["mean_m"] is None


def test_both_errors_must_be_strictly_below_their_limits() -> None:
    report = replace(
        report_of(0.0, 0.0, 0.0, 0.0),
        position_error=np.array([0.05, 0.0499, 0.0499, 0.0]),
        rotation_error_deg=np.array([0.0, 5.0, 4.99, 179.0]),
    )
    assert report.correct(Threshold(0.05, 5)).tolist() == [False, False, True, False]


@settings(max_examples=20)
@given(st.lists(st.none() | st.floats(0, 10), min_size=1, max_size=12))
def test_wider_limits_recall_no_less(distances: list[float | None]) -> None:
    report = report_of(*distances)
    recalls = [report.recall(Threshold(t, 5)) for t in (0.01, 0.1, 1, 100)]
    assert recalls == sorted(recalls)
    assert recalls[-1] == sum(distance is not None for distance in distances) / len(distances)
    assert all(0 <= recall <= 1 for recall in recalls)


def test_estimates_may_come_in_any_order() -> None:
    answers = [
        (view.name, aside(view.cam_from_world, 0.1 * i)) for i, view in enumerate(SCENE.queries)
    ]
    random.Random(0).shuffle(answers)
    report = evaluate(PoseEstimates(dict(answers)), SCENE)
    assert report.names == tuple(view.name for view in SCENE.queries)
    np.testing.assert_allclose(report.position_error, 0.1 * np.arange(6), atol=1e-12)


def test_a_missing_estimate_is_named_and_not_taken_for_declined() -> None:
    with pytest.raises(
        InputError, match=r"query q4.jpg of scene walk has no estimate \(and 1 more\)"
    ):
        evaluate(true_poses(SCENE.queries[:4]), SCENE)


def test_an_estimate_of_another_image_is_named() -> None:
    with pytest.raises(InputError, match=r"estimate m0.jpg is of no query of scene walk: "):
        evaluate(true_poses([*SCENE.queries, SCENE.mapping[0]]), SCENE)


def test_another_ground_truth_is_refused() -> None:
    estimates = replace(true_poses(SCENE.queries), ground_truth="d-slam")
    with pytest.raises(InputError, match="built on d-slam poses but scene walk has sfm poses"):
        evaluate(estimates, SCENE)


def test_a_scene_without_queries_is_refused() -> None:
    with pytest.raises(InputError, match="scene walk has no queries"):
        evaluate(PoseEstimates({}), replace(SCENE, queries=()))


def test_metres_mean_nothing_without_a_metric_scale() -> None:
    # The cameras of its map are 10 units apart.
    report = report_of(0.04, 0.2, None, metric=False)
    assert report.unit == "units"
    with pytest.raises(ValueError, match="no metric scale"):
        report.recall(Threshold(0.05, 5))
    row = report.row()
    assert all(row[threshold.key] is None for threshold in RECALLS)
    assert row["median_m"] is None and row["mean_m"] is None and row["vcre_median_px"] is None
    assert row["median_units"] == pytest.approx(0.2)
    assert row["median_extent_pct"] == pytest.approx(2.0)
    assert row["recall_0.5pct_1deg"] == pytest.approx(1 / 3)
    assert row["recall_5pct_5deg"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("distances", [(0.1, 0.2), (None, None), (0.1, None, None)])
def test_rows_are_plain_json_with_the_same_keys(
    distances: tuple[float | None, ...], metric: bool
) -> None:
    row = report_of(*distances, metric=metric).row()
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row.keys() == report_of(0.0).row().keys()


def test_keys_of_recalls_are_those_of_the_benchmark() -> None:
    pairs = ((1, 1), (2, 2), (5, 5), (10, 5), (25, 2), (50, 5), (500, 10))
    keys = [f"{cm}cm_{deg}deg" for cm, deg in pairs]
    assert [threshold.key for threshold in RECALLS] == [f"recall_{key}" for key in keys]
    assert RELATIVE_RECALLS[1].key == "recall_0.5pct_1deg"


def answers_with(
    confidences: list[float | None], inliers: list[int | None], scene: Scene, declined: int
) -> PoseEstimates:
    """True poses, but for one query that is declined; q0 is right, the others a metre off."""
    answers = {}
    for i, (view, confidence, count) in enumerate(
        zip(scene.queries, confidences, inliers, strict=True)
    ):
        answer = aside(view.cam_from_world, None if i == declined else float(i > 0))
        answers[view.name] = replace(answer, confidence=confidence, num_inliers=count)
    return PoseEstimates(answers)


def test_a_declined_query_is_never_admitted_by_its_confidence() -> None:
    scene = scene_of(random_poses(3))
    report = evaluate(answers_with([0.8, 0.5, 0.99], [None] * 3, scene, declined=2), scene)
    assert np.isnan(report.confidence[2])
    curve = report.precision_recall(report.correct(Threshold(0.05, 5)))
    assert curve is not None
    np.testing.assert_allclose(curve.recall, [1 / 3, 2 / 3])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2])
    table = report.reliability(Threshold(0.05, 5))
    assert table is not None
    assert table.expected_calibration_error == pytest.approx((0.2 + 0.5) / 2)
    assert report.row()["calibration_error"] == pytest.approx(0.35)


def test_inliers_rank_where_there_is_no_confidence() -> None:
    scene = scene_of(random_poses(3))
    report = evaluate(answers_with([None] * 3, [900, 12, 2000], scene, declined=2), scene)
    curve = report.precision_recall(report.correct(Threshold(0.05, 5)))
    assert curve is not None
    np.testing.assert_allclose(curve.recall, [1 / 3, 2 / 3])
    assert report.reliability(Threshold(0.05, 5)) is None
    assert report.row()["calibration_error"] is None


def test_predicted_sigmas_are_the_errors_that_the_covariance_makes() -> None:
    generator = torch.Generator().manual_seed(1)
    root = 1e-3 * torch.randn(6, 6, generator=generator, dtype=torch.float64)
    count = 4000
    truth = random_poses(count, spread=20.0)
    noise = torch.randn(count, 6, generator=generator, dtype=torch.float64) @ root.mT
    estimated = Rigid3d.exp(noise) @ truth
    scene = scene_of(truth)
    answers = {
        f"q{i}.jpg": PoseEstimate(estimated[i], covariance=root @ root.mT) for i in range(count)
    }
    answers["q7.jpg"] = PoseEstimate(None, covariance=root @ root.mT)
    report = evaluate(PoseEstimates(answers), scene)

    sure = ~np.isnan(report.position_sigma)
    assert np.flatnonzero(~sure).tolist() == [7]
    rms = np.sqrt(np.mean(report.position_error[sure] ** 2))
    assert report.position_sigma[0] == pytest.approx(rms, rel=0.04)
    rms_deg = np.sqrt(np.mean(report.rotation_error_deg[sure] ** 2))
    assert report.rotation_sigma_deg[0] == pytest.approx(rms_deg, rel=0.04)
    assert np.nanmean(report.normalized_error_squared) == pytest.approx(6, abs=0.25)


def test_each_scene_counts_alike_in_an_average() -> None:
    small, large = report_of(0.1).row(), report_of(0.3, 0.3, 0.3, None).row() | {"scene": "b"}
    average = average_of_scenes([small, large])
    assert average["median_m"] == pytest.approx(0.2)
    assert average["recall_50cm_5deg"] == pytest.approx((1 + 0.75) / 2)
    assert (average["n_queries"], average["declined"]) == (5, 1)
    assert average["scene"] == "average of 2"


def test_one_infinite_median_makes_the_average_infinite() -> None:
    average = average_of_scenes([report_of(0.1).row(), report_of(None).row() | {"scene": "b"}])
    assert average["median_m"] is None
    assert average["recall_50cm_5deg"] == 0.5


def test_what_cannot_be_averaged_is_refused() -> None:
    row = report_of(0.1).row()
    for key, other in (("unit", "units"), ("method", "n"), ("ground_truth", "d-slam")):
        with pytest.raises(InputError, match=f"rows of different {key}"):
            average_of_scenes([row, row | {"scene": "b", key: other}])
    with pytest.raises(InputError, match="walk comes twice"):
        average_of_scenes([row, row])
    with pytest.raises(InputError, match="no scenes"):
        average_of_scenes([])


def test_reprojection_is_not_measured_with_a_guessed_camera() -> None:
    """The same poses had another error in pixels where queries were asked without intrinsics."""
    scene = scene_of(random_poses(3))
    known = evaluate(true_poses(scene.queries), scene)
    assert known.row()["vcre_median_px"] is not None
    first = scene.queries[0]
    guessed = replace(first, camera=Camera.guess(first.camera.width, first.camera.height))
    asked = replace(scene, queries=[guessed, *scene.queries[1:]])
    assert evaluate(true_poses(asked.queries), asked).row()["vcre_median_px"] is None
