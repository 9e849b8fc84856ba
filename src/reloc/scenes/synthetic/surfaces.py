"""Surfaces of a room: patches of material, and a pen that draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
Spot = tuple[float, float, float]

# Corners of a box are numbered 4 X + 2 Y + Z, with 1 for the high side; of a face, those of the
# upper row, then of the lower row, as seen from outside.
_BOX_FACES = {
    "x": np.array([[3, 1], [2, 0]]),
    "X": np.array([[5, 7], [4, 6]]),
    "y": np.array([[1, 5], [0, 4]]),
    "Y": np.array([[7, 3], [6, 2]]),
    "z": np.array([[0, 4], [2, 6]]),
    "Z": np.array([[3, 7], [1, 5]]),
}


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Attributes:
        layer: number of its texture.
        metres: that one repeat of the texture covers; None: it is stretched over the patch.
        window: part of the layer that is stretched: left, top, right, bottom in [0, 1].
        tint: factor of the texture's red, green and blue.
        gloss: part of the light that is mirrored when seen head-on.
        glow: light that it gives off, times its texture; 1 is white paper in full light.
        wear: how much stains and scratches show.
        grain: the texture runs along the longer side of a rectangle.
    """

    layer: int
    metres: float | None = None
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    tint: Spot = (1.0, 1.0, 1.0)
    gloss: float = 0.0
    glow: float = 0.0
    wear: float = 1.0
    grain: bool = False

    def part(self, number: int, columns: int, rows: int) -> Material:
        """One cell of a layer that shows columns × rows things."""
        row, column = divmod(number, columns)
        left, top = column / columns, row / rows
        return replace(self, window=(left, top, left + 1 / columns, top + 1 / rows))


@dataclass(frozen=True, eq=False)
class Patch:
    """A grid of points, covered by one material.

    Attributes:
        points_VU3: world, metres; seen from outside, U goes to the right of the texture and V down.
        material: its look.
        start_m: place of the first corner in a repeated texture.
        thin: lit and seen from both sides.
        kind: of the thing that it belongs to, as in `layout.KINDS`.
    """

    points_VU3: Points
    material: Material
    start_m: tuple[float, float] = (0.0, 0.0)
    thin: bool = False
    kind: int = 0


@dataclass(frozen=True, eq=False)
class Shapes:
    """The patches as arrays.

    Attributes:
        normals_VU3: of each patch, outward, unit length.
        size_P2: lengths along U and V, metres.
        uv_P4: texture coordinates of the first corner, and what the whole of U and V adds to them.
        corners_T33: of all triangles, two for each cell of a grid, patch by patch.
        st_T32: the corners' places on their patch, from 0 to 1 along U and V.
        patch_T: number of each triangle's patch.
    """

    normals_VU3: Sequence[Points]
    size_P2: Points
    uv_P4: Points
    corners_T33: Points
    st_T32: Points
    patch_T: NDArray[np.int32]


def measure(patches: Sequence[Patch]) -> Shapes:
    """Normals, sizes and triangles; at once for all patches with equally many points."""
    normals: list[Points] = [np.empty(0)] * len(patches)
    size_P2, uv_P4 = np.empty((len(patches), 2)), np.empty((len(patches), 4))
    corners, places, owners = [], [], []
    for shape in {patch.points_VU3.shape for patch in patches}:
        members = [
            number for number, patch in enumerate(patches) if patch.points_VU3.shape == shape
        ]
        points_MVU3 = np.stack([patches[number].points_VU3 for number in members])
        along_u = np.linalg.norm(np.diff(points_MVU3, axis=2), axis=3).sum(2).max(1)
        along_v = np.linalg.norm(np.diff(points_MVU3, axis=1), axis=3).sum(1).max(1)
        size_P2[members] = np.stack([along_u, along_v], axis=1)
        gradient_v, gradient_u = np.gradient(points_MVU3, axis=(1, 2))
        normals_MVU3 = np.cross(gradient_v, gradient_u)
        normals_MVU3 /= np.maximum(np.linalg.norm(normals_MVU3, axis=3, keepdims=True), 1e-12)
        for number, normals_VU3 in zip(members, normals_MVU3, strict=True):
            normals[number] = normals_VU3
        triangles_MC33, triangles_C32 = _triangulated(points_MVU3)
        corners.append(triangles_MC33.reshape(-1, 3, 3))
        places.append(np.tile(triangles_C32, (len(members), 1, 1)))
        owners.append(np.repeat(np.array(members, np.int32), len(triangles_C32)))
    for number, patch in enumerate(patches):
        uv_P4[number] = _texture_coordinates(patch, size_P2[number])
    return Shapes(
        normals,
        size_P2,
        uv_P4,
        np.concatenate(corners),
        np.concatenate(places),
        np.concatenate(owners),
    )


