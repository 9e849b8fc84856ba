"""Light of a room, computed once: soft shadows and light from surface to surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from reloc.scenes.synthetic.surfaces import Lamp, Patch, Shapes
from reloc.scenes.synthetic.tracer import Floats, Tracer, in_chunks

CHANNELS = ("daylight", "ceiling", "lamps")
"""Groups of lamps that are switched together."""

_SPACING_M = 0.07
_SMALL_M, _SMALL_SPACING_M = 0.45, 0.13
_MAX_SAMPLES = 80
_INSET_M = 0.012
_OFFSET_M = 0.004
# Irradiance that is not worth a ray.
_LEAST = 0.003
_GATHER_RAYS = 16
_BOUNCES = 3
_WIDTH = 1024


@dataclass(frozen=True, eq=False)
class Lightmap:
    """Irradiance on a grid over each patch, one value for each channel.

    Attributes:
        values_HW3: all grids, packed; 1 lights white paper fully.
        place_P4: of each patch: column and row of its first sample, and the steps to its last.
    """

    values_HW3: Floats
    place_P4: Floats


def light_up(
    patches: Sequence[Patch],
    shapes: Shapes,
    tracer: Tracer,
    lamps: Sequence[Lamp],
    albedo_P: Floats,
    seed: int,
) -> Lightmap:
    """Compute the light on all patches.

    Source of the indirect part: final gathering, iterated; Ward et al., "A ray tracing solution for
    diffuse interreflection", SIGGRAPH 1988.

    Args:
        patches: of the room.
        shapes: of the same patches.
        tracer: of the same patches.
        lamps: all that shines.
        albedo_P: mean reflectance of each patch.
        seed: of the directions that are sampled.
    """
    is_small_P1 = shapes.size_P2.max(axis=1, keepdims=True) < _SMALL_M
    spacing_P1 = np.where(is_small_P1, _SMALL_SPACING_M, _SPACING_M)
    count_P2 = np.clip(np.ceil(shapes.size_P2 / spacing_P1).astype(int) + 1, 2, _MAX_SAMPLES)
    corner_P2, height = _packed(count_P2)
    samples = _samples(patches, shapes, count_P2)
    rng = np.random.default_rng([seed, len(samples.points_N3)])
    direct_N3 = np.zeros((len(samples.points_N3), len(CHANNELS)), np.float32)
    for lamp in lamps:
        direct_N3[:, lamp.channel] += _from_lamp(lamp, samples, tracer, rng)
    seen_NK = _seen(samples, tracer, count_P2, rng)
    reflectance_N1 = albedo_P[samples.patch_N][:, None]
    indirect_N3 = np.zeros_like(direct_N3)
    for _ in range(_BOUNCES):
        leaving_N3 = reflectance_N1 * (direct_N3 + indirect_N3)
        indirect_N3 = leaving_N3[seen_NK].mean(axis=1)
    values_HW3 = np.zeros((height, _WIDTH, len(CHANNELS)), np.float32)
    begin = 0
    for (columns, rows), (x, y) in zip(count_P2, corner_P2, strict=True):
        end = begin + rows * columns
        direct = direct_N3[begin:end].reshape(rows, columns, -1)
        indirect = indirect_N3[begin:end].reshape(rows, columns, -1)
        # Sampling noise: strongest in the indirect light, which is smooth in truth.
        if min(rows, columns) > 3:
            indirect = cv2.GaussianBlur(indirect, (5, 5), 1.3)
            direct = cv2.GaussianBlur(direct, (3, 3), 0.7)
        values_HW3[y : y + rows, x : x + columns] = indirect + direct
        begin = end
    place_P4 = np.concatenate([corner_P2, count_P2 - 1], axis=1).astype(np.float32)
    return Lightmap(values_HW3, place_P4)


@dataclass(frozen=True, eq=False)
class _Samples:
    """Points on all patches, row by row."""

    points_N3: Floats
    normals_N3: Floats
    patch_N: NDArray[np.int64]
    thin_N: NDArray[np.bool_]


def _packed(count_P2: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Corners (P, 2), x and y, of rectangles on shelves of _WIDTH; and all shelves' height."""
    corner_P2 = np.zeros_like(count_P2)
    x = y = shelf = 0
    for number in np.argsort(-count_P2[:, 1], kind="stable"):
        columns, rows = count_P2[number]
        if x + columns > _WIDTH:
            x, y, shelf = 0, y + shelf, 0
        corner_P2[number] = x, y
        x, shelf = x + columns, max(shelf, rows)
    return corner_P2, int(y + shelf)


