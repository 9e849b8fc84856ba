"""Scenes and their layouts on disk: one table, one module a layout, imported when it is used."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from pathlib import Path

from reloc.input_error import InputError
from reloc.scenes.composite import SCENES_LIST, load_composite
from reloc.scenes.layout import Layout
from reloc.scenes.options import LoadOptions
from reloc.scenes.scene import Scene

__all__ = ["LAYOUTS", "LoadOptions", "get_layout", "load_scene"]

# The first that recognises a folder reads it: those with the most telling files come first.
LAYOUTS = {
    "7scenes": "reloc.scenes.seven_scenes",
    "12scenes": "reloc.scenes.twelve_scenes",
    "cambridge": "reloc.scenes.cambridge",
    "robotcar": "reloc.scenes.robotcar",
    "mapfree": "reloc.scenes.mapfree",
    "nerfstudio": "reloc.scenes.nerfstudio",
    "colmap": "reloc.scenes.colmap",
    "tum": "reloc.scenes.tum",
    "folder": "reloc.scenes.folder",
}
# Options that mean something to some layouts only; `Layout.options` says to which.
_SPECIAL = frozenset({"ground_truth", "pgt", "quaternion", "time_offset_s"})


def get_layout(name: str) -> Layout:
    """The row of `name`.

    Raises:
        InputError: there is none.
    """
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name, LAYOUTS, n=1)
        raise InputError(
            f"there is no layout {name!r}{f', perhaps {near[0]!r}' if near else ''}; "
            f"known are {', '.join(LAYOUTS)}"
        )
    return importlib.import_module(LAYOUTS[name]).LAYOUT


def load_scene(path: Path, options: LoadOptions) -> Scene:
    """Read a scene. Pixels are not read, but every image's header is.

    A folder with a `scenes.txt`, which lists other folders, is read as all of those side by side;
    the options are for each of them.

    Raises:
        InputError: nothing is recognised, an option has no meaning here, or what is there cannot be
            used.
    """
    if not path.exists():
        raise InputError(f"{path}: no such folder")
    if not path.is_dir():
        raise InputError(f"{path} is a file: give the folder of the scene")
    if options.layout is None and (path / SCENES_LIST).is_file():
        return load_composite(path, lambda scene: load_scene(scene, options))
    if options.layout is not None:
        layout, others = get_layout(options.layout), []
    else:
        recognised = _recognised(path)
        if not recognised:
            raise InputError(_what_is_there_instead(path))
        layout, *others = recognised
    for name in sorted(options.given() & _SPECIAL - layout.options):
        raise InputError(f"a scene in the layout {layout.name} takes no --{name.replace('_', '-')}")
    scene = layout.load(path, options)
    # `folder` is what is left for what no other layout explains. It needs no mention, unless
    # somebody wrote poses of their own; those of Map-free are its layout's.
    own_poses = (path / "poses.txt").is_file() and layout.name != "mapfree"
    names = " and ".join(other.name for other in others if other.name != "folder" or own_poses)
    if not names:
        return scene
    note = f"read as {layout.name}, though it could be {names}: --layout chooses"
    return dataclasses.replace(scene, notes=(*scene.notes, note))


def _recognised(path: Path) -> list[Layout]:
    return [layout for layout in map(get_layout, LAYOUTS) if layout.recognises(path)]


def _what_is_there_instead(path: Path) -> str:
    """One line for a folder that is no scene: it may hold scenes, or photos without poses."""
    try:
        inside = sorted(entry for entry in path.iterdir() if entry.is_dir())
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    scenes = [entry.name for entry in inside if _recognised(entry)]
    if scenes:
        listed = ", ".join(scenes[:8]) + (", ..." if len(scenes) > 8 else "")
        return f"{path} is no scene but holds {len(scenes)}: {listed}; give one of them"
    return (
        f"{path}: no layout is recognised (known are {', '.join(LAYOUTS)}); images with a "
        "poses.txt are enough, docs/data.md says how"
    )
