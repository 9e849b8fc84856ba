"""The bench: rows that can be trusted, one at a time, and nothing lost when it stops."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reloc import bench
from reloc.bench import Task, read_rows, run_bench, runs_folder
from reloc.cli import main
from reloc.input_error import InputError
from reloc.progress import Silent
from reloc.viewing.rows import Row
from test_cli import write_scene

MACHINE = ("--threads", "2")


def task(method: str = "thumbnail", scene: str = "data/room", seed: int = 0) -> Task:
    return Task(method, scene, seed, MACHINE)


class Steps:
    """Stands for the processes: notes what is run, and fails where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> None:
        self.ran: list[list[str]] = []
        self.failing = failing
        monkeypatch.setattr(bench, "_run_step", self)

    def __call__(self, words: Sequence[str], log_path: Path) -> dict[str, Any]:
        self.ran.append(list(words))
        log_path.write_text("log")
        if self.failing and self.failing in words:
            raise bench._StepError(f"reloc {words[0]}: broken")
        keys = ("device", "threads", "commit", "hardware", "map_seconds", "map_mb")
        facts: dict[str, Any] = {"method": words[1], "scene": "room", **dict.fromkeys(keys, 1)}
        if words[0] == "map":
            facts["seed"] = int(words[words.index("--seed") + 1])
        facts["log"] = ["said"]
        facts["stage_ms"] = {"read": 1.5, "encode": 20.0}
        facts["peak_rss_mb"] = {"map": 300.0, "localize": 500.0}.get(words[0], 900.0)
        return facts


def test_rows_are_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = tmp_path / "rows.jsonl", Steps(monkeypatch)
    first = run_bench([task()], path, Silent())
    assert len(steps.ran) == 3
    both = run_bench([task(seed=1), task()], path, Silent())
    assert len(steps.ran) == 6
    assert both[1] == first[0]
    assert [row["seed"] for row in read_rows(path)] == [0, 1]
    # Another setting, scene option or machine is another row.
    others = [task("thumbnail --blur-px 1"), task(scene="data/room --split hard")]
    run_bench([*others, Task("thumbnail", "data/room", 0, ("--threads", "1"))], path, Silent())
    assert len(steps.ran) == 15
    assert len({row["files"] for row in read_rows(path)}) == 5


def test_words_reach_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    asked = task("sift:orb --max-keypoints 9", "'my data/room' --split hard", 3)
    (row,) = run_bench([asked], tmp_path / "rows.jsonl", Silent())
    mapping, localizing, evaluating = steps.ran
    assert mapping[:6] == ["map", "sift:orb", "--max-keypoints", "9", "my data/room", "--split"]
    assert mapping[-4:] == ["--seed", "3", *MACHINE]
    assert localizing[2:5] == ["my data/room", "--split", "hard"]
    assert evaluating[2:] == ["my data/room", "--split", "hard"]
    assert row["method"] == "sift:orb --max-keypoints 9"
    # The memory of scoring is not the method's.
    assert row["peak_rss_mb"] == 500.0
    assert row["stage_ms"] == {"read": 1.5, "encode": 20.0}