def _samples(patches: Sequence[Patch], shapes: Shapes, count_P2: NDArray[np.int64]) -> _Samples:
    """Sample points and normals, interpolated between the points of the patches."""
    shape_P2 = np.array([patch.points_VU3.shape[1::-1] for patch in patches])
    first_P = np.concatenate([[0], np.cumsum(shape_P2.prod(axis=1))[:-1]])
    vertices_M6 = np.concatenate(
        [
            np.concatenate([patch.points_VU3, normals_VU3], axis=2).reshape(-1, 6)
            for patch, normals_VU3 in zip(patches, shapes.normals_VU3, strict=True)
        ]
    )
    per_patch_P = count_P2.prod(axis=1)
    patch_N = np.repeat(np.arange(len(patches)), per_patch_P)
    within_N = np.arange(len(patch_N)) - np.repeat(
        np.cumsum(per_patch_P) - per_patch_P, per_patch_P
    )
    columns_N = count_P2[patch_N, 0]
    index_N2 = np.stack([within_N % columns_N, within_N // columns_N], axis=1)
    st_N2 = index_N2 / (count_P2[patch_N] - 1)
    # A sample on an edge would see nothing but the surface next to it.
    inset_N2 = np.minimum(_INSET_M / np.maximum(shapes.size_P2, 1e-6), 0.4)[patch_N]
    grid_N2 = np.clip(st_N2, inset_N2, 1 - inset_N2) * (shape_P2[patch_N] - 1)
    cell_N2 = np.minimum(grid_N2.astype(int), shape_P2[patch_N] - 2)
    s_N1, t_N1 = np.split(grid_N2 - cell_N2, 2, axis=1)
    stride_N = shape_P2[patch_N, 0]
    a_N = first_P[patch_N] + cell_N2[:, 1] * stride_N + cell_N2[:, 0]
    upper = vertices_M6[a_N] * (1 - s_N1) + vertices_M6[a_N + 1] * s_N1
    lower = vertices_M6[a_N + stride_N] * (1 - s_N1) + vertices_M6[a_N + stride_N + 1] * s_N1
    both_N6 = (upper * (1 - t_N1) + lower * t_N1).astype(np.float32)
    normals_N3 = both_N6[:, 3:]
    normals_N3 /= np.maximum(np.linalg.norm(normals_N3, axis=1, keepdims=True), 1e-9)
    thin_N = np.array([patch.thin for patch in patches])[patch_N]
    return _Samples(both_N6[:, :3], normals_N3, patch_N, thin_N)


def _from_lamp(lamp: Lamp, samples: _Samples, tracer: Tracer, rng: np.random.Generator) -> Floats:
    """Irradiance (N,) from one lamp."""
    count = len(samples.points_N3)
    # Stratified along one side of the lamp, shuffled along the other.
    jitter_SN2 = rng.random((lamp.samples, count, 2), np.float32)
    strata = np.arange(lamp.samples)[:, None]
    jitter_SN2[..., 0] = (strata + jitter_SN2[..., 0]) / lamp.samples
    jitter_SN2[..., 1] = (strata * 5 % lamp.samples + jitter_SN2[..., 1]) / lamp.samples
    corner, sides = lamp.corner.astype(np.float32), lamp.sides.astype(np.float32)

    def arriving(rows: slice) -> Floats:
        points_N3, normals_N3 = samples.points_N3[rows], samples.normals_N3[rows]
        total_N = np.zeros(len(points_N3), np.float32)
        for jitter_N2 in jitter_SN2[:, rows]:
            ray_N3 = corner + jitter_N2 @ sides - points_N3
            length_N = np.linalg.norm(ray_N3, axis=1)
            cosine_N = np.einsum("nc,nc->n", ray_N3, normals_N3) / length_N
            side_N = np.where(samples.thin_N[rows], np.sign(cosine_N), 1).astype(np.float32)
            emitted_N = np.float32(1)
            if lamp.normal is not None:
                emitted_N = np.maximum(-(ray_N3 @ lamp.normal.astype(np.float32)) / length_N, 0)
            strength_N = (
                np.maximum(cosine_N * side_N, 0) * emitted_N / np.maximum(length_N, 0.15) ** 2
            )
            lit = np.flatnonzero(strength_N * lamp.power > _LEAST)
            origin_N3 = points_N3[lit] + (_OFFSET_M * side_N[lit, None]) * normals_N3[lit]
            reach_N = np.maximum(1 - lamp.clearance_m / length_N[lit], 0.01).astype(np.float32)
            free = lit[~tracer.blocked(origin_N3, np.ascontiguousarray(ray_N3[lit]), reach_N)]
            total_N[free] += strength_N[free]
        return total_N * np.float32(lamp.power / lamp.samples)

    return np.concatenate(in_chunks(arriving, count))


def _seen(
    samples: _Samples, tracer: Tracer, count_P2: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Numbers (N, _GATHER_RAYS) of samples that each sample gets light from, cosine-weighted."""
    count = len(samples.points_N3)
    per_patch_P = count_P2.prod(axis=1)
    first_P = np.cumsum(per_patch_P) - per_patch_P
    random_KN2 = rng.random((_GATHER_RAYS, count, 2), np.float32)

    def seen(rows: slice) -> NDArray[np.int64]:
        normals_N3 = samples.normals_N3[rows]
        origins_N3 = samples.points_N3[rows] + _OFFSET_M * normals_N3
        found = np.empty((len(normals_N3), _GATHER_RAYS), np.int64)
        for number, random_N2 in enumerate(random_KN2[:, rows]):
            # A point of the unit sphere put on the tip of the normal is cosine-weighted about it.
            z_N = 1 - 2 * (number + random_N2[:, 0]) / _GATHER_RAYS
            angle_N = np.float32(2 * np.pi) * random_N2[:, 1]
            radius_N = np.sqrt(np.maximum(1 - z_N * z_N, 0))
            ball_N3 = np.stack(
                [radius_N * np.cos(angle_N), radius_N * np.sin(angle_N), z_N], axis=1
            )
            hits = tracer.cast(origins_N3, (ball_N3 + 1.001 * normals_N3).astype(np.float32))
            patch_N = tracer.patch_of_triangle_T[hits.triangle_N]
            nearest_N2 = np.rint(hits.st_N2 * (count_P2[patch_N] - 1)).astype(np.int64)
            found[:, number] = (
                first_P[patch_N] + nearest_N2[:, 1] * count_P2[patch_N, 0] + nearest_N2[:, 0]
            )
        return found

    return np.concatenate(in_chunks(seen, count))
