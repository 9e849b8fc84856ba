"""Laws that every method obeys: each test here runs on every row of METHODS with its `tiny` config.

A row that breaks a law says so, with the reason, in its `expected_failures`; it is then a strict
xfail, so that an exemption that is no longer needed fails until it is taken out of the row.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import faiss
import numpy as np
import pytest
import roma
import safetensors.torch
import torch
from torch import Tensor

import reloc
from reloc.contract import (
    Localizer,
    Method,
    PoseEstimate,
    Run,
    config_from_json,
    config_to_json,
)
from reloc.estimates import PoseEstimates
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.geometry.rotation import angle_between_rad
from reloc.input_error import InputError
from reloc.maps import Map
from reloc.methods import METHODS, get_config, get_method
from reloc.scenes.scene import Query, Scene, View
from reloc.steps import open_map

AnyMethod = Method[Any]
METHODS_FOLDER = Path(reloc.__file__).parent / "methods"
LAWS: list[str] = []
NUM_FEW_VIEWS = 8
NUM_FIRST_QUERIES = 3


def half_of(name: str) -> str:
    """Which of two processes tests a row, where tests run side by side."""
    return f"laws-{list(METHODS).index(name) % 2}"


def law(function: Callable[..., None]) -> Callable[..., None]:
    """Run a test on every row; the row's own words exempt it."""
    name = function.__name__.removeprefix("test_")
    LAWS.append(name)
    rows = []
    for method in METHODS:
        row = get_method(method)
        reason = row.expected_failures.get(name)
        marks = [pytest.mark.xdist_group(half_of(method))]
        if reason:
            marks.append(pytest.mark.xfail(reason=reason, strict=True))
        rows.append(pytest.param(row, id=method, marks=marks))
    return pytest.mark.parametrize("row", rows)(function)


# ------------------------------------------------------------------------------ what the laws share


# Metres; of pictures that show nothing, for rows that ask no query without depth.
ODD_DEPTH_M = 2.0


@dataclass(frozen=True, eq=False)
class Built:
    """A map of views of several sizes, and what became of the process and of the caller's things.

    Attributes:
        views: with images that the caller keeps.
        tensors: what was built.
        broken: what was changed on the way that is not the row's to change, in words.
    """

    views: Sequence[View]
    tensors: Mapping[str, Tensor]
    broken: Sequence[str]


QueriesOf = Callable[[AnyMethod], list[Query]]
MapOf = Callable[[AnyMethod], Map]
AnswersOf = Callable[[AnyMethod], list[PoseEstimate]]
FirstAnswersOf = Callable[[AnyMethod], PoseEstimates]
BuiltOf = Callable[[AnyMethod], Built]


def once_a_row(function: Callable[[AnyMethod], Any]) -> Callable[[AnyMethod], Any]:
    """Laws ask for the same maps and answers: they are made once."""
    of_name = functools.cache(lambda name: function(get_method(name)))
    return lambda row: of_name(row.name)


@pytest.fixture(scope="module")
def map_of(small_room: Scene) -> MapOf:
    """The map of the room by a row with its tiny config."""
    return once_a_row(lambda row: reloc.build_map(row.name, small_room, row.tiny))


@pytest.fixture(scope="module")
def few_views(small_room: Scene) -> list[View]:
    """Neighbouring mapping views, enough to build a small map quickly."""
    return list(small_room.mapping[:NUM_FEW_VIEWS])


@pytest.fixture(scope="module")
def mixed_views(few_views: list[View]) -> list[View]:
    """The same; some are half as large, and one has no depth."""
    views = [halved(view) if index % 3 == 1 else view for index, view in enumerate(few_views)]
    views[-1] = dataclasses.replace(views[-1], depth_reader=None)
    return views


@pytest.fixture(scope="module")
def built_of(mixed_views: list[View]) -> BuiltOf:
    """A map of the views of several sizes, built under observation."""
    return once_a_row(lambda row: observed_build(row, mixed_views))


@pytest.fixture(scope="module")
def queries_of(small_room: Scene) -> QueriesOf:
    """The queries of the room, as a row is asked: with depth if it reads it."""
    return once_a_row(
        lambda row: [view.query(with_depth=row.uses_depth) for view in small_room.queries]
    )


