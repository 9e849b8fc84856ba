"""The command: what it says, what it returns, and what it leaves behind when something is wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
from PIL import ExifTags, Image

from reloc.cli import main
from reloc.commands import COMMANDS, get_command
from reloc.commands.options import default_threads
from reloc.methods import METHODS, get_method

NUM_VIEWS = 6


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images that differ, with poses: half of them map, half are asked."""
    folder = tmp_path_factory.mktemp("scene")
    write_scene(folder, range(NUM_VIEWS), range(NUM_VIEWS, 2 * NUM_VIEWS))
    return folder


def write_scene(folder: Path, mapping: range, queries: range) -> None:
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for index in (*mapping, *queries):
        coarse = random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "images" / f"{index:03}.jpg"), image)
    for name, indices in (("train", mapping), ("test", queries)):
        lines = [f"{i:03}.jpg 1 0 0 0 {0.1 * i:.3f} 0 0 150" for i in indices]
        text = "\n".join(["# convention: cam_from_world", "# metric: yes", *lines]) + "\n"
        (folder / f"poses_{name}.txt").write_text(text)


@pytest.fixture(scope="module")
def built(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of the scene."""
    folder = tmp_path_factory.mktemp("maps") / "map"
    assert main(["map", "thumbnail", str(scene), "--out", str(folder), "--json"]) == 0
    return folder


def refused(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line in which a command line is refused as bad input."""
    capfd.readouterr()
    assert main(words) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    # A bar may have been shown before.
    assert [line for line in lines if line.startswith("reloc")] == lines[-1:]
    assert "Traceback" not in printed.err
    return lines[-1]


# What it says


def test_guide_names_every_command_and_waits_for_no_heavy_library() -> None:
    script = (
        "import sys; from reloc.cli import main; assert main([]) == 0; assert main(['mpa']) == 2; "
        "sys.exit(str({'torch', 'cv2', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert (
        done.stderr
        == "reloc: there is no command 'mpa': did you mean 'map'? `reloc` lists them\nset()\n"
    )
    assert all(f"reloc {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_explains_every_option(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    text = capfd.readouterr().out
    assert f"usage: reloc {name}" in text
    for example in get_command(name).examples:
        assert example.split("    #")[0].strip() in text
    options = [line for line in text.splitlines() if line.startswith("│ --")]
    assert len(options) >= 2
    assert "--json" in text
    assert "--debug" in text


@pytest.mark.parametrize("name", METHODS)
def test_settings_of_a_method_are_options(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    method = get_method(name)
    assert main(["map", name, "--help"]) == 0
    text = capfd.readouterr().out
    for field in dataclasses.fields(method.config):
        # A group of settings has a dot before the name of each; what is on can be switched off.
        end = "." if dataclasses.is_dataclass(getattr(method.tiny, field.name)) else " "
        switch = "no-" if getattr(method.config(), field.name) is True else ""
        assert f"--{switch}{field.name.replace('_', '-')}{end}" in text


def test_methods_lists_the_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["method"] for row in rows] == list(METHODS)
    assert main(["methods"]) == 0
    assert all(name in capfd.readouterr().out for name in ("thumbnail",))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["locallize"], "did you mean 'localize'?"),
        (["map", "sfit", "SCENE", "--out", "OUT"], "perhaps 'sift'"),
        (["map", "sift:orbb", "SCENE", "--out", "OUT"], "it has: orb"),
        (["map", "thumbnail", "SCENE", "--out", "OUT", "--num-pixel", "99"], "--num-pixels"),
        (["map", "thumbnail", "SCENE", "--out", "OUT", "--sed", "1"], "--seed"),
        (["map", "thumbnail", "SCENE", "--out", "OUT", "--seed", "one"], "--seed"),
        (["map", "thumbnail", "SCENE", "--out", "OUT", "--num-pixels", "1"], "num_pixels is 1"),
        (["map", "thumbnail", "SCENE", "--out", "OUT", "--focal", "-5"], "--focal"),
        (["map", "thumbnail", "SCENE", "--out", "OUT", "--threads", "0"], "--threads"),
        (["map", "thumbnail", "SCENE", "--out", "OUT", "--device", "cudda"], "--device cudda"),
        (["map", "thumbnail", "SCENE"], "--out"),
        (["map", "thumbnail", "nowhere", "--out", "OUT"], "nowhere"),
        (["map", "--seed", "1"], "METHOD"),
        (["map", "--out", "OUT", "sfit", "SCENE"], "perhaps 'sift'"),
        (["map", "--split", "sift", "thumbnail", "SCENE", "--out", "OUT"], "say METHOD first"),
        (["localize", "MAP", "--out", "OUT"], "nothing is asked"),
        (["localize", "MAP", "IMAGE", "--out", "OUT", "--camera", "PINHOLE,1"], "--camera"),
        (["localize", "MAP", "IMAGE", "IMAGE", "--out", "OUT"], "2 times"),
        (["localize", "MAP", "IMAGE", "SCENE", "--out", "OUT"], "is a folder"),
        (["localize", "MAP", "IMAGE", "--out", "OUT", "--split", "hard"], "--split is for scenes"),
        (["localize", "SCENE", "IMAGE", "--out", "OUT"], "is not a map"),
        (["localize", "MAP", "missing.jpg", "--out", "OUT"], "missing.jpg is missing"),
        (["evaluate", "MAP/map.json", "SCENE"], "no estimate"),
        (["export", "MAP/map.json", "--format", "tum", "--out", "OUT"], "needs --scene"),
        (["export", "MAP/map.json", "--format", "tmu", "--out", "OUT"], "'tum'"),
        (["bench", "--methods", "sift", "--scenes", "nowhere", "--out", "OUT"], "nowhere"),
        (["bench", "--methods", "sfit", "--scenes", "SCENE", "--out", "OUT"], "perhaps 'sift'"),
        (["bench", "--methods", "sift", "--scenes", "SCENE --slit x", "--out", "OUT"], "--split"),
        (["report", "missing.jsonl", "--out", "OUT"], "missing.jsonl"),
        (["demo", "--out", "OUT", "--queries", "0"], "--queries"),
    ],
)
def test_wrong_words_are_refused_in_one_line_and_leave_nothing(
    words: list[str],
    said: str,
    scene: Path,
    built: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    places = {
        "SCENE": scene,
        "MAP": built,
        "IMAGE": scene / "images/000.jpg",
        "OUT": tmp_path / "o",
    }
    for name, path in places.items():
        words = [word.replace(name, str(path)) for word in words]
    line = refused(words, capfd)
    assert said in line
    assert list(tmp_path.iterdir()) == []


# What it does


def test_whole_run(
    scene: Path, built: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    estimates = tmp_path / "estimates.jsonl"

    def values(*words: str) -> dict[str, object]:
        capfd.readouterr()
        assert main([*words, "--json"]) == 0
        return json.loads(capfd.readouterr().out)

    localized = values("localize", str(built), str(scene), "--out", str(estimates))
    assert (localized["n_queries"], localized["declined"]) == (NUM_VIEWS, 0)
    row = values("evaluate", str(estimates), str(scene))
    # The answer is the pose of a mapping view: these are 0.1 m apart on a line.
    assert 0.1 <= row["median_m"] <= 0.1 * (2 * NUM_VIEWS)  # pyright: ignore[reportOperatorIssue]
    assert row["median_deg"] == 0
    exported = tmp_path / "estimates.txt"
    values("export", str(estimates), "--format", "visloc", "--out", str(exported))
    assert len(exported.read_text().splitlines()) == NUM_VIEWS


def test_a_mapping_photo_is_found_where_it_was_taken(
    scene: Path, built: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photo = str(scene / "images" / "004.jpg")
    for number, extra in enumerate(
        ([], ["--focal", "150"], ["--camera", "SIMPLE_PINHOLE,160,120,150,80,60"])
    ):
        capfd.readouterr()
        out = str(tmp_path / f"{number}.jsonl")
        assert main(["localize", str(built), photo, "--out", out, "--json", *extra]) == 0
        (answer,) = json.loads(capfd.readouterr().out)["answers"]
        assert answer["name"] == photo
        assert answer["center_world"] == pytest.approx([-0.4, 0, 0])
    assert main(["localize", str(built), photo, "--out", str(tmp_path / "people.jsonl")]) == 0
    assert "-0.4000 0.0000 0.0000" in capfd.readouterr().out.replace("-0.0000", "0.0000")


def test_a_photo_stored_upside_down_is_turned_with_a_focal_length_too(
    scene: Path, built: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photo, exif = tmp_path / "photo.jpg", Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    with Image.open(scene / "images" / "004.jpg") as image:
        image.rotate(180).save(photo, exif=exif, quality=95)
    out = str(tmp_path / "answer.jsonl")
    capfd.readouterr()
    words = ["localize", str(built), str(photo), "--focal", "150", "--out", out, "--json"]
    assert main(words) == 0
    (answer,) = json.loads(capfd.readouterr().out)["answers"]
    assert answer["center_world"] == pytest.approx([-0.4, 0, 0])


def test_depth_of_a_photo_that_exif_turns_is_refused(
    scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The photo is turned upright as it is read, and its depth map has nothing to say how."""
    upright, turned = scene / "images" / "004.jpg", tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    with Image.open(upright) as image:
        size = image.size
        image.rotate(180).save(turned, exif=exif, quality=95)
    depth = tmp_path / "depth.png"
    Image.fromarray(np.full(size[::-1], 1500, dtype=np.uint16)).save(depth)
    words = ["relate", str(turned), str(upright), "--focal", "150", "--max-keypoints", "200"]
    line = refused([*words, "--depth-a", str(depth)], capfd)
    assert "turned by its EXIF" in line
    assert str(turned) in line
    assert main([*words, "--depth-b", str(depth)]) == 0


def test_a_photo_of_another_size_than_the_camera_is_refused_before_the_others_are_asked(
    scene: Path,
    built: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = tmp_path / "large.jpg"
    cv2.imwrite(str(large), np.zeros((240, 320, 3), np.uint8))
    monkeypatch.setattr("reloc.steps.localize", lambda *_: pytest.fail("a photo was asked"))
    words = ["localize", str(built), str(scene / "images/004.jpg"), str(large)]
    words += ["--out", str(tmp_path / "o"), "--camera", "SIMPLE_PINHOLE,160,120,150,80,60"]
    line = refused(words, capfd)
    assert "large.jpg is 320x240" in line
    assert "multiply them by 2 (width and height included)" in line


def test_doctor_says_what_it_cannot_test(scene: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """These images have nothing in common: no match, so no verdict."""
    assert main(["doctor", str(scene), "--json"]) == 0
    diagnosis = json.loads(capfd.readouterr().out)
    assert diagnosis["survey"]["num_mapping"] == NUM_VIEWS
    assert diagnosis["conventions"]["verdict"] == "untested"
    assert main(["doctor", str(scene)]) == 0
    assert diagnosis["conventions"]["reason"] in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.data
def test_doctor_names_the_option_that_mends_a_real_scene(
    shared_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", str(shared_data / "fox"), "--axes", "opencv", "--json"]
    assert main(words) == 1
    findings = json.loads(capfd.readouterr().out)["findings"]
    assert findings[0]["severity"] == "error"
    assert "--axes opengl" in findings[0]["mending"]


def test_settings_reach_the_map(scene: Path, tmp_path: Path) -> None:
    words = ["thumbnail", str(scene), "--seed", "7", "--num-pixels", "99"]
    # Options may be said before METHOD, too.
    for name, said in (("a", [*words, "--threads", "1"]), ("b", ["--threads", "1", *words])):
        assert main(["map", "--out", str(tmp_path / name), *said]) == 0
        content = json.loads((tmp_path / name / "map.json").read_text())
        assert content["config"]["num_pixels"] == 99
        assert content["provenance"]["seed"] == 7
        assert content["provenance"]["threads"] == 1


def test_threads_are_those_of_the_variable_else_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert default_threads() >= 1


# Bad input


def _edit(folder: Path, old: str, new: str) -> None:
    path = folder / "map.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "map.safetensors").unlink(), "incomplete"),
        (lambda folder: (folder / "map.json").unlink(), "is not a map"),
        (lambda folder: (folder / "map.json").write_text("{"), "is damaged"),
        (lambda folder: _edit(folder, '"format_version": 1', '"format_version": 99'), "upgrade"),
        (lambda folder: _edit(folder, '"num_pixels": 1200', '"num_pixels": 1201'), "was changed"),
        (lambda folder: (folder / "map.safetensors").write_bytes(b"\0" * 99), "is damaged"),
    ],
)
def test_a_damaged_map_is_not_asked(
    damage: Callable[[Path], object],
    said: str,
    scene: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, out = tmp_path / "map", tmp_path / "estimates.jsonl"
    assert main(["map", "thumbnail", str(scene), "--out", str(folder)]) == 0
    damage(folder)
    line = refused(["localize", str(folder), str(scene), "--out", str(out)], capfd)
    assert said in line
    assert str(folder) in line
    assert not out.exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "images/002.jpg").unlink(), "002.jpg"),
        (lambda folder: _cut(folder / "images/002.jpg"), "002.jpg"),
        (lambda folder: (folder / "poses_train.txt").write_text(""), "poses_train.txt"),
        (lambda folder: [path.unlink() for path in folder.glob("poses*")], "no layout"),
    ],
)
def test_a_damaged_scene_is_not_mapped(
    damage: Callable[[Path], object],
    said: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "scene"
    folder.mkdir()
    write_scene(folder, range(4), range(4, 6))
    damage(folder)
    line = refused(["map", "thumbnail", str(folder), "--out", str(tmp_path / "map")], capfd)
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]


def test_one_mapping_view_is_too_few(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scene").mkdir()
    write_scene(tmp_path / "scene", range(1), range(1, 3))
    words = ["map", "thumbnail", str(tmp_path / "scene"), "--out", str(tmp_path / "map")]
    assert "at least 2" in refused(words, capfd)


@pytest.mark.parametrize(
    "words",
    [
        ["map", "thumbnail", "nowhere", "--out", "OUT"],
        ["localize", "nowhere", "nowhere", "--out", "OUT"],
        ["export", "nowhere", "--format", "visloc", "--out", "OUT"],
        ["report", "nowhere", "--out", "OUT"],
        ["demo", "--out", "OUT"],
    ],
)
def test_what_exists_is_refused_before_anything_else_is_looked_at(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    line = refused([word.replace("OUT", str(taken)) for word in words], capfd)
    assert f"{taken} exists" in line
    assert taken.read_text() == "mine"


# Failures of the machine and of ourselves


def test_full_disk_is_said_and_leaves_nothing(
    scene: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    line = refused(["map", "thumbnail", str(scene), "--out", str(tmp_path / "map")], capfd)
    assert "No space left on device" in line
    assert list(tmp_path.iterdir()) == []


def run_with_small_files(
    words: list[str], max_bytes: int, output: Path
) -> subprocess.CompletedProcess[str]:
    """Run `reloc` where the system refuses what it writes to a file beyond `max_bytes`."""

    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

    with output.open("w") as file:
        return subprocess.run(
            [sys.executable, "-m", "reloc", *words],
            preexec_fn=limit_files,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )


def test_a_file_that_cannot_be_written_whole_is_not_left(
    scene: Path, built: Path, tmp_path: Path
) -> None:
    words = ["localize", str(built), str(scene), "--out", str(tmp_path / "out/estimates.jsonl")]
    done = run_with_small_files(words, 300, tmp_path / "output.txt")
    assert done.returncode == 2
    assert "cannot be written: File too large" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


def test_full_output_and_closed_pipe(tmp_path: Path) -> None:
    done = run_with_small_files([], 100, tmp_path / "guide.txt")
    assert done.returncode == 2
    assert done.stderr == "reloc: the output: File too large\n"
    closed = subprocess.Popen(
        [sys.executable, "-m", "reloc"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert closed.stdout is not None
    closed.stdout.close()
    _, complaint = closed.communicate()
    assert (closed.returncode, complaint) == (141, b"")


def test_a_failure_of_ours_is_one_line_and_a_traceback_on_demand(
    scene: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault\nin two lines")

    monkeypatch.setattr("reloc.steps.build_map", fail)
    words = ["map", "thumbnail", str(scene), "--out", str(tmp_path / "map")]
    assert main(words) == 1
    said = "reloc map: unexpected: RuntimeError: a fault in two lines; rerun with --debug\n"
    assert capfd.readouterr().err == said
    assert main([*words, "--debug"]) == 1
    assert "Traceback" in capfd.readouterr().err


# Where the tests run in the background, their children would ignore Ctrl-C.
_SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from reloc import methods
from reloc.cli import main
row = methods.get_method("thumbnail")
def build_map(views, config, run):
    for _ in run.progress.track(range(1000), "mapping"):
        Path(sys.argv[1]).touch()
        time.sleep(0.02)
object.__setattr__(row, "build_map", build_map)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_mapping_leaves_nothing(
    number: signal.Signals, scene: Path, tmp_path: Path
) -> None:
    started, out = tmp_path / "started", tmp_path / "out" / "map"
    words = ["map", "thumbnail", str(scene), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(started), *words], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not started.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert complaint.splitlines()[-1] == (
        "reloc map: interrupted: no map was written and --out is still free: "
        "the same command starts over"
    )
    assert "Traceback" not in complaint
    assert [path.name for path in tmp_path.rglob("*")] == ["started"]
