"""Real scenes, their matched pairs, and what the doctor says of a scene that was spoilt."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from reloc.contract import Run
from reloc.doctor.diagnosis import ConventionTest
from reloc.doctor.order import evenly
from reloc.doctor.pairs import MatchedPairs, match_pairs
from reloc.doctor.verdict import judge
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.scene import Scene

PLACES = {"redkitchen": "7scenes/redkitchen", "south_building": "south_building", "fox": "fox"}


@functools.cache
def real_scene(data: Path, place: str, options: LoadOptions | None = None) -> Scene:
    return load_scene(data / PLACES[place], options or LoadOptions())


@functools.cache
def pairs_of(scene: Scene) -> MatchedPairs:
    """Matches do not depend on poses and cameras: they are found once for all that is tried."""
    return match_pairs(scene, Run())


def judged(sound: Scene, spoilt: Scene) -> ConventionTest:
    """The verdict on a scene that has other poses and cameras, but the images of `sound`."""
    pairs = pairs_of(sound)
    views = {view.name: view for view in (*spoilt.mapping, *spoilt.queries)}
    return judge(spoilt, replace(pairs, views=[views[view.name] for view in pairs.views]))


@functools.cache
def thin_scene(data: Path, place: str) -> Scene:
    """A part that is matched in seconds."""
    scene = real_scene(data, place)
    return replace(scene, mapping=evenly(scene.mapping, 14), queries=evenly(scene.queries, 3))


def mendings(test: ConventionTest) -> tuple[str, ...]:
    assert test.likeliest is not None, test.reason
    return tuple(mistake.mending for mistake in test.likeliest.mistakes)
