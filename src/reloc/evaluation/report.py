"""Estimates against true poses: an error for each query, and the figures that summarise them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reloc.estimates import PoseEstimates
from reloc.evaluation.calibration import (
    PrecisionRecall,
    Reliability,
    precision_recall,
    reliability,
)
from reloc.evaluation.errors import normalized_error_squared, position_error, rotation_error_deg
from reloc.evaluation.reprojection import MAX_VIRTUAL_ERROR_PX, virtual_errors_px
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import Scene

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """An answer counts when both of its errors are strictly below.

    Attributes:
        max_position: in metres, or as a fraction of the scene's extent where `relative`.
        max_rotation_deg: in degrees.
        relative: for scenes whose unit means nothing.
    """

    max_position: float
    max_rotation_deg: float
    relative: bool = False

    @property
    def key(self) -> str:
        """For rows of a benchmark: `recall_5cm_5deg`, or `recall_0.5pct_1deg` of the extent."""
        unit = "pct" if self.relative else "cm"
        return f"recall_{100 * self.max_position:g}{unit}_{self.max_rotation_deg:g}deg"


RECALLS = (
    Threshold(0.01, 1),
    Threshold(0.02, 2),
    Threshold(0.05, 5),
    Threshold(0.10, 5),
    Threshold(0.25, 2),
    Threshold(0.50, 5),
    Threshold(5.00, 10),
)
"""Of metric scenes: the pairs of 7-Scenes, 12-Scenes, Indoor-6 and visuallocalization.net."""

RELATIVE_RECALLS = (
    Threshold(0.001, 1, relative=True),
    Threshold(0.005, 1, relative=True),
    Threshold(0.01, 1, relative=True),
    Threshold(0.05, 5, relative=True),
)
"""Of scenes without a metric scale."""


@dataclass(frozen=True, eq=False)
class Report:
    """Errors of N queries, in the order of the scene. A declined query has infinite errors.

    Attributes:
        method: that answered.
        scene: name of the scene.
        ground_truth: where the true poses come from.
        metric: True: positions are in metres; False: in units of no meaning.
        extent: diagonal of the box round the mapping cameras, in the same unit.
        names: of the queries.
        position_error: (N,) distance of the camera centres, inf where declined.
        rotation_error_deg: (N,) inf where declined.
        virtual_error_px: (N,) VCRE, inf where declined; None where the scene is not metric, or the
            focal length of a query is a guess: points are projected by the true one.
        confidence: (N,) NaN where there is none, or where declined.
        num_inliers: (N,) NaN where there is none.
        position_sigma: (N,) root of the mean squared error that the covariance predicts, NaN where
            there is none.
        rotation_sigma_deg: (N,) the same for the rotation.
        normalized_error_squared: (N,) χ² of 6 degrees of freedom where covariances are right, NaN
            where there is none.
        query_ms: (N,) time of `Localizer.localize`, NaN where it is not known.
    """

    method: str
    scene: str
    ground_truth: str
    metric: bool
    extent: float
    names: tuple[str, ...]
    position_error: FloatArray
    rotation_error_deg: FloatArray
    virtual_error_px: FloatArray | None
    confidence: FloatArray
    num_inliers: FloatArray
    position_sigma: FloatArray
    rotation_sigma_deg: FloatArray
    normalized_error_squared: FloatArray
    query_ms: FloatArray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def unit(self) -> str:
        """Of positions, as it is to be printed: "m" or "units"."""
        return "m" if self.metric else "units"

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(N,): False where the method declined."""
        return np.isfinite(self.position_error)

    @property
    def num_declined(self) -> int:
        """Queries without a pose."""
        return int((~self.answered).sum())

    @property
    def median_position(self) -> float:
        """Over all queries, the declined as infinite: inf where half of them or more are."""
        return float(np.median(self.position_error))

    @property
    def median_rotation_deg(self) -> float:
        """Over all queries, the declined as infinite."""
        return float(np.median(self.rotation_error_deg))

    @property
    def mean_position(self) -> float:
        """Over the *answered* queries only (RobotCar's figure): say `num_declined` with it.

        NaN where none was answered.
        """
        return _mean(self.position_error[self.answered])

    @property
    def mean_rotation_deg(self) -> float:
        """Over the answered queries only, as `mean_position`."""
        return _mean(self.rotation_error_deg[self.answered])

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """The standard list for this kind of scene."""
        return RECALLS if self.metric else RELATIVE_RECALLS

    @property
    def standard_threshold(self) -> Threshold:
        """What counts as right where one pair must do: 5 cm and 5°, or 1 % of the extent and 1°."""
        return Threshold(0.05, 5) if self.metric else Threshold(0.01, 1, relative=True)

    def correct(self, threshold: Threshold) -> NDArray[np.bool_]:
        """(N,): both errors strictly below.

        Raises:
            ValueError: a threshold in metres for a scene without metric scale.
        """
        if not (threshold.relative or self.metric):
            raise ValueError(f"scene {self.scene} has no metric scale: use a relative threshold")
        max_position = threshold.max_position * (self.extent if threshold.relative else 1.0)
        return (self.position_error < max_position) & (
            self.rotation_error_deg < threshold.max_rotation_deg
        )

    def recall(self, threshold: Threshold) -> float:
        """Fraction of all queries, the declined among them, that is `correct`."""
        return float(self.correct(threshold).mean())

    def reliability(self, threshold: Threshold) -> Reliability | None:
        """Confidence against being `correct`, over the answers that have one; None: none has."""
        return reliability(self.confidence, self.correct(threshold))

    def precision_recall(self, correct: NDArray[np.bool_]) -> PrecisionRecall | None:
        """Of N queries ranked by confidence, or by inliers where no answer has a confidence.

        None where there is neither.
        """
        score = self.num_inliers if np.isnan(self.confidence).all() else self.confidence
        return precision_recall(np.where(self.answered, score, math.nan), correct)

    def row(self) -> dict[str, Any]:
        """The figures as flat plain values, for a line of JSON; None: infinite or unknown.

        Keys in metres or centimetres are None for a scene without metric scale, which has those in
        units and percent of its extent.
        """
        calibrated = self.reliability(self.standard_threshold)
        row: dict[str, Any] = {
            "method": self.method,
            "scene": self.scene,
            "ground_truth": self.ground_truth,
            "unit": self.unit,
            "n_queries": len(self),
            "declined": self.num_declined,
            "median_m": _plain(self.median_position) if self.metric else None,
            "median_units": None if self.metric else _plain(self.median_position),
            "median_extent_pct": _plain(100 * self.median_position / self.extent)
            if self.extent
            else None,
            "median_deg": _plain(self.median_rotation_deg),
            "mean_m": _plain(self.mean_position) if self.metric else None,
            "mean_units": None if self.metric else _plain(self.mean_position),
            "mean_deg": _plain(self.mean_rotation_deg),
            "mean_over": len(self) - self.num_declined,
        }
        for threshold in RECALLS:
            row[threshold.key] = self.recall(threshold) if self.metric else None
        for threshold in RELATIVE_RECALLS:
            row[threshold.key] = self.recall(threshold) if self.extent else None
        row |= self._virtual_figures()
        row["calibration_error"] = calibrated and calibrated.expected_calibration_error
        times_ms = self.query_ms[~np.isnan(self.query_ms)]
        row["query_ms_median"] = float(np.median(times_ms)) if len(times_ms) else None
        row["query_ms_p95"] = float(np.percentile(times_ms, 95)) if len(times_ms) else None
        return row

    def _virtual_figures(self) -> dict[str, float | None]:
        keys = ("vcre_median_px", "recall_vcre_90px", "auc_vcre_90px")
        if self.virtual_error_px is None:
            return dict.fromkeys(keys)
        accepted = self.virtual_error_px < MAX_VIRTUAL_ERROR_PX
        curve = self.precision_recall(accepted)
        median_px = _plain(float(np.median(self.virtual_error_px)))
        figures = (median_px, float(accepted.mean()), curve and curve.auc)
        return dict(zip(keys, figures, strict=True))


