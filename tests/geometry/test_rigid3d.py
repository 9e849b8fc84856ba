import math

import pytest
import roma
import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d, skew

BATCH_SHAPES = [(), (1,), (5,), (2, 3), (0,)]
ANGLES_RAD = [0.0, 1e-12, 1e-8, 1e-5, 1e-3, 0.5, 2.0, math.pi - 1e-3, math.pi - 1e-7]


def random_transform(*batch: int, seed: int = 0) -> Rigid3d:
    generator = torch.Generator().manual_seed(seed)
    quat = torch.randn(*batch, 4, dtype=torch.float64, generator=generator)
    translation = torch.randn(*batch, 3, dtype=torch.float64, generator=generator)
    return Rigid3d.from_quat_wxyz(quat / quat.norm(dim=-1, keepdim=True), translation)


def tangent_of_angle(angle_rad: float, dtype: torch.dtype = torch.float64) -> Tensor:
    axis = torch.tensor([1.0, -2.0, 2.0], dtype=dtype) / 3
    return torch.cat([angle_rad * axis, torch.tensor([0.3, -1.2, 0.7], dtype=dtype)])


def assert_same(first: Rigid3d, second: Rigid3d, max_error: float = 1e-12) -> None:
    assert first.batch_shape == second.batch_shape
    torch.testing.assert_close(first.matrix, second.matrix, rtol=0, atol=max_error)


@pytest.mark.parametrize("batch", BATCH_SHAPES)
def test_group_axioms(batch: tuple[int, ...]) -> None:
    d_from_c, c_from_b, b_from_a = (random_transform(*batch, seed=seed) for seed in range(3))
    identity = Rigid3d.identity(*batch)

    assert_same((d_from_c @ c_from_b) @ b_from_a, d_from_c @ (c_from_b @ b_from_a))
    assert_same(identity @ b_from_a, b_from_a)
    assert_same(b_from_a @ identity, b_from_a)
    assert_same(b_from_a @ b_from_a.inverse(), identity)
    assert_same(b_from_a.inverse() @ b_from_a, identity)
    assert_same((c_from_b @ b_from_a).inverse(), b_from_a.inverse() @ c_from_b.inverse())


@pytest.mark.parametrize("batch", BATCH_SHAPES)
def test_acts_on_points_as_its_matrix_and_as_its_equation(batch: tuple[int, ...]) -> None:
    c_from_b, b_from_a = random_transform(*batch, seed=1), random_transform(*batch, seed=2)
    points_a = torch.randn(*batch, 7, 3, dtype=torch.float64)

    homogeneous = torch.cat([points_a, torch.ones_like(points_a[..., :1])], dim=-1)
    by_matrix = (b_from_a.matrix[..., None, :, :] @ homogeneous[..., None])[..., :3, 0]
    torch.testing.assert_close(b_from_a @ points_a, by_matrix)
    torch.testing.assert_close((c_from_b @ b_from_a) @ points_a, c_from_b @ (b_from_a @ points_a))
    torch.testing.assert_close((c_from_b @ b_from_a).matrix, c_from_b.matrix @ b_from_a.matrix)


def test_one_transform_broadcasts_over_many() -> None:
    c_from_b, b_from_a = random_transform(seed=1), random_transform(4, seed=2)
    points_a = torch.randn(6, 3, dtype=torch.float64)

    for index in range(4):
        assert_same((c_from_b @ b_from_a)[index], c_from_b @ b_from_a[index])
        torch.testing.assert_close((b_from_a @ points_a)[index], b_from_a[index] @ points_a)


def test_refuses_a_bare_point_whose_shape_would_be_ambiguous() -> None:
    with pytest.raises(ValueError, match=r"\(\.\.\., N, 3\)"):
        random_transform() @ torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize("angle_rad", ANGLES_RAD)
