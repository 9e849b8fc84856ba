"""Scenes side by side."""

from pathlib import Path

import pytest
import torch
from written_scenes import WRITERS

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene
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


def test_scenes_of_one_view_each_lie_apart(small_room: Scene) -> None:
    alone = [Scene(f"room-{i}", [small_room.mapping[i]], [], "synthetic") for i in range(3)]
    centers_N3 = torch.stack([view.center_world for view in composite(alone, gap=5.0).mapping])
    assert float(torch.nn.functional.pdist(centers_N3).min()) > 5.0


@pytest.fixture
def campus(tmp_path: Path) -> Path:
    """A folder that lists two scenes of different layouts."""
    for layout in ("colmap", "mapfree"):
        (tmp_path / layout).mkdir()
        WRITERS[layout](tmp_path / layout)
    (tmp_path / "campus").mkdir()
    text = f"# two places\n../colmap\n{tmp_path / 'mapfree'}\n"
    (tmp_path / "campus" / "scenes.txt").write_text(text)
    return tmp_path / "campus"


def test_a_list_of_scenes_is_a_scene(campus: Path) -> None:
    listed = load_scene(campus, LoadOptions())
    single = [load_scene(campus.parent / name, LoadOptions()) for name in ("colmap", "mapfree")]
    assert listed.name == "campus"
    # The unit of one is unknown.
    assert not listed.metric
    for kind in ("mapping", "queries"):
        names = [f"{scene.name}/{view.name}" for scene in single for view in getattr(scene, kind)]
        assert [view.name for view in getattr(listed, kind)] == names
    for view in (*listed.mapping, *listed.queries):
        assert view.read_image().shape[1:] == (view.camera.height, view.camera.width)
    # Options hold for each scene.
    focals = load_scene(campus, LoadOptions(focal=77.0)).mapping
    assert all(view.camera.focal.tolist() == [77.0, 77.0] for view in focals)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("../colmap\n", "lists 1 scenes"),
        ("../colmap\n../nowhere\n", "nowhere: no such folder"),
        ("../colmap\n../campus/../colmap\n", "is listed 2 times"),
        ("../colmap\n../campus\n", "lists scenes itself"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_in_one_line(
    campus: Path, text: str, said: str
) -> None:
    (campus / "scenes.txt").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        load_scene(campus, LoadOptions())
    assert "\n" not in str(caught.value)