def evaluate(estimates: PoseEstimates, scene: Scene) -> Report:
    """Compare estimates with the poses of a scene's queries.

    Raises:
        InputError: the scene has no queries, a query has no estimate (a declined one has), an
            estimate is of no query, or the ground truths of map and scene differ.
    """
    _refuse_mismatch(estimates, scene)
    views = list(scene.queries)
    answers = [estimates[view.name] for view in views]
    answered = np.array([answer.cam_from_world is not None for answer in answers])
    unsure = answered & np.array([answer.covariance is not None for answer in answers])
    # Stand-ins keep the arrays whole; what comes of them is overwritten, by inf or NaN.
    truth = Rigid3d.stack([view.cam_from_world for view in views])
    estimated = Rigid3d.stack(
        [
            view.cam_from_world if answer.cam_from_world is None else answer.cam_from_world
            for view, answer in zip(views, answers, strict=True)
        ]
    )
    unit_66 = torch.eye(6, dtype=torch.float64)
    covariance_N66 = torch.stack(
        [
            unit_66 if answer.covariance is None else answer.covariance.to(unit_66)
            for answer in answers
        ]
    )
    rotation_variance_N, position_variance_N = (
        covariance_N66.diagonal(dim1=-2, dim2=-1).unflatten(-1, (2, 3)).sum(-1).unbind(-1)
    )

    def where(known: NDArray[np.bool_], values_N: Tensor, elsewhere: float) -> FloatArray:
        return np.where(known, values_N.numpy(), elsewhere)

    return Report(
        method=estimates.method,
        scene=scene.name,
        ground_truth=scene.ground_truth,
        metric=scene.metric,
        extent=scene.extent,
        names=tuple(view.name for view in views),
        position_error=where(answered, position_error(estimated, truth), math.inf),
        rotation_error_deg=where(answered, rotation_error_deg(estimated, truth), math.inf),
        virtual_error_px=where(
            answered,
            virtual_errors_px(estimated, truth, [view.camera for view in views]),
            math.inf,
        )
        if scene.metric and all(view.camera.has_prior_focal for view in views)
        else None,
        confidence=np.where(answered, _or_nan([answer.confidence for answer in answers]), math.nan),
        num_inliers=_or_nan([answer.num_inliers for answer in answers]),
        position_sigma=where(unsure, position_variance_N.sqrt(), math.nan),
        rotation_sigma_deg=where(unsure, rotation_variance_N.sqrt().rad2deg(), math.nan),
        normalized_error_squared=where(
            unsure, normalized_error_squared(estimated, truth, covariance_N66), math.nan
        ),
        query_ms=_or_nan([estimates.query_ms.get(view.name) for view in views]),
    )


