"""What cannot be meant is refused in one line, before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reloc.cli import main
from reloc.commands.localize import _parse_camera
from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.maps import refuse_unwritable
from reloc.scenes.twelve_scenes import _read_resized
from test_cli import write_scene


def test_true_poses_are_no_submission(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The estimates were written instead."""
    words = ["export", str(tmp_path / "answers.jsonl"), "--format", "mapfree", "--truth"]
    assert main([*words, "--scene", str(tmp_path), "--out", str(tmp_path / "a.zip")]) == 2
    assert "--truth is for tum, colmap and visloc" in capfd.readouterr().err
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("size", ["inf,480", "640.7,480", "640,", "wide,480"])
def test_a_camera_has_whole_pixels(size: str) -> None:
    with pytest.raises(InputError, match="--camera PINHOLE,"):
        _parse_camera(f"PINHOLE,{size},525,525,320,240")


def test_a_folder_that_cannot_be_made_is_told_of_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="file cannot be written to"):
        refuse_unwritable(tmp_path / "file" / "estimates.jsonl")
    refuse_unwritable(tmp_path / "new" / "estimates.jsonl")


def test_commands_that_are_named_can_be_pasted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scene = tmp_path / "my room"
    scene.mkdir()
    write_scene(scene, range(4), range(4, 6))
    out = tmp_path / "my map"
    assert main(["map", "thumbnail", str(scene), "--out", str(out)]) == 0
    said = "".join(capfd.readouterr().out.split())
    assert f"reloc localize '{out}' ".replace(" ", "") in said


def test_coarse_depth_lies_where_the_coarse_pixels_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pixel takes the depth pixel that its middle lies in, not that of its corner."""
    columns = torch.arange(1, 641).float().expand(4, 640).numpy()
    monkeypatch.setattr("reloc.scenes.twelve_scenes.read_depth", lambda *_: columns.copy())
    wide = _read_resized(tmp_path / "d.png", 1e-3, Camera.simple_pinhole(1000.0, 1296, 8))
    lies_in = ((torch.arange(1296) + 0.5) * 640 / 1296).floor() + 1
    assert float((wide[0] != lies_in).float().mean()) < 0.02
