"""What is seen of a room along rays: linear light, and distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from reloc.scenes.synthetic.atlas import Atlas, look_up
from reloc.scenes.synthetic.light import CHANNELS, light_up
from reloc.scenes.synthetic.surfaces import Lamp, Patch, Shapes, measure
from reloc.scenes.synthetic.textures import SIZE, Layers
from reloc.scenes.synthetic.tracer import Floats, Hits, Tracer, in_chunks

_WEAR_METRES = 0.87
_MAX_RADIANCE = 6.0
# Mirrored rays start a little before the mirror.
_SHORT_OF = 0.9999
# What floors and furniture mirror is blurred, with this standard deviation over the picture's
# width; above this gloss it is sharp.
_HAZE = 0.008
_SHARP_GLOSS = 0.5
# Where in a pixel on an edge its further rays go: a rotated grid.
_SUBPIXELS = np.array(
    [[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]], np.float32
)


@dataclass(frozen=True)
class Lighting:
    """What shines, and how the camera takes it.

    Attributes:
        daylight: strength of the windows; 1 is a bright day.
        ceiling: strength of the ceiling lamps.
        lamps: strength of the lamps on floor and tables.
        exposure: stops above (+) or below (-) what a camera's automatic would take.
        warmth: of the white balance; 0 is neutral, +1 is orange, -1 blue.
    """

    daylight: float = 1.0
    ceiling: float = 1.0
    lamps: float = 1.0
    exposure: float = 0.0
    warmth: float = 0.0


@dataclass(frozen=True, eq=False)
class _Seen:
    """What rays see.

    Attributes:
        radiance_N3: linear light, without what is mirrored hazily.
        mirrored_N4: that part: light times the share of it, and the share.
        distance_N: in lengths of the ray's direction.
        patch_N: the surface; -1 for none.
    """

    radiance_N3: Floats
    mirrored_N4: Floats
    distance_N: Floats
    patch_N: NDArray[np.int32]


class Renderer:
    """Sees a room.

    Args:
        patches: its surfaces.
        layers: its textures; the one of kind "wear" lies on all of them.
        lamps: its lights.
        channel_colors_C3: light of each channel, linear RGB.
        seed: of the light's sampling.
    """

    def __init__(
        self,
        patches: Sequence[Patch],
        layers: Layers,
        lamps: Sequence[Lamp],
        channel_colors_C3: Floats,
        seed: int,
    ) -> None:
        shapes = measure(patches)
        self._tracer = Tracer(shapes)
        self._atlas = Atlas(layers.pixels_TSS3)
        self._wear = Atlas(layers.pixels_TSS3[layers.of("wear"), :, :, 1])
        self._channel_colors_C3 = channel_colors_C3
        reflectance_T = (layers.pixels_TSS3[:, ::8, ::8].astype(np.float32) / 255) ** 2
        albedo_T3 = reflectance_T.mean(axis=(1, 2))
        number_P = np.array([patch.material.layer for patch in patches])
        tint_P3 = np.array([patch.material.tint for patch in patches], np.float32)
        albedo_P = (albedo_T3[number_P] * tint_P3).mean(1)
        lightmap = light_up(patches, shapes, self._tracer, lamps, albedo_P, seed)
        self._light_HW3 = lightmap.values_HW3
        per_patch_PK = np.concatenate([_look_table(patches, shapes), lightmap.place_P4], axis=1)
        owner_T = self._tracer.patch_of_triangle_T
        self._table_TK = np.concatenate(
            [per_patch_PK[owner_T], self._tracer.normal_of_triangle_T3], axis=1
        ).astype(np.float32)

    def cast(self, origin_3: Floats, directions_N3: Floats) -> tuple[Floats, NDArray[np.int32]]:
        """Distances (N,) in lengths of the directions, and numbers of patches (N,).

        They are infinite and -1 where there is nothing.
        """

        def cast(rows: slice) -> tuple[Floats, NDArray[np.int32]]:
            directions = np.ascontiguousarray(directions_N3[rows])
            hits = self._tracer.cast(np.broadcast_to(origin_3, directions.shape).copy(), directions)
            return hits.distance_N, self._patch_of(hits)

        distances, patches = zip(*in_chunks(cast, len(directions_N3)), strict=True)
        return np.concatenate(distances), np.concatenate(patches)

    def _patch_of(self, hits: Hits) -> NDArray[np.int32]:
        return np.where(hits.triangle_N < 0, -1, self._tracer.patch_of_triangle_T[hits.triangle_N])

    def radiance(
        self, origin_3: Floats, directions_HW3: Floats, pixel_angle: float, lighting: Lighting
    ) -> tuple[Floats, Floats]:
        """Linear light (H, W, 3), and distances (H, W) as `cast` gives them.

        Args:
            origin_3: the camera centre.
            directions_HW3: of the rays through the pixels' centres.
            pixel_angle: side of a pixel, in lengths of the directions, at distance 1.
            lighting: what shines.
        """
        height, width = directions_HW3.shape[:2]
        flat_N3 = directions_HW3.reshape(-1, 3)
        seen = self._see_all(origin_3, flat_N3, pixel_angle, lighting)
        mirrored_HW4 = seen.mirrored_N4.reshape(height, width, 4)
        hazy_HW4 = cv2.GaussianBlur(mirrored_HW4, (0, 0), _HAZE * width)
        light_HW3 = hazy_HW4[..., :3] / np.maximum(hazy_HW4[..., 3:], 1e-6)
        radiance_HW3 = mirrored_HW4[..., 3:] * light_HW3
        radiance_HW3 += seen.radiance_N3.reshape(height, width, 3)
        # Pixels that an edge runs through are seen again, by several rays.
        edge = _on_edge(seen.patch_N.reshape(height, width))
        if edge.any():
            right_HW3 = np.gradient(directions_HW3, axis=1)
            down_HW3 = np.gradient(directions_HW3, axis=0)
            across_S11, below_S11 = _SUBPIXELS.T[:, :, None, None]
            moved_SE3 = across_S11 * right_HW3[edge] + below_S11 * down_HW3[edge]
            around_N3 = (directions_HW3[edge] + moved_SE3).reshape(-1, 3)
            again = self._see_all(origin_3, around_N3, pixel_angle, lighting)
            light_N3 = again.radiance_N3 + again.mirrored_N4[:, :3]
            radiance_HW3[edge] = light_N3.reshape(moved_SE3.shape).mean(axis=0)
        return radiance_HW3, seen.distance_N.reshape(height, width)

    def _see_all(
        self, origin_3: Floats, directions_N3: Floats, pixel_angle: float, lighting: Lighting
    ) -> _Seen:
        strength_C = np.array([getattr(lighting, channel) for channel in CHANNELS], np.float32)
        lights_C3 = self._channel_colors_C3 * strength_C[:, None]

        def see(rows: slice) -> _Seen:
            directions = np.ascontiguousarray(directions_N3[rows])
            origins = np.broadcast_to(origin_3, directions.shape).copy()
            start_N = np.zeros(len(directions), np.float32)
            return self._see(origins, directions, start_N, np.float32(pixel_angle), lights_C3)

        parts = in_chunks(see, len(directions_N3))
        return _Seen(
            np.concatenate([part.radiance_N3 for part in parts]),
            np.concatenate([part.mirrored_N4 for part in parts]),
            np.concatenate([part.distance_N for part in parts]),
            np.concatenate([part.patch_N for part in parts]),
        )

    def _see(
        self,
        origins_N3: Floats,
        directions_N3: Floats,
        travelled_N: Floats,
        pixel_angle: np.float32,
        lights_C3: Floats,
        *,
        mirrored: bool = False,
    ) -> _Seen:
        """What rays see that have `travelled_N` lengths before; mirrors in mirrors are dull."""
        hits = self._tracer.cast(origins_N3, directions_N3)
        look = _Look(np.ascontiguousarray(self._table_TK[hits.triangle_N].T))
        falling_N = np.einsum("kn,nk->n", look.normal_3N, directions_N3)
        cosine_N = np.abs(falling_N) / np.linalg.norm(directions_N3, axis=1)
        # A pixel's footprint is an ellipse, whose area counts.
        far_N = travelled_N + hits.distance_N
        footprint_N = far_N * pixel_angle / np.sqrt(np.maximum(cosine_N, 0.05))
        radiance_N3 = self._leaving(hits, look, footprint_N, lights_C3)
        mirrored_N4 = np.zeros((len(far_N), 4), np.float32)
        glossy = np.flatnonzero((look.gloss > 0) & (hits.triangle_N >= 0))
        if len(glossy) and not mirrored:
            normal_M3, incoming_M3 = look.normal_3N.T[glossy], directions_N3[glossy]
            start_M3 = origins_N3[glossy] + _SHORT_OF * hits.distance_N[glossy, None] * incoming_M3
            outgoing_M3 = incoming_M3 - 2 * falling_N[glossy, None] * normal_M3
            seen = self._see(
                start_M3, outgoing_M3, far_N[glossy], pixel_angle, lights_C3, mirrored=True
            )
            # Schlick's formula; a rough surface mirrors less at grazing angles than glass does.
            gloss_M = look.gloss[glossy]
            share_M1 = (gloss_M + 0.35 * (1 - gloss_M) * (1 - cosine_N[glossy]) ** 5)[:, None]
            radiance_N3[glossy] *= 1 - share_M1
            light_M3 = share_M1 * seen.radiance_N3
            sharp = gloss_M > _SHARP_GLOSS
            radiance_N3[glossy[sharp]] += light_M3[sharp]
            mirrored_N4[glossy[~sharp]] = np.concatenate([light_M3, share_M1], axis=1)[~sharp]
        bounded_N3 = np.minimum(radiance_N3, _MAX_RADIANCE)
        return _Seen(bounded_N3, mirrored_N4, hits.distance_N, self._patch_of(hits))

    def _leaving(self, hits: Hits, look: _Look, footprint_N: Floats, lights_C3: Floats) -> Floats:
        """Light (N, 3) that leaves the surfaces, but for what they mirror; 0 where none is."""
        s_N, t_N = hits.st_N2.T
        uv_N2 = np.stack([look.u + s_N * look.across, look.v + t_N * look.down], axis=1)
        texture_N3 = self._atlas.look_up(look.layer, uv_N2, footprint_N * look.texels_per_m)
        worn_N2 = (look.size_2N * hits.st_N2.T + look.wear_start_2N).T / np.float32(_WEAR_METRES)
        worn_texels_N = footprint_N * np.float32(SIZE / _WEAR_METRES)
        worn_N = self._wear.look_up(np.zeros_like(s_N), worn_N2, worn_texels_N)
        reflectance_N3 = texture_N3 * texture_N3 * look.tint_3N.T
        reflectance_N3 *= (1 + look.wear * (2 * worn_N - 1))[:, None]
        x_N, y_N = look.place_4N[:2] + hits.st_N2.T * look.place_4N[2:]
        arriving_N3 = look_up(self._light_HW3, x_N, y_N) @ lights_C3
        leaving_N3 = reflectance_N3 * (arriving_N3 + look.glow[:, None])
        leaving_N3[hits.triangle_N < 0] = 0
        return leaving_N3


def _look_table(patches: Sequence[Patch], shapes: Shapes) -> Floats:
    """What `_Look` reads of a patch, up to the light."""
    looks = [patch.material for patch in patches]
    flat_P4 = [[look.layer, look.gloss, look.glow, look.wear] for look in looks]
    # Texels per metre: the geometric mean of the two axes.
    area_P = np.maximum(shapes.size_P2.prod(axis=1), 1e-9)
    density_P = SIZE * np.sqrt(np.abs(shapes.uv_P4[:, 2] * shapes.uv_P4[:, 3]) / area_P)
    number_P = np.arange(len(patches))
    wear_start_P2 = np.stack([0.37 * number_P % 1, 0.61 * number_P % 1], axis=1)
    tint_P3 = [look.tint for look in looks]
    parts = (shapes.uv_P4, density_P[:, None], flat_P4, tint_P3, shapes.size_P2, wear_start_P2)
    return np.concatenate(parts, axis=1).astype(np.float32)


class _Look:
    """The columns of the renderer's table, for N hits."""

    def __init__(self, table_KN: Floats) -> None:
        self.u, self.v, self.across, self.down, self.texels_per_m = table_KN[:5]
        self.layer, self.gloss, self.glow, self.wear = table_KN[5:9]
        self.tint_3N, self.size_2N = table_KN[9:12], table_KN[12:14]
        self.wear_start_2N, self.place_4N = table_KN[14:16], table_KN[16:20]
        self.normal_3N = table_KN[20:23]


def _on_edge(patch_HW: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels that have a neighbour, beside or below, on another patch."""
    edge = np.zeros(patch_HW.shape, bool)
    beside, below = np.diff(patch_HW, axis=1) != 0, np.diff(patch_HW, axis=0) != 0
    edge[:, :-1] |= beside
    edge[:, 1:] |= beside
    edge[:-1] |= below
    edge[1:] |= below
    return edge
