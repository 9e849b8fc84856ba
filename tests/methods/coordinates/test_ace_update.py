"""`reloc map --update` on maps of ace, from photos on disk to answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest

from reloc.cli import main
from reloc.estimates import PoseEstimates
from reloc.maps import Map
from reloc.methods import get_method
from reloc.scenes.scene import Scene, View

SETTINGS = ["--short-side-px", "64", "--width", "32", "--num-images", "10", "--steps", "30"]
REPLAY_CELLS = 200


def _write(folder: Path, mapping: Sequence[View], queries: Sequence[View]) -> Path:
    """Views as photos beside lists of their poses."""
    (folder / "images").mkdir(parents=True)
    for split, views in (("train", mapping), ("test", queries)):
        lines = ["# convention: cam_from_world", "# metric: yes"]
        for view in views:
            name = f"{view.name.replace('/', '-')}.png"
            image = view.read_image().permute(1, 2, 0).flip(-1).contiguous().numpy()
            assert cv2.imwrite(str(folder / "images" / name), image)
            pose = view.cam_from_world
            numbers = [*pose.quat_wxyz.tolist(), *pose.translation.tolist()]
            numbers.append(float(view.camera.focal[0]))
            lines.append(" ".join([name, *(f"{number:.9f}" for number in numbers)]))
        (folder / f"poses_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("num_parts", [1, 2])
def test_a_map_learns_new_views_and_keeps_as_many_cells(
    num_parts: int, small_room: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    views, queries = small_room.mapping, small_room.queries[:2]
    old = _write(tmp_path / "old", views[:24], queries)
    new = _write(tmp_path / "new", views[24:], queries)
    map_folder = tmp_path / "map"
    words = ["map", "ace", str(old), "--out", str(map_folder), *SETTINGS]
    words += ["--num-parts", str(num_parts), "--replay-cells", str(REPLAY_CELLS)]
    assert main(words) == 0
    capfd.readouterr()
    assert main(["map", "--update", str(map_folder), str(new), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["num_new_views"], said["num_views"]) == (16, 40)
    before, after = Map.load(map_folder), Map.load(tmp_path / "map.updated")
    assert sum(change["num_points"] for change in said["changes"]) > REPLAY_CELLS
    for map_ in (before, after):
        kept = [tensor for name, tensor in map_.tensors.items() if name.endswith("replay.codes")]
        assert len(kept) == num_parts
        assert abs(sum(map(len, kept)) - REPLAY_CELLS) <= num_parts
    estimates = tmp_path / "estimates.jsonl"
    words = ["localize", str(tmp_path / "map.updated"), str(new), "--out", str(estimates)]
    assert main(words) == 0
    asked = {f"{view.name.replace('/', '-')}.png" for view in queries}
    assert {Path(name).name for name in PoseEstimates.read(estimates).by_name} == asked


def test_a_map_that_kept_nothing_says_how_to_build_one_that_does(
    small_room: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = _write(tmp_path / "place", small_room.mapping[:12], small_room.queries[:1])
    words = ["map", "ace", str(place), "--out", str(tmp_path / "map"), *SETTINGS]
    assert main([*words, "--replay-cells", "0"]) == 0
    capfd.readouterr()
    assert main(["map", "--update", str(tmp_path / "map"), str(place)]) == 2
    assert "--replay-cells" in capfd.readouterr().err.splitlines()[-1]


def test_what_a_map_keeps_by_default_is_small() -> None:
    config = get_method("ace").config()
    # 128 bytes of a code, and its scale, ray and view.
    assert 0 < 138 * config.replay_cells < 0.3e6