def _triangulated(points_MVU3: Points) -> tuple[Points, Points]:
    """Corners (M, C, 3, 3) of two triangles a cell, and their places (C, 3, 2) on a patch."""
    rows, columns = points_MVU3.shape[1:3]
    s, t = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (
        part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:])
    )
    triangles_C3 = np.concatenate([np.stack([a, b, d], axis=1), np.stack([a, d, c], axis=1)])
    places_C32 = np.stack([s.ravel(), t.ravel()], axis=1)[triangles_C3]
    return points_MVU3.reshape(len(points_MVU3), -1, 3)[:, triangles_C3], places_C32


def _texture_coordinates(patch: Patch, size_2: Points) -> tuple[float, float, float, float]:
    repeat = patch.material.metres
    if repeat is None:
        left, top, right, bottom = patch.material.window
        return left, top, right - left, bottom - top
    (u, v), (across, down) = patch.start_m, size_2
    return u / repeat, v / repeat, across / repeat, down / repeat


@dataclass(frozen=True, eq=False)
class Lamp:
    """A rectangle that shines, or a point where its sides are zero.

    Attributes:
        channel: index into `light.CHANNELS`.
        corner: (3,) world, metres.
        sides: (2, 3).
        normal: (3,) unit vector that it shines along; None: to all sides.
        power: irradiance that all of it gives at 1 m, head-on; 1 lights white paper fully.
        clearance_m: as near to it nothing casts shadows: the lamp's own shade.
        samples: points that stand for it.
    """

    channel: int
    corner: Points
    sides: Points
    normal: Points | None
    power: float
    clearance_m: float
    samples: int


