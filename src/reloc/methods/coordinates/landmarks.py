"""Mapping without training: cells whose points are known from several views become landmarks.

The codes of the encoder tell the points of a scene apart better than a head of layers learns to in
a minute. So the scene is kept as it is: some thousand cells, each with its code and with the point
that it shows. A point is triangulated along the epipolar lines first (`epipolar_depth.py`), then
again from what looks like it near its projections in views from all around.

Our own, in place of the head of "Accelerated coordinate encoding" (CVPR 2023); what it shares with
it is the encoder, the buffer of cells and the pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Run, Tensors
from reloc.estimation.trials import covariance_scale
from reloc.methods.coordinates.cameras import MappingCameras, mapping_cameras
from reloc.methods.coordinates.cells import encode_cells, known_depth, learned_and_left_out
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.localizer import CoordinatesLocalizer
from reloc.methods.coordinates.map_tensors import GROWTH, landmark_tensors
from reloc.nn.encoder import STRIDE
from reloc.nn.landmarks import Landmarks, keys_of, principal_basis
from reloc.scenes.scene import View
from reloc.training.replay import PosedCells

# Fewer do not make a map.
_FEWEST = 100
# How many times as many points are looked at as are kept: some turn out to be wrong.
_LOOKED_AT = 1.5
# A landmark is looked for among so many of the cells nearest to where it should be seen and within
# so many pixels, then among fewer...
_WINDOWS = ((48, 24.0), (16, 12.0))
# ...in about so many views in all, from directions that differ by this much from its own.
_SIGHTINGS, _MIN_TURN_DEG, _MAX_TURN_DEG = 12, 3.0, 60.0
# How alike a cell must be, and how much less one counts that is less alike than the best.
_MIN_COSINE, _TEMPERATURE = 0.55, 0.05
# Steps of reweighting, the error in pixels at which a sighting counts for a quarter, and up to
# which it agrees; a landmark needs so many that agree, its own cell among them.
_REWEIGHTINGS, _SOFT_PX, _AGREES_PX, _MIN_AGREEING = 6, 3.0, 6.0, 3
# How much less than a sighting the place counts that a landmark had before.
_PRIOR = 1e-3
# In cells: how far apart landmarks lie that a query's cell may show together.
_REACH_CELLS = 2.0


def place_landmarks(
    encoder: nn.Module,
    views: Sequence[View],
    config: CoordinatesConfig,
    num_landmarks: int,
    key_length: int,
    run: Run,
    replay_cells: int = 0,
) -> Tensors | None:
    """The tensors of a map but for the name of its encoder; None where too few points are found.

    Args:
        encoder: grey images (B, 1, H, W) to codes (B, C, H // 8, W // 8) of about unit variance.
        views: the mapping views.
        config: of the cells.
        num_landmarks: most that are kept.
        key_length: numbers of a landmark's key.
        run: device, seed, progress.
        replay_cells: that the map keeps, to tell what an update changes.

    Raises:
        InputError: no view can be read, or all are taken from one place.
    """
    cameras = mapping_cameras(views, config, run.device)
    encoder = encoder.to(run.device)
    learned, trials = learned_and_left_out(views)
    cells = encode_cells(encoder, views, learned, cameras.scale, config, run)
    landmarks = find_landmarks(cells, cameras, config, num_landmarks, key_length, run)
    run.log.info("%d landmarks", len(landmarks))
    if len(landmarks) < _FEWEST:
        return None
    tensors = landmark_tensors(landmarks, cameras)
    if replay_cells:
        tensors |= cells.sample(replay_cells, run.seed).tensors()
    asked = CoordinatesLocalizer(encoder, tensors, config, run)
    growth = covariance_scale(asked, [views[index] for index in trials], run)
    run.log.info("errors are %.1f times their sigmas", growth**0.5)
    return {**tensors, GROWTH: torch.tensor(growth, dtype=torch.float64)}


def find_landmarks(
    cells: PosedCells,
    cameras: MappingCameras,
    config: CoordinatesConfig,
    num_landmarks: int,
    key_length: int,
    run: Run,
    basis_CD: Tensor | None = None,
) -> Landmarks:
    """Landmarks among the cells of mapping views.

    Args:
        cells: of the views, with depth where the settings have it.
        cameras: of the views, in the frame of the landmarks.
        config: of the cells.
        num_landmarks: most that are kept.
        key_length: numbers of a key.
        run: device, seed, progress.
        basis_CD: of the keys; None: that which suits these cells.
    """
    most = round(_LOOKED_AT * num_landmarks)
    depth_N = known_depth(cells, config, run, most).to(run.device)
    known_K = depth_N.isfinite().nonzero()[:, 0]
    generator = torch.Generator().manual_seed(run.seed)
    order_K = torch.randperm(len(known_K), generator=generator).to(run.device)
    cells_L = known_K[order_K[:most]]
    buffer = cells.buffer
    if basis_CD is None:
        every = max(1, len(buffer) // 50_000)
        basis_CD = principal_basis(buffer.codes_NC[::every], key_length)
    if len(cells_L) == 0:
        nothing = torch.empty(0, basis_CD.shape[1], device=run.device)
        return Landmarks(nothing[:, :3], nothing, basis_CD, 0.0)
    view_L = buffer.view_N[cells_L].long()
    start = _Placed(
        _unprojected(cells, cameras, cells_L, depth_N[cells_L]), buffer.codes_NC[cells_L].float()
    )
    placed = start
    if not config.depth:
        placed, agreeing_L = _placed_again(start, cells, cameras, cells_L, generator, run)
        kept_L = agreeing_L >= _MIN_AGREEING
        placed, view_L = placed.at(kept_L), view_L[kept_L]
    placed, view_L = placed.at(slice(num_landmarks)), view_L[:num_landmarks]
    reach = _cell_sizes(placed.points_L3, view_L, cameras).median() if len(view_L) else 0.0
    return Landmarks(
        placed.points_L3, keys_of(placed.codes_LC, basis_CD), basis_CD, _REACH_CELLS * float(reach)
    )


@dataclass(frozen=True, eq=False)
class _Placed:
    """Landmarks that are being placed: their points, and the mean codes of their sightings."""

    points_L3: Tensor
    codes_LC: Tensor

    def at(self, chosen: Tensor | slice) -> _Placed:
        return _Placed(self.points_L3[chosen], self.codes_LC[chosen])


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


def _placed_again(
    start: _Placed,
    cells: PosedCells,
    cameras: MappingCameras,
    cells_L: Tensor,
    generator: torch.Generator,
    run: Run,
) -> tuple[_Placed, Tensor]:
    """Landmarks where the views that see them say, and how many sightings (L,) of each agree."""
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
    placed: _Placed,
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
    # Of the nearest cells; those that are missing within the window count as unlike.
    num_near, window_px = window
    focal_px = float(cameras.focal_px_V[view])
    tree = KDTree((focal_px * rays_M2).cpu().numpy())
    places = (focal_px * place_L2[usable_K]).cpu().numpy()
    _, near = tree.query(
        places, num_near, distance_upper_bound=window_px, workers=torch.get_num_threads()
    )
    near_KM = torch.from_numpy(near).reshape(len(places), num_near).to(usable_K.device)
    missing_KM = near_KM == len(candidates_M)
    near_KM = near_KM.masked_fill(missing_KM, 0)
    codes_MC = functional.normalize(buffer.codes_NC[candidates_M].float(), dim=1)
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


def _triangulated(
    placed: _Placed, sightings: _Sightings, cells: PosedCells, cameras: MappingCameras
) -> tuple[_Placed, Tensor]:
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
    return _Placed(points_L3, codes_LC), summed(agrees_N)


def _unprojected(
    cells: PosedCells, cameras: MappingCameras, cells_L: Tensor, depth_L: Tensor
) -> Tensor:
    """Points (L, 3) of cells in the frame of the head; depth is in the unit of the poses."""
    view_L = cells.buffer.view_N[cells_L].long()
    rays_L3 = functional.pad(cells.buffer.rays_N2[cells_L], (0, 1), value=1.0)
    points_cam_L3 = rays_L3 * (depth_L / cameras.scale)[:, None]
    turned_L3 = points_cam_L3 - cameras.translation_V3[view_L]
    return (cameras.rotation_V33[view_L].mT @ turned_L3[..., None])[..., 0]


def _cell_sizes(points_L3: Tensor, view_L: Tensor, cameras: MappingCameras) -> Tensor:
    """How much (L,) of the scene, across, a cell shows at these points."""
    distance_L = (points_L3 - cameras.centers_V3[view_L]).norm(dim=1)
    return STRIDE * distance_L / cameras.focal_px_V[view_L]
