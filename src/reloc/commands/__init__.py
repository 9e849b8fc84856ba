"""The table of commands: a name to the module whose `COMMAND` is its row, imported when used."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from reloc.commands.command import Command
from reloc.input_error import InputError

COMMANDS = {
    "methods": "reloc.commands.methods",
    "doctor": "reloc.commands.doctor",
    "map": "reloc.commands.map",
    "localize": "reloc.commands.localize",
    "evaluate": "reloc.commands.evaluate",
    "export": "reloc.commands.export",
    "explain": "reloc.commands.explain",
    "search": "reloc.commands.search",
    "bench": "reloc.commands.bench",
    "report": "reloc.commands.report",
    "relate": "reloc.commands.relate",
    "pretrain": "reloc.commands.pretrain",
    "demo": "reloc.commands.demo",
}

GUIDE = """\
reloc: given photos whose poses are known, say where a new photo was taken, and how sure that is.

  reloc demo                                         the whole run on a room that is rendered here
  reloc methods                                      what can build a map
  reloc doctor SCENE                                 is this data sound? tests poses on pixels
  reloc map METHOD SCENE --out MAP                   build a map from views of known pose
  reloc localize MAP SCENE|IMAGES --out FILE         ask where images were taken
  reloc evaluate ESTIMATES SCENE                     compare the answers with the truth
  reloc export ESTIMATES --format FORMAT --out FILE  the answers for other tools
  reloc explain MAP IMAGE --out PICTURE              which pixels a regressed pose hangs on
  reloc search METHOD SCENE --out STUDY              settings that do well on views held back
  reloc bench --methods A B --scenes S T --out ROWS  all of it, for a table of methods and scenes
  reloc report ROWS --out FOLDER                     the page with tables, curves and pictures
  reloc relate A B                                   where photo B was taken, as seen from A
  reloc pretrain encoder --out FOLDER                train what maps of many scenes share

Your own photos, with a COLMAP model, a transforms.json or a list of poses beside them:

  reloc doctor my_room
  reloc map sift my_room --out my_map
  reloc localize my_map photo.jpg --out answer.jsonl

`reloc COMMAND --help` shows the options of a command; --json gives values for programs, and
--debug the traceback of an error."""


def get_command(name: str) -> Command[Any]:
    """The row of `name`.

    Raises:
        InputError: there is none.
    """
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? `reloc` lists them" if near else "`reloc` lists them"
        raise InputError(f"there is no command {name!r}: {hint}")
    return importlib.import_module(COMMANDS[name]).COMMAND
