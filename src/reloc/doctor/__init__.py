"""Is this data sound? Most failures of relocalization are failures of data."""

from __future__ import annotations

from reloc.contract import Run
from reloc.doctor.diagnosis import Diagnosis, Finding
from reloc.doctor.findings import find_all
from reloc.doctor.lines import diagnosis_lines
from reloc.doctor.overlap import measure_overlap
from reloc.doctor.survey import look_at_images, survey
from reloc.doctor.verdict import check_conventions
from reloc.scenes.scene import Scene

__all__ = ["Diagnosis", "Finding", "diagnosis_lines", "examine"]


def examine(scene: Scene, run: Run | None = None) -> Diagnosis:
    """Look at all that can be known of a scene before it is used.

    Images are read, matched without their poses, and asked what they think of the poses and cameras
    as they are and with each usual mistake undone. What is wrong with the data is a finding, and
    raises nothing.

    Args:
        scene: from `load_scene`.
        run: progress and seed.
    """
    run = run or Run()
    images = look_at_images(scene, run)
    counted = survey(scene, images)
    test = check_conventions(scene, run)
    overlap = measure_overlap(scene, test.depth)
    return Diagnosis(
        scene=scene.name,
        layout=scene.layout,
        ground_truth=scene.ground_truth,
        metric=scene.metric,
        survey=counted,
        conventions=test,
        overlap=overlap,
        findings=find_all(scene, counted, images, test, overlap),
    )
