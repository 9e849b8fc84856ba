"""Which queries are shown, and beside what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from reloc.geometry.rigid3d import Rigid3d
from reloc.viewing.gallery import choose, encode, nearest_view
from reloc.viewing.section import Section

MakeSection = Callable[..., Section]


def test_best_median_worst_and_declined() -> None:
    error = np.array([np.inf, 3.0, 1.0, 2.0, 5.0, np.inf, 4.0])
    assert choose("abcdefg", error) == [
        ("best", "c"),
        ("median", "g"),
        ("worst", "e"),
        ("third worst", "b"),
        ("declined", "a"),
        ("declined", "f"),
    ]


def test_a_median_that_was_declined_is_not_shown() -> None:
    assert choose("abc", np.array([np.inf, 1.0, np.inf])) == [
        ("best", "b"),
        ("declined", "a"),
        ("declined", "c"),
    ]


def test_no_query_is_shown_twice_and_the_declined_are_spread() -> None:
    for count in range(1, 12):
        names = [str(index) for index in range(count)]
        answered = choose(names, np.arange(count) * 1.0)
        assert len({name for _, name in answered}) == len(answered) <= 5
        declined = choose(names, np.full(count, np.inf))
        assert declined[0] == ("declined", "0") and declined[-1] == ("declined", names[-1])
        assert len(set(declined)) == len(declined) == min(3, count)


def test_the_nearest_view_is_the_one_in_that_pose(make_section: MakeSection) -> None:
    scene = make_section().scene
    assert scene is not None
    for view in scene.mapping:
        near = nearest_view(scene, view.cam_from_world)
        assert near is not None and near.view is view
        assert near.distance < 1e-6 and near.angle_deg < 1e-3


def test_a_view_that_looks_elsewhere_is_not_near(make_section: MakeSection) -> None:
    """From the same place but turned by 90 degrees it shows less than one from a step away."""
    scene = make_section().scene
    assert scene is not None
    turned = Rigid3d.exp(torch.tensor([0.0, np.pi / 2, 0, 0, 0, 0], dtype=torch.float64))
    asked = scene.mapping[3].cam_from_world
    elsewhere = replace(scene.mapping[3], cam_from_world=turned @ asked)
    views = [*scene.mapping[:3], elsewhere, *scene.mapping[4:]]
    near = nearest_view(replace(scene, mapping=views), asked)
    assert near is not None and near.view.name in ("map 2", "map 4")


def test_a_picture_keeps_its_aspect() -> None:
    picture = encode(torch.zeros(3, 960, 540, dtype=torch.uint8), "portrait")
    assert (picture.width, picture.height) == (270, 480)
