"""Rows are read for what they say, and what is found again is held against them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates
from reloc.input_error import InputError
from reloc.scenes.scene import Scene
from reloc.viewing.rows import Row
from reloc.viewing.section import Section

MakeSection = Callable[..., Section]


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("num_declined", [0, 5, 12])
def test_a_row_says_what_the_report_says(
    make_section: MakeSection, metric: bool, num_declined: int
) -> None:
    report = make_section(metric=metric, num_declined=num_declined).report
    assert report is not None
    row = Row.from_json(json.loads(json.dumps(report.row())))
    assert (row.n_queries, row.declined, row.unit) == (12, num_declined, report.unit)
    assert row.median_position == report.median_position
    assert row.median_deg == report.median_rotation_deg
    percents = [recall.percent for recall in row.recalls]
    assert percents == [100 * report.recall(threshold) for threshold in report.thresholds]
    assert row.agrees_with(report)


def test_a_row_of_little_is_still_a_row() -> None:
    row = Row.from_json({"method": "sift", "scene": "room"})
    assert row.median_position is None and row.seed is None and row.recalls == ()


@pytest.mark.parametrize(
    "change", [{"method": None}, {"n_queries": "many"}, {"map_mb": -1}, {"median_m": math.nan}]
)
def test_a_damaged_row_is_refused(change: dict[str, Any]) -> None:
    values: dict[str, Any] = {"method": "sift", "scene": "room", "n_queries": 3} | change
    if values["method"] is None:
        del values["method"]
    with pytest.raises(InputError, match="room is damaged"):
        Row.from_json(values)


def kept(section: Section, files: Path) -> Scene:
    """Write what a bench keeps of a run."""
    assert section.map_ and section.estimates and section.scene
    section.map_.save(files / "map")
    section.estimates.write(files / "estimates.jsonl")
    return section.scene


def test_all_of_a_run_is_found_again(make_section: MakeSection, tmp_path: Path) -> None:
    section = make_section()
    scene = kept(section, tmp_path)
    found = Section.found_again(section.row, tmp_path, lambda: scene)
    assert not found.missing
    assert found.report is not None and section.report is not None
    assert found.report.median_position == pytest.approx(section.report.median_position)
    assert found.map_ is not None and found.map_.config == {"max_keypoints": 2000}


def test_what_is_lost_is_told_and_the_rest_is_kept(
    make_section: MakeSection, tmp_path: Path
) -> None:
    def gone() -> Scene:
        raise InputError("data/room: no such folder")

    section = make_section()
    kept(section, tmp_path)
    found = Section.found_again(section.row, tmp_path, gone)
    assert found.missing == ["data/room: no such folder."]
    assert found.map_ is not None and found.estimates is not None and found.report is None
    nothing = Section.found_again(section.row, tmp_path / "nowhere", gone)
    assert len(nothing.missing) == 3 and nothing.row == section.row


def test_estimates_of_another_run_are_not_shown(make_section: MakeSection, tmp_path: Path) -> None:
    section = make_section()
    assert section.estimates is not None
    answers = dict(section.estimates.by_name)
    answers["query 7"] = PoseEstimate(None)
    other = replace(section, estimates=PoseEstimates(answers, "sift", "room", "synthetic"))
    scene = kept(other, tmp_path)
    found = Section.found_again(section.row, tmp_path, lambda: scene)
    assert found.report is None and found.estimates is None
    assert "do not give this row's figures" in found.missing[0]