@pytest.fixture(scope="module")
def asked_of(queries_of: QueriesOf) -> QueriesOf:
    """The queries of the room, and then the odd ones; these have depth only if they must."""

    def asked(row: AnyMethod) -> list[Query]:
        queries = queries_of(row)
        odd = odd_queries(queries[0])
        if row.needs_depth:
            odd = [
                dataclasses.replace(
                    query, depth=torch.full(query.image.shape[1:], ODD_DEPTH_M, dtype=torch.float32)
                )
                for query in odd
            ]
        return [*queries, *odd]

    return once_a_row(asked)


@pytest.fixture(scope="module")
def answers_of(map_of: MapOf, asked_of: QueriesOf) -> AnswersOf:
    """The answers of a row to all that it is asked, together and in order."""
    return once_a_row(lambda row: localizer_of(map_of(row)).localize(asked_of(row)))


@pytest.fixture(scope="module")
def first_answers_of(map_of: MapOf, asked_of: QueriesOf) -> FirstAnswersOf:
    """The answers of a row to its first queries, by the step that users take."""
    return once_a_row(lambda row: reloc.localize(map_of(row), asked_of(row)[:NUM_FIRST_QUERIES]))


def halved(view: View) -> View:
    """The view at half its size."""
    depth_HW = view.read_depth()
    width, height = view.camera.width // 2, view.camera.height // 2
    pixels = cv2.resize(
        view.read_image().permute(1, 2, 0).contiguous().numpy(),
        (width, height),
        interpolation=cv2.INTER_AREA,
    )
    return dataclasses.replace(
        view,
        camera=view.camera.resized(width, height),
        image_reader=lambda: torch.from_numpy(pixels).permute(2, 0, 1),
        depth_reader=lambda: depth_HW if depth_HW is None else depth_HW[1::2, 1::2],
    )


