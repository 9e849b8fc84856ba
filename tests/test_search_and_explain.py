from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import optuna
import pytest
import torch
import tyro

import reloc
from reloc import steps
from reloc.cli import main
from reloc.commands.options import scene_words
from reloc.commands.parsing import SceneWords, parse_scene
from reloc.commands.search import figure_of, folds_of
from reloc.commands.search_space import (
    DEFAULT_SPACE,
    Choice,
    parse_space,
    setting_words,
    with_values,
)
from reloc.contract import Run
from reloc.input_error import InputError
from reloc.methods import get_method
from reloc.scenes.options import LoadOptions
from reloc.scenes.scene import Scene


@dataclass(frozen=True)
class Inner:
    beta: float = 1.0
    learned: bool = True


@dataclass(frozen=True)
class Settings:
    rate: float = 1e-3
    width: int = 64
    kind: str = "a"
    on: bool = False
    loss: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.width > 500:
            raise ValueError("too wide")


def test_a_space_is_read_by_the_types_of_the_settings() -> None:
    words = ["rate=1e-4:1e-2:log", "width=8:64", "kind=a|b", "on=true|false", "loss.beta=1:9"]
    assert parse_space(words, Settings(), skip_unknown=False) == [
        Choice("rate", 1e-4, 1e-2, log=True),
        Choice("width", 8, 64, whole=True),
        Choice("kind", options=("a", "b")),
        Choice("on", options=(True, False)),
        Choice("loss.beta", 1, 9),
    ]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rate", "write name="),
        ("rate=2:1", "is like 0.001"),
        ("rate=1:2:exp", "is like 0.001"),
        ("width=x|y", "is like 64"),
        ("on=perhaps|no", "is like False"),
        ("loss=1:2", "no number"),
        ("depth=1:2", "there are rate, width"),
        ("rate=0:0.5:log", "begin above 0"),
        ("width=0.5:64:log", "begin above 0"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_space([word], Settings(), skip_unknown=False)


def test_default_settings_that_a_method_lacks_are_not_searched() -> None:
    names = [choice.name for choice in parse_space(DEFAULT_SPACE, Settings(), skip_unknown=True)]
    assert names == ["width"]


def test_values_reach_settings_of_settings() -> None:
    changed = with_values(Settings(), {"width": 8, "loss.beta": 5.0})
    assert changed == Settings(width=8, loss=Inner(5.0))
    with pytest.raises(InputError, match="too wide"):
        with_values(Settings(), {"width": 501})


def test_the_words_of_settings_are_understood_again() -> None:
    values = {"rate": 0.5, "on": True, "loss.beta": 5.0, "loss.learned": False}
    words = setting_words(Settings(), values)
    assert words == ["--rate", "0.5", "--on", "--loss.beta", "5.0", "--loss.no-learned"]
    pairs_off = (tyro.conf.FlagCreatePairsOff,)
    parsed = tyro.cli(Settings, args=words, default=Settings(), config=pairs_off)
    assert parsed == with_values(Settings(), values)
    # As it is already: no flag says so.
    assert setting_words(Settings(), {"on": False, "loss.learned": True}) == []


def test_the_words_of_a_scene_are_understood_again() -> None:
    options = LoadOptions(unknown_focal=True, half_turn=True, metric=True, focal=500.0)
    words = shlex.split(scene_words(Path("my room"), options))
    assert parse_scene(words) == SceneWords(Path("my room"), options)


def test_each_mapping_view_is_held_back_once_and_no_query_is_seen(small_room: Scene) -> None:
    folds = folds_of(small_room, 3, 5)
    names = [view.name for view in small_room.mapping]
    asked = [view.name for fold in folds for view in fold.queries]
    assert sorted(asked) == sorted(names)
    for fold in folds:
        there = {view.name for view in fold.mapping}
        assert there | {view.name for view in fold.queries} == set(names)
        assert not there & {view.name for view in fold.queries}
    with pytest.raises(InputError, match="lower --folds"):
        folds_of(small_room, 30, 5)


def test_the_figure_is_zero_for_a_map_of_the_views_that_are_asked(small_room: Scene) -> None:
    views = list(small_room.mapping[:6])
    same = Scene("same", views, views_again(views), "synthetic")
    figure = figure_of("thumbnail", get_method("thumbnail").tiny, same, Run())
    assert figure == pytest.approx(0, abs=1e-6)


def views_again(views: list) -> list:
    import dataclasses

    return [dataclasses.replace(view, name=f"{view.name} again") for view in views]


def test_a_search_goes_on_where_it_stopped(
    small_room: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(steps, "load_scene", lambda *_: small_room)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = tmp_path / "room.study"
    words = ["search", "thumbnail", str(tmp_path), "--out", str(study), "--json"]
    words += ["--space", "blur_px=0.0:6.0", "num_pixels=48|192", "--folds", "2", "--no-prune"]

    def run(trials: int) -> dict:
        assert main([*words, "--trials", str(trials)]) == 0
        return json.loads(capsys.readouterr().out)

    first = run(2)
    second = run(3)
    assert (first["trials"], second["trials"]) == (2, 3)
    assert second["best"]["figure"] <= first["best"]["figure"]
    assert set(second["best"]["settings"]) == {"blur_px", "num_pixels"}
    assert "--num-pixels" in second["command"]
    # Figures of other folds or settings do not compare.
    other = {"--folds": ["--folds", "3"], "--block": ["--block", "7"]}
    other["--space"] = ["--space", "blur_px=0.0:6.0"]
    for option, changed in other.items():
        assert main([*words, "--trials", "4", *changed]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"was begun with {option} " in line
    assert run(3) == second


def test_a_search_that_goes_on_tries_other_settings_and_gives_up_those_that_are_refused(
    small_room: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(steps, "load_scene", lambda *_: small_room)
    monkeypatch.setattr("reloc.commands.search.figure_of", lambda *_: 1.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = tmp_path / "room.study"
    words = ["search", "posenet-learned", str(tmp_path), "--out", str(study), "--json"]
    # Channels come in groups of eight.
    words += ["--space", "dropout=0.0:0.5", "channels=64|65", "--sampler", "random"]
    for trials in (1, 2, 3, 6):
        assert main([*words, "--trials", str(trials)]) == 0
        told = json.loads(capsys.readouterr().out)
    storage = optuna.storages.RDBStorage(f"sqlite:///{study}")
    (name,) = optuna.study.get_all_study_names(storage)
    tried = optuna.load_study(study_name=name, storage=storage).trials
    assert len({trial.params["dropout"] for trial in tried}) == len(tried) == 6
    refused = [trial for trial in tried if trial.params["channels"] == 65]
    assert 0 < len(refused) < 6
    assert all(trial.state.name == "PRUNED" for trial in refused)
    assert told["pruned"] == len(refused)
    assert caplog.text.count("must be a multiple of 8") == len(refused)


def test_a_search_goes_on_after_a_training_that_diverged(
    small_room: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As by a rate that is too high: the other settings are what is searched for."""
    monkeypatch.setattr(steps, "load_scene", lambda *_: small_room)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["search", "posenet-learned", str(tmp_path), "--out", str(tmp_path / "room.study")]
    words += [
        "--space",
        "max_learning_rate=1e-3|1e30",
        "num_looks=20|24",
        "steps=4|5",
        "--folds",
        "2",
    ]
    words += ["--sampler", "random", "--trials", "8", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["pruned"] < 8
    assert caplog.text.count("the training diverged") == told["pruned"]
    assert told["best"]["settings"]["max_learning_rate"] == 1e-3


def test_a_study_that_is_no_study_is_refused_in_one_line(
    small_room: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(steps, "load_scene", lambda *_: small_room)
    text = tmp_path / "text.study"
    text.write_text("this is no database\n" * 9)
    for out in (text, tmp_path):
        assert main(["search", "thumbnail", str(tmp_path), "--out", str(out),
                     "--space", "blur_px=0.0:6.0"]) == 2  # fmt: skip
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--out {out} cannot be used as a study" in line
    assert text.read_text() == "this is no database\n" * 9


def test_explain_writes_three_pictures_and_refuses_methods_without_gradients(
    small_room: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    image = small_room.queries[0].read_image().permute(1, 2, 0).numpy()
    cv2.imwrite(str(photo), image[..., ::-1])
    views = Scene("few", small_room.mapping[:8], [], "synthetic")
    for name in ("posenet-learned", "thumbnail"):
        reloc.build_map(name, views, get_method(name).tiny).save(tmp_path / name)
    out = tmp_path / "explained.png"
    words = ["explain", str(tmp_path / "posenet-learned"), str(photo), "--out", str(out)]
    assert main([*words, "--samples", "2", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert all(0 <= share <= 1 for share in values["top_pixel_position"])
    explained = torch.from_numpy(cv2.imread(str(out)))
    left, middle, right = explained.chunk(3, dim=1)
    assert not torch.equal(left, middle)
    assert not torch.equal(middle, right)
    words = ["explain", str(tmp_path / "thumbnail"), str(photo), "--out", str(tmp_path / "b.png")]
    assert main(words) != 0
    assert "family absolute" in capsys.readouterr().err
