from __future__ import annotations

from dataclasses import replace

import pytest

from reloc.scenes.scene import Scene


@pytest.fixture(scope="session")
def room(small_room: Scene) -> Scene:
    """A part of the room, that is matched in seconds."""
    return replace(small_room, mapping=small_room.mapping[:14], queries=small_room.queries[:4])
