"""Mapping that was stopped: what stays beside --out, and what of it is used again."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reloc.cli import main
from reloc.commands import map as map_command
from reloc.commands import unfinished
from reloc.commands.unfinished import unfinished_work
from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.maps import Map, Provenance
from reloc.scenes.scene import Scene
from reloc.steps import InterruptedMapError

ASKED = {"method": "ace", "seed": 0}


def _map() -> Map:
    source = Provenance("room", "exact", True, 3, 0, 1.0, "cpu", 1, "a processor", {})
    return Map("ace", {}, {"weight": torch.ones(2)}, source)


def _stop(out: Path, error: BaseException, leave: str | None = "checkpoint.pt") -> None:
    with unfinished_work(out, ASKED) as work:
        if leave:
            (work.folder / leave).write_text("step 7")
        raise error


def test_an_interrupted_map_can_be_asked_and_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "map"
    with pytest.raises(KeyboardInterrupt, match="goes on from here"):
        _stop(out, InterruptedMapError(_map()))
    assert not out.exists()
    assert Map.load(tmp_path / "map.unfinished" / "map").method == "ace"
    with unfinished_work(out, ASKED) as work:
        assert (work.folder / "checkpoint.pt").read_text() == "step 7"
    assert list(tmp_path.iterdir()) == []


def test_a_second_interrupt_replaces_the_first_map(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _stop(tmp_path / "map", InterruptedMapError(_map()))
    assert Map.load(tmp_path / "map.unfinished" / "map").provenance.scene == "room"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({**ASKED, "machine": {"seed": 1, "precision": "auto"}}, "seed"),
        ({**ASKED, "method": "glace", "machine": {"seed": 1}}, "method"),
        ({**ASKED, "config": {"growth": {"num_trees": 2}}}, "num-trees"),
        ({"method": "ace"}, "seed"),
    ],
)
def test_what_another_command_left_is_neither_used_nor_removed(
    asked: dict[str, Any], named: str, tmp_path: Path
) -> None:
    out = tmp_path / "map"
    with pytest.raises(KeyboardInterrupt):
        _stop(out, KeyboardInterrupt())
    with (
        pytest.raises(InputError, match=f"differs in {named}: repeat that command") as raised,
        unfinished_work(out, asked),
    ):
        pass
    assert "\n" not in str(raised.value)
    with unfinished_work(out, ASKED) as work:
        assert (work.folder / "checkpoint.pt").read_text() == "step 7"


def test_a_map_that_was_gone_on_with_says_the_seconds_of_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 100.0, 1000.0, 1030.0, 5000.0])
    monkeypatch.setattr(unfinished, "time", SimpleNamespace(monotonic=lambda: next(times)))
    out = tmp_path / "map"
    with pytest.raises(KeyboardInterrupt):
        _stop(out, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        _stop(out, InterruptedMapError(_map()))
    # A second of its own, and those of the first run.
    assert Map.load(tmp_path / "map.unfinished" / "map").provenance.seconds == 101.0
    with unfinished_work(out, ASKED) as work:
        assert work.with_all_seconds(_map()).provenance.seconds == 131.0


def _said_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """What a command says that tells it from others."""
    said = {}

    def telling(_out: Path, asked: dict[str, Any]) -> None:
        said.update(asked)
        raise InputError("that is all")

    monkeypatch.setattr(map_command, "unfinished_work", telling)
    assert main(["map", "thumbnail", str(tmp_path / "scene"), "--out", "x", *words]) == 2
    return said


def test_other_photos_make_another_command_and_other_threads_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_room: Scene
) -> None:
    views = small_room.mapping
    moved = replace(views[0], cam_from_world=views[1].cam_from_world)
    wider = replace(views[0], camera=Camera.simple_pinhole(99.0, 240, 180))
    scenes = {
        "whole": views,
        "more": [*views, small_room.queries[0]],
        "named": [replace(views[0], name="other"), *views[1:]],
        "moved": [moved, *views[1:]],
        "wider": [wider, *views[1:]],
    }
    told = {}
    for name, mapping in scenes.items():
        scene = replace(small_room, mapping=mapping, queries=[])
        monkeypatch.setattr(map_command.steps, "load_scene", lambda *_, scene=scene: scene)
        told[name] = _said_to_tell(tmp_path, monkeypatch)
        assert _said_to_tell(tmp_path, monkeypatch, "--threads", "1") == told[name]
    assert len({said["views"] for said in told.values()}) == len(scenes)
    assert _said_to_tell(tmp_path, monkeypatch, "--seed", "1") != told["wider"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("no view can be read")])
def test_a_method_that_keeps_nothing_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        _stop(tmp_path / "map", error, leave=None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    theirs = tmp_path / "map.unfinished" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    with (
        pytest.raises(InputError, match="in the way"),
        unfinished_work(tmp_path / "map", ASKED),
    ):
        pass
    assert theirs.read_text() == "years of work"
