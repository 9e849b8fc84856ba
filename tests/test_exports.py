from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posed_views import CAMERA, random_poses, scene_of, views_of
from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates
from reloc.evaluation.report import evaluate
from reloc.exports import (
    read_pose_text,
    true_poses,
    write_colmap,
    write_mapfree,
    write_pose_text,
    write_tum,
)
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import Scene

LINE = "a.jpg 1 0 0 0 0.5 -1 2"


def off_by_a_little(scene: Scene, declined: Collection[int] = ()) -> PoseEstimates:
    """Estimates a few centimetres and degrees off, some of them declined."""
    count = len(scene.queries)
    generator = torch.Generator().manual_seed(5)
    noise = 0.03 * torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return PoseEstimates(
        {
            view.name: PoseEstimate(
                None if i in declined else Rigid3d.exp(noise[i]) @ view.cam_from_world,
                confidence=None if i in declined else i / count,
                num_inliers=i,
            )
            for i, view in enumerate(scene.queries)
        },
        scene=scene.name,
    )


def assert_same_pose(found: Rigid3d | None, expected: Rigid3d | None) -> None:
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        torch.testing.assert_close(found.matrix, expected.matrix, rtol=1e-13, atol=1e-13)


# --- text of visuallocalization.net --------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=9).filter(any), st.integers(0, 2**31))
def test_pose_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, answered: list[bool], seed: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "poses.txt"
    scene = scene_of(random_poses(len(answered), seed, spread=1e3))
    estimates = off_by_a_little(scene, {i for i, known in enumerate(answered) if not known})
    write_pose_text(estimates, path)
    assert len(path.read_text().splitlines()) == sum(answered)

    found = read_pose_text(path, asked=estimates.by_name)
    assert set(found.by_name) == set(estimates.by_name)
    for name, estimate in estimates.by_name.items():
        assert_same_pose(found[name].cam_from_world, estimate.cam_from_world)
    assert len(read_pose_text(path)) == sum(answered)


def test_lines_may_come_in_any_order_with_comments_and_two_errors(tmp_path: Path) -> None:
    path = tmp_path / "poses.txt"
    path.write_text(f"# name qw qx qy qz tx ty tz\n\nb.jpg 0 1 0 0 1 2 3 0.27 0.01\n{LINE}\n")
    found = read_pose_text(path)
    assert list(found.by_name) == ["b.jpg", "a.jpg"]
    pose = found["a.jpg"].cam_from_world
    assert pose is not None
    assert pose.translation.tolist() == [0.5, -1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LINE}\n{LINE} 525.5\n", "line 2 has 9 columns"),
        (f"{LINE}\na.jpg 1 0 0 0 1 2\n", "line 2 has 7 columns"),
        (f"{LINE}\n\nb.jpg 1 0 0 0 1 2 3 4 5 6\n", "line 3 has 11 columns"),
        (f"{LINE}\nb.jpg 1 0 0 zero 1 2 3\n", "line 2 is no pose: .*'zero'"),
        (f"{LINE}\nb.jpg 1 0 0 0 1 nan 3\n", "line 2 is no pose: .*not finite"),
        (f"# head\n{LINE}\nb.jpg 0 0 0 0 1 2 3\n", "line 3 is no pose: the quaternion's norm is 0"),
        (f"b.jpg 2 0 0 0 1 2 3\n{LINE}\n", "line 1 is no pose: the quaternion's norm is 2"),
        (f"{LINE}\nb.jpg 1 0 0 0 1 2 3\n{LINE}\n", "line 3: a.jpg has a pose in line 1"),
        ("# nothing\n", "has no poses"),
        ("", "has no poses"),
    ],
)
def test_a_line_that_is_no_pose_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "poses.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_pose_text(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_poses_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "poses.txt"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_pose_text(path)


def test_names_are_cut_as_the_benchmark_wants_them(tmp_path: Path) -> None:
    views = views_of(random_poses(2), ["night/rear/1.jpg", "dusk/rear/2.jpg"])
    write_pose_text(true_poses(views), tmp_path / "two.txt", name_parts=2)
    assert [line.split()[0] for line in (tmp_path / "two.txt").read_text().splitlines()] == [
        "rear/1.jpg",
        "rear/2.jpg",
    ]
    views = views_of(random_poses(2), ["day/1.jpg", "night/1.jpg"])
    with pytest.raises(InputError, match=r"would both be called 1.jpg"):
        write_pose_text(true_poses(views), tmp_path / "one.txt", name_parts=1)
    assert not (tmp_path / "one.txt").exists()


# --- TUM, read by evo ----------------------------------------------------------------------------


