"""Rays against the patches of a room (Embree, by embreex)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from reloc.input_error import InputError
from reloc.scenes.synthetic.surfaces import Shapes

Floats = NDArray[np.floating]
"""float32; numpy's types cannot follow that through arithmetic."""
Ints = NDArray[np.int32]
_T = TypeVar("_T")
# What fits the cache of a core, and is enough work for a thread.
_CHUNK = 32_768


@dataclass(frozen=True, eq=False)
class Hits:
    """Where rays end.

    Attributes:
        triangle_N: which was hit; -1 for none.
        st_N2: place on its patch, along U and V, each in [0, 1].
        distance_N: in lengths of the ray's direction; infinite for none.
    """

    triangle_N: Ints
    st_N2: Floats
    distance_N: Floats


class Tracer:
    """The triangles of a room.

    Attributes:
        patch_of_triangle_T: number of the patch that a triangle belongs to.
        normal_of_triangle_T3: outward, unit length.

    Raises:
        InputError: embreex is not installed.
    """

    def __init__(self, shapes: Shapes) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as error:
            raise InputError(
                "synthetic rooms need embreex, which is not installed: pip install reloc[synthetic]"
            ) from error
        first_T3, second_T3, third_T3 = shapes.corners_T33.transpose(1, 0, 2)
        normal_T3 = np.cross(third_T3 - first_T3, second_T3 - first_T3)
        length_T1 = np.maximum(np.linalg.norm(normal_T3, axis=1, keepdims=True), 1e-12)
        self.patch_of_triangle_T: Ints = shapes.patch_T
        self.normal_of_triangle_T3: Floats = (normal_T3 / length_T1).astype(np.float32)
        # st = first + u (second - first) + v (third - first), with Embree's barycentric u and v.
        first_T2, second_T2, third_T2 = shapes.st_T32.transpose(1, 0, 2)
        self._st_T6 = np.concatenate(
            [first_T2, second_T2 - first_T2, third_T2 - first_T2], axis=1
        ).astype(np.float32)
        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(self._scene, shapes.corners_T33.astype(np.float32))

    def cast(self, origins_N3: Floats, directions_N3: Floats) -> Hits:
        """The first triangle on each ray."""
        found = self._scene.run(origins_N3, directions_N3, output=True)
        triangle_N = found["primID"]
        st_N6 = self._st_T6[triangle_N]
        u_N1, v_N1 = found["u"][:, None], found["v"][:, None]
        st_N2 = st_N6[:, :2] + u_N1 * st_N6[:, 2:4] + v_N1 * st_N6[:, 4:]
        distance_N = np.where(triangle_N < 0, np.float32(np.inf), found["tfar"])
        return Hits(triangle_N, st_N2, distance_N)

    def blocked(
        self, origins_N3: Floats, directions_N3: Floats, reach_N: Floats
    ) -> NDArray[np.bool_]:
        """Whether anything stands on a ray within `reach_N` lengths of its direction."""
        # Embree marks an occluded ray by a geometry number; a free one keeps -1.
        found = self._scene.run(origins_N3, directions_N3, dists=reach_N, query="OCCLUDED")
        return found >= 0


def in_chunks(work: Callable[[slice], _T], length: int) -> list[_T]:
    """`work` on slices of range(length), in order, on all cores: NumPy and Embree free the GIL."""
    slices = [slice(begin, begin + _CHUNK) for begin in range(0, length, _CHUNK)]
    if len(slices) == 1:
        return [work(slices[0])]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, slices))
