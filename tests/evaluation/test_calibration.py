from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reloc.evaluation.calibration import precision_recall, reliability

answers = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0, math.nan]), st.booleans()),
    min_size=1,
    max_size=40,
)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    score, correct = zip(*pairs, strict=True)
    return np.array(score), np.array(correct) & ~np.isnan(score)


def test_a_calibrated_method_has_no_calibration_error() -> None:
    confidence = np.repeat([0.25, 0.75], 100)
    correct = np.tile([True, False, False, False], 25).tolist()
    correct += np.tile([True, True, True, False], 25).tolist()
    table = reliability(confidence, np.array(correct))
    assert table is not None
    assert table.expected_calibration_error == pytest.approx(0.0, abs=1e-12)


def test_overconfidence_is_the_gap_between_claim_and_truth() -> None:
    table = reliability(np.full(10, 0.9), np.array([True] * 6 + [False] * 4))
    assert table is not None
    assert table.expected_calibration_error == pytest.approx(0.3)
    assert table.counts[9] == 10


@given(answers, st.integers(1, 12))
def test_every_answer_with_a_confidence_is_in_one_bin(
    pairs: list[tuple[float, bool]], num_bins: int
) -> None:
    confidence, correct = arrays(pairs)
    given_one = ~np.isnan(confidence)
    table = reliability(confidence, correct, num_bins)
    if not given_one.any():
        assert table is None
        return
    assert table is not None
    assert table.counts.sum() == given_one.sum()
    filled = table.counts > 0
    assert (np.isnan(table.mean_confidence) == ~filled).all()
    claimed, counts = table.mean_confidence[filled], table.counts[filled]
    assert claimed @ counts == pytest.approx(confidence[given_one].sum())
    assert table.fraction_correct[filled] @ counts == pytest.approx(correct.sum())
    assert (table.edges[:-1][filled] <= claimed + 1e-12).all()
    assert (claimed <= table.edges[1:][filled] + 1e-12).all()
    assert 0 <= table.expected_calibration_error <= 1


@given(answers)
def test_precision_and_recall_are_those_of_each_possible_threshold(
    pairs: list[tuple[float, bool]],
) -> None:
    score, correct = arrays(pairs)
    curve = precision_recall(score, correct)
    thresholds = sorted({s for s in score if not math.isnan(s)}, reverse=True)
    if not thresholds:
        assert curve is None
        return
    assert curve is not None
    area, last_recall = 0.0, 0.0
    for index, threshold in enumerate(thresholds):
        admitted = [right for s, right in zip(score, correct, strict=True) if s >= threshold]
        recall, precision = len(admitted) / len(score), sum(admitted) / len(admitted)
        assert curve.recall[index] == pytest.approx(recall)
        assert curve.precision[index] == pytest.approx(precision)
        area += (recall - last_recall) * precision
        last_recall = recall
    assert len(curve.recall) == len(thresholds)
    assert curve.auc == pytest.approx(area)


@given(answers, st.randoms(use_true_random=False))
def test_the_order_of_queries_does_not_matter(
    pairs: list[tuple[float, bool]], random: object
) -> None:
    before = precision_recall(*arrays(pairs))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    after = precision_recall(*arrays(pairs))
    assert (before is None) == (after is None)
    assert before is None or after is None or before.auc == pytest.approx(after.auc)


def test_missing_answers_lower_the_area() -> None:
    right = np.array([True, True, True, True])
    assert precision_recall(np.array([4.0, 3.0, 2.0, 1.0]), right).auc == 1.0  # type: ignore[union-attr]
    half = precision_recall(np.array([4.0, 3.0, math.nan, math.nan]), right & [1, 1, 0, 0])
    assert half is not None
    assert half.auc == 0.5


def test_saying_the_same_of_everything_gives_the_square_of_what_ranking_could() -> None:
    correct = np.array([True, False, True, False])
    constant = precision_recall(np.zeros(4), correct)
    ranked = precision_recall(np.array([3.0, 1.0, 4.0, 0.0]), correct)
    assert constant is not None and ranked is not None
    assert constant.auc == 0.5
    assert ranked.auc == pytest.approx(0.5 + 0.25 * 2 / 3 + 0.25 * 0.5)
