from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from reloc.input_error import InputError
from reloc.scenes.options import LoadOptions
from reloc.scenes.poses import PoseConvention, pose_from_numbers

vectors = st.tuples(*[st.floats(-10, 10) for _ in range(3)])
conventions = st.builds(
    PoseConvention,
    direction=st.sampled_from(["cam_from_world", "world_from_cam"]),
    axes=st.sampled_from(["opencv", "opengl"]),
    quaternion=st.sampled_from(["wxyz", "xyzw"]),
    gives_center=st.booleans(),
)


def written(cam_from_world: np.ndarray, convention: PoseConvention, form: str) -> list[float]:
    """A pose as a file of that convention has it."""
    matrix = (
        np.diag([1, -1, -1, 1]) @ cam_from_world if convention.axes == "opengl" else cam_from_world
    )
    center = np.linalg.inv(matrix)[:3, 3]
    if convention.direction == "world_from_cam":
        matrix = np.linalg.inv(matrix)
    if convention.gives_center:
        matrix = np.block([[matrix[:3, :3], center[:, None]], [0, 0, 0, 1]])
    if form == "quaternion":
        quaternion = Rotation.from_matrix(matrix[:3, :3]).as_quat()
        if convention.quaternion == "wxyz":
            quaternion = np.roll(quaternion, 1)
        return [*quaternion, *matrix[:3, 3]]
    return (matrix if form == "4x4" else matrix[:3]).ravel().tolist()


@given(vectors, vectors, conventions, st.sampled_from(["quaternion", "3x4", "4x4"]))
def test_every_convention_is_undone(rotvec, translation, convention, form):
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_rotvec(rotvec).as_matrix()
    truth[:3, 3] = translation
    read = pose_from_numbers(written(truth, convention, form), convention, "here")
    np.testing.assert_allclose(read.matrix.numpy(), truth, atol=1e-9)


def test_options_override_only_what_they_say():
    convention = PoseConvention("world_from_cam", "opengl", "xyzw", gives_center=True)
    assert convention.overridden(LoadOptions()) == convention
    changed = convention.overridden(LoadOptions(poses="cam_from_world", axes="opencv"))
    assert changed == PoseConvention("cam_from_world", "opencv", "xyzw", gives_center=True)


IDENTITY = np.eye(4).ravel().tolist()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([float("nan"), *IDENTITY[1:]], "not finite"),
        ([*IDENTITY[:3], float("inf"), *IDENTITY[4:]], "not finite"),
        ([2.0, 0, 0, 0, 0, 2.0, 0, 0, 0, 0, 2.0, 0, 0, 0, 0, 1.0], "identity"),
        ([1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, -1.0, 0], "reflection"),
        ([1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0, 3.0, 4.0, 5.0, 1.0], "last row"),
        ([0.5, 0.5, 0.0, 0.0, 1.0, 2.0, 3.0], "norm"),
        ([0.0] * 7, "norm"),
        ([1.0, 0.0, 0.0, 0.0], "7, 12 or 16 numbers, not 4"),
    ],
)
def test_what_is_no_pose_names_its_place(numbers, message):
    with pytest.raises(InputError, match=message) as caught:
        pose_from_numbers(numbers, PoseConvention(), "poses.txt:3")
    assert str(caught.value).startswith("poses.txt:3: ")
    assert "\n" not in str(caught.value)
