"""A pose that is about right, fitted to the landmarks that it says should be seen.

The idea is PixLoc's (Sarlin et al., "Back to the feature: learning robust camera localization from
pixels to pose", CVPR 2021): a pose that is about right says where each scene point should be seen,
and dense codes say where it is. PixLoc follows the gradient of the codes' difference. Here the
codes around the projection are looked through and the pose is fitted to where they agree best: that
is as accurate on our encoder's codes, begins from further off, and takes one step instead of ten.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.contract import Tensors
from reloc.estimation.absolute import (
    AbsolutePose,
    estimate_absolute_pose,
    refine_absolute_pose,
    reprojection_error_px,
)
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.map_tensors import landmarks_of
from reloc.nn.landmarks import keys_of

# In cells: how far from its projection a landmark is looked for, first and last.
_FAR_CELLS, _NEAR_CELLS = 8, 2
# Of those that a camera may see so many are looked for from far, where each costs more.
_MOST_FROM_FAR = 2000
# Cosine below which a landmark is hidden or not there.
_LEAST_ALIKE = 0.6
# Of the softmax of the cosines of neighbouring cells, by which a place between cells is found.
_TEMPERATURE = 0.03
# Of the loss of the last fit, in pixels of the resized image.
_LOSS_SCALE_PX = 1.0
# A refined pose on which a smaller share of what agreed before agrees is worse.
_LEAST_KEPT = 0.75


@dataclass(frozen=True, eq=False)
class _Cells:
    """All cells of an image.

    Attributes:
        keys_YXD: of each.
        size_2: of a cell, in pixels of the image: across, down.
    """

    keys_YXD: Tensor
    size_2: Tensor


class LandmarkFit:
    """Fits poses to landmarks. All is about their origin, where they are as a map has them.

    Args:
        tensors: a map of landmarks.
        config: of the map.
        seed: of the sampling.
    """

    def __init__(self, tensors: Tensors, config: CoordinatesConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        landmarks = landmarks_of(tensors)
        self._keys_LD, self._basis_CD = landmarks.keys_LD, landmarks.basis_CD
        self._points_L3 = landmarks.points_L3.double() * float(tensors["scale"])

    def fit(
        self,
        pixels_N2: Tensor,
        codes_NC: Tensor,
        camera: Camera,
        start: Rigid3d,
        *,
        from_far: bool,
    ) -> AbsolutePose | None:
        """The pose by the landmarks that are seen near where `start` puts them; None without any.

        Args:
            pixels_N2: the middles of all cells of an image, row by row.
            codes_NC: of the cells.
            camera: of the image; without a prior focal length, that is estimated from far, too.
            start: cam_from_center.
            from_far: whether `start` may be off by some cells, not by a part of one.
        """
        cells = self._cells(pixels_N2, codes_NC)
        scale = min(camera.width, camera.height) / self._config.short_side_px
        max_error_px = scale * self._config.max_error_px
        if from_far:
            seen = self._seen(cells, start, camera, _FAR_CELLS, _MOST_FROM_FAR)
            found = estimate_absolute_pose(*seen, camera, max_error_px, seed=self._seed)
            if found is None:
                return None
            start, camera = found.cam_from_world, found.camera
        seen = self._seen(cells, start, camera, _NEAR_CELLS)
        return refine_absolute_pose(*seen, camera, start, max_error_px, scale * _LOSS_SCALE_PX)

    def num_seen(self, pixels_N2: Tensor, codes_NC: Tensor, camera: Camera, pose: Rigid3d) -> int:
        """How many landmarks the image shows where a pose, cam_from_center, puts them.

        The other arguments are those of `fit`.
        """
        cells = self._cells(pixels_N2, codes_NC)
        return len(self._seen(cells, pose, camera, _NEAR_CELLS)[0])

    def holds(
        self, refined: Rigid3d, start: Rigid3d, pixels_N2: Tensor, points_N3: Tensor, camera: Camera
    ) -> float | None:
        """Share of the cells that agree with a refined pose; None where it is worse than `start`.

        Args:
            refined: cam_from_center.
            start: what it was before.
            pixels_N2: the middles of cells.
            points_N3: that the map says they show.
            camera: of the image.
        """
        scale = min(camera.width, camera.height) / self._config.short_side_px
        after, before = (
            float(
                (
                    reprojection_error_px(pose, pixels_N2.double(), points_N3.double(), camera)
                    < scale * self._config.max_error_px
                )
                .double()
                .mean()
            )
            for pose in (refined, start)
        )
        return after if after >= max(_LEAST_KEPT * before, self._config.min_inlier_ratio) else None

    def _cells(self, pixels_N2: Tensor, codes_NC: Tensor) -> _Cells:
        columns = int(pixels_N2[:, 0].argmax()) + 1
        keys_ND = keys_of(codes_NC.cpu(), self._basis_CD)
        keys_YXD = keys_ND.reshape(-1, columns, keys_ND.shape[1])
        # The first cell begins in the corner. The last may end before the image does.
        return _Cells(keys_YXD, 2 * pixels_N2[0].double())

    def _seen(
        self,
        cells: _Cells,
        cam_from_center: Rigid3d,
        camera: Camera,
        radius: int,
        most: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pixels (N, 2) at which landmarks are seen that should be near there, and the points."""
        keys_YXD, cell_2 = cells.keys_YXD, cells.size_2
        rows, columns, _ = keys_YXD.shape
        points_cam_L3 = cam_from_center @ self._points_L3
        at_L2 = camera.img_from_cam(points_cam_L3) / cell_2 - 0.5
        inside_L = (points_cam_L3[:, 2] > 0) & at_L2.isfinite().all(1)
        inside_L &= ((at_L2 > 0) & (at_L2 < torch.tensor([columns - 1, rows - 1]))).all(1)
        index_M = inside_L.nonzero()[:most, 0]
        middle_M2 = at_L2[index_M].round().long()

        cosine_MK, cell_MK2 = _around(keys_YXD, middle_M2, self._keys_LD[index_M], radius)
        best_M, which_M = cosine_MK.max(1)
        best_M2 = cell_MK2[torch.arange(len(index_M)), which_M]
        # At the edge of what was looked through the best may lie outside of it.
        at_edge_M = (best_M2 - middle_M2).abs().amax(1) == radius
        kept_M = (best_M > _LEAST_ALIKE) & ~at_edge_M
        index_N, best_N2 = index_M[kept_M], best_M2[kept_M]
        cosine_NK, cell_NK2 = _around(keys_YXD, best_N2, self._keys_LD[index_N], 1)
        weight_NK = (cosine_NK / _TEMPERATURE).softmax(1).double()
        seen_N2 = (weight_NK[..., None] * (cell_NK2 + 0.5)).sum(1)
        return seen_N2 * cell_2, self._points_L3[index_N]


def _around(
    keys_YXD: Tensor, middle_M2: Tensor, wanted_MD: Tensor, radius: int
) -> tuple[Tensor, Tensor]:
    """Cosines (M, K) of wanted keys with the cells of a square, and the cells (M, K, 2)."""
    rows, columns, _ = keys_YXD.shape
    steps = torch.arange(-radius, radius + 1)
    square_K2 = torch.cartesian_prod(steps, steps)
    cell_MK2 = middle_M2[:, None] + square_K2
    inside_MK = ((cell_MK2 >= 0) & (cell_MK2 < torch.tensor([columns, rows]))).all(-1)
    flat_MK = cell_MK2[..., 1].clamp(0, rows - 1) * columns + cell_MK2[..., 0].clamp(0, columns - 1)
    if radius > 2:
        # All cells at once: a product of matrices is quicker than that many gathered rows.
        cosine_MK = (wanted_MD @ keys_YXD.flatten(0, 1).T).gather(1, flat_MK)
    else:
        near_MKD = keys_YXD.flatten(0, 1)[flat_MK]
        cosine_MK = (near_MKD @ wanted_MD[..., None])[..., 0]
    return cosine_MK.masked_fill(~inside_MK, -1.0), cell_MK2
