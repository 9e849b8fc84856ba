"""Whatever stands in a scene's file: a sound scene comes of it, or one line says what is wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_scenes import WRITERS

from reloc.input_error import InputError
from reloc.scenes import LoadOptions, load_scene

FILES = {
    "7scenes": ["TrainSplit.txt", "seq-01/frame-000001.pose.txt"],
    "12scenes": ["split.txt", "info.txt", "data/frame-000001.pose.txt"],
    "cambridge": ["dataset_train.txt", "reconstruction.nvm"],
    "robotcar": ["train_split.txt", "2014-06-26-08-53-56/gps/ins.csv"],
    "mapfree": ["poses.txt", "intrinsics.txt"],
    "nerfstudio": ["transforms.json"],
    "colmap": ["sparse/0/cameras.txt", "sparse/0/images.txt", "queries.txt"],
    "tum": ["rgb.txt", "depth.txt", "groundtruth.txt"],
    "folder": ["poses.txt"],
}
TOKENS = [
    "nan",
    "inf",
    "-1.#INF",
    "1e999",
    "-1",
    "0",
    "",
    ",",
    "#",
    "x",
    "9" * 30,
    "../..",
    "٣",
    "\0",
]


@st.composite
def changed(draw, whole: bytes) -> bytes:
    """The file with some of it replaced, lost, doubled or cut off; or anything else."""
    kind = draw(st.sampled_from(["token", "token", "line", "cut", "bytes"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "cut":
        return whole[: draw(st.integers(0, len(whole)))]
    lines = whole.decode().split("\n")
    place = draw(st.integers(0, len(lines) - 1))
    if kind == "line":
        lines[place : place + 1] = lines[place : place + 1] * draw(st.sampled_from([0, 2]))
    else:
        separator = "," if "," in lines[place] else " "
        tokens = lines[place].split(separator)
        index = draw(st.integers(0, len(tokens) - 1))
        tokens[index] = draw(st.sampled_from(TOKENS) | st.text(max_size=6))
        lines[place] = separator.join(tokens)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Each layout's scene, written once."""
    folders = {}
    for layout, write in WRITERS.items():
        folders[layout] = tmp_path_factory.mktemp(layout)
        write(folders[layout])
    return folders


def test_every_layout_is_tried():
    assert list(FILES) == list(WRITERS)


@pytest.mark.parametrize(
    ("layout", "file"), [(layout, file) for layout, files in FILES.items() for file in files]
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.differing_executors])
@given(data=st.data())
def test_any_change_is_a_scene_or_one_line(written, layout, file, data):
    path = written[layout] / file
    whole = path.read_bytes()
    path.write_bytes(data.draw(changed(whole)))
    try:
        scene = load_scene(written[layout], LoadOptions(layout=layout))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert scene.mapping
        for view in (*scene.mapping, *scene.queries):
            matrix = view.cam_from_world.matrix
            assert matrix.isfinite().all()
            deviation = matrix[:3, :3] @ matrix[:3, :3].T - torch.eye(3, dtype=torch.float64)
            assert deviation.abs().max() < 1e-9
            assert view.camera.params.isfinite().all()
            assert view.image_reader.args[0].is_file()
    finally:
        path.write_bytes(whole)
