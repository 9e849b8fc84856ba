"""What the tests share: where the real images are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from reloc.scenes.scene import Scene
from reloc.scenes.synthetic import synthetic_scene

# Machines are shared: how long an example takes says nothing.
settings.register_profile("reloc", deadline=None, max_examples=50)
settings.load_profile("reloc")

SHARED_DATA = Path(os.environ.get("RELOC_DATA") or Path(__file__).parents[2] / "shared" / "data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side, those of a file stay together: they share what they make."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; skips the test where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no data at {SHARED_DATA}: set RELOC_DATA to the folder")
    return SHARED_DATA


@pytest.fixture(scope="session")
def small_room() -> Scene:
    """A synthetic room that costs seconds; its pictures are rendered once for all tests."""
    return synthetic_scene(seed=1, num_mapping=40, num_queries=12, width=240, height=180)
