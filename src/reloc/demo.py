"""The whole run on a room that is rendered here: nothing to download, nothing to set up."""

from __future__ import annotations

from pathlib import Path

from reloc import steps
from reloc.contract import Run
from reloc.scenes.synthetic import synthetic_scene
from reloc.viewing.page import Section, write_page

# The floor that every method must beat, the classical pipeline, and a learned map.
METHODS = ("thumbnail", "sift", "ace")
_WIDTH, _HEIGHT = 640, 480


def run_demo(folder: Path, num_mapping: int, num_queries: int, run: Run) -> list[Section]:
    """Render two walks through a room, map it from the first, ask about the second, write the page.

    Args:
        folder: of the page; must not exist.
        num_mapping: views of the first walk.
        num_queries: views of the second walk.
        run: its seed is the room's, too.

    Returns:
        A section for each method, as on the page.

    Raises:
        InputError: the folder exists, or cannot be written.
    """
    scene = synthetic_scene(run.seed, num_mapping, num_queries, _WIDTH, _HEIGHT)
    for view in run.progress.track([*scene.mapping, *scene.queries], "rendering"):
        # It is kept: mapping and localizing then find it drawn, and their times are their own.
        view.read_image()
    sections = []
    for method in METHODS:
        map_ = steps.build_map(method, scene, run=run)
        estimates = steps.localize(map_, scene.queries, run)
        sections.append(Section.of(scene, map_, estimates, steps.evaluate(estimates, scene)))
    write_page(sections, folder)
    return sections
