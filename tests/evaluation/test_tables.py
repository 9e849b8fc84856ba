from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from posed_views import random_poses, scene_of
from reloc.evaluation.report import evaluate
from reloc.evaluation.tables import FigureTable, figure_tables, seeds_together, told_apart
from reloc.exports import true_poses


def row(**changes: Any) -> dict[str, Any]:
    scene = scene_of(random_poses(3))
    return evaluate(true_poses(scene.queries), scene).row() | {"method": "m"} | changes


def drawn(table: FigureTable, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table.rich())
    return console.export_text()


def cells(table: FigureTable, line: int) -> dict[str, str]:
    """A line of the Markdown table by its titles."""
    header, _, *lines = table.markdown().split("\n\n")[1].splitlines()
    titles, values = (
        text.removeprefix("| ").removesuffix(" |").split(" | ") for text in (header, lines[line])
    )
    return dict(zip(titles, values, strict=True))


def test_lengths_are_in_cm_and_shares_in_percent() -> None:
    (table,) = figure_tables([row(median_m=0.01234, median_deg=0.12345, recall_5cm_5deg=0.985)])
    first = cells(table, 0)
    assert first["median cm"] == "1.23"
    assert first["median °"] == "0.123"
    assert first["% in 5 cm, 5°"] == "98.5"
    assert first["truth"] == "sfm"
    assert first["declined"] == "0"


def test_the_best_of_a_scene_is_bold_as_it_is_printed() -> None:
    (table,) = figure_tables(
        [
            row(method="a", median_m=0.010001, recall_5cm_5deg=0.9),
            row(method="b", median_m=0.010002, recall_5cm_5deg=0.8),
            row(method="c", median_m=0.02, recall_5cm_5deg=0.9),
            row(method="a", scene="other", median_m=0.5),
            row(method="a", ground_truth="d-slam", median_m=0.4),
        ]
    )
    assert [cells(table, i)["median cm"] for i in range(5)] == [
        "**1.00**", "**1.00**", "2.00", "50.00", "40.00",
    ]  # fmt: skip
    assert [cells(table, i)["% in 5 cm, 5°"] for i in range(3)] == ["**90.0**", "80.0", "**90.0**"]
    # All alike: nothing stands out.
    assert cells(table, 0)["median °"] == "0.000"


def test_an_infinite_median_is_shown_and_never_the_best() -> None:
    (table,) = figure_tables(
        [row(method="a", median_m=None, declined=3), row(method="b", median_m=0.01, declined=0)]
    )
    assert [cells(table, i)["median cm"] for i in range(2)] == ["∞", "**1.00**"]
    assert [cells(table, i)["declined"] for i in range(2)] == ["3", "**0**"]


def test_scenes_without_scale_have_a_table_of_their_own_in_units() -> None:
    loose = row(
        scene="loose", unit="units", median_m=None, median_units=0.0123, median_extent_pct=0.31
    )
    metric, relative = figure_tables([loose, row()])
    assert "arbitrary" in relative.title and "arbitrary" not in metric.title
    assert cells(relative, 0)["median units"] == "0.0123"
    assert cells(relative, 0)["median % extent"] == "0.310"
    assert not any("cm" in title for title in cells(relative, 0))
    assert figure_tables([]) == []


def test_a_method_has_an_average_over_scenes_of_one_ground_truth() -> None:
    (table,) = figure_tables(
        [
            row(scene="a", median_m=0.01),
            row(scene="b", median_m=0.03),
            row(scene="a", ground_truth="d-slam"),
        ]
    )
    assert len(table.rows) == 4
    assert cells(table, 3)["scene"] == "average of 2"
    assert cells(table, 3)["median cm"] == "2.00"


def test_costs_are_shown_where_they_were_measured() -> None:
    (without,) = figure_tables([row()])
    assert "map MB" not in cells(without, 0)
    (measured,) = figure_tables([row(map_mb=9.26), row(scene="b")])
    assert [cells(measured, i)["map MB"] for i in range(2)] == ["9.3", "–"]


def test_a_failed_run_is_a_row_with_its_reason() -> None:
    failed = {"method": "m", "scene": "gone", "seed": 0, "failed": "no such folder"}
    (table,) = figure_tables([row(), failed])
    assert cells(table, 1)["failed"] == "no such folder"
    assert cells(table, 1)["median cm"] == "–"
    assert len(table.rows) == 2


def test_no_number_is_cut_on_a_narrow_terminal() -> None:
    long = "a-scene-with-a-very-long-name-indeed"
    (table,) = figure_tables([row(scene=long, median_m=1.2345, median_deg=12.3456)])
    text = drawn(table, width=80)
    for number in ("123.45", "12.346", "100.0"):
        assert number in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_names_are_not_taken_for_markup() -> None:
    (table,) = figure_tables([row(scene="[red]kitchen|2"), row(scene="b")])
    assert "[red]kitchen|2" in drawn(table)
    assert "[red]kitchen\\|2" in table.markdown()


def test_seeds_become_one_row_of_medians_and_how_far_they_differ() -> None:
    seeds = [
        row(seed=0, median_m=0.05, recall_5cm_5deg=0.5),
        row(seed=1, median_m=0.07, recall_5cm_5deg=0.4),
        row(seed=2, median_m=0.06, recall_5cm_5deg=0.9),
    ]
    (table,) = figure_tables(seeds_together([*seeds, row(method="other", median_m=0.01)]))
    first, other = cells(table, 0), cells(table, 1)
    assert (first["median cm"], first["seeds: cm"]) == ("6.00", "3: 5.00 to 7.00")
    assert first["% in 5 cm, 5°"] == "50.0"
    assert (other["median cm"], other["seeds: cm"]) == ("**1.00**", "–")


def test_a_seed_that_declines_counts_as_infinitely_far() -> None:
    seeds = [row(seed=seed, median_m=value) for seed, value in enumerate((0.05, None, None))]
    (table,) = figure_tables(seeds_together(seeds))
    assert cells(table, 0)["median cm"] == "∞"
    assert cells(table, 0)["seeds: cm"] == "3: 5.00 to ∞"


def test_rows_of_one_seed_have_no_column_for_seeds() -> None:
    (table,) = figure_tables(seeds_together([row(seed=0), row(seed=0, method="other")]))
    assert "seeds: cm" not in cells(table, 0)


def test_folders_of_one_name_are_told_apart_by_their_paths() -> None:
    words = ["data/day/kitchen", "'data/night walk/kitchen' --split hard", "data/day/kitchen", ""]
    rows = [row(scene="kitchen", scene_words=said) for said in words]
    names = [told["scene"] for told in told_apart(rows)]
    assert names == ["day/kitchen", "night walk/kitchen", "day/kitchen", "kitchen"]
    same = [row(scene="kitchen", scene_words=said) for said in ("a/kitchen", "./a/kitchen")]
    assert [told["scene"] for told in told_apart(same)] == ["kitchen", "kitchen"]