def _refuse_mismatch(estimates: PoseEstimates, scene: Scene) -> None:
    if not scene.queries:
        raise InputError(f"scene {scene.name} has no queries: there is nothing to evaluate")
    names = [view.name for view in scene.queries]
    missing = [name for name in names if name not in estimates.by_name]
    unknown = sorted(set(estimates.by_name) - set(names))
    if missing:
        raise InputError(
            f"query {missing[0]} of scene {scene.name} has no estimate{_others(missing)}: localize "
            "all queries (one without an answer is declined, not left out)"
        )
    if unknown:
        raise InputError(
            f"estimate {unknown[0]} is of no query of scene {scene.name}{_others(unknown)}: "
            "evaluate with the scene and split that were localized"
        )
    if estimates.ground_truth and estimates.ground_truth != scene.ground_truth:
        raise InputError(
            f"the map was built on {estimates.ground_truth} poses but scene {scene.name} has "
            f"{scene.ground_truth} poses: load it with the same ground truth, or map it again"
        )


def _others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _or_nan(values: Sequence[float | None]) -> FloatArray:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def average_of_scenes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One method over several scenes: the mean of the scenes' medians, and of their recalls.

    Each scene counts alike, however many queries it has, as in the tables of the field.

    Args:
        rows: of `Report.row`, one for each scene.

    Returns:
        A row with the same keys for these figures, and the sums of queries and declined ones. A
        median is None (infinite) where one scene's is.

    Raises:
        InputError: there are none, a scene comes twice, or units, methods or ground truths differ.
    """
    if not rows:
        raise InputError("there are no scenes to average: evaluate one first")
    for what in ("unit", "method", "ground_truth"):
        found = sorted({str(row[what]) for row in rows})
        if len(found) > 1:
            raise InputError(f"rows of different {what} ({', '.join(found)}) have no average")
    scenes = [row["scene"] for row in rows]
    if len(set(scenes)) < len(scenes):
        raise InputError(f"{max(scenes, key=scenes.count)} comes twice: average each scene once")
    average: dict[str, Any] = {what: rows[0][what] for what in ("method", "ground_truth", "unit")}
    average["scene"] = f"average of {len(rows)}"
    average |= {key: sum(row[key] for row in rows) for key in ("n_queries", "declined")}
    for key in rows[0]:
        if key.startswith(("median_", "recall_")):
            values = [row[key] for row in rows]
            average[key] = None if None in values else float(np.mean(values))
    return average


def median_of_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One method on one scene with several seeds: the median of each figure.

    Args:
        rows: of `Report.row`, or of a benchmark, one for each seed.

    Returns:
        A row with the keys of the first, without "seed", and "over_seeds": how many they are, and
        from which median position error to which they go, as (3, 0.05, 0.07), in metres or, where
        the scene has no scale, in percent of its extent.
        A median error that is None counts as infinite, and is None where it is the median.

    Raises:
        InputError: there are none.
    """
    if not rows:
        raise InputError("there are no seeds to take the median of: evaluate one first")
    merged = {key: value for key, value in rows[0].items() if key != "seed"}
    for key, value in merged.items():
        values = [row.get(key) for row in rows]
        if key.startswith("median_"):
            median = float(np.median([math.inf if one is None else one for one in values]))
            merged[key] = median if math.isfinite(median) else None
        elif isinstance(value, int | float) and None not in values:
            median = float(np.median([float(one) for one in values if one is not None]))
            merged[key] = round(median) if isinstance(value, int) else median
    key = "median_m" if rows[0].get("unit") != "units" else "median_extent_pct"
    errors = [math.inf if row.get(key) is None else row[key] for row in rows]
    return {**merged, "over_seeds": (len(rows), min(errors), max(errors))}
