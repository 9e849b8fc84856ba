"""Small runs whose errors are known, for the page to tell of."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import evaluate
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.maps import Map, Provenance
from reloc.scenes.scene import Scene, View
from reloc.viewing.section import Section

MakeSection = Callable[..., Section]


def _looking_down(angle_rad: float, radius: float) -> Rigid3d:
    """A level camera on a circle round the z axis, which is up, pitched down at its middle."""
    center = torch.tensor([radius * math.cos(angle_rad), radius * math.sin(angle_rad), 1.6])
    forward = torch.nn.functional.normalize(-center, dim=0)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(forward, torch.tensor([0.0, 0, 1])), dim=0
    )
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward]).double()
    return Rigid3d(rotation, -rotation @ center.double())


def _view(name: str, pose: Rigid3d, index: int) -> View:
    def image() -> torch.Tensor:
        return torch.full((3, 24, 32), index % 256, dtype=torch.uint8)

    return View(name, Camera.simple_pinhole(30.0, 32, 24), pose, image, sequence="walk")


def _scene(name: str, num_queries: int, metric: bool, query_prefix: str) -> Scene:
    mapping = [_view(f"map {i}", _looking_down(0.2 * i, 3.0), i) for i in range(20)]
    queries = [
        _view(f"{query_prefix}{i}", _looking_down(0.2 * i + 0.1, 2.8), 40 + i)
        for i in range(num_queries)
    ]
    return Scene(name, mapping, queries, "synthetic", metric=metric)


def _answer(query: View, rng: np.random.Generator, sigma: float, says_all: bool) -> PoseEstimate:
    spread_6 = torch.tensor([sigma / 2] * 3 + [sigma] * 3, dtype=torch.float64)
    error_6 = torch.from_numpy(rng.normal(size=6)) * spread_6
    pose = Rigid3d.exp(error_6) @ query.cam_from_world
    if not says_all:
        return PoseEstimate(pose)
    confidence, inliers = float(rng.uniform()), int(rng.integers(10, 500))
    return PoseEstimate(pose, confidence, torch.diag(spread_6.square()), inliers)


@pytest.fixture
def make_section() -> MakeSection:
    """A section of a run with errors of a known size."""

    def make(
        method: str = "sift",
        scene: str = "room",
        *,
        num_queries: int = 12,
        num_declined: int = 2,
        sigma: float = 0.01,
        metric: bool = True,
        says_all: bool = True,
        query_prefix: str = "query ",
        seed: int = 0,
    ) -> Section:
        place = _scene(scene, num_queries, metric, query_prefix)
        rng = np.random.default_rng(seed)
        estimates = PoseEstimates(
            {
                query.name: PoseEstimate(None)
                if index < num_declined
                else _answer(query, rng, sigma, says_all)
                for index, query in enumerate(place.queries)
            },
            method,
            scene,
            "synthetic",
            {query.name: 10.0 + index for index, query in enumerate(place.queries)},
        )
        provenance = Provenance(
            scene, "synthetic", metric, 20, seed, 12.5, "cpu", 2, "a machine", {}, "abc1234"
        )
        tensors = {"points": torch.zeros(1000, 3)}
        map_ = Map(method, {"max_keypoints": 2000}, tensors, provenance)
        return Section.of(place, map_, estimates, evaluate(estimates, place))

    return make
