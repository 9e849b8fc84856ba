"""Mapping that was stopped: what stays beside --out, and what of it is used again."""

from pathlib import Path

import pytest
import torch

from reloc.commands.unfinished import unfinished_work
from reloc.input_error import InputError
from reloc.maps import Map, Provenance
from reloc.steps import InterruptedMapError

ASKED = {"method": "ace", "seed": 0}


def _map() -> Map:
    source = Provenance("room", "exact", True, 3, 0, 1.0, "cpu", 1, "a processor", {})
    return Map("ace", {}, {"weight": torch.ones(2)}, source)


def _stop(out: Path, error: BaseException, leave: str | None = "checkpoint.pt") -> None:
    with unfinished_work(out, ASKED) as folder:
        if leave:
            (folder / leave).write_text("step 7")
        raise error


def test_an_interrupted_map_can_be_asked_and_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "map"
    with pytest.raises(KeyboardInterrupt, match="goes on from here"):
        _stop(out, InterruptedMapError(_map()))
    assert not out.exists()
    assert Map.load(tmp_path / "map.unfinished" / "map").method == "ace"
    with unfinished_work(out, ASKED) as folder:
        assert (folder / "checkpoint.pt").read_text() == "step 7"
    assert list(tmp_path.iterdir()) == []


def test_a_second_interrupt_replaces_the_first_map(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _stop(tmp_path / "map", InterruptedMapError(_map()))
    assert Map.load(tmp_path / "map.unfinished" / "map").provenance.scene == "room"


def test_what_another_command_left_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _stop(tmp_path / "map", KeyboardInterrupt())
    with unfinished_work(tmp_path / "map", {**ASKED, "seed": 1}) as folder:
        assert not (folder / "checkpoint.pt").exists()


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
