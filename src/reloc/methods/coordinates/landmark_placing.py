"""Where landmarks are: looked for in views from all around, and triangulated again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional

from reloc.contract import Run
from reloc.methods.coordinates.cameras import MappingCameras
from reloc.training.replay import PosedCells

# A landmark is looked for among so many of the cells nearest to where it should be seen and within
# so many pixels, then among fewer...
_WINDOWS = ((48, 24.0), (16, 12.0))
# ...in about so many views in all, from directions that differ by this much from its own.
_SIGHTINGS, _MIN_TURN_DEG, _MAX_TURN_DEG = 12, 3.0, 60.0
# How alike a cell must be, and how much less one counts that is less alike than the best.
_MIN_COSINE, _TEMPERATURE = 0.55, 0.05
# Steps of reweighting, the error in pixels at which a sighting counts for a quarter, and up to
# which it agrees.
_REWEIGHTINGS, _SOFT_PX, _AGREES_PX = 6, 3.0, 6.0
# How much less than a sighting the place counts that a landmark had before.
_PRIOR = 1e-3
# Landmarks that are compared with the cells near them at once: 48 codes of each are gathered.
_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Placed:
    """Landmarks that are being placed.

    Attributes:
        points_L3: in the frame and the unit of the head.
        codes_LC: sums of the codes of their sightings, of any norm.
    """

    points_L3: Tensor
    codes_LC: Tensor

    def at(self, chosen: Tensor | slice) -> Placed:
        """Some of them."""
        return Placed(self.points_L3[chosen], self.codes_LC[chosen])

    def where(self, chosen_L: Tensor, other: Placed) -> Placed:
        """Those that are chosen, and in the places of the rest the other ones."""
        chosen_L1 = chosen_L[:, None]
        return Placed(
            torch.where(chosen_L1, self.points_L3, other.points_L3),
            torch.where(chosen_L1, self.codes_LC, other.codes_LC),
        )


@dataclass(frozen=True, eq=False)
class _Sightings:
    """Where landmarks were seen.

    Attributes:
        landmark_N: which one,
        view_N: in which view,
        rays_N2: where, on the plane z = 1,
        cell_N: and the cell that is most like it there.
    """

    landmark_N: Tensor
    view_N: Tensor
    rays_N2: Tensor
    cell_N: Tensor

    @staticmethod
    def join(parts: Sequence[_Sightings]) -> _Sightings:
        return _Sightings(
            torch.cat([part.landmark_N for part in parts]),
            torch.cat([part.view_N for part in parts]),
            torch.cat([part.rays_N2 for part in parts]),
            torch.cat([part.cell_N for part in parts]),
        )


def placed_again(
    start: Placed,
    cells: PosedCells,
    cameras: MappingCameras,
    cells_L: Tensor,
    generator: torch.Generator,
    run: Run,
) -> tuple[Placed, Tensor]:
    """Landmarks where the views that see them say, and how many sightings (L,) of each agree.

    Args:
        start: where they may be, about.
        cells: of all views.
        cameras: of the views, in the frame of the landmarks.
        cells_L: the landmarks' own cells, each of which counts as a sighting.
        generator: chooses which landmarks are looked for in which view.
        run: progress.
    """
    buffer = cells.buffer
    own = _Sightings(
        torch.arange(len(cells_L), device=cells_L.device),
        buffer.view_N[cells_L].long(),
        buffer.rays_N2[cells_L],
        cells_L,
    )
    by_view_N = buffer.view_N.argsort(stable=True)
    counts_V = buffer.view_N.long().bincount(minlength=len(cameras.focal_px_V))
    of_view = by_view_N.split(counts_V.tolist())
    seeing = [view for view, part in enumerate(of_view) if len(part)]
    most = -(-_SIGHTINGS * len(cells_L) // max(1, len(seeing)))
    placed, agreeing_L = start, torch.ones(len(cells_L), device=cells_L.device)
    work = [(window, view) for window in _WINDOWS for view in seeing]
    found = [own]
    for window, view in run.progress.track(work, "placing landmarks"):
        seen = _seen_in(
            placed, own.view_N, cells, cameras, view, of_view[view], window, most, generator
        )
        found.append(seen)
        if view == seeing[-1]:
            placed, agreeing_L = _triangulated(placed, _Sightings.join(found), cells, cameras)
            found = [own]
    return placed, agreeing_L


def _seen_in(
    placed: Placed,
    home_L: Tensor,
    cells: PosedCells,
    cameras: MappingCameras,
    view: int,
    candidates_M: Tensor,
    window: tuple[int, float],
    most: int,
    generator: torch.Generator,
) -> _Sightings:
    """Sightings of landmarks in one view, of so many landmarks at most."""
    buffer, points_L3 = cells.buffer, placed.points_L3
    points_cam_L3 = points_L3 @ cameras.rotation_V33[view].T + cameras.translation_V3[view]
    place_L2 = points_cam_L3[:, :2] / points_cam_L3[:, 2:].clamp_min(1e-6)
    rays_M2 = buffer.rays_N2[candidates_M]
    inside_L = (place_L2 > rays_M2.amin(0)) & (place_L2 < rays_M2.amax(0))
    centers_V3 = cameras.centers_V3
    turn_L = functional.cosine_similarity(
        points_L3 - centers_V3[home_L], points_L3 - centers_V3[view], dim=1
    )
    least, largest = torch.deg2rad(torch.tensor([_MAX_TURN_DEG, _MIN_TURN_DEG])).cos().tolist()
    usable_L = inside_L.all(1) & (points_cam_L3[:, 2] > 0) & (turn_L > least) & (turn_L < largest)
    usable_K = usable_L.nonzero()[:, 0]
    chosen = torch.randperm(len(usable_K), generator=generator)[:most].to(usable_K.device)
    usable_K = usable_K[chosen]
    focal_px = float(cameras.focal_px_V[view])
    tree = KDTree((focal_px * rays_M2).cpu().numpy())
    codes_MC = functional.normalize(buffer.codes_NC[candidates_M].float(), dim=1)

    def sightings(usable_K: Tensor) -> _Sightings:
        # Of the nearest cells; those that are missing within the window count as unlike.
        num_near, window_px = window
        places = (focal_px * place_L2[usable_K]).cpu().numpy()
        _, near = tree.query(
            places, num_near, distance_upper_bound=window_px, workers=torch.get_num_threads()
        )
        near_KM = torch.from_numpy(near).reshape(len(places), num_near).to(usable_K.device)
        missing_KM = near_KM == len(candidates_M)
        near_KM = near_KM.masked_fill(missing_KM, 0)
        keys_KC = functional.normalize(placed.codes_LC[usable_K], dim=1)
        cosine_KM = (codes_MC[near_KM] @ keys_KC[..., None])[..., 0].masked_fill(missing_KM, -1.0)
        cosine_K, best_K = cosine_KM.max(dim=1)
        alike_K = cosine_K > _MIN_COSINE
        cosine_KM, near_KM = cosine_KM[alike_K], near_KM[alike_K]
        # Between the middles of cells: where several are alike, between them.
        weight_KM = ((cosine_KM - cosine_K[alike_K, None]) / _TEMPERATURE).exp()
        rays_K2 = (weight_KM[..., None] * rays_M2[near_KM]).sum(1) / weight_KM.sum(1, keepdim=True)
        best_cell_K = candidates_M[near_KM.gather(1, best_K[alike_K, None])[:, 0]]
        landmark_K = usable_K[alike_K]
        return _Sightings(landmark_K, torch.full_like(landmark_K, view), rays_K2, best_cell_K)

    return _Sightings.join([sightings(some_K) for some_K in usable_K.split(_AT_ONCE)])


def _triangulated(
    placed: Placed, sightings: _Sightings, cells: PosedCells, cameras: MappingCameras
) -> tuple[Placed, Tensor]:
    """Landmarks where their rays meet, by reweighted least squares, and with their mean codes.

    And how many sightings (L,) agree with each.
    """
    landmark_N, view_N = sightings.landmark_N, sightings.view_N
    count = len(placed.points_L3)
    rotation_N33, translation_N3 = cameras.rotation_V33[view_N], cameras.translation_V3[view_N]
    center_N3, focal_px_N = cameras.centers_V3[view_N], cameras.focal_px_V[view_N]
    rays_N3 = functional.pad(sightings.rays_N2, (0, 1), value=1.0)
    axis_N3 = functional.normalize((rotation_N33.mT @ rays_N3[..., None])[..., 0], dim=1)
    eye_33 = torch.eye(3, device=axis_N3.device)
    across_N33 = eye_33 - axis_N3[:, :, None] * axis_N3[:, None]

    def errors(points_L3: Tensor) -> tuple[Tensor, Tensor]:
        """Of the sightings, in pixels, and their depths."""
        points_cam_N3 = (rotation_N33 @ points_L3[landmark_N, :, None])[..., 0] + translation_N3
        depth_N = points_cam_N3[:, 2].clamp_min(1e-6)
        off_N2 = points_cam_N3[:, :2] / depth_N[:, None] - sightings.rays_N2
        return focal_px_N * off_N2.norm(dim=1), depth_N

    def summed(values_N: Tensor) -> Tensor:
        """Over the sightings of each landmark."""
        return values_N.new_zeros(count, *values_N.shape[1:]).index_add_(0, landmark_N, values_N)

    points_L3 = placed.points_L3
    for _ in range(_REWEIGHTINGS):
        error_px_N, depth_N = errors(points_L3)
        weight_N = (1 + (error_px_N / _SOFT_PX) ** 2) ** -2 / depth_N**2
        matrix_L33 = summed(weight_N[:, None, None] * across_N33)
        vector_L3 = summed(weight_N[:, None] * (across_N33 @ center_N3[..., None])[..., 0])
        prior_L1 = _PRIOR * matrix_L33.diagonal(dim1=1, dim2=2).mean(1)[:, None].clamp_min(1e-9)
        vector_L3 = vector_L3 + prior_L1 * placed.points_L3
        moved_L3 = torch.linalg.solve(matrix_L33 + prior_L1[..., None] * eye_33, vector_L3)
        points_L3 = torch.where(moved_L3.isfinite().all(1, keepdim=True), moved_L3, points_L3)
    error_px_N, _ = errors(points_L3)
    agrees_N = (error_px_N < _AGREES_PX).float()
    codes_NC = functional.normalize(cells.buffer.codes_NC[sightings.cell_N].float(), dim=1)
    codes_LC = summed(agrees_N[:, None] * codes_NC)
    return Placed(points_L3, codes_LC), summed(agrees_N)
