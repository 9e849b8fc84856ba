"""Poses from as few points as fix one, in batches: closed forms, with no loop of unknown length.

Each solver says which of its answers are poses. A sample that fixes none (points in a line, twice
the same point, not finite) is marked so, and costs what any other costs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from reloc.geometry.rigid3d import Rigid3d, skew

# A triangle thinner than this (twice its area over the square of its size) fixes no rotation.
_MIN_THINNESS = 1e-6
# How far, as a share, a distance between points may be missed by a solution.
_MAX_MISFIT = 1e-6
# The pencil of conics is turned by an angle without meaning, so that no arrangement of points that
# people make (symmetric, right-angled) meets a special case of it.
_PENCIL_TURN_RAD = 0.6
_PAIRS = ((0, 1), (0, 2), (1, 2))


def p3p(bearings_M33: Tensor, points_M33: Tensor) -> tuple[Rigid3d, Tensor]:
    """All poses from which three points are seen along three rays.

    The depths λ along the rays obey λi² + λj² - 2 λi λj cos ij = |xi - xj|² for three pairs, which
    gives two conics in the ratios of the depths. One degenerate conic of their pencil (the root of
    a cubic) is a pair of lines, and each line meets the conics in two points at most.

    Source: Ding, Yang, Larsson, Olsson and Åström, "Revisiting the P3P problem", CVPR 2023; the
    pair of lines as in Richter-Gebert, "Perspectives on projective geometry", section 11.3; the
    last step on the depths as in Persson and Nordberg, "Lambda Twist", ECCV 2018.

    Args:
        bearings_M33: (M, 3, 3) float64, directions of the rays as rows, of any length.
        points_M33: (M, 3, 3) float64, points in the world as rows.

    Returns:
        cam_from_world in batch shape (M, 4), and which of them are solutions (M, 4) bool. The
        others are finite and mean nothing.
    """
    rays = functional.normalize(bearings_M33, dim=-1)
    first, second = ([pair[side] for pair in _PAIRS] for side in (0, 1))
    cosines_M3 = (rays[:, first] * rays[:, second]).sum(-1)
    squares_M3 = (points_M33[:, first] - points_M33[:, second]).square().sum(-1)
    size_M = squares_M3.sum(-1)
    forms = _distance_forms(cosines_M3)
    lines_M23, other_M33, has_lines_M = _lines_through_intersections(forms, squares_M3)
    depths_M43, is_real_M4 = _intersections(lines_M23, other_M33)
    squared_size_M4 = torch.einsum("mki,mij,mkj->mk", depths_M43, forms.sum(1), depths_M43)
    depths_M43 = depths_M43 * (size_M[:, None] / squared_size_M4).abs().sqrt()[..., None]
    depths_M43 = depths_M43 * depths_M43.sum(-1, keepdim=True).sign()
    depths_M43, misfit_M4 = _polished(depths_M43, cosines_M3[:, None], squares_M3[:, None])
    seen_M433 = depths_M43[..., None] * rays[:, None]
    world_M133, thinness_M1 = _frames(points_M33[:, None])
    cam_M433, seen_thinness_M4 = _frames(seen_M433)
    rotation_M433 = cam_M433 @ world_M133.mT
    translation_M43 = seen_M433.mean(-2) - torch.einsum(
        "mkij,mj->mki", rotation_M433, points_M33.mean(-2)
    )
    valid_M4 = (
        (has_lines_M[:, None] & is_real_M4)
        & (depths_M43 > 0).all(-1)
        & (misfit_M4 < _MAX_MISFIT * size_M[:, None])
        & (thinness_M1.minimum(seen_thinness_M4) > _MIN_THINNESS)
    )
    return _where_valid(rotation_M433, translation_M43, valid_M4)


def kabsch(points_cam_MK3: Tensor, points_world_MK3: Tensor) -> tuple[Rigid3d, Tensor]:
    """The rigid transform, without scale, that moves points nearest to points.

    Source: Kabsch, Acta Crystallographica A32, 1976; by singular values, and never a reflection.

    Args:
        points_cam_MK3: (M, K, 3) float64, K at least 3.
        points_world_MK3: (M, K, 3) float64, the same points in the world.

    Returns:
        cam_from_world in batch shape (M,), and (M,) bool: whether the points fix it.
    """
    mean_cam, mean_world = points_cam_MK3.mean(-2), points_world_MK3.mean(-2)
    cam_MK3 = points_cam_MK3 - mean_cam[:, None]
    world_MK3 = points_world_MK3 - mean_world[:, None]
    covariance_M33 = (cam_MK3.mT @ world_MK3).nan_to_num(0.0, 0.0, 0.0)
    left, values_M3, right = torch.linalg.svd(covariance_M33)
    sign_M = (torch.linalg.det(left) * torch.linalg.det(right)).sign()
    turned = torch.stack([torch.ones_like(sign_M), torch.ones_like(sign_M), sign_M], dim=-1)
    rotation_M33 = (left * turned[:, None]) @ right
    translation_M3 = mean_cam - (rotation_M33 @ mean_world[..., None])[..., 0]
    # Two directions must be fixed; the third follows from them.
    valid_M = values_M3[:, 1] > _MIN_THINNESS * values_M3[:, 0]
    return _where_valid(rotation_M33, translation_M3, valid_M)


def _where_valid(rotation: Tensor, translation: Tensor, valid: Tensor) -> tuple[Rigid3d, Tensor]:
    """The poses that are valid and finite; the identity stands where none is."""
    valid = valid & rotation.isfinite().all(-1).all(-1) & translation.isfinite().all(-1)
    eye = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return (
        Rigid3d(
            torch.where(valid[..., None, None], rotation, eye),
            torch.where(valid[..., None], translation, 0.0),
        ),
        valid,
    )


def _distance_forms(cosines_M3: Tensor) -> Tensor:
    """(M, 3, 3, 3): the matrix of λi² + λj² - 2 λi λj cos ij for each pair of points."""
    forms = cosines_M3.new_zeros(len(cosines_M3), 3, 3, 3)
    for pair, (i, j) in enumerate(_PAIRS):
        forms[:, pair, i, i] = forms[:, pair, j, j] = 1
        forms[:, pair, i, j] = forms[:, pair, j, i] = -cosines_M3[:, pair]
    return forms


def _lines_through_intersections(
    forms_M333: Tensor, squares_M3: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Two lines that hold the common points of the two conics.

    Returns:
        The lines (M, 2, 3), a conic (M, 3, 3) of the pencil that is not the pair of lines, and
        whether the lines are real (M,). Where they are not, no common point is.
    """
    shares = (squares_M3 / squares_M3.sum(-1, keepdim=True))[..., None, None]
    conic_a = forms_M333[:, 0] * shares[:, 2] - forms_M333[:, 2] * shares[:, 0]
    conic_b = forms_M333[:, 1] * shares[:, 2] - forms_M333[:, 2] * shares[:, 1]
    cos, sin = math.cos(_PENCIL_TURN_RAD), math.sin(_PENCIL_TURN_RAD)
    conic_a, conic_b = cos * conic_a + sin * conic_b, cos * conic_b - sin * conic_a
    adjugate_a, adjugate_b = _adjugate(conic_a), _adjugate(conic_b)
    # det(A + γ B): a third of the trace of a matrix times its adjugate is its determinant.
    gamma = _real_cubic_root(
        (adjugate_b * conic_b).sum((-1, -2)) / 3,
        (adjugate_b * conic_a).sum((-1, -2)),
        (adjugate_a * conic_b).sum((-1, -2)),
        (adjugate_a * conic_a).sum((-1, -2)) / 3,
    )[:, None, None]
    pair = conic_a + gamma * conic_b
    other = (conic_b - gamma * conic_a) / (1 + gamma**2).sqrt()
    crossing_M33 = -_adjugate(pair)
    diagonal_M3 = crossing_M33.diagonal(dim1=-2, dim2=-1)
    largest_M, index_M = diagonal_M3.max(-1)
    rows = torch.arange(len(index_M), device=index_M.device)
    crossing_M3 = crossing_M33[rows, index_M] / largest_M.clamp_min(1e-300).sqrt()[:, None]
    # With the crossing point's matrix added, the symmetric matrix of rank two is g hᵀ.
    product_M33 = pair + skew(crossing_M3)
    entry_M = product_M33.abs().flatten(1).argmax(-1)
    row_M3 = product_M33[rows, entry_M // 3]
    column_M3 = product_M33[rows, :, entry_M % 3]
    lines_M23 = functional.normalize(torch.stack([row_M3, column_M3], dim=1), dim=-1)
    return lines_M23, other, largest_M > 0


def _intersections(lines_M23: Tensor, conic_M33: Tensor) -> tuple[Tensor, Tensor]:
    """Where two lines meet a conic: (M, 4, 3) up to scale, and which of them are real (M, 4)."""
    axis = functional.one_hot(lines_M23.abs().argmin(-1), 3).to(lines_M23)
    one = functional.normalize(torch.linalg.cross(lines_M23, axis), dim=-1)
    two = torch.linalg.cross(lines_M23, one)
    # a u² + 2 b u v + c v² = 0 for the point u one + v two.
    a, b, c = (
        torch.einsum("mki,mij,mkj->mk", left, conic_M33, right)
        for left, right in ((one, one), (one, two), (two, two))
    )
    discriminant = b * b - a * c
    tolerance = 1e-12 * (b * b + (a * c).abs())
    q = -(b + torch.where(b < 0, -1.0, 1.0) * discriminant.clamp_min(0).sqrt())
    found = torch.cat(
        [
            q[..., None] * one + a[..., None] * two,
            c[..., None] * one + q[..., None] * two,
        ],
        dim=1,
    )
    is_real = discriminant > -tolerance
    return functional.normalize(found, dim=-1), is_real.repeat(1, 2)


def _polished(depths: Tensor, cosines: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Depths after two steps of Newton on the three distances, and the worst misfit left."""
    first, second = ([pair[side] for pair in _PAIRS] for side in (0, 1))

    def misfit(depths: Tensor) -> Tensor:
        a, b = depths[..., first], depths[..., second]
        return a * a + b * b - 2 * a * b * cosines - squares

    for _ in range(2):
        a, b = depths[..., first], depths[..., second]
        jacobian = depths.new_zeros(*depths.shape, 3)
        for pair, (i, j) in enumerate(_PAIRS):
            jacobian[..., pair, i] = 2 * (a - b * cosines)[..., pair]
            jacobian[..., pair, j] = 2 * (b - a * cosines)[..., pair]
        adjugate = _adjugate(jacobian)
        determinant = (adjugate * jacobian.mT).sum((-1, -2)) / 3
        step = (adjugate @ misfit(depths)[..., None])[..., 0] / determinant[..., None]
        # At a double root the Jacobian is singular, and the closed form is as near as it gets.
        depths = depths - step.nan_to_num(0.0, 0.0, 0.0)
    return depths, misfit(depths).abs().amax(-1)


def _real_cubic_root(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """A real root of a x³ + b x² + c x + d: of three, the one furthest from the other two."""
    shift, c, d = b / (3 * a), c / a, d / a
    p = c / 3 - shift**2
    q = (2 * shift**3 - shift * c + d) / 2
    # y³ + 3 p y + 2 q = 0 with x = y - shift.
    discriminant = q * q + p**3
    root = (q.abs() + discriminant.clamp_min(0).sqrt()) ** (1 / 3)
    single = p / root.clamp_min(1e-300) - root
    radius = (-p).clamp_min(0).sqrt()
    cosine = (q.abs() / (radius**3).clamp_min(1e-300)).clamp_max(1)
    outer = -2 * radius * (cosine.acos() / 3).cos()
    y = torch.where(q < 0, -1.0, 1.0) * torch.where(discriminant > 0, single, outer)
    for _ in range(2):
        slope = 3 * (y * y + p)
        step = (y**3 + 3 * p * y + 2 * q) / slope
        y = y - step.nan_to_num(0.0, 0.0, 0.0)
    return y - shift


def _adjugate(matrix: Tensor) -> Tensor:
    """(..., 3, 3): the matrix whose product with `matrix` is its determinant times the identity."""
    x, y, z = matrix.unbind(-2)
    columns = [torch.linalg.cross(*pair) for pair in ((y, z), (z, x), (x, y))]
    return torch.stack(columns, dim=-1)


def _frames(points: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (..., 3, 3) whose columns lie along a triangle (..., 3, 3), and its thinness."""
    side, other = points[..., 1, :] - points[..., 0, :], points[..., 2, :] - points[..., 0, :]
    normal = torch.linalg.cross(side, other)
    size = side.square().sum(-1) + other.square().sum(-1)
    x, z = functional.normalize(side, dim=-1), functional.normalize(normal, dim=-1)
    frames = torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)
    return frames, normal.norm(dim=-1) / size.clamp_min(1e-300)