def evo_ape(truth: Path, estimate: Path, relation: str, folder: Path) -> dict[str, float]:
    """What `evo_ape` says of two files, without alignment."""
    result = folder / f"{relation}.zip"
    command = [Path(sys.executable).with_name("evo_ape"), "tum", truth, estimate, "-r", relation]
    subprocess.run(
        [*map(str, command), "--save_results", str(result), "--no_warnings"],
        check=True,
        capture_output=True,
        env={**os.environ, "HOME": str(folder)},
    )
    with zipfile.ZipFile(result) as archive:
        return json.loads(archive.read("stats.json"))


def test_evo_measures_the_same_errors(tmp_path: Path) -> None:
    scene = scene_of(random_poses(40))
    estimates = off_by_a_little(scene, declined={3, 17, 39})
    write_tum(true_poses(scene.queries), scene.queries, tmp_path / "truth.tum")
    write_tum(estimates, scene.queries, tmp_path / "estimate.tum")
    report = evaluate(estimates, scene)

    for relation, error in (
        ("trans_part", report.position_error),
        ("angle_deg", report.rotation_error_deg),
    ):
        # A file of this format cannot say that a query was declined: evo sees the others only.
        answered = error[report.answered]
        assert len(answered) == 37
        found = evo_ape(tmp_path / "truth.tum", tmp_path / "estimate.tum", relation, tmp_path)
        assert found["mean"] == pytest.approx(answered.mean(), rel=1e-9)
        assert found["median"] == pytest.approx(np.median(answered), rel=1e-9)
        assert found["rmse"] == pytest.approx(np.sqrt((answered**2).mean()), rel=1e-9)
        assert found["max"] == pytest.approx(answered.max(), rel=1e-9)


def stamps_and_poses(path: Path) -> tuple[list[float], Rigid3d]:
    rows = [[float(word) for word in line.split()] for line in path.read_text().splitlines()]
    table = torch.tensor(rows, dtype=torch.float64)
    world_from_cam = Rigid3d.from_quat_wxyz(
        torch.cat([table[:, 7:], table[:, 4:7]], dim=-1), table[:, 1:4]
    )
    return table[:, 0].tolist(), world_from_cam


def test_tum_has_camera_poses_in_the_order_of_time(tmp_path: Path) -> None:
    views = views_of(random_poses(3))
    stamped = [
        replace(view, timestamp_s=stamp) for view, stamp in zip(views, (2.5, 0.5, 1.5), strict=True)
    ]
    write_tum(true_poses(views), stamped, tmp_path / "timed.tum")
    stamps, world_from_cam = stamps_and_poses(tmp_path / "timed.tum")
    assert stamps == [0.5, 1.5, 2.5]
    for place, view in enumerate((views[1], views[2], views[0])):
        assert_same_pose(world_from_cam[place], view.cam_from_world.inverse())


@pytest.mark.parametrize("stamps", [(None, 1.0, 2.0), (1.0, 1.0, 2.0), (None, None, None)])
def test_tum_counts_where_clocks_do_not_tell_views_apart(
    tmp_path: Path, stamps: tuple[float | None, ...]
) -> None:
    views = [
        replace(view, timestamp_s=stamp)
        for view, stamp in zip(views_of(random_poses(3)), stamps, strict=True)
    ]
    estimates = PoseEstimates({**true_poses(views).by_name, "q1.jpg": PoseEstimate(None)})
    write_tum(estimates, views, tmp_path / "counted.tum")
    assert stamps_and_poses(tmp_path / "counted.tum")[0] == [0.0, 2.0]


# --- COLMAP --------------------------------------------------------------------------------------


def test_pycolmap_reads_the_same_poses_and_cameras(tmp_path: Path) -> None:
    scene = scene_of(random_poses(6))
    estimates = off_by_a_little(scene, declined={2})
    other = Camera.of("OPENCV", 540, 960, [700.0, 705.0, 275.0, 470.0, 0.05, -0.03, 1e-3, -2e-3])
    answers = dict(estimates.by_name)
    answers["q4.jpg"] = replace(answers["q4.jpg"], camera=other)
    write_colmap(PoseEstimates(answers), scene.queries, tmp_path / "model")

    model = pycolmap.Reconstruction(tmp_path / "model")
    found = {image.name: image for image in model.images.values()}
    assert sorted(found) == ["q0.jpg", "q1.jpg", "q3.jpg", "q4.jpg", "q5.jpg"]
    for name, image in found.items():
        pose = answers[name].cam_from_world
        assert pose is not None
        matrix = image.cam_from_world().matrix()
        np.testing.assert_allclose(matrix, pose.matrix[:3].numpy(), rtol=0, atol=1e-13)
        camera = other if name == "q4.jpg" else CAMERA
        assert image.camera.model.name == camera.model
        assert (image.camera.width, image.camera.height) == (camera.width, camera.height)
        np.testing.assert_array_equal(image.camera.params, camera.params.numpy())
    assert len(model.cameras) == 2


