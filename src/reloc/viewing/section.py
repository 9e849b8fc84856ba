"""What the page is made from, whether a run is at hand or only its row and files are left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reloc.estimates import PoseEstimates
from reloc.evaluation.report import Report, evaluate
from reloc.input_error import InputError
from reloc.maps import Map
from reloc.scenes.scene import Scene
from reloc.viewing.rows import Row

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Section:
    """What the page tells of one method on one scene. Everything but the row may be missing.

    Attributes:
        row: the figures. Enough for the tables.
        report: the error of each query. Needed for curves.
        scene: with `report` and `estimates`, needed for pictures.
        estimates: of the scene's queries.
        map_: for its settings only.
        missing: what could not be found again and why, a sentence each, for the reader.
    """

    row: Row
    report: Report | None = None
    scene: Scene | None = None
    estimates: PoseEstimates | None = None
    map_: Map | None = None
    missing: Sequence[str] = ()

    @staticmethod
    def of(scene: Scene, map_: Map, estimates: PoseEstimates, report: Report) -> Section:
        """Of a run that is at hand."""
        return Section(Row.of(map_, report), report, scene, estimates, map_)

    @staticmethod
    def found_again(row: Row, files: Path, load_scene: Callable[[], Scene]) -> Section:
        """Of a row of a benchmark, with as much of its run as is still there.

        Args:
            row: of `rows.jsonl`.
            files: the folder that holds `map` and `estimates.jsonl` of the run.
            load_scene: reads the scene again; may raise InputError.
        """
        if row.failed:
            return Section(row)
        missing: list[str] = []

        def found(read: Callable[[], Found]) -> Found | None:
            try:
                return read()
            except InputError as error:
                missing.append(f"{error}.")
                return None

        map_ = found(lambda: Map.load(files / "map"))
        estimates = found(lambda: PoseEstimates.read(files / "estimates.jsonl"))
        scene = found(load_scene)
        report = None
        if estimates is not None and scene is not None:
            report = found(lambda: evaluate(estimates, scene))
        if report is not None and not row.agrees_with(report):
            missing.append(
                "The estimates that were found do not give this row's figures: they, or the scene, "
                "were changed after it was written."
            )
            return Section(row, map_=map_, missing=missing)
        return Section(row, report, scene, estimates, map_, missing)
