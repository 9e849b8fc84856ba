from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from mistaken import cameras_scaled, inverted, opengl_as_opencv, scaled, with_cameras, with_views
from real_scenes import judged, real_scene

from reloc.doctor import Diagnosis, diagnosis_lines, examine
from reloc.doctor.findings import find_all
from reloc.doctor.survey import survey
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene
from reloc.scenes.scene import Scene


def whats(diagnosis: Diagnosis, severity: str) -> list[str]:
    return [finding.what for finding in diagnosis.findings if finding.severity == severity]


def mendings(diagnosis: Diagnosis) -> list[str]:
    return [finding.mending for finding in diagnosis.findings if finding.severity == "error"]


def few(room: Scene) -> Scene:
    """Too few views to test conventions, so that the rest is fast."""
    return replace(room, mapping=room.mapping[:2], queries=room.queries[:1])


class TestExamine:
    def test_a_sound_scene(self, room):
        diagnosis = examine(room)
        assert diagnosis.is_sound
        assert diagnosis.conventions.verdict == "sound"
        assert diagnosis.overlap.seen_share.median > 0.5
        lines = diagnosis_lines(diagnosis)
        assert any("poses and cameras fit the images" in line for line in lines)
        assert any("240x180" in line for line in lines)
        assert not any(line.startswith("error") for line in lines)

    def test_it_is_json_of_plain_numbers(self, room):
        stored = json.loads(json.dumps(examine(few(room)).as_json(), allow_nan=False))
        assert stored["survey"]["num_mapping"] == 2
        assert stored["conventions"]["verdict"] == "untested"
        assert stored["findings"][0]["severity"] == "warning"

    def test_nothing_to_look_at(self):
        diagnosis = examine(Scene("none", [], [], "given"))
        assert diagnosis.conventions.verdict == "untested"
        assert diagnosis_lines(diagnosis)

    def test_lines_end_with_the_gravest(self, room):
        def refuse():
            raise InputError("image gone.jpg is missing")

        views = list(few(room).mapping)
        broken = replace(few(room), mapping=[replace(views[0], image_reader=refuse), views[1]])
        lines = diagnosis_lines(examine(broken))
        assert lines[-3:] == [
            "error: 1 image cannot be read: image gone.jpg is missing",
            f"  {views[0].name}",
            "  -> replace or remove them",
        ]


class TestFindings:
    def test_the_same_image_in_map_and_queries_is_a_leak(self, room):
        scene = few(room)
        copied = replace(scene.queries[0], image_reader=scene.mapping[0].image_reader)
        diagnosis = examine(replace(scene, queries=[copied]))
        assert not diagnosis.is_sound
        assert whats(diagnosis, "error") == ["1 query is, pixel for pixel, a mapping image"]
        assert diagnosis.findings[0].where == (copied.name,)

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            (2.0, "--intrinsics-scale 0.5"),
            (0.5, "--intrinsics-scale 2"),
            (0.4, "--intrinsics-scale 2.5"),
        ],
    )
    def test_intrinsics_of_another_size(self, room, size, expected):
        diagnosis = examine(cameras_scaled(size, size, size)(few(room)))
        assert mendings(diagnosis) == [expected]
        assert len(diagnosis.findings[0].where) == 3

    def test_intrinsics_of_the_turned_image(self, room):
        diagnosis = examine(with_cameras(few(room), lambda camera: camera.rotated(1)))
        assert "turn these images by 90 degrees" in mendings(diagnosis)[0]

    def test_a_principal_point_far_out(self, room):
        scene = with_cameras(few(room), lambda camera: scaled(camera, 1, 2, 1))
        found = whats(examine(scene), "warning")
        assert any("principal point far from the middle" in what for what in found)

    def test_a_guessed_focal_length_is_no_error(self, room):
        def guess(camera):
            return camera.with_focal(1.3 * float(camera.focal[0]), has_prior_focal=False)

        diagnosis = examine(with_cameras(room, guess))
        assert diagnosis.is_sound
        assert diagnosis.conventions.verdict == "mistaken"
        assert any("the focal length is wrong" in what for what in whats(diagnosis, "warning"))

    def test_two_worlds(self, room):
        other_from_world = Rigid3d.exp(torch.tensor([0.1, 0.5, 0.2, 1.0, 2.0, 0.5]).double())
        moved = [
            replace(view, cam_from_world=view.cam_from_world @ other_from_world)
            for view in room.queries
        ]
        found = whats(examine(replace(room, queries=moved)), "error")
        assert any("do not share one world" in what for what in found)

    def test_millimetres_taken_for_metres(self, room):
        def shrink(view):
            pose = view.cam_from_world
            return replace(view, cam_from_world=Rigid3d(pose.rotation, 1000 * pose.translation))

        diagnosis = examine(with_views(room, shrink))
        found = whats(diagnosis, "warning")
        assert any("in metres, but what the images show" in what for what in found)
        assert any("depth maps give" in what for what in found)
        assert diagnosis.conventions.depth_ratio == pytest.approx(1e-3, rel=0.03)

    def test_the_loaders_notes_are_passed_on(self, room):
        diagnosis = examine(replace(few(room), notes=("3 images are left out",)))
        assert "3 images are left out" in whats(diagnosis, "note")


def write_scene(folder: Path, scene: Scene, order: str = "wxyz") -> Path:
    """The layout `folder`, with poses as they are."""
    (folder / "images").mkdir(parents=True)
    lines = ["# convention: cam_from_world"]
    for view in (*scene.mapping, *scene.queries):
        name = view.name.replace("/", "_") + ".png"
        image = view.read_image().permute(1, 2, 0).contiguous().numpy()
        cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        quat = view.cam_from_world.quat_wxyz.roll(-1 if order == "xyzw" else 0, -1)
        numbers = [*quat.tolist(), *view.cam_from_world.translation.tolist()]
        lines.append(" ".join([name, *(f"{number:.9f}" for number in numbers)]))
    (folder / "poses.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    camera = scene.mapping[0].camera
    params = " ".join(str(value) for value in camera.params.tolist())
    (folder / "intrinsics.txt").write_text(
        f"{camera.model} {camera.width} {camera.height} {params}\n", encoding="utf-8"
    )
    return folder


@pytest.mark.parametrize(
    ("spoil", "order", "remedy"),
    [
        (inverted, "wxyz", LoadOptions(poses="world_from_cam")),
        (opengl_as_opencv, "wxyz", LoadOptions(axes="opengl")),
        (lambda scene: scene, "xyzw", LoadOptions(quaternion="xyzw")),
    ],
)
def test_the_option_that_is_named_mends_it(tmp_path, room, spoil, order, remedy):
    path = write_scene(tmp_path / "own", spoil(room), order)
    diagnosis = examine(load_scene(path, LoadOptions()))
    (field,) = remedy.given()
    assert [mending.split(" (")[0] for mending in mendings(diagnosis)] == [
        f"--{field} {getattr(remedy, field)}"
    ]
    assert examine(load_scene(path, remedy)).is_sound


@pytest.mark.data
def test_raw_kitchen_poses_are_told_to_be_the_depth_cameras(shared_data):
    raw = real_scene(shared_data, "redkitchen", LoadOptions(ground_truth="raw"))
    test = judged(real_scene(shared_data, "redkitchen"), raw)
    (error,) = [
        finding
        for finding in find_all(raw, survey(raw, []), [], test, None)
        if finding.severity == "error"
    ]
    assert error.what.startswith("the focal length is wrong: it is 585 px, and 525 px fits")
    assert "the depth camera's" in error.what
    assert error.mending == "--ground-truth sfm (or d-slam), else --focal 525"
