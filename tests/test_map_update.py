"""`reloc map --update`: what is asked of a method, what is refused, and what is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from reloc.cli import main
from reloc.contract import Method, PartChange, Run, Tensors, Updated
from reloc.input_error import InputError
from reloc.maps import Map, fingerprint
from reloc.methods import METHODS
from reloc.methods.retrieval import thumbnail
from reloc.methods.retrieval.thumbnail import ThumbnailConfig
from reloc.scenes.scene import Scene, View
from reloc.steps import build_map, load_scene, update_map


def _learn(tensors: Tensors, views: Sequence[View], config: ThumbnailConfig, run: Run) -> Updated:
    """More thumbnails."""
    more = thumbnail.build_map(views, config, run)
    run.log.info("%d new thumbnails", len(views))
    joined = {
        name: tensor if name == "size" else torch.cat([tensor, more[name]])
        for name, tensor in tensors.items()
    }
    changes = [
        PartChange("what was there", 4, 0.0, 1.0, 1.0),
        PartChange("far off", 0, None, None, None),
    ]
    return Updated(joined, changes)


@pytest.fixture(autouse=True)
def learner(monkeypatch: pytest.MonkeyPatch) -> Method[ThumbnailConfig]:
    """A method whose maps can learn more, in the table for the time of a test."""
    row = replace(thumbnail.METHOD, name="learner", update=_learn)
    module = ModuleType("learner_of_the_tests")
    module.METHOD = row  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(METHODS, "learner", module.__name__)
    return row


@dataclass(frozen=True)
class _Places:
    old: Path
    new: Path
    map: Path


@pytest.fixture
def places(tmp_path: Path) -> _Places:
    """Photos of a place on two days, and the map of the first."""
    for seed, day in enumerate(("monday", "tuesday")):
        (tmp_path / day / "images").mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for split, indices in (("train", range(4)), ("test", range(4, 6))):
            lines = ["# convention: cam_from_world", "# metric: yes"]
            for index in indices:
                coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
                image = cv2.resize(coarse, (80, 60), interpolation=cv2.INTER_CUBIC)
                name = f"{day}-{index}.jpg"
                cv2.imwrite(str(tmp_path / day / "images" / name), image)
                lines.append(f"{name} 1 0 0 0 {0.1 * index:.3f} 0 0 75")
            text = "\n".join(lines) + "\n"
            (tmp_path / day / f"poses_{split}.txt").write_text(text)
    found = _Places(tmp_path / "monday", tmp_path / "tuesday", tmp_path / "map")
    assert main(["map", "learner", str(found.old), "--out", str(found.map)]) == 0
    return found


def test_a_new_map_is_written_and_the_old_one_stays_as_it_is(
    places: _Places, capfd: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(places.map)
    capfd.readouterr()
    assert main(["map", "--update", str(places.map), str(places.new), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert fingerprint(places.map) == before
    new = Map.load(places.map.with_name("map.updated"))
    assert said["map"] == str(places.map.with_name("map.updated"))
    assert (said["num_new_views"], said["num_views"]) == (4, 8)
    assert said["changes"][0]["moved"] == 0.0
    assert said["changes"][1]["moved"] is None
    assert said["log"] == ["4 new thumbnails"]
    assert len(new.tensors["descriptors"]) == 8
    assert new.provenance.scene == "monday+tuesday"
    assert new.provenance.num_views == 8
    assert sorted(path.name for path in places.map.parent.iterdir()) == [
        "map",
        "map.updated",
        "monday",
        "tuesday",
    ]


def test_what_changed_is_shown_as_a_table(
    places: _Places, capfd: pytest.CaptureFixture[str]
) -> None:
    out = places.map.with_name("newer")
    words = ["map", str(places.new), f"--update={places.map}", "--out", str(out)]
    capfd.readouterr()
    assert main(words) == 0
    text = capfd.readouterr().out
    assert "4 new thumbnails" in text
    assert "what was there" in text
    assert "100.0 %" in text
    assert f"reloc localize {out}" in text


def test_what_a_method_says_of_its_results_is_shown_and_its_steps_are_not(
    places: _Places,
    learner: Method[ThumbnailConfig],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def talking(views: Sequence[View], config: ThumbnailConfig, run: Run) -> Tensors:
        run.log.info("step %d", 3, extra={"step": 3})
        run.log.info("two of three are right")
        run.log.warning("one is dark")
        return thumbnail.build_map(views, config, run)

    row = replace(learner, build_map=talking)
    monkeypatch.setattr(sys.modules[METHODS["learner"]], "METHOD", row)
    capfd.readouterr()
    words = ["map", "learner", str(places.old), "--out", str(places.map.with_name("talked"))]
    assert main([*words, "--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["log"] == ["two of three are right"]
    assert "one is dark" in shown.err
    assert "step 3" not in shown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--update", "MAP"], "SCENE"),
        (["--update", "nowhere", "NEW"], "nowhere"),
        (["--update", "MAP", "NEW", "--num-pixels", "99"], "--num-pixels"),
        (["--update", "MAP", "NEW", "--out", "OLD"], "exists"),
        (["learner", "NEW", "--update", "MAP"], "Unrecognized options"),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], said: str, places: _Places, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = {"MAP": places.map, "NEW": places.new, "OLD": places.old}
    capfd.readouterr()
    assert main(["map", *(str(folders.get(word, word)) for word in words)]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert said in lines[-1]
    assert not places.map.with_name("map.updated").exists()


def test_a_map_that_cannot_learn_more_is_refused_with_what_to_do(
    small_room: Scene,
) -> None:
    plain = build_map("thumbnail", small_room)
    with pytest.raises(InputError, match=r"thumbnail cannot learn new views.*learner"):
        update_map(plain, small_room)


def test_poses_of_another_kind_are_refused(places: _Places) -> None:
    map_ = Map.load(places.map)
    scene = load_scene(places.new)
    with pytest.raises(InputError, match="mocap"):
        update_map(map_, replace(scene, ground_truth="mocap"))
    with pytest.raises(InputError, match="arbitrary units"):
        update_map(map_, replace(scene, metric=False))
    with pytest.raises(InputError, match="nothing to learn"):
        update_map(map_, replace(scene, mapping=[]))
    assert update_map(map_, scene)[0].provenance.num_views == 8