def test_log_inverts_exp(angle_rad: float) -> None:
    tangent = tangent_of_angle(angle_rad)
    # Beside half a turn the axis is the square root of what is left of the matrix.
    max_error = 1e-7 if angle_rad > 3.1 else 1e-12
    torch.testing.assert_close(Rigid3d.exp(tangent).log(), tangent, rtol=0, atol=max_error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle_rad", [*ANGLES_RAD, math.pi])
def test_exp_is_the_matrix_exponential(angle_rad: float, dtype: torch.dtype) -> None:
    tangent = tangent_of_angle(angle_rad)
    generator = torch.zeros(4, 4, dtype=torch.float64)
    generator[:3, :3], generator[:3, 3] = skew(tangent[:3]), tangent[3:]

    matrix = Rigid3d.exp(tangent.to(dtype)).matrix

    expected = torch.linalg.matrix_exp(generator).to(dtype)
    torch.testing.assert_close(matrix, expected, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_half_a_turn_has_a_log_that_exp_takes_back() -> None:
    for axis in [[1.0, 0, 0], [0, 1, 0], [0, 0, -1], [0.6, 0, 0.8], [-0.6, 0.8, 0]]:
        tangent = torch.tensor([*(math.pi * value for value in axis), 1, 2, 3], dtype=torch.float64)
        half_turn = Rigid3d.exp(tangent)
        assert half_turn.log()[:3].norm().item() == pytest.approx(math.pi, abs=1e-12)
        assert_same(Rigid3d.exp(half_turn.log()), half_turn)


@pytest.mark.parametrize("angle_rad", [0.0, 1e-6, 0.5, 3.0])
def test_derivatives_of_exp_log_inverse_and_chain(angle_rad: float) -> None:
    b_from_a = random_transform(seed=3)
    tangent = tangent_of_angle(angle_rad).requires_grad_()

    def of_exp(tangent: Tensor) -> Tensor:
        return (Rigid3d.exp(tangent).inverse() @ b_from_a).matrix

    def of_log(tangent: Tensor) -> Tensor:
        return Rigid3d.exp(tangent).log()

    assert torch.autograd.gradcheck(of_exp, tangent)
    assert torch.autograd.gradcheck(of_log, tangent, atol=1e-4 if angle_rad < 1e-3 else 1e-5)


@pytest.mark.parametrize("batch", BATCH_SHAPES)
def test_matrix_and_quaternion_round_trips(batch: tuple[int, ...]) -> None:
    b_from_a = random_transform(*batch)
    assert_same(Rigid3d.from_matrix(b_from_a.matrix), b_from_a)
    assert_same(Rigid3d.from_matrix(b_from_a.matrix[..., :3, :]), b_from_a)
    assert_same(Rigid3d.from_quat_wxyz(b_from_a.quat_wxyz, b_from_a.translation), b_from_a)
    assert bool((b_from_a.quat_wxyz[..., 0] >= 0).all())


def test_quaternion_has_w_first() -> None:
    quarter_turn_about_z = torch.tensor([math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)])
    b_from_a = Rigid3d.from_quat_wxyz(quarter_turn_about_z, torch.zeros(3))
    x_axis = torch.tensor([[1.0, 0, 0]])
    torch.testing.assert_close(b_from_a @ x_axis, torch.tensor([[0.0, 1, 0]]))


def test_the_rotation_of_few_digits_becomes_the_nearest_rotation() -> None:
    noise = 4e-4 * torch.randn(
        4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    noise[3] = 0
    exact = random_transform()
    cleaned = Rigid3d.from_matrix(exact.matrix + noise)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(cleaned.rotation @ cleaned.rotation.mT, eye, rtol=0, atol=1e-14)
    assert (cleaned.rotation - exact.rotation).norm() <= noise[:3, :3].norm()


def corrupted_matrix(row: int, column: int, value: float) -> Tensor:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "complaint"),
    [
        (corrupted_matrix(0, 0, math.nan), "not finite"),
        (corrupted_matrix(2, 3, math.inf), "not finite"),
        (corrupted_matrix(0, 0, 1.1), "R Rᵀ"),
        (corrupted_matrix(0, 1, 0.5), "R Rᵀ"),
        (corrupted_matrix(2, 2, -1.0), "reflection"),
        (corrupted_matrix(3, 0, 2.5), "transposed"),
        (torch.zeros(4, 4, dtype=torch.float64), "last row"),
        (torch.eye(3, dtype=torch.float64), "3x4 or 4x4"),
    ],
)
def test_from_matrix_refuses_what_is_no_pose(matrix: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Rigid3d.from_matrix(matrix)
    if matrix.shape == (4, 4):
        # One bad pose in a batch of good ones is found, too.
        with pytest.raises(ValueError, match=complaint):
            Rigid3d.from_matrix(torch.stack([torch.eye(4, dtype=torch.float64), matrix]))


@pytest.mark.parametrize(
    ("quat", "translation", "complaint"),
    [
        ([math.nan, 0, 0, 1], [0, 0, 0], "not finite"),
        ([1, 0, 0, 0], [0, math.inf, 0], "not finite"),
        ([0, 0, 0, 0], [0, 0, 0], "norm is 0"),
        ([1, 1, 0, 0], [0, 0, 0], "norm is 1.414"),
    ],
)
def test_from_quat_refuses_what_is_no_pose(
    quat: list[float], translation: list[float], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Rigid3d.from_quat_wxyz(torch.tensor(quat).float(), torch.tensor(translation).float())


@pytest.mark.parametrize(
    "index",
    [0, -1, slice(1, 3), ..., (..., 0), (slice(None), 1), (1, 2), None, [0, 2], (None, ..., 1)],
    ids=str,
)
def test_indexing_is_that_of_the_batch_axes(index: object) -> None:
    transforms = random_transform(3, 4)
    picked = transforms[index]
    expected_translations = torch.stack(
        [transforms.translation[..., axis][index] for axis in range(3)], dim=-1
    )
    torch.testing.assert_close(picked.translation, expected_translations)
    # A point at the origin tells the translation; the rotation must have come along with it.
    for rotation, translation in zip(
        picked.rotation.reshape(-1, 3, 3), picked.translation.reshape(-1, 3), strict=True
    ):
        source = (transforms.translation.reshape(-1, 3) - translation).norm(dim=-1).argmin()
        torch.testing.assert_close(rotation, transforms.rotation.reshape(-1, 3, 3)[source])


def test_indexing_with_masks_and_out_of_range() -> None:
    transforms = random_transform(5)
    mask = torch.tensor([True, False, True, True, False])
    assert_same(transforms[mask], transforms[[0, 2, 3]])
    assert_same(transforms[~mask & mask], Rigid3d.identity(0))
    assert_same(Rigid3d.stack([transforms[index] for index in range(5)]), transforms)
    with pytest.raises(IndexError):
        transforms[5]
    with pytest.raises(IndexError):
        random_transform()[0]


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="Rigid3d takes"):
        Rigid3d(torch.eye(3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="Rigid3d takes"):
        Rigid3d(torch.eye(4), torch.zeros(4))


def test_to_changes_both_parts_and_leaves_the_original() -> None:
    transform = random_transform(2)
    single = transform.to(torch.float32)
    assert single.rotation.dtype == single.translation.dtype == torch.float32
    assert transform.rotation.dtype == torch.float64


def test_skew_is_the_cross_product() -> None:
    first, second = torch.randn(2, 5, 3, dtype=torch.float64)
    product = (skew(first) @ second[..., None])[..., 0]
    torch.testing.assert_close(product, torch.linalg.cross(first, second))


def test_log_of_the_relative_pose_is_shared_by_both_directions() -> None:
    first, second = random_transform(20, seed=1), random_transform(20, seed=2)
    forth, back = (first @ second.inverse()).log(), (second @ first.inverse()).log()
    torch.testing.assert_close(forth, -back, rtol=0, atol=1e-9)
    assert bool((forth[:, :3].norm(dim=-1) <= math.pi + 1e-12).all())
    angle_rad = roma.rotmat_geodesic_distance(first.rotation, second.rotation)
    torch.testing.assert_close(forth[:, :3].norm(dim=-1), angle_rad)
