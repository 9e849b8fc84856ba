"""One test for each line with a dash in docs/conventions.md, under the words of that line."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import math
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

import reloc
from posed_views import CAMERA, random_poses, scene_of
from reloc.contract import PoseEstimate
from reloc.estimates import PoseEstimates
from reloc.estimation.absolute import estimate_absolute_pose
from reloc.evaluation.errors import position_error, rotation_error_deg
from reloc.evaluation.report import RECALLS, Threshold
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import Map, Provenance
from reloc.scenes.images import query_from_image, read_depth, read_image
from reloc.scenes.options import LoadOptions
from reloc.scenes.scene import Scene

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "conventions.md"
PROVED: list[str] = []


def sentences() -> list[str]:
    """The lines with a dash, with what continues them."""
    items = re.findall(r"^- (.+(?:\n  .+)*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [" ".join(item.split()) for item in items]


def proves(sentence: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The test proves a line of the page."""
    PROVED.append(sentence)
    return lambda test: test


def test_each_line_of_the_page_has_its_test_and_each_test_its_line() -> None:
    assert sorted(sentences()) == sorted(PROVED)


# ------------------------------------------------------------------------------ transforms


def quarter_turn_about_y() -> Tensor:
    """Takes z to x: by hand, so that it does not depend on what is tested."""
    return torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)


@proves(
    "A transform `b_from_a` moves points from frame a to frame b: x_b = rotation @ x_a + "
    "translation."
)
def test_transform() -> None:
    b_from_a = Rigid3d(quarter_turn_about_y(), torch.tensor([10.0, 20.0, 30.0]).double())
    point_a = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert (b_from_a @ point_a).tolist() == [[13.0, 22.0, 29.0]]


@proves("Transforms chain where their inner frames meet: `c_from_a = c_from_b @ b_from_a`.")
def test_chain() -> None:
    c_from_b, b_from_a = random_poses(2)
    points_a = torch.randn(5, 3, dtype=torch.float64)
    c_from_a = c_from_b @ b_from_a
    torch.testing.assert_close(c_from_a @ points_a, c_from_b @ (b_from_a @ points_a))


@proves("The inverse of `b_from_a` is `a_from_b`.")
def test_inverse() -> None:
    b_from_a = random_poses(1)[0]
    a_from_b = b_from_a.inverse()
    points_a = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(a_from_b @ (b_from_a @ points_a), points_a)


@proves("A pose is `cam_from_world`, in double precision.")
def test_pose(written_scene: Path) -> None:
    view = reloc.load_scene(written_scene).mapping[0]
    assert view.cam_from_world.rotation.dtype == torch.float64
    assert view.cam_from_world.translation.dtype == torch.float64
    # The file says where the first camera is; from there, a point in front of it has z > 0.
    point_world = view.center_world + 5.0 * view.cam_from_world.rotation[2]
    seen = view.cam_from_world @ point_world[None]
    torch.testing.assert_close(seen, torch.tensor([[0.0, 0.0, 5.0]], dtype=torch.float64))


@proves("The camera centre is the translation of `world_from_cam`, not that of `cam_from_world`.")
def test_centre() -> None:
    cam_from_world = random_poses(1)[0]
    center_world = cam_from_world.inverse().translation
    at_the_lens = cam_from_world @ center_world[None]
    torch.testing.assert_close(at_the_lens, torch.zeros(1, 3, dtype=torch.float64))
    assert (center_world - cam_from_world.translation).norm() > 0.1
    view = scene_of(Rigid3d.stack([cam_from_world])).queries[0]
    torch.testing.assert_close(view.center_world, center_world)


@proves("Quaternions have w first.")
def test_quaternion() -> None:
    half = math.sqrt(0.5)
    pose = Rigid3d(quarter_turn_about_y(), torch.zeros(3, dtype=torch.float64))
    assert pose.quat_wxyz.tolist() == pytest.approx([half, 0, half, 0])
    again = Rigid3d.from_quat_wxyz(pose.quat_wxyz, pose.translation)
    torch.testing.assert_close(again.rotation, pose.rotation)


