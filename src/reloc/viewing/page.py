"""The report page: one HTML file that needs no other, with tables, curves and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jinja2

from reloc.maps import new_folder
from reloc.viewing import comparison
from reloc.viewing.figures import Style
from reloc.viewing.rows import Row
from reloc.viewing.run_part import run_part
from reloc.viewing.scene_part import scene_part
from reloc.viewing.section import Section

__all__ = ["PAGE", "Section", "render", "write_page"]

PAGE = "index.html"


def write_page(sections: Sequence[Section], folder: Path) -> Path:
    """Write the page into a new folder, whole or not at all.

    Returns:
        The path of the page.

    Raises:
        InputError: the folder exists, or cannot be written.
    """
    with new_folder(folder) as partial:
        (partial / PAGE).write_text(render(sections), encoding="utf-8")
    return folder / PAGE


def render(sections: Sequence[Section]) -> str:
    """The page as text.

    Raises:
        ValueError: there is nothing to show.
    """
    if not sections:
        raise ValueError("a page needs at least one section")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reloc", "viewing"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = _told_apart(sections)
    rows = [section.row for section in sections]
    methods = dict.fromkeys(row.method for row in rows)
    styles = {method: Style.of(index) for index, method in enumerate(methods)}
    groups: dict[str, list[Section]] = {}
    for section in sections:
        groups.setdefault(section.row.place, []).append(section)
    return environment.get_template("page.html").render(
        title=_title(rows),
        facts=_facts(rows),
        styles=styles,
        unknown=comparison.UNKNOWN,
        by_scene=comparison.of_scenes(rows) if len(groups) > 1 else None,
        scenes=[
            scene_part(members, styles, f"scene-{index}")
            for index, members in enumerate(groups.values())
        ],
        runs=[
            run_part(section, styles[section.row.method], f"run-{index}")
            for index, section in enumerate(sections)
        ],
    )


def _told_apart(sections: Sequence[Section]) -> list[Section]:
    """Runs of one method on one scene go by their seeds, too."""
    counts = Counter((section.row.method, section.row.place) for section in sections)
    if max(counts.values()) == 1:
        return list(sections)
    return [
        replace(
            section,
            row=replace(section.row, method=f"{section.row.method}, seed {section.row.seed}"),
        )
        for section in sections
    ]


def _title(rows: Sequence[Row]) -> str:
    methods = list(dict.fromkeys(row.method for row in rows))
    scenes = list(dict.fromkeys(row.place for row in rows))
    what = " and ".join(methods) if len(methods) < 3 else f"{len(methods)} methods"
    where = " and ".join(scenes) if len(scenes) < 3 else f"{len(scenes)} scenes"
    return f"{what} on {where}"


def _facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What holds for the whole page; a value for each where rows differ."""

    def values(*found: object) -> str:
        known = dict.fromkeys(str(value) for value in found if value not in (None, ""))
        return ", ".join(known) or "not recorded"

    return [
        ("Ground truth", values(*(row.ground_truth for row in rows))),
        ("Commit", values(*(row.commit for row in rows))),
        ("Seed", values(*(row.seed for row in rows))),
        ("Device", values(*(row.device for row in rows))),
        ("Threads", values(*(row.threads for row in rows))),
        ("Hardware", values(*(row.hardware for row in rows))),
    ]
