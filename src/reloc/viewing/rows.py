"""A row of a benchmark, typed: what a table has a place for."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reloc.evaluation.report import Report
from reloc.input_error import InputError
from reloc.maps import Map

_RECALL = re.compile(r"recall_([\d.]+)(cm|pct)_([\d.]+)deg")


@dataclass(frozen=True)
class Recall:
    """The share of queries within two limits.

    Attributes:
        limit: of the position: "5 cm", or "0.5 %" of the scene's extent.
        limit_deg: of the rotation.
        percent: of all queries.
    """

    limit: str
    limit_deg: float
    percent: float

    @property
    def label(self) -> str:
        """The two limits, as a table's head has them."""
        return f"{self.limit}, {self.limit_deg:g}°"


@dataclass(frozen=True)
class Row:
    """One method on one scene, as a line of rows.jsonl. None or "" stands for what it does not say.

    Attributes:
        method: as typed: name, preset and settings.
        scene: name of the scene.
        scene_words: its folder and options, as typed.
        ground_truth: where the true poses come from.
        unit: of positions: "m", or "units" where the scene has no scale.
        n_queries: asked.
        declined: of them.
        median_position: in `unit`; inf where half of the queries or more declined.
        median_deg: likewise.
        recalls: in the order of the file.
        map_seconds: to build the map.
        map_mb: size of the map.
        query_ms_median: of one query.
        query_ms_p95: of one query.
        peak_rss_mb: memory of the process at its largest.
        threads: of the processor.
        device: "cpu", "cuda", ...
        hardware: in words.
        seed: of everything random.
        commit: of the working copy of reloc.
        failed: why there are no figures; "" where there are.
    """

    method: str
    scene: str
    scene_words: str = ""
    ground_truth: str = ""
    unit: str = "m"
    n_queries: int | None = None
    declined: int | None = None
    median_position: float | None = None
    median_deg: float | None = None
    recalls: tuple[Recall, ...] = ()
    map_seconds: float | None = None
    map_mb: float | None = None
    query_ms_median: float | None = None
    query_ms_p95: float | None = None
    peak_rss_mb: float | None = None
    threads: int | None = None
    device: str = ""
    hardware: str = ""
    seed: int | None = None
    commit: str = ""
    failed: str = ""

    @property
    def place(self) -> str:
        """The scene with the options that it was loaded with: "redkitchen --split hard"."""
        return " ".join([self.scene, *shlex.split(self.scene_words)[1:]])

    def agrees_with(self, report: Report) -> bool:
        """Whether the errors of the queries give the medians of this row, but for rounding."""
        own = Row.from_json(report.row())
        if (self.n_queries, self.declined) != (own.n_queries, own.declined):
            return False
        pairs = ((self.median_position, own.median_position), (self.median_deg, own.median_deg))
        return all(a == b or (a and b and math.isclose(a, b, rel_tol=1e-6)) for a, b in pairs)

    @staticmethod
    def of(map_: Map, report: Report) -> Row:
        """Of a run that is at hand. How much memory it took is not known any more."""
        source = map_.provenance
        return Row.from_json(
            report.row()
            | {
                "map_seconds": source.seconds,
                "map_mb": map_.megabytes,
                "threads": source.threads,
                "device": source.device,
                "hardware": source.hardware,
                "seed": source.seed,
                "commit": source.commit,
            }
        )

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Row:
        """From the flat values of one line; keys that a table has no place for are passed over.

        Raises:
            InputError: method or scene is missing, or a value is not what it should be.
        """
        try:
            return Row._from_json(values)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the row of {values.get('method')} on {values.get('scene')} is damaged: {error}: "
                "remove its line, and `reloc bench` makes it again"
            ) from error

    @staticmethod
    def _from_json(values: Mapping[str, Any]) -> Row:
        # A run that failed does not know the scene's name: most are called as their folder.
        failed = str(values.get("failed") or "")
        words = shlex.split(str(values.get("scene_words") or ""))
        unit = str(values.get("unit") or "m")
        return Row(
            method=str(values["method"]),
            scene=Path(words[0]).name if failed and words else str(values["scene"]),
            scene_words=str(values.get("scene_words") or ""),
            ground_truth=str(values.get("ground_truth") or ""),
            unit=unit,
            n_queries=_whole(values, "n_queries"),
            declined=_whole(values, "declined"),
            median_position=_median(values, "median_m" if unit == "m" else "median_units"),
            median_deg=_median(values, "median_deg"),
            recalls=_recalls(values, "cm" if unit == "m" else "pct"),
            map_seconds=_number(values, "map_seconds"),
            map_mb=_number(values, "map_mb"),
            query_ms_median=_number(values, "query_ms_median"),
            query_ms_p95=_number(values, "query_ms_p95"),
            peak_rss_mb=_number(values, "peak_rss_mb"),
            threads=_whole(values, "threads"),
            device=str(values.get("device") or ""),
            hardware=str(values.get("hardware") or ""),
            seed=_whole(values, "seed"),
            commit=str(values.get("commit") or ""),
            failed=failed,
        )


def _number(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    number = float(value)
    if not number >= 0:
        raise ValueError(f"{key} is {value!r}")
    return number


def _whole(values: Mapping[str, Any], key: str) -> int | None:
    number = _number(values, key)
    return None if number is None else int(number)


def _median(values: Mapping[str, Any], key: str) -> float | None:
    """JSON has no infinity: a median that is null where there were queries is infinite."""
    number = _number(values, key)
    return math.inf if number is None and values.get("n_queries") and key in values else number


def _recalls(values: Mapping[str, Any], kind: str) -> tuple[Recall, ...]:
    recalls = []
    for key in values:
        match = _RECALL.fullmatch(key)
        share = _number(values, key) if match and match[2] == kind else None
        if match and share is not None:
            size = float(match[1])
            limit = (
                f"{size:g} %"
                if kind == "pct"
                else f"{size:g} cm"
                if size < 100
                else f"{size / 100:g} m"
            )
            recalls.append(Recall(limit, float(match[3]), 100 * share))
    return tuple(recalls)
