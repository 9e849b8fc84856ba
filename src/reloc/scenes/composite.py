"""Several scenes as one: side by side in one world, far apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import Scene, View
from reloc.scenes.text import read_lines

# A folder with this file is not a scene by itself: the file lists the folders of scenes.
SCENES_LIST = "scenes.txt"


def load_composite(folder: Path, load: Callable[[Path], Scene]) -> Scene:
    """The scenes that a folder's `scenes.txt` lists, a path a line, side by side.

    Args:
        folder: paths that are not absolute begin here.
        load: reads one scene.

    Raises:
        InputError: fewer than two scenes are listed, one is listed twice or is a list itself, or
            one cannot be read.
    """
    lines = read_lines(folder / SCENES_LIST)
    if len(lines) < 2:
        raise InputError(
            f"{folder / SCENES_LIST} lists {len(lines)} scenes: write the paths of two or more, "
            "one a line"
        )
    paths = [(folder / line.text).resolve() for line in lines]
    scenes = []
    for line, path in zip(lines, paths, strict=True):
        if paths.count(path) > 1:
            raise InputError(f"{line.where}: {line.text} is listed {paths.count(path)} times")
        if (path / SCENES_LIST).is_file():
            raise InputError(f"{line.where}: {line.text} lists scenes itself: list them here")
        scenes.append(load(path))
    joined = composite(scenes)
    notes = [f"{scene.name}: {note}" for scene in scenes for note in scene.notes]
    return replace(joined, name=folder.resolve().name, notes=notes)


def composite(scenes: Sequence[Scene], gap: float = 10.0) -> Scene:
    """Scenes in a row along x, for methods that must tell look-alike places apart.

    Names of views and sequences begin with the name of their scene and a slash; a scene whose name
    was there before has its number after it.

    Args:
        scenes: one at least. Lengths are taken as they are, whatever their unit.
        gap: between the cameras of neighbours, as a multiple of the largest extent of a scene; of
            1 where none has an extent.
    """
    # Scenes of one view each have no extent, and may not lie on one another either.
    step = (1 + gap) * (max(scene.extent for scene in scenes) or 1.0)
    names: list[str] = []
    mapping: list[View] = []
    queries: list[View] = []
    for number, scene in enumerate(scenes):
        name = scene.name if scene.name not in names else f"{scene.name}-{number}"
        names.append(name)
        centers_N3 = torch.stack([view.center_world for view in scene.mapping])
        place_3 = torch.tensor([number * step, 0.0, 0.0], dtype=torch.float64)
        scene_from_world = Rigid3d(
            torch.eye(3, dtype=torch.float64), centers_N3.mean(dim=0) - place_3
        )
        for views, moved in ((scene.mapping, mapping), (scene.queries, queries)):
            moved += [
                replace(
                    view,
                    name=f"{name}/{view.name}",
                    cam_from_world=view.cam_from_world @ scene_from_world,
                    # A single photo stays one, a sequence by itself: it is no frame of a video.
                    sequence=f"{name}/{view.sequence or view.name}",
                )
                for view in views
            ]
    truths = list(dict.fromkeys(scene.ground_truth for scene in scenes))
    return Scene(
        name="+".join(names),
        mapping=mapping,
        queries=queries,
        ground_truth="+".join(truths),
        metric=all(scene.metric for scene in scenes),
        layout="composite",
    )
