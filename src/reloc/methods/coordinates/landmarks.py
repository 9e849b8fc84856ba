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

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Run, Tensors
from reloc.estimation.trials import covariance_scale
from reloc.input_error import InputError
from reloc.methods.coordinates.cameras import MappingCameras, mapping_cameras
from reloc.methods.coordinates.cells import (
    encode_cells,
    known_depth,
    learned_and_left_out,
    measured_depth,
)
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.landmark_placing import Placed, placed_again
from reloc.methods.coordinates.localizer import CoordinatesLocalizer
from reloc.methods.coordinates.map_tensors import GROWTH, REFINED, landmark_tensors
from reloc.nn.encoder import STRIDE
from reloc.nn.landmarks import Landmarks, keys_of, principal_basis
from reloc.scenes.scene import View
from reloc.training.replay import PosedCells

# Fewer do not make a map.
FEWEST_LANDMARKS = 100
# How many times as many points are looked at as are kept: some turn out to be wrong.
_LOOKED_AT = 1.5
# Sightings that must agree, a landmark's own cell among them.
_MIN_AGREEING = 3
# Mapping views that tell whether answers are better refined.
_JUDGING_VIEWS = 17
# How many times as far off they may be by refinement, in the median: new views still gain then.
_MOST_LOST = 1.1
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
    if len(landmarks) < FEWEST_LANDMARKS:
        return None
    tensors = landmark_tensors(landmarks, cameras)
    if replay_cells:
        tensors |= cells.sample(replay_cells, run.seed).tensors()
    tried = [views[index] for index in trials]
    # Few scenes have as many views to leave out: learned ones, too, tell which of two is nearer.
    others = learned[:: max(1, len(learned) // (_JUDGING_VIEWS - len(tried) + 1))]
    judging = (tried + [views[index] for index in others])[:_JUDGING_VIEWS]
    if _refinement_helps(encoder, tensors, judging, config, run):
        tensors[REFINED] = torch.tensor(1)
    asked = CoordinatesLocalizer(encoder, tensors, config, run)
    growth = covariance_scale(asked, tried, run)
    run.log.info("errors are %.1f times their sigmas", growth**0.5)
    return {**tensors, GROWTH: torch.tensor(growth, dtype=torch.float64)}


def _refinement_helps(
    encoder: nn.Module,
    tensors: dict[str, Tensor],
    views: Sequence[View],
    config: CoordinatesConfig,
    run: Run,
) -> bool:
    """Whether answers to mapping views come no further off when they are refined.

    Where intrinsics are exact they come nearer, by up to half; where they are not, landmarks at the
    border of the image pull poses away. Most views asked are learned ones, whose poses are as near
    as the map can have them: others gain more.
    """
    asked = [
        CoordinatesLocalizer(encoder, held, config, run)
        for held in (tensors, {**tensors, REFINED: torch.tensor(1)})
    ]
    ratios = []
    for view in run.progress.track(views, "trying refinement"):
        try:
            query = view.query(with_depth=False)
        except InputError:
            # `covariance_scale` names it.
            continue
        plain, refined = (localizer.localize([query])[0].cam_from_world for localizer in asked)
        if plain is not None and refined is not None:
            before, after = (
                float((pose.inverse().translation - view.center_world).norm())
                for pose in (plain, refined)
            )
            ratios.append(after / max(before, 1e-12))
    if len(ratios) < _JUDGING_VIEWS // 2:
        return False
    ratio = float(torch.tensor(ratios).median())
    run.log.info("refined, errors are %.2f times as large", ratio)
    return ratio < _MOST_LOST


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
    start = Placed(
        _unprojected(cells, cameras, cells_L, depth_N[cells_L]), buffer.codes_NC[cells_L].float()
    )
    placed = start
    measured_L = measured_depth(cells, config)[cells_L].isfinite()
    if not bool(measured_L.all()):
        again, agreeing_L = placed_again(start, cells, cameras, cells_L, generator, run)
        kept_L = measured_L | (agreeing_L >= _MIN_AGREEING)
        placed = start.where(measured_L, again).at(kept_L)
        view_L = view_L[kept_L]
    placed, view_L = placed.at(slice(num_landmarks)), view_L[:num_landmarks]
    reach = _cell_sizes(placed.points_L3, view_L, cameras).median() if len(view_L) else 0.0
    return Landmarks(
        placed.points_L3, keys_of(placed.codes_LC, basis_CD), basis_CD, _REACH_CELLS * float(reach)
    )


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