@pytest.mark.parametrize("name", ["my room", "bob's room"])
@pytest.mark.parametrize("options", [[], ["--half-turn"]])
def test_folders_with_blanks_and_apostrophes(
    name: str,
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, path = tmp_path / name, tmp_path / "rows.jsonl"
    folder.mkdir()
    # The shell took the quotes away, but for those inside of the quotes around an option.
    typed = shlex.join([str(folder), *options]) if options else str(folder)
    steps = Steps(monkeypatch, failing="localize")
    words = ["bench", "--methods", "thumbnail", "--scenes", typed, "--out", str(path)]
    assert main([*words, "--json"]) == 1
    assert steps.ran[0][: 3 + len(options)] == ["map", "thumbnail", str(folder), *options]
    (row,) = json.loads(capfd.readouterr().out)
    assert name.replace(" ", "-").replace("'", "-") in row["files"]
    # The page finds its words again, also where the folder is gone.
    folder.rmdir()
    assert main(["report", str(path), "--out", str(tmp_path / "page"), "--json"]) == 0
    assert Row.from_json(row).scene == name


def test_a_quote_that_is_not_closed_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for asked in (["sift", f"{tmp_path}'s"], ["sift 'x", str(tmp_path)]):
        words = ["bench", "--methods", asked[0], "--scenes", asked[1], "--out"]
        assert main([*words, str(tmp_path / "rows.jsonl")]) == 2
        assert "No closing quotation" in capfd.readouterr().err


def test_a_failed_row_is_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "rows.jsonl", Steps(monkeypatch, failing="bad")
    rows = run_bench([task(scene="bad"), task()], path, Silent())
    assert [row.get("failed") for row in rows] == ["reloc map: broken", None]
    assert (runs_folder(path) / rows[0]["files"] / "log.txt").is_file()
    steps.failing = ""
    assert run_bench([task(scene="bad")], path, Silent())[0]["failed"]
    (mended,) = run_bench([task(scene="bad")], path, Silent(), retry_failed=True)
    assert "failed" not in mended
    assert len(read_rows(path)) == 2


def test_what_a_crash_left_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    Steps(monkeypatch)
    run_bench([task(), task(seed=1)], path, Silent())
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    half = runs_folder(path) / f".{task(seed=1).folder_name}"
    half.mkdir()
    assert [row["seed"] for row in read_rows(path)] == [0]
    run_bench([task(), task(seed=1)], path, Silent())
    assert path.read_bytes() == whole
    assert not half.exists()


def test_a_training_that_was_interrupted_is_kept_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    steps = Steps(monkeypatch)
    half = runs_folder(path) / f".{task().folder_name}"

    def interrupted(words: Sequence[str], log_path: Path) -> dict[str, Any]:
        (half / "map.unfinished").mkdir()
        (half / "map.unfinished/weights").write_text("hours")
        log_path.write_text("log")
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "_run_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_bench([task()], path, Silent())
    assert [entry.name for entry in half.iterdir()] == ["map.unfinished"]

    def goes_on(words: Sequence[str], log_path: Path) -> dict[str, Any]:
        if words[0] == "map":
            assert (half / "map.unfinished/weights").read_text() == "hours"
        return steps(words, log_path)

    monkeypatch.setattr(bench, "_run_step", goes_on)
    assert len(run_bench([task()], path, Silent())) == 1
    assert not half.exists()


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text in ('{"mine": 1}\nnotes', "notes", "notes\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="line 1 is no row"):
            run_bench([task()], path, Silent())
        assert path.read_text() == text


def test_two_benches_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with bench._locked(path), pytest.raises(InputError, match="another bench"):
        run_bench([task()], path, Silent())


def test_a_row_that_does_not_fit_on_the_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    Steps(monkeypatch)
    run_bench([task()], path, Silent())
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        run_bench([task(), task(seed=1)], path, Silent())
    assert path.read_bytes() == before


def _command(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    command = [sys.executable, "-c", script]
    monkeypatch.setattr(bench, "_child_command", lambda words: command)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "reloc map: ended by SIGKILL (out of memory?)"),
        ("import os; os.abort()", "reloc map: ended by SIGABRT"),
        ("import sys; sys.exit('a bar\\nreloc map: no such folder')", "reloc map: no such folder"),
        ("import sys; sys.exit(3)", "reloc map: exit code 3"),
        ("print('no JSON')", "reloc map: printed no values"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _command(monkeypatch, script)
    (row,) = run_bench([task()], tmp_path / "rows.jsonl", Silent())
    assert row["failed"] == reason


# Where the tests run in the background, their children would ignore Ctrl-C.
_INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from reloc import bench
from reloc.cli import main
started, words = sys.argv[1], sys.argv[2:]
child = f"import os, time; open({started!r}, 'w').write(str(os.getpid())); time.sleep(60)"
bench._child_command = lambda words: [sys.executable, "-c", child]
sys.exit(main(words))
"""


def test_an_interrupted_bench_keeps_its_rows_and_ends_its_processes(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    write_scene(tmp_path / "scene", range(2), range(2, 3))
    rows, started = tmp_path / "rows.jsonl", tmp_path / "started"
    done = '{"command": "an earlier one"}\n'
    rows.write_text(done)
    words = ["bench", "--methods", "thumbnail", "--scenes", str(tmp_path / "scene"), "--out"]
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, str(started), *words, str(rows)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert complaint.splitlines()[-1].endswith("the same command goes on from there")
    assert rows.read_text() == done
    assert list(runs_folder(rows).iterdir()) == []
    assert not Path(f"/proc/{started.read_text()}").exists()


def test_a_bench_of_real_processes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, path = tmp_path / "room", tmp_path / "rows.jsonl"
    folder.mkdir()
    write_scene(folder, range(4), range(4, 6))
    words = ["bench", "--methods", "thumbnail --num-pixels 99", "--scenes", str(folder)]
    assert main([*words, "--threads", "1", "--out", str(path), "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert (row["scene"], row["n_queries"], row["declined"]) == ("room", 2, 0)
    assert (row["threads"], row["device"], row["seed"]) == (1, "cpu", 0)
    assert row["map_seconds"] > 0
    assert 100 < row["peak_rss_mb"] < 5000
    assert 0 < row["query_ms_median"] <= row["query_ms_p95"]
    assert 0 <= row["recall_5cm_5deg"] <= row["recall_50cm_5deg"] <= 1
    assert main(["report", str(path), "--out", str(tmp_path / "page"), "--json"]) == 0
    # All of the run was found again.
    assert json.loads(capfd.readouterr().out)["missing"] == []
