from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from damage import EVERY_BIT, flipped
from posed_views import random_poses
from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates, write_new_text
from reloc.geometry.camera import Camera
from reloc.input_error import InputError

cameras = st.builds(
    lambda focal, k: Camera.of("SIMPLE_RADIAL", 640, 480, [focal, 320.5, 240.0, k]),
    st.floats(1, 5000),
    st.floats(-0.1, 0.1),
)
estimates = st.builds(
    lambda seed, answered, confidence, spread, inliers, camera, reference: PoseEstimate(
        random_poses(1, seed)[0] if answered else None,
        confidence,
        None if spread is None else torch.eye(6, dtype=torch.float64) * spread,
        inliers,
        camera,
        reference,
    ),
    st.integers(0, 1000),
    st.booleans(),
    st.none() | st.floats(0, 1),
    st.none() | st.floats(0, 1e3),
    st.none() | st.integers(0, 10**6),
    st.none() | cameras,
    st.none() | st.text(),
)
runs = st.builds(
    lambda by_name, words, times: PoseEstimates(
        by_name, *words, dict(zip(by_name, times, strict=False)), {}
    ),
    st.dictionaries(st.text(), estimates, min_size=1, max_size=4),
    st.tuples(st.text(), st.text(), st.text()),
    st.lists(st.floats(0, 1e6), max_size=4),
)


def a_run() -> PoseEstimates:
    return PoseEstimates(
        {
            "a.jpg": PoseEstimate(random_poses(1)[0], 0.5, torch.eye(6).double(), 17),
            "ü.jpg": PoseEstimate(None, num_inliers=3, inlier_ratio=0.25),
        },
        "sift",
        "kitchen",
        "sfm",
        {"a.jpg": 12.5, "ü.jpg": 1e-05},
    )


@given(runs)
def test_a_run_comes_back(tmp_path_factory: pytest.TempPathFactory, run: PoseEstimates) -> None:
    path = tmp_path_factory.mktemp("runs") / "estimates.jsonl"
    run.write(path)
    found = PoseEstimates.read(path)
    assert (found.method, found.scene, found.ground_truth) == (
        run.method,
        run.scene,
        run.ground_truth,
    )
    assert list(found.by_name) == list(run.by_name)
    assert found.query_ms == run.query_ms and found.read_ms == {}
    assert found.num_declined == run.num_declined
    for name, expected in run.by_name.items():
        estimate = found[name]
        for field in ("confidence", "num_inliers", "inlier_ratio", "reference"):
            assert getattr(estimate, field) == getattr(expected, field)
        assert (estimate.cam_from_world is None) == (expected.cam_from_world is None)
        if estimate.cam_from_world is not None and expected.cam_from_world is not None:
            torch.testing.assert_close(
                estimate.cam_from_world.matrix, expected.cam_from_world.matrix, rtol=0, atol=1e-14
            )
        assert (estimate.covariance is None) == (expected.covariance is None)
        if estimate.covariance is not None and expected.covariance is not None:
            assert torch.equal(estimate.covariance, expected.covariance)
        assert (estimate.camera is None) == (expected.camera is None)
        if estimate.camera is not None and expected.camera is not None:
            assert estimate.camera.as_dict() == expected.camera.as_dict()


@pytest.mark.parametrize("every_bit", EVERY_BIT)
def test_no_flipped_bit_goes_unseen(tmp_path: Path, every_bit: bool) -> None:
    path = tmp_path / "estimates.jsonl"
    a_run().write(path)
    for changed in flipped(path.read_bytes(), every_bit=every_bit):
        path.write_bytes(changed)
        with pytest.raises(InputError) as caught:
            PoseEstimates.read(path)
        assert "\n" not in str(caught.value)


