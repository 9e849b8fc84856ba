"""Fit the confidence of a family: how often a pose is right, by what speaks for it.

    python benchmarks/confidence.py matching --data ../shared/data
    python benchmarks/confidence.py landmarks --data ../shared/data
    python benchmarks/confidence.py layers --data ../shared/data

Queries of several places are asked as they are and made worse (small, blurred, dark and noisy,
cut), in their own map and in that of another place. A pose is right within 2 % of the extent
of the mapping cameras and 5 degrees; in another place none is. The evidence is the number of
inliers of the first round (matching, the constants of `methods/matching/localizer.py`) or the
ratio of inliers (coordinates, those of `methods/coordinates/localizer.py`). Prints the two
constants, and a reliability table on every second query, which the fit does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import tyro
from scipy.optimize import minimize

from reloc.contract import PoseEstimate, Run
from reloc.evaluation.calibration import reliability
from reloc.geometry.rotation import angle_between_rad
from reloc.methods.coordinates import ace
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.localizer import MatchingLocalizer
from reloc.methods.matching.mapping import build_point_map, match_views
from reloc.progress import Bars
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.scene import Query, Scene, View
from reloc.scenes.synthetic import synthetic_scene

_MAX_MAPPING_VIEWS, _MAX_QUERIES = 80, 16
_RIGHT_SHARE, _RIGHT_DEG = 0.02, 5.0


Evidence = tuple[PoseEstimate, float]
Ask = Callable[[Query], Evidence | None]


@dataclass(frozen=True)
class Arguments:
    """What to fit, and where the places are."""

    family: tyro.conf.Positional[Literal["matching", "landmarks", "layers"]]
    data: Path
    """Folder with 7scenes/redkitchen, south_building and fox."""
    seed: int = 0


def ask_points(scene: Scene, run: Run) -> Ask:
    """A map of points of the scene, as a function of a query."""
    config = replace(MatchingConfig(), min_inliers=1)
    matched = match_views(_thin(scene.mapping, _MAX_MAPPING_VIEWS), config, run)
    localizer = MatchingLocalizer(build_point_map(matched, config, run), 1, config, run)

    def ask(query: Query) -> Evidence | None:
        (answer,) = localizer.localize([query])
        if answer.cam_from_world is None:
            return None
        _, first = localizer.first_round(query)
        assert first is not None
        return answer, first.num_inliers

    return ask


def ask_coordinates(preset: str | None, scene: Scene, run: Run) -> Ask:
    """A map of ace, as a function of a query."""
    settings = ace.METHOD.presets[preset] if preset else ace.AceConfig()
    config = replace(settings, min_inlier_ratio=0.0)
    localizer = ace.localizer(ace.build_map(scene.mapping, config, run), config, run)

    def ask(query: Query) -> Evidence | None:
        (answer,) = localizer.localize([query])
        if answer.cam_from_world is None or not answer.inlier_ratio:
            return None
        return answer, answer.inlier_ratio

    return ask


def worse(query: Query, rng: np.random.Generator) -> Iterator[Query]:
    """The query, and worse and worse photos of the same."""
    yield query
    image = query.image.permute(1, 2, 0).numpy()
    for scale in (0.5, 0.25, 0.15):
        width, height = round(query.camera.width * scale), round(query.camera.height * scale)
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        yield _changed(query, small, camera=query.camera.resized(width, height))
    for sigma in (2.0, 4.0):
        yield _changed(query, cv2.GaussianBlur(image, (0, 0), sigma))
    for sigma in (25.0, 60.0):
        noisy = image * 0.5 + rng.normal(0, sigma, image.shape)
        yield _changed(query, noisy.clip(0, 255).astype(np.uint8))
    for share in (0.4, 0.2):
        width, height = round(query.camera.width * share), round(query.camera.height * share)
        left = int(rng.integers(0, query.camera.width - width))
        top = int(rng.integers(0, query.camera.height - height))
        cut = np.ascontiguousarray(image[top : top + height, left : left + width])
        yield _changed(query, cut, camera=query.camera.cropped(left, top, width, height))


def _changed(query: Query, image: np.ndarray, **changes) -> Query:
    return replace(query, image=torch.from_numpy(image).permute(2, 0, 1), **changes)


def _thin(views, count: int) -> list[View]:
    return list(views[:: -(-len(views) // count)])


def main(arguments: Arguments) -> None:
    run = Run(seed=arguments.seed, progress=Bars())
    kitchen = arguments.data / "7scenes" / "redkitchen"
    kitchen_too = [load_scene(kitchen, LoadOptions(split="hard"))]
    scenes: list[Scene] = [
        # Coordinates are judged there: their calibration on a place that was not fitted.
        *(kitchen_too if arguments.family == "matching" else []),
        load_scene(arguments.data / "south_building", LoadOptions()),
        load_scene(arguments.data / "fox", LoadOptions()),
        synthetic_scene(arguments.seed + 100, num_mapping=60, num_queries=_MAX_QUERIES),
    ]
    open_map = {
        "matching": ask_points,
        "landmarks": partial(ask_coordinates, None),
        "layers": partial(ask_coordinates, "layers"),
    }[arguments.family]
    maps = [open_map(scene, run) for scene in scenes]
    evidence, right, fitted = [], [], []
    rng = np.random.default_rng(arguments.seed)
    asked = [
        (home, number, view)
        for home, scene in enumerate(scenes)
        for number, view in enumerate(_thin(scene.queries, _MAX_QUERIES))
    ]
    for home, number, view in run.progress.track(asked, "asking"):
        for query in worse(view.query(with_depth=False), rng):
            elsewhere = (home + 1 + number % (len(scenes) - 1)) % len(scenes)
            for place in (home, elsewhere):
                answered = maps[place](query)
                if answered is None:
                    continue
                answer, speaks_for_it = answered
                assert answer.cam_from_world is not None
                error = (answer.cam_from_world.inverse().translation - view.center_world).norm()
                angle = angle_between_rad(
                    answer.cam_from_world.rotation, view.cam_from_world.rotation
                )
                evidence.append(speaks_for_it)
                right.append(
                    place == home
                    and float(error) < _RIGHT_SHARE * scenes[home].extent
                    and float(angle.rad2deg()) < _RIGHT_DEG
                )
                fitted.append(number % 2 == 0)
    value, is_right, is_fitted = (np.array(column) for column in (evidence, right, fitted))

    def loss(parameters: np.ndarray, chosen: np.ndarray = is_fitted) -> float:
        logit = parameters[1] * (np.log(value[chosen]) - parameters[0])
        return float(np.logaddexp(0, np.where(is_right[chosen], -logit, logit)).mean())

    best = minimize(loss, np.array([np.log(np.median(value)), 4.0]), method="Nelder-Mead").x
    print(f"half sure at {np.exp(best[0]):.4g}, slope {best[1]:.2f}")
    print(
        f"{len(value)} answers, {is_right.sum()} right; highest wrong: {value[~is_right].max():.4g}"
    )
    held_out = ~is_fitted
    logit = best[1] * (np.log(value[held_out]) - best[0])
    table = reliability(1 / (1 + np.exp(-logit)), is_right[held_out])
    assert table is not None
    for low, number, claimed, true in zip(
        table.edges, table.counts, table.mean_confidence, table.fraction_correct, strict=False
    ):
        print(f"from {low:.1f}: {number:5d} answers, claimed {claimed:.3f}, right {true:.3f}")
    print(f"expected calibration error {table.expected_calibration_error:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