class Pen:
    """Draws in a local frame: z up, and for furniture x along its wall and y away from it; metres.

    Args:
        patches: where the patches go, shared by all pens of a room.
        lamps: where the lamps go.
        rng: of all that is left to chance.
        world_from_local: (4, 4).
    """

    def __init__(
        self,
        patches: list[Patch],
        lamps: list[Lamp],
        rng: np.random.Generator,
        world_from_local: Points | None = None,
    ) -> None:
        self.patches = patches
        self.lamps = lamps
        self.rng = rng
        self.world_from_local = np.eye(4) if world_from_local is None else world_from_local

    def at(self, x: float, y: float, z: float = 0.0, turn_deg: float = 0.0) -> Pen:
        """A pen whose frame stands at (x, y, z) of this one, turned about z."""
        angle = np.deg2rad(turn_deg)
        cos, sin = np.cos(angle), np.sin(angle)
        here_from_new = np.array(
            [[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, z], [0, 0, 0, 1]], np.float64
        )
        return Pen(self.patches, self.lamps, self.rng, self.world_from_local @ here_from_new)

    def world(self, points: ArrayLike) -> Points:
        """Local points (..., 3) in the world."""
        rotation, translation = self.world_from_local[:3, :3], self.world_from_local[:3, 3]
        return np.asarray(points, np.float64) @ rotation.T + translation

    def sheet(self, points_VU3: Points, material: Material, *, thin: bool = False) -> None:
        """A grid of local points, at least 2 × 2: from outside, U goes to the right, V down."""
        self._add(self.world(points_VU3), material, thin=thin)

    def rect(
        self,
        corner: Spot,
        right: Spot,
        down: Spot,
        material: Material,
        *,
        thin: bool = False,
        start_m: tuple[float, float] | None = None,
    ) -> None:
        """A rectangle: its top-left corner as seen from outside, and the vectors of its sides.

        Args:
            corner: local.
            right: along the upper side.
            down: along the left side.
            material: its look.
            thin: lit and seen from both sides.
            start_m: place of the corner in a repeated texture; at random where it is not given.
        """
        (x, y, z), (rx, ry, rz), (dx, dy, dz) = corner, right, down
        top = [[x, y, z], [x + rx, y + ry, z + rz]]
        bottom = [[x + dx, y + dy, z + dz], [x + rx + dx, y + ry + dy, z + rz + dz]]
        self._add(self.world([top, bottom]), material, thin=thin, start_m=start_m)

    def box(
        self,
        low: Spot,
        high: Spot,
        material: Material,
        *,
        front: Material | None = None,
        faces: str = "xXyYZ",
    ) -> None:
        """An upright box between two corners.

        Args:
            low: least x, y, z.
            high: largest x, y, z.
            material: of all faces.
            front: of the face towards +y, where that is another.
            faces: which to draw: x y z the low ones, X Y Z the high ones.
        """
        corners_83 = self.world(
            [
                (x, y, z)
                for x in (low[0], high[0])
                for y in (low[1], high[1])
                for z in (low[2], high[2])
            ]
        )
        for face in faces:
            look = front if front is not None and face == "Y" else material
            self._add(corners_83[_BOX_FACES[face]], look)

    def _add(
        self,
        points_VU3: Points,
        material: Material,
        *,
        thin: bool = False,
        start_m: tuple[float, float] | None = None,
    ) -> None:
        if material.grain and points_VU3.shape == (2, 2, 3):
            (a, b), (c, _) = points_VU3
            if ((c - a) ** 2).sum() > ((b - a) ** 2).sum():
                points_VU3 = np.rot90(points_VU3, -1)
        if start_m is None:
            u, v = self.rng.random(2) * (material.metres or 0.0)
            start_m = (float(u), float(v))
        self.patches.append(Patch(points_VU3, material, start_m, thin))

    def lathe(
        self,
        foot: Spot,
        profile: Sequence[tuple[float, float]],
        material: Material,
        *,
        sides: int = 14,
    ) -> None:
        """A solid of revolution about the vertical through `foot`.

        Args:
            foot: where heights count from.
            profile: radius and height, from the top down.
            material: wrapped round it.
            sides: of the polygon that stands for the circle.
        """
        angle = np.linspace(0, 2 * np.pi, sides + 1)
        radius, height = np.array(profile, np.float64).T
        x = foot[0] + radius[:, None] * np.cos(angle)
        y = foot[1] + radius[:, None] * np.sin(angle)
        z = np.broadcast_to(foot[2] + height[:, None], x.shape)
        self.sheet(np.stack([x, y, z], axis=2), material)

    def ball(self, center: Spot, radius: float, material: Material) -> None:
        """A sphere."""
        angle = np.linspace(0.02, np.pi - 0.02, 9)
        profile = list(zip(radius * np.sin(angle), radius * np.cos(angle), strict=True))
        self.lathe(center, profile, material)

    def shine(
        self,
        channel: int,
        corner: Spot,
        sides: tuple[Spot, Spot],
        power: float,
        *,
        normal: Spot | None = None,
        clearance_m: float = 0.0,
        samples: int = 6,
    ) -> None:
        """A lamp, in local coordinates: see `Lamp`."""
        rotation = self.world_from_local[:3, :3]
        lamp = Lamp(
            channel=channel,
            corner=self.world(corner),
            sides=np.array(sides) @ rotation.T,
            normal=None if normal is None else rotation @ np.array(normal),
            power=power,
            clearance_m=clearance_m,
            samples=samples,
        )
        self.lamps.append(lamp)