def test_no_cut_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "estimates.jsonl"
    a_run().write(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            PoseEstimates.read(path)


def test_lines_cannot_be_taken_away_or_rearranged(tmp_path: Path) -> None:
    path = tmp_path / "estimates.jsonl"
    a_run().write(path)
    head, first, second = path.read_text().splitlines(keepends=True)
    for lines in ((head, first), (head, second, first), (head, first, second, second)):
        path.write_text("".join(lines))
        with pytest.raises(InputError, match="was changed or cut after it was written"):
            PoseEstimates.read(path)


LINE = {
    "name": "a.jpg",
    "cam_from_world": {"quat_wxyz": [1, 0, 0, 0], "translation": [0.5, -1, 2]},
}


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_made_by_hand_needs_names_and_poses_only(tmp_path: Path) -> None:
    declined = {"name": "b\u2028.jpg", "cam_from_world": None}
    path = tmp_path / "hand.jsonl"
    path.write_text(
        "\n".join(json.dumps(line, ensure_ascii=False) for line in (LINE, declined)),
        encoding="utf-8",
    )
    run = PoseEstimates.read(path)
    assert (run.method, run.ground_truth, len(run), run.num_declined) == ("", "", 2, 1)
    pose = run["a.jpg"].cam_from_world
    assert pose is not None
    assert pose.translation.tolist() == [0.5, -1, 2]


def posed(quat_wxyz: list[float], translation: list[float]) -> dict[str, Any]:
    return {**LINE, "cam_from_world": {"quat_wxyz": quat_wxyz, "translation": translation}}


BAD = {
    "no pose": {"name": "b.jpg"},
    "no name": {"cam_from_world": None},
    "a name that is none": {**LINE, "name": 5},
    "a name twice": LINE,
    "a quaternion of three": posed([1, 0, 0], [0, 0, 0]),
    "a translation of two": posed([1, 0, 0, 0], [0, 0]),
    "a norm of two": posed([2, 0, 0, 0], [0, 0, 0]),
    "not a number": posed([math.nan, 0, 0, 0], [0, 0, 0]),
    "infinity": posed([1, 0, 0, 0], [math.inf, 0, 0]),
    "a number too large": posed([1, 0, 0, 0], [10**400, 0, 0]),
    "a pose that is a list": {**LINE, "cam_from_world": [1, 0, 0, 0]},
    "a certainty of two": {**LINE, "confidence": 2},
    "a confidence in words": {**LINE, "confidence": "high"},
    "a confidence of nan": {**LINE, "confidence": math.nan},
    "a small covariance": {**LINE, "covariance": [[1, 0], [0, 1]]},
    "an infinite covariance": {**LINE, "covariance": [[math.inf] * 6] * 6},
    "a ragged covariance": {**LINE, "covariance": [[1, 0], [0]]},
    "half an inlier": {**LINE, "num_inliers": 0.5},
    "more inliers than all": {**LINE, "inlier_ratio": 1.5},
    "a camera without a model": {**LINE, "camera": {"width": 5}},
    "a camera of no known model": {
        **LINE,
        "camera": {"model": "FULL", "width": 5, "height": 5, "params": [1]},
    },
    "a list": [1, 2],
    "a number": 3,
    "nothing": None,
}


@pytest.mark.parametrize("what", BAD)
def test_a_line_that_is_no_estimate_is_named(tmp_path: Path, what: str) -> None:
    bad = BAD[what]
    first = {**LINE, "name": "a.jpg" if what == "a name twice" else "first.jpg"}
    path = written(tmp_path / "hand.jsonl", first, bad)
    with pytest.raises(InputError, match="line 2 is no estimate: ") as caught:
        PoseEstimates.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "estimates.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError):
        PoseEstimates.read(path)


def test_a_file_that_is_not_there_or_empty_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as estimates"):
        PoseEstimates.read(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be read as estimates"):
        PoseEstimates.read(tmp_path)
    PoseEstimates({}).write(tmp_path / "empty.jsonl")
    with pytest.raises(InputError, match="has no estimates: `reloc localize"):
        PoseEstimates.read(tmp_path / "empty.jsonl")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "estimates.jsonl"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists: choose another name"):
        a_run().write(path)
    with pytest.raises(InputError, match="cannot be written"):
        a_run().write(path / "inside.jsonl")
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["estimates.jsonl"]


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write_new_text(tmp_path / "new" / "text.txt", "a long text, longer than the disk")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"confidence": 1.5}, {"confidence": math.nan}, {"covariance": torch.zeros(3, 3)}]
)
def test_what_could_not_be_read_again_is_no_estimate(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="or None"):
        PoseEstimate(None, **wrong)