def odd_queries(like: Query) -> list[Query]:
    """Images that show nothing or come in shapes that nobody expects."""
    generator = torch.Generator().manual_seed(0)

    def noise(height: int, width: int) -> Tensor:
        return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)

    height, width = like.image.shape[-2:]
    images = {
        "black": torch.zeros_like(like.image),
        "white": torch.full_like(like.image, 255),
        "noise": noise(height, width),
        "half black": torch.where(torch.arange(width) < width // 2, like.image, 0),
        "one pixel": noise(1, 1),
        "two pixels": noise(1, 2),
        "a row": noise(1, 2000),
        "a column": noise(2000, 1),
        "a ribbon": noise(12, 1500),
        "a stamp": noise(9, 7),
        "portrait": like.image.rot90(1, (1, 2)),
        "not contiguous": like.image.flip(2).permute(0, 2, 1),
    }
    return [
        Query(name, image, Camera.guess(image.shape[2], image.shape[1]))
        for name, image in images.items()
    ]


def localizer_of(map_: Map, run: Run | None = None) -> Localizer:
    return open_map(map_, run)


def plain(estimate: PoseEstimate) -> dict[str, Any]:
    """All of an estimate in values that compare, to the last bit."""
    pose, camera, covariance = estimate.cam_from_world, estimate.camera, estimate.covariance
    return {
        "cam_from_world": None if pose is None else pose.matrix.tolist(),
        "confidence": estimate.confidence,
        "covariance": None if covariance is None else covariance.tolist(),
        "num_inliers": estimate.num_inliers,
        "inlier_ratio": estimate.inlier_ratio,
        "camera": None if camera is None else camera.as_dict(),
        "reference": estimate.reference,
    }


def assert_same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


def assert_same_answers(first: PoseEstimates, second: PoseEstimates) -> None:
    assert list(first.by_name) == list(second.by_name)
    for name in first.by_name:
        assert plain(first[name]) == plain(second[name])


def assert_well_formed(estimate: PoseEstimate, query: Query, mapping_names: set[str]) -> None:
    pose = estimate.cam_from_world
    if pose is not None:
        assert pose.batch_shape == ()
        assert pose.rotation.dtype == pose.translation.dtype == torch.float64
        assert bool(pose.matrix.isfinite().all())
        eye = torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(pose.rotation @ pose.rotation.mT, eye, rtol=0, atol=1e-6)
        assert float(torch.linalg.det(pose.rotation)) > 0
    if estimate.confidence is not None:
        assert 0 <= estimate.confidence <= 1
    if estimate.covariance is not None:
        assert pose is not None
        assert estimate.covariance.shape == (6, 6)
        assert bool(estimate.covariance.isfinite().all())
        torch.testing.assert_close(estimate.covariance, estimate.covariance.mT)
        eigenvalues = torch.linalg.eigvalsh(estimate.covariance)
        assert float(eigenvalues.min()) >= -1e-9 * float(eigenvalues.max())
    if estimate.num_inliers is not None:
        assert estimate.num_inliers >= 0
    if estimate.camera is not None:
        assert (estimate.camera.width, estimate.camera.height) == tuple(query.image.shape[:0:-1])
    if estimate.reference is not None:
        assert estimate.reference in mapping_names


def median_error(answers: Sequence[PoseEstimate], scene: Scene) -> float:
    """Median over the scene's queries of position error / extent + rotation error in radians.

    That is about the angle by which a point as far away as the scene is wide is seen elsewhere; it
    is infinite where a query is declined.
    """
    errors = []
    for answer, view in zip(answers, scene.queries, strict=True):
        pose, truth = answer.cam_from_world, view.cam_from_world
        if pose is None:
            errors.append(np.inf)
        else:
            angle_rad = float(angle_between_rad(pose.rotation, truth.rotation))
            distance = float((pose.inverse().translation - view.center_world).norm())
            errors.append(distance / scene.extent + angle_rad)
    return float(np.median(errors))


# ------------------------------------------------------------------------------ the row


@law
def test_row_is_complete(row: AnyMethod) -> None:
    assert METHODS[row.name].startswith(f"reloc.methods.{row.family}.")
    assert re.fullmatch(r"[A-Z].*\.", row.summary)
    assert 20 <= len(row.summary) <= 100
    # Authors, title, venue and year.
    assert any(year in row.paper for year in map(str, range(1980, 2100)))
    assert row.paper.count(",") >= 2
    # A figure without a verdict would be taken for ours.
    assert re.search(r"(not )?reproduced|no figure", row.published)
    assert importlib.import_module(METHODS[row.name]).__doc__
    assert isinstance(row.tiny, row.config)
    assert row.uses_depth or not row.needs_depth
    assert all(reason.strip() for reason in row.expected_failures.values())


@law
def test_exemptions_name_laws(row: AnyMethod) -> None:
    assert set(row.expected_failures) <= set(LAWS)


@law
def test_config_is_frozen_and_each_setting_is_documented(row: AnyMethod) -> None:
    assert row.config.__dataclass_params__.frozen
    (definition,) = ast.parse(inspect.getsource(row.config)).body
    assert isinstance(definition, ast.ClassDef)
    assert ast.get_docstring(definition)
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            documented = isinstance(following, ast.Expr) and isinstance(
                following.value, ast.Constant
            )
            assert documented, f"{ast.unparse(statement)} has no docstring under it"


@law
def test_config_survives_json(row: AnyMethod) -> None:
    for config in (row.config(), row.tiny, *row.presets.values()):
        values = json.loads(json.dumps(config_to_json(config)))
        assert config_from_json(row.config, values, "a map") == config
        with pytest.raises(InputError, match=r"a map: .*no_such_setting"):
            config_from_json(row.config, {**values, "no_such_setting": 1}, "a map")


@law
def test_presets_are_variants(row: AnyMethod) -> None:
    for name, config in row.presets.items():
        assert get_config(f"{row.name}:{name}") == (row, config)
        assert isinstance(config, row.config)
        assert config != row.config()
        assert ":" not in name


@law
def test_seam_shows_no_query_to_build_map(row: AnyMethod) -> None:
    parameters = list(inspect.signature(row.build_map).parameters)
    assert parameters == ["views", "config", "run"]
    parameters = list(inspect.signature(row.localizer).parameters)
    assert parameters == ["tensors", "config", "run"]


@pytest.mark.parametrize(
    "path", sorted(METHODS_FOLDER.rglob("*.py")), ids=lambda p: str(p.relative_to(METHODS_FOLDER))
)
def test_methods_import_nothing_that_knows_the_truth_or_the_files(path: Path) -> None:
    allowed_of_scenes = {"reloc.scenes.scene"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what is imported"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            assert not name.startswith(("reloc.evaluation", "reloc.steps", "reloc.doctor"))
            if name.startswith("reloc.scenes."):
                assert any(name.startswith(allowed) for allowed in allowed_of_scenes), name


# ------------------------------------------------------------------------------ building a map


@law
def test_same_seed_same_map(row: AnyMethod, built_of: BuiltOf, mixed_views: list[View]) -> None:
    first = built_of(row).tensors
    # Whatever the process has drawn before plays no part.
    torch.manual_seed(1234)
    np.random.seed(1234)  # noqa: NPY002
    random.seed(1234)
    second = row.build_map(mixed_views, row.tiny, Run())
    assert_same_tensors(first, second)


@law
def test_map_survives_its_folder(
    row: AnyMethod,
    map_of: MapOf,
    asked_of: QueriesOf,
    first_answers_of: FirstAnswersOf,
    tmp_path: Path,
) -> None:
    map_ = map_of(row)
    map_.save(tmp_path / "room")
    opened = Map.load(tmp_path / "room")
    assert_same_tensors(opened.tensors, map_.tensors)
    assert config_from_json(row.config, opened.config, "room") == row.tiny
    after = reloc.localize(opened, asked_of(row)[:NUM_FIRST_QUERIES])
    assert_same_answers(after, first_answers_of(row))


@law
def test_map_is_finite_and_smaller_than_the_images(
    row: AnyMethod, map_of: MapOf, small_room: Scene
) -> None:
    tensors = map_of(row).tensors
    for name, tensor in tensors.items():
        assert bool(tensor.isfinite().all()), name
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    num_pixels = sum(view.camera.width * view.camera.height for view in small_room.mapping)
    assert num_bytes < 3 * num_pixels


@law
def test_mapping_views_of_several_sizes(row: AnyMethod, built_of: BuiltOf) -> None:
    built = built_of(row)
    localizer = row.localizer(built.tensors, row.tiny, Run())
    asked = [view.query(with_depth=row.uses_depth) for view in built.views[::2]]
    answers = localizer.localize(asked)
    for answer, query in zip(answers, asked, strict=True):
        assert_well_formed(answer, query, {view.name for view in built.views})
    assert any(answer.cam_from_world is not None for answer in answers)


@law
def test_views_without_texture_are_refused_or_every_query_is_declined(
    row: AnyMethod, few_views: list[View], queries_of: QueriesOf
) -> None:
    nothing = torch.zeros_like(few_views[0].read_image())
    black = [dataclasses.replace(view, image_reader=lambda: nothing) for view in few_views]
    try:
        tensors = row.build_map(black, row.tiny, Run())
    except InputError as error:
        assert "\n" not in str(error)
        return
    answers = row.localizer(tensors, row.tiny, Run()).localize(queries_of(row))
    assert all(answer.cam_from_world is None for answer in answers)


# ------------------------------------------------------------------------------ answering


@law
def test_answers_are_poses_or_declined(
    row: AnyMethod, answers_of: AnswersOf, asked_of: QueriesOf, small_room: Scene
) -> None:
    names = {view.name for view in small_room.mapping}
    for answer, query in zip(answers_of(row), asked_of(row), strict=True):
        assert_well_formed(answer, query, names)


@law
def test_no_queries_no_answers(row: AnyMethod, map_of: MapOf) -> None:
    assert localizer_of(map_of(row)).localize([]) == []


@law
def test_a_query_is_answered_alike_alone_and_in_company(
    row: AnyMethod, map_of: MapOf, answers_of: AnswersOf, asked_of: QueriesOf
) -> None:
    if row.context == "sequence":
        pytest.skip("a sequence method answers frames in the light of those before")
    localizer = localizer_of(map_of(row))
    # Alone, and in another order: what an answer leaves behind must not reach the next.
    alone = [plain(localizer.localize([query])[0]) for query in reversed(asked_of(row))]
    assert alone[::-1] == [plain(answer) for answer in answers_of(row)]


@law
def test_queries_without_intrinsics_are_answered(
    row: AnyMethod, map_of: MapOf, queries_of: QueriesOf, small_room: Scene
) -> None:
    names = {view.name for view in small_room.mapping}
    queries = queries_of(row)
    height, width = queries[0].image.shape[-2:]
    unknown = [dataclasses.replace(query, camera=Camera.guess(width, height)) for query in queries]
    answers = localizer_of(map_of(row)).localize(unknown)
    for answer, query in zip(answers, unknown, strict=True):
        assert_well_formed(answer, query, names)
    answered = sum(answer.cam_from_world is not None for answer in answers)
    assert answered >= len(queries) / 2


@law
def test_a_query_without_depth_is_answered_or_refused_in_a_line(
    row: AnyMethod, map_of: MapOf, queries_of: QueriesOf, small_room: Scene
) -> None:
    asked = [dataclasses.replace(query, depth=None) for query in queries_of(row)]
    localizer = localizer_of(map_of(row))
    if row.needs_depth:
        with pytest.raises(InputError, match=rf"{asked[0].name}.* depth") as raised:
            localizer.localize(asked)
        assert "\n" not in str(raised.value)
    elif row.uses_depth:
        answers = localizer.localize(asked)
        names = {view.name for view in small_room.mapping}
        for answer, query in zip(answers, asked, strict=True):
            assert_well_formed(answer, query, names)
        assert sum(answer.cam_from_world is not None for answer in answers) >= len(asked) / 2


@law
def test_beats_the_trivial_baseline(
    row: AnyMethod, answers_of: AnswersOf, small_room: Scene
) -> None:
    """Thumbnail beats the mean mapping pose, which looks at no query; all others beat thumbnail."""
    num_queries = len(small_room.queries)
    if row.name == "thumbnail":
        baseline = [mean_pose(small_room.mapping)] * num_queries
    else:
        baseline = answers_of(get_method("thumbnail"))[:num_queries]
    answers = answers_of(row)[:num_queries]
    assert median_error(answers, small_room) < median_error(baseline, small_room)


def mean_pose(views: Sequence[View]) -> PoseEstimate:
    centers_N3 = torch.stack([view.center_world for view in views])
    rotations_N33 = torch.stack([view.cam_from_world.rotation for view in views])
    rotation = roma.special_procrustes(rotations_N33.sum(0))
    return PoseEstimate(Rigid3d(rotation, -rotation @ centers_N3.mean(0)))


# ------------------------------------------------------------------------------ manners


def process_state() -> dict[str, Any]:
    """All of the process that a method could be tempted to change."""
    return {
        "torch default type": torch.get_default_dtype(),
        "torch default device": torch.get_default_device(),
        "torch gradients": torch.is_grad_enabled(),
        "torch random state": torch.get_rng_state().tolist(),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch determinism": torch.are_deterministic_algorithms_enabled(),
        "torch matmul": torch.get_float32_matmul_precision(),
        "numpy random state": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "numpy errors": np.geterr(),
        "python random state": random.getstate(),
        "opencv threads": cv2.getNumThreads(),
        "opencv optimised": cv2.useOptimized(),
        "faiss threads": faiss.omp_get_max_threads(),
        "environment": dict(os.environ),
        "working folder": Path.cwd(),
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name, value in before.items() if after[name] != value]


def observed_build(row: AnyMethod, views: Sequence[View]) -> Built:
    """Build a map of images that the caller keeps, and look at all that could have changed."""
    images = {view.name: view.read_image() for view in views}
    depths = {view.name: view.read_depth() for view in views if view.depth_reader}
    held = [
        dataclasses.replace(
            view,
            image_reader=lambda view=view: images[view.name],
            depth_reader=(lambda view=view: depths[view.name]) if view.depth_reader else None,
        )
        for view in views
    ]
    images_before = {name: image.clone() for name, image in images.items()}
    depths_before = {name: depth.clone() for name, depth in depths.items()}
    poses = [view.cam_from_world.matrix for view in views]
    before = process_state()
    tensors = row.build_map(held, row.tiny, Run())
    broken = changes(before, process_state())
    broken += [
        f"image {name}" for name in images if not torch.equal(images[name], images_before[name])
    ]
    broken += [
        f"depth {name}" for name in depths if not torch.equal(depths[name], depths_before[name])
    ]
    broken += [
        f"pose of {view.name}"
        for view, pose in zip(held, poses, strict=True)
        if not torch.equal(view.cam_from_world.matrix, pose)
    ]
    return Built(held, tensors, broken)


@law
def test_leaves_the_process_and_the_callers_things_as_it_found_them(
    row: AnyMethod, built_of: BuiltOf, asked_of: QueriesOf
) -> None:
    built = built_of(row)
    assert not built.broken
    asked = asked_of(row)[:: len(asked_of(row)) // 5]
    images = [query.image.clone() for query in asked]
    depths = [None if query.depth is None else query.depth.clone() for query in asked]
    cameras = [query.camera.as_dict() for query in asked]
    stored = {name: tensor.clone() for name, tensor in built.tensors.items()}
    before = process_state()

    row.localizer(built.tensors, row.tiny, Run()).localize(asked)
    assert not changes(before, process_state())
    assert_same_tensors(built.tensors, stored)
    assert all(map(torch.equal, [query.image for query in asked], images))
    for query, depth in zip(asked, depths, strict=True):
        assert depth is None or torch.equal(query.depth, depth)
    assert [query.camera.as_dict() for query in asked] == cameras


# ------------------------------------------------------------------------------ a fresh process

# Imports the rows one by one, answers from their maps, and says what went wrong with which.
FRESH_PROCESS = """
import importlib, json, os, random, sys, traceback
from pathlib import Path
import cv2, faiss, numpy, safetensors.torch, torch

def state():
    return (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state().tolist(),
            torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
            numpy.random.get_state()[1].tolist(), numpy.geterr(), random.getstate(),
            cv2.getNumThreads(), faiss.omp_get_max_threads(), dict(os.environ), sys.path[:])

folder, modules = Path(sys.argv[1]), json.loads(sys.argv[2])
before, changed = state(), []
for name, module in modules.items():
    importlib.import_module(module)
    if state() != before:
        changed.append(name)
        before = state()
(folder / "changed.json").write_text(json.dumps(changed))

import reloc
from reloc.geometry.camera import Camera
from reloc.maps import Map
from reloc.scenes.scene import Query

images, depths = (safetensors.torch.load_file(folder / f"{kind}.safetensors")
                  for kind in ("images", "depths"))
asked = json.loads((folder / "asked.json").read_text())
for name in modules:
    queries = [Query(query, images[query], Camera.of(**camera),
                     depths.get(f"{name}/{query}"), *rest)
               for query, (camera, *rest) in asked[name].items()]
    try:
        reloc.localize(Map.load(folder / name), queries).write(folder / f"{name}.jsonl")
    except Exception:
        traceback.print_exc()
"""


@pytest.fixture(scope="module")
def fresh_folder_of(
    request: pytest.FixtureRequest,
    map_of: MapOf,
    asked_of: QueriesOf,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """For a half of the rows: those under test, their maps, and what a fresh process made of them.

    It is one process, for imports take seconds.
    """
    under_test = {
        item.callspec.params["row"].name
        for item in request.session.items
        if isinstance(item, pytest.Function) and "fresh_folder" in item.fixturenames
    }

    @functools.cache
    def of_half(half: str) -> Path:
        folder = tmp_path_factory.mktemp("fresh")
        names = {name for name in under_test if half_of(name) == half}
        ask_in_a_fresh_process(names, map_of, asked_of, folder)
        return folder

    return of_half


@pytest.fixture
def fresh_folder(row: AnyMethod, fresh_folder_of: Callable[[str], Path]) -> Path:
    """The folder that the row is in."""
    return fresh_folder_of(half_of(row.name))


def ask_in_a_fresh_process(
    names: set[str], map_of: MapOf, asked_of: QueriesOf, folder: Path
) -> None:
    """Write maps and queries of rows, and let another process write the answers beside them."""
    modules = {name: module for name, module in METHODS.items() if name in names}
    images, depths, others = {}, {}, {}
    for name in modules:
        row = get_method(name)
        map_of(row).save(folder / name)
        others[name] = {}
        for query in asked_of(row)[:NUM_FIRST_QUERIES]:
            images[query.name] = query.image.contiguous()
            others[name][query.name] = (
                query.camera.as_dict(),
                query.sequence,
                query.timestamp_s,
            )
            if query.depth is not None:
                depths[f"{name}/{query.name}"] = query.depth.clone()
    safetensors.torch.save_file(images, folder / "images.safetensors")
    safetensors.torch.save_file(depths, folder / "depths.safetensors")
    (folder / "asked.json").write_text(json.dumps(others))
    command = [sys.executable, "-c", FRESH_PROCESS, str(folder), json.dumps(modules)]
    subprocess.run(command, check=True, timeout=300)


@law
def test_a_fresh_process_answers_the_same(
    row: AnyMethod, first_answers_of: FirstAnswersOf, fresh_folder: Path, tmp_path: Path
) -> None:
    there = PoseEstimates.read(fresh_folder / f"{row.name}.jsonl")
    first_answers_of(row).write(tmp_path / "here.jsonl")
    assert_same_answers(there, PoseEstimates.read(tmp_path / "here.jsonl"))


@law
def test_importing_it_changes_nothing(row: AnyMethod, fresh_folder: Path) -> None:
    assert row.name not in json.loads((fresh_folder / "changed.json").read_text())