@proves("A tangent has six numbers, rotation first: rotation vector, then translation.")
def test_tangent() -> None:
    turn = Rigid3d.exp(torch.tensor([0, math.pi / 2, 0, 0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(turn.rotation, quarter_turn_about_y())
    assert turn.translation.tolist() == [0, 0, 0]
    shift = Rigid3d.exp(torch.tensor([0, 0, 0, 1, 2, 3], dtype=torch.float64))
    assert shift.translation.tolist() == [1, 2, 3]
    assert shift.log().tolist() == [0, 0, 0, 1, 2, 3]


@proves(
    "A rotation that is read from a file is replaced by the nearest orthonormal one, and refused "
    "where it is far from any."
)
def test_few_digits() -> None:
    rounded = (1e3 * random_poses(1)[0].matrix).round() / 1e3
    rotation = Rigid3d.from_matrix(rounded).rotation
    eye = torch.eye(3, dtype=torch.float64)
    assert (rounded[:3, :3] @ rounded[:3, :3].mT - eye).abs().max() > 1e-5
    torch.testing.assert_close(rotation @ rotation.mT, eye, rtol=0, atol=1e-14)
    assert (rotation - rounded[:3, :3]).abs().max() < 2e-3
    with pytest.raises(ValueError, match="R Rᵀ"):
        Rigid3d.from_matrix(1.1 * random_poses(1)[0].matrix[:3])


# ------------------------------------------------------------------------------ cameras


@proves("Camera axes are x right, y down, z forward.")
def test_camera_axes() -> None:
    ahead, right, below = CAMERA.img_from_cam(
        torch.tensor([[0.0, 0, 2], [0.5, 0, 2], [0, 0.5, 2]], dtype=torch.float64)
    )
    assert right[0] > ahead[0]
    assert right[1] == ahead[1]
    assert below[1] > ahead[1]
    assert below[0] == ahead[0]
    behind = torch.tensor([[0.0, 0.0, -2.0]], dtype=torch.float64)
    assert bool(CAMERA.img_from_cam(behind).isnan().all())


@proves("A pixel is (x, y), and the centre of the top-left pixel is (0.5, 0.5).")
def test_pixel() -> None:
    """A picture of one pixel, turned and halved, is where the camera says it is."""
    image = torch.zeros(CAMERA.height, CAMERA.width)
    image[4:6, 10:12] = 1
    rows, columns = image.nonzero().double().unbind(1)
    center = torch.stack([columns.mean() + 0.5, rows.mean() + 0.5])
    ray = torch.cat([CAMERA.cam_from_img(center), torch.ones(1, dtype=torch.float64)])

    half = torch.nn.functional.avg_pool2d(image[None], 2)[0]
    ((row, column),) = half.nonzero().tolist()
    camera = CAMERA.resized(CAMERA.width // 2, CAMERA.height // 2)
    assert camera.img_from_cam(ray).tolist() == pytest.approx([column + 0.5, row + 0.5])


@proves("Camera models are COLMAP's, with its names and its order of parameters.")
def test_models() -> None:
    points = torch.tensor([[0.3, -0.2, 1.5], [-0.1, 0.4, 2.0]], dtype=torch.float64)
    for model in Camera.MODELS:
        theirs = pycolmap.Camera.create_from_model_name(1, model, 500.0, 640, 480)
        theirs.params = theirs.params + np.linspace(0.01, 0.02, len(theirs.params))
        ours = Camera.of(model, 640, 480, theirs.params)
        expected = np.array(theirs.img_from_cam(points.numpy()))
        np.testing.assert_allclose(ours.img_from_cam(points).numpy(), expected, atol=1e-9)


@proves("Intrinsics belong to an image size, and scale with it from the corner (0, 0).")
def test_size() -> None:
    camera = Camera.of("SIMPLE_RADIAL", 640, 480, [500, 300, 250, -0.1])
    assert camera.resized(320, 240).params.tolist() == [250, 150, 125, -0.1]
    view = scene_of(random_poses(1)).queries[0]
    other_size = dataclasses.replace(
        view, image_reader=lambda: torch.zeros(3, 240, 320, dtype=torch.uint8)
    )
    with pytest.raises(InputError, match="320x240"):
        other_size.read_image()


@proves(
    "A point that a camera cannot see projects to NaN, and a pixel without a ray has the point NaN."
)
def test_unseen() -> None:
    wide = Camera.of("SIMPLE_RADIAL", 640, 480, [300, 320, 240, -0.4])
    behind_and_beyond = torch.tensor([[0.0, 0, -1], [3, 0, 1]], dtype=torch.float64)
    assert bool(wide.img_from_cam(behind_and_beyond).isnan().all())
    assert bool(wide.cam_from_img(torch.tensor([0.5, 0.5]).double()).isnan().all())


@proves(
    "Where the focal length is not known, `has_prior_focal` is false and the focal length is a "
    "guess."
)
def test_unknown_focal(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    camera = query_from_image(tmp_path / "photo.png").camera
    assert not camera.has_prior_focal
    assert camera.params.tolist() == Camera.guess(64, 48).params.tolist()
    assert Camera.simple_pinhole(50, 64, 48).has_prior_focal


# ------------------------------------------------------------------------------ images and depth


@proves("Images are uint8 RGB of shape (3, H, W).")
def test_image(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (255, 128, 0)).save(tmp_path / "orange.png")
    image = read_image(tmp_path / "orange.png")
    assert image.dtype == torch.uint8
    assert image.shape == (3, 48, 64)
    assert image[:, 7, 9].tolist() == [255, 128, 0]


def write_photo(path: Path, orientation: int = 1, focal_35mm: int | None = None) -> None:
    """64x48 as stored: the left half is red, the right half is blue."""
    picture = Image.new("RGB", (64, 48), (255, 0, 0))
    picture.paste((0, 0, 255), (32, 0, 64, 48))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if focal_35mm:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal_35mm
    picture.save(path, exif=exif, quality=95)


@proves(
    "An image is turned upright as its EXIF orientation says, unless its intrinsics are for the "
    "size as it is stored."
)
def test_orientation(tmp_path: Path) -> None:
    # 6: to be turned clockwise to be upright, so that what is left as stored is the top.
    write_photo(tmp_path / "portrait.jpg", orientation=6)
    upright = query_from_image(tmp_path / "portrait.jpg")
    assert upright.image.shape == (3, 64, 48)
    assert (upright.camera.width, upright.camera.height) == (48, 64)
    red, _, blue = upright.image[:, 5, 24].tolist()
    assert red > 200
    assert blue < 50

    stored = query_from_image(tmp_path / "portrait.jpg", camera=Camera.simple_pinhole(60, 64, 48))
    assert stored.image.shape == (3, 48, 64)
    turned = query_from_image(tmp_path / "portrait.jpg", camera=Camera.simple_pinhole(60, 48, 64))
    assert torch.equal(turned.image, upright.image)


@proves("A focal length in EXIF is used where no other is given.")
def test_exif_focal(tmp_path: Path) -> None:
    write_photo(tmp_path / "photo.jpg", focal_35mm=28)
    camera = query_from_image(tmp_path / "photo.jpg").camera
    assert camera.has_prior_focal
    diagonal_ratio = float(camera.focal[0]) / math.hypot(64, 48)
    assert diagonal_ratio == pytest.approx(28 / math.hypot(36, 24))
    given = Camera.simple_pinhole(123, 64, 48)
    assert float(query_from_image(tmp_path / "photo.jpg", given).camera.focal[0]) == 123


@proves("Depth is in metres along the optical axis, not along the ray, as float32 of shape (H, W).")
def test_depth(small_room: Scene) -> None:
    """Walls are planes: z along the axis makes them flat, lengths of rays would make them bowls."""
    view = small_room.mapping[0]
    depth = view.read_depth()
    assert depth is not None
    assert depth.dtype == torch.float32
    assert depth.shape == (view.camera.height, view.camera.width)
    along_axis, along_ray = (
        disagreement_with_neighbours(small_room, by_ray=by_ray) for by_ray in (False, True)
    )
    assert along_axis < 0.005
    assert along_ray > 3 * along_axis


@proves("Depth is registered to its image: pixel by pixel they see the same point.")
def test_registered_depth(small_room: Scene) -> None:
    assert small_room.metric
    assert disagreement_with_neighbours(small_room) < 0.005
    assert disagreement_with_neighbours(small_room, shift_px=4) > 0.005


@proves("Depth is 0 where it is unknown.")
def test_unknown_depth(tmp_path: Path) -> None:
    stored = np.array([[0, 65535, 1234]], dtype=np.uint16)
    Image.fromarray(stored).save(tmp_path / "depth.png")
    assert read_depth(tmp_path / "depth.png", unit_m=0.001).tolist() == [
        pytest.approx([0, 0, 1.234])
    ]


# ------------------------------------------------------------------------------ units


@proves("Angles are in radians, and in degrees only under names that end in `_deg`.")
def test_angles() -> None:
    """Whatever is made of degrees, or into degrees, has `_deg` in the name (before its shape)."""
    checked = 0
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parents = {
            child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            function, words = node.func.attr, ast.unparse(node)
            if function in {"deg2rad", "radians"}:
                assert re.search(r"_deg|\d", words), f"{path}: {words}"
            elif function in {"rad2deg", "degrees"}:
                assert "_deg" in name_given_to(node, parents), f"{path}: {words}"
            else:
                continue
            checked += 1
    assert checked > 5


def name_given_to(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> str:
    """The variable, argument or function that a value goes by, or what it is compared with."""
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.Assign):
            return ast.unparse(node.targets[0])
        if isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            return ast.unparse(node.target)
        if isinstance(node, ast.keyword):
            return node.arg or ""
        if isinstance(node, ast.Compare):
            return ast.unparse(node)
        if isinstance(node, ast.FunctionDef):
            return node.name
    return ""


@proves(
    "Lengths are in metres where a scene is metric, and else in units, and are printed as such."
)
def test_lengths() -> None:
    for metric, unit in ((True, "m"), (False, "units")):
        scene = scene_of(random_poses(3), metric=metric)
        report = reloc.evaluate(true_answers(scene), scene)
        assert report.unit == unit
    with pytest.raises(ValueError, match="no metric scale"):
        report.recall(RECALLS[0])


# ------------------------------------------------------------------------------ other conventions


CENTERS = [[0.0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 1], [4, 0, 1], [5, 0, 2]]


@pytest.fixture
def written_scene(tmp_path: Path) -> Path:
    """Images and poses of cameras at CENTERS, all turned by one rotation, in this convention."""
    write_images(tmp_path)
    poses = Rigid3d(
        quarter_turn_about_y().expand(len(CENTERS), 3, 3),
        -torch.tensor(CENTERS, dtype=torch.float64) @ quarter_turn_about_y().mT,
    )
    write_poses(tmp_path, "cam_from_world", "wxyz", poses.quat_wxyz, poses.translation)
    return tmp_path


def write_images(folder: Path) -> None:
    for index in range(len(CENTERS)):
        Image.new("RGB", (64, 48), (40 * index, 100, 0)).save(folder / f"{index}.png")


def write_poses(folder: Path, kind: str, order: str, quats: Tensor, translations: Tensor) -> None:
    numbers = torch.cat([quats, translations], dim=1).tolist()
    lines = [" ".join([f"{index}.png", *map(str, row), "60"]) for index, row in enumerate(numbers)]
    head = [f"# convention: {kind}", f"# quaternion: {order}"]
    (folder / "poses.txt").write_text("\n".join([*head, *lines]) + "\n")


def assert_cameras_are_as_written(scene: Scene) -> None:
    views = {view.name: view for view in (*scene.mapping, *scene.queries)}
    assert len(views) > 3
    for name, view in views.items():
        center = CENTERS[int(name.split(".")[0])]
        assert view.center_world.tolist() == pytest.approx(center, abs=1e-9)
        torch.testing.assert_close(view.cam_from_world.rotation, quarter_turn_about_y())


@proves("Poses in OpenGL axes (y up, z backward) are turned about x by half a turn.")
def test_opengl(tmp_path: Path) -> None:
    write_images(tmp_path)
    world_from_cam = torch.eye(4, dtype=torch.float64).repeat(len(CENTERS), 1, 1)
    world_from_cam[:, :3, :3] = quarter_turn_about_y().mT
    world_from_cam[:, :3, 3] = torch.tensor(CENTERS)
    # The columns are where the camera's axes point: OpenGL's y and z are the opposite ones.
    world_from_cam[:, :, 1:3] *= -1
    frames = [
        {"file_path": f"{index}.png", "transform_matrix": matrix.tolist()}
        for index, matrix in enumerate(world_from_cam)
    ]
    content = {"fl_x": 60, "fl_y": 60, "cx": 32, "cy": 24, "w": 64, "h": 48, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    assert_cameras_are_as_written(reloc.load_scene(tmp_path))


@proves("Poses that files state as camera to world are inverted.")
def test_camera_to_world(written_scene: Path) -> None:
    assert_cameras_are_as_written(reloc.load_scene(written_scene))
    world_from_cam = Rigid3d(
        quarter_turn_about_y().mT.expand(len(CENTERS), 3, 3),
        torch.tensor(CENTERS, dtype=torch.float64),
    )
    quats = world_from_cam.quat_wxyz
    write_poses(written_scene, "world_from_cam", "wxyz", quats, world_from_cam.translation)
    assert_cameras_are_as_written(reloc.load_scene(written_scene))
    with pytest.raises(AssertionError):
        misread = LoadOptions(poses="cam_from_world")
        assert_cameras_are_as_written(reloc.load_scene(written_scene, misread))


@proves("Quaternions that files state x first are reordered.")
def test_quaternion_order(written_scene: Path) -> None:
    scene = reloc.load_scene(written_scene)
    views = sorted((*scene.mapping, *scene.queries), key=lambda view: view.name)
    if len(views) < len(CENTERS):
        pytest.fail("the split left views out: their poses cannot be written again")
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    quats_xyzw = poses.quat_wxyz.roll(-1, -1)
    write_poses(written_scene, "cam_from_world", "xyzw", quats_xyzw, poses.translation)
    assert_cameras_are_as_written(reloc.load_scene(written_scene))


# ------------------------------------------------------------------------------ answers


def true_answers(scene: Scene) -> PoseEstimates:
    return PoseEstimates(
        {view.name: PoseEstimate(view.cam_from_world) for view in scene.queries},
        method="truth",
        scene=scene.name,
        ground_truth=scene.ground_truth,
    )


def with_answer(estimates: PoseEstimates, name: str, answer: PoseEstimate) -> PoseEstimates:
    return dataclasses.replace(estimates, by_name={**estimates.by_name, name: answer})


@proves("A query that is declined has `cam_from_world=None`, and its errors are infinite.")
def test_declined() -> None:
    scene = scene_of(random_poses(3))
    declined = with_answer(true_answers(scene), "q1.jpg", PoseEstimate(None))
    report = reloc.evaluate(declined, scene)
    assert report.position_error.tolist() == [0, math.inf, 0]
    assert math.isinf(report.rotation_error_deg[1])
    assert report.num_declined == 1
    with pytest.raises(ValueError, match="finite or None"):
        PoseEstimate(Rigid3d(torch.eye(3), torch.full((3,), math.nan)))


@proves("A query without an estimate is refused: a declined one has an estimate, too.")
def test_missing() -> None:
    scene = scene_of(random_poses(3))
    answers = true_answers(scene)
    fewer = {name: answer for name, answer in answers.by_name.items() if name != "q1.jpg"}
    with pytest.raises(InputError, match=r"q1\.jpg"):
        reloc.evaluate(dataclasses.replace(answers, by_name=fewer), scene)


@proves("The position error is the distance between the camera centres.")
def test_position_error() -> None:
    truth = random_poses(1)[0]
    # A camera that turns where it stands keeps its centre, though its translation changes.
    turned = Rigid3d.exp(torch.tensor([0.1, 0.2, 0.3, 0, 0, 0], dtype=torch.float64)) @ truth
    assert (turned.translation - truth.translation).norm() > 0.01
    assert float(position_error(turned, truth)) == pytest.approx(0, abs=1e-12)
    moved = Rigid3d.exp(torch.tensor([0, 0, 0, 3.0, 0, 4.0], dtype=torch.float64)) @ truth
    assert float(position_error(moved, truth)) == pytest.approx(5)


@proves("The rotation error is the angle of the rotation between the two cameras.")
def test_rotation_error() -> None:
    truth = random_poses(1)[0]
    for angle_deg in (0.001, 1.0, 90.0, 179.999):
        axis = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
        tangent = torch.cat([math.radians(angle_deg) * axis, torch.tensor([9.0, 9.0, 9.0])])
        turned = Rigid3d.exp(tangent) @ truth
        assert float(rotation_error_deg(turned, truth)) == pytest.approx(angle_deg, rel=1e-6)


@proves("A query counts for a recall where both of its errors are below the thresholds, strictly.")
def test_recall() -> None:
    scene = scene_of(Rigid3d.identity(4))
    tangents = {
        "q0.jpg": [0.0, 0, 0, 0.25, 0, 0],
        "q1.jpg": [0.0, 0, 0, 0.249, 0, 0],
        "q2.jpg": [0.0, 0, math.radians(3), 0.1, 0, 0],
        "q3.jpg": [0.0, 0, math.radians(1.9), 0.1, 0, 0],
    }
    answers = true_answers(scene)
    for name, tangent in tangents.items():
        pose = Rigid3d.exp(torch.tensor(tangent, dtype=torch.float64))
        answers = with_answer(answers, name, PoseEstimate(pose))
    correct = reloc.evaluate(answers, scene).correct(Threshold(0.25, 2))
    assert correct.tolist() == [False, True, False, True]


@proves("Medians and recalls are over all queries, the declined ones among them.")
def test_medians() -> None:
    scene = scene_of(Rigid3d.identity(5))
    answers = true_answers(scene)
    for name, error in (("q0.jpg", 0.02), ("q1.jpg", 0.03)):
        pose = Rigid3d.exp(torch.tensor([0, 0, 0, error, 0, 0], dtype=torch.float64))
        answers = with_answer(answers, name, PoseEstimate(pose))
    for name in ("q2.jpg", "q3.jpg"):
        answers = with_answer(answers, name, PoseEstimate(None))
    # 0, 0.02, 0.03, inf, inf.
    report = reloc.evaluate(answers, scene)
    assert report.median_position == pytest.approx(0.03)
    assert report.recall(Threshold(0.05, 5)) == pytest.approx(3 / 5)
    worse = reloc.evaluate(with_answer(answers, "q4.jpg", PoseEstimate(None)), scene)
    assert math.isinf(worse.median_position)


@proves(
    "A covariance is of a left perturbation: the truth is exp(ξ) @ `cam_from_world`, ξ with "
    "rotation (radians) before translation."
)
def test_covariance() -> None:
    """Poses from noisy points miss the truth by as much as they say, in the directions they say."""
    generator = torch.Generator().manual_seed(0)
    truth = Rigid3d.exp(torch.tensor([0.4, -0.8, 0.3, 1.0, -2.0, 0.5], dtype=torch.float64))
    noise_px = 1.0
    squared, predicted, happened = [], [], []
    for seed in range(60):
        points_cam = torch.rand(80, 3, dtype=torch.float64, generator=generator)
        points_cam = points_cam * torch.tensor([3.0, 2.0, 1.0]) + torch.tensor([-1.5, -1.0, 5.0])
        pixels = CAMERA.img_from_cam(points_cam)
        noise = torch.randn(pixels.shape, dtype=torch.float64, generator=generator)
        points_world = truth.inverse() @ points_cam
        answer = estimate_absolute_pose(
            pixels + noise_px * noise, points_world, CAMERA, max_error_px=8.0, seed=seed
        )
        assert answer is not None
        error = (truth @ answer.cam_from_world.inverse()).log()
        squared.append(error @ torch.linalg.solve(answer.covariance, error))
        predicted.append(answer.covariance)
        happened.append(error[:, None] @ error[None])
    # Six degrees of freedom; the mean of 60 has a standard deviation of sqrt(12 / 60).
    assert float(torch.stack(squared).mean()) == pytest.approx(6, abs=3 * math.sqrt(12 / 60))
    ratio = torch.stack(happened).mean(0).diagonal() / torch.stack(predicted).mean(0).diagonal()
    assert bool((ratio > 0.5).all())
    assert bool((ratio < 2).all())


@proves("A confidence is the probability that the pose is right, or None.")
def test_confidence() -> None:
    """Answers that are right as often as their confidence says have no calibration error."""
    scene = scene_of(Rigid3d.identity(10))
    wrong = Rigid3d.exp(torch.tensor([0, 0, 0, 9.0, 0, 0], dtype=torch.float64))
    answers = true_answers(scene)
    for index in range(10):
        pose = Rigid3d.identity() if index < 8 else wrong
        answers = with_answer(answers, f"q{index}.jpg", PoseEstimate(pose, confidence=0.8))
    report = reloc.evaluate(answers, scene)
    calibrated = report.reliability(report.standard_threshold)
    assert calibrated is not None
    assert calibrated.expected_calibration_error == pytest.approx(0, abs=1e-9)
    unsure = reloc.evaluate(true_answers(scene), scene)
    assert unsure.reliability(unsure.standard_threshold) is None


@proves(
    "Errors are taken against the ground truth that the map was built with; another one is refused."
)
def test_ground_truth() -> None:
    scene = scene_of(random_poses(3))
    others = dataclasses.replace(true_answers(scene), ground_truth="d-slam")
    with pytest.raises(InputError, match="d-slam"):
        reloc.evaluate(others, scene)


# ------------------------------------------------------------------------------ files


def a_map() -> Map:
    provenance = Provenance("room", "sfm", True, 2, 0, 0.1, "cpu", 1, "none", {})
    return Map("thumbnail", {}, {"numbers": torch.arange(5)}, provenance)


@proves("Nothing that exists is overwritten.")
def test_no_overwriting(tmp_path: Path) -> None:
    scene = scene_of(random_poses(3))
    a_map().save(tmp_path / "map")
    true_answers(scene).write(tmp_path / "estimates.jsonl")
    before = (tmp_path / "estimates.jsonl").read_bytes()
    with pytest.raises(InputError, match="exists"):
        a_map().save(tmp_path / "map")
    with pytest.raises(InputError, match="exists"):
        true_answers(scene).write(tmp_path / "estimates.jsonl")
    assert (tmp_path / "estimates.jsonl").read_bytes() == before


@proves("What is written appears whole under its name, or not at all.")
def test_whole(tmp_path: Path) -> None:
    scene = scene_of(random_poses(3))
    with files_of_at_most(num_bytes=100):
        with pytest.raises(InputError, match="cannot be written"):
            a_map().save(tmp_path / "map")
        with pytest.raises(InputError, match="cannot be written"):
            true_answers(scene).write(tmp_path / "estimates.jsonl")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """As on a full disk: what goes beyond fails while it is written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# ------------------------------------------------------------------------------ helpers of depth


def disagreement_with_neighbours(scene: Scene, by_ray: bool = False, shift_px: int = 0) -> float:
    """Median relative difference between a point's depth in one view and as the next one has it.

    Args:
        scene: with depth.
        by_ray: take depth for the length of the ray.
        shift_px: read the first depth map so many columns off.
    """
    differences = []
    for first, second in itertools.pairwise(list(scene.mapping)[:7]):
        depth0, depth1 = first.read_depth(), second.read_depth()
        assert depth0 is not None
        assert depth1 is not None
        rows, columns = torch.meshgrid(
            torch.arange(0, first.camera.height, 5),
            torch.arange(0, first.camera.width - shift_px, 5),
            indexing="ij",
        )
        rows, columns = rows.flatten(), columns.flatten()
        plane = first.camera.cam_from_img(torch.stack([columns + 0.5, rows + 0.5], -1).double())
        rays = torch.nn.functional.pad(plane, (0, 1), value=1.0)
        z = depth0[rows, columns + shift_px].double()
        points0 = rays * (z / rays.norm(dim=-1) if by_ray else z)[:, None]
        points1 = (second.cam_from_world @ first.cam_from_world.inverse()) @ points0
        pixels1 = second.camera.img_from_cam(points1).nan_to_num(-1)
        size = torch.tensor([second.camera.width, second.camera.height])
        seen = ((pixels1 >= 0) & (pixels1 < size)).all(-1) & (z > 0)
        columns1, rows1 = pixels1[seen].long().unbind(-1)
        there = depth1[rows1, columns1].double()
        expected = points1[seen, 2] * (
            points1[seen].norm(dim=-1) / points1[seen, 2] if by_ray else 1
        )
        differences.append(((there - expected).abs() / expected)[there > 0])
    return float(torch.cat(differences).median())