# --- Map-free ------------------------------------------------------------------------------------

FRAMES = ["seq1/frame_00000.jpg", "seq1/frame_00005.jpg", "seq1/frame_00010.jpg"]


def mapfree_scene(name: str, seed: int = 0) -> PoseEstimates:
    return replace(true_poses(views_of(random_poses(3, seed), FRAMES)), scene=name)


def scored(estimates: PoseEstimates, **scores: float | int | None) -> PoseEstimates:
    by_name = {name: replace(answer, **scores) for name, answer in estimates.by_name.items()}
    return replace(estimates, by_name=by_name)


def test_a_mapfree_submission_has_what_its_evaluation_reads(tmp_path: Path) -> None:
    first = scored(mapfree_scene("s00525"), confidence=0.25)
    second = scored(mapfree_scene("s00526", seed=1), confidence=0.75)
    second = replace(second, by_name={**second.by_name, FRAMES[1]: PoseEstimate(None)})
    write_mapfree([first, second], tmp_path / "submission.zip")

    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert sorted(texts) == ["pose_s00525.txt", "pose_s00526.txt"]
    lines = [line.split(" ") for line in texts["pose_s00526.txt"].splitlines()]
    assert [line[0] for line in lines] == [FRAMES[0], FRAMES[2]]
    for name, *words in lines:
        # As their program reads a line: nine fields, the frame number before the ending.
        assert len(words) == 8
        assert FRAMES[int(name[-9:-4]) // 5] == name
        *pose, confidence = map(float, words)
        assert confidence == 0.75
        read = torch.tensor(pose, dtype=torch.float64)
        assert_same_pose(Rigid3d.from_quat_wxyz(read[:4], read[4:]), second[name].cam_from_world)


def test_the_same_estimates_give_the_same_submission(tmp_path: Path) -> None:
    scene = scored(mapfree_scene("s00525"), confidence=0.5)
    write_mapfree([scene], tmp_path / "a.zip")
    write_mapfree([scene], tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_inlier_counts_stand_in_for_confidences_in_all_scenes_or_none(tmp_path: Path) -> None:
    sure = scored(mapfree_scene("s00525"), confidence=0.5, num_inliers=70)
    counted = scored(mapfree_scene("s00526"), num_inliers=90)
    write_mapfree([sure, counted], tmp_path / "submission.zip")
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        last = [archive.read(name).decode().split()[-1] for name in sorted(archive.namelist())]
    assert last == ["70", "90"]
    with pytest.raises(InputError, match="neither a confidence nor an inlier count"):
        write_mapfree([sure, mapfree_scene("s00527")], tmp_path / "other.zip")


def test_what_is_no_mapfree_scene_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "submission.zip"
    scene = scored(mapfree_scene("s00525"), confidence=0.5)
    with pytest.raises(InputError, match="each scene once"):
        write_mapfree([scene, scene], path)
    with pytest.raises(InputError, match="each scene once"):
        write_mapfree([replace(scene, scene="")], path)
    kitchen = scored(true_poses(views_of(random_poses(2))), confidence=0.5)
    with pytest.raises(InputError, match=r"q0.jpg is no Map-free frame"):
        write_mapfree([replace(kitchen, scene="s00525")], path)
    assert not path.exists()


# --- what all have in common ---------------------------------------------------------------------

SCENE = scene_of(random_poses(2))
WRITERS = {
    "text": write_pose_text,
    "tum": lambda estimates, path: write_tum(estimates, SCENE.queries, path),
    "colmap": lambda estimates, path: write_colmap(estimates, SCENE.queries, path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_is_overwritten(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "out"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists: choose another name"):
        WRITERS[writer](true_poses(SCENE.queries), path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("writer", WRITERS)
def test_no_answer_is_no_file(tmp_path: Path, writer: str) -> None:
    nothing = PoseEstimates({view.name: PoseEstimate(None) for view in SCENE.queries})
    with pytest.raises(InputError, match="no query was answered"):
        WRITERS[writer](nothing, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", ["tum", "colmap"])
def test_a_view_without_an_estimate_is_named(tmp_path: Path, writer: str) -> None:
    with pytest.raises(InputError, match=r"query q1.jpg has no estimate"):
        WRITERS[writer](true_poses(SCENE.queries[:1]), tmp_path / "out")


def test_a_name_with_a_blank_is_refused(tmp_path: Path) -> None:
    blank = true_poses(views_of(random_poses(1), ["my photo.jpg"]))
    with pytest.raises(InputError, match=r"'my photo.jpg' has a blank"):
        write_pose_text(blank, tmp_path / "poses.txt")
