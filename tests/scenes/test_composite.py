"""Scenes side by side."""

import torch

from reloc.scenes.composite import composite
from reloc.scenes.scene import Scene


def test_inside_a_scene_nothing_changes_and_scenes_lie_apart(small_room: Scene) -> None:
    both = composite([small_room, small_room], gap=5.0)
    assert both.name == f"{small_room.name}+{small_room.name}-1"
    assert (both.ground_truth, both.metric) == (small_room.ground_truth, True)
    count = len(small_room.mapping)
    assert len(both.mapping) == 2 * count
    assert len(both.queries) == 2 * len(small_room.queries)
    for number in range(2):
        moved = both.mapping[number * count : (number + 1) * count]
        for old, new in zip(small_room.mapping, moved, strict=True):
            relative = new.cam_from_world @ moved[0].cam_from_world.inverse()
            before = old.cam_from_world @ small_room.mapping[0].cam_from_world.inverse()
            torch.testing.assert_close(relative.matrix, before.matrix, rtol=0, atol=1e-9)
            assert torch.equal(new.read_image(), old.read_image())
    centers = torch.stack([view.center_world for view in both.mapping])
    distances = torch.cdist(centers[:count], centers[count:])
    assert float(distances.min()) > 5.0 * small_room.extent
    # A query lies in its scene as before, too.
    for old, new in zip(small_room.queries, both.queries, strict=False):
        relative = new.cam_from_world @ both.mapping[0].cam_from_world.inverse()
        before = old.cam_from_world @ small_room.mapping[0].cam_from_world.inverse()
        torch.testing.assert_close(relative.matrix, before.matrix, rtol=0, atol=1e-9)
