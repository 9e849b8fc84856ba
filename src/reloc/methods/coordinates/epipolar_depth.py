"""Scene points of some cells before any training: triangulated between mapping views.

The poses of the mapping views are known, so the cell of another view that shows the same point lies
on a line. Along it, the most similar code is nearly always the right one; where two other views
say the same depth, it is believed. A head that begins with such points needs not find the depth of
everything from reprojection alone, which is what takes most of a short training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reloc.contract import Run
from reloc.geometry.clusters import local_extent
from reloc.geometry.rigid3d import Rigid3d, skew
from reloc.nn.precision import uses_bf16
from reloc.training.replay import PosedCells

# From a view to those that its cells are looked for in, as shares of the extent of the cameras.
_BASELINES = torch.tensor([0.03, 0.06, 0.1, 0.15, 0.22, 0.32], dtype=torch.float64)
_MAX_ANGLE_DEG = 60.0
# Cells that are looked for at once, in all views together, and those of a view among which they
# are.
_MAX_ASKED, _MAX_CANDIDATES = 200_000, 2500
# Cells that are compared with another view's at once: a processor's cache holds their cosines.
_AT_ONCE = 256
# A cell is 8 px wide: the middle of the right one may be so far from the line.
_MAX_LINE_PX = 8.0
_MIN_COSINE = 0.6
# How far a depth may be off, as a share of it: one alone, and the mean of those that agree; and how
# many must.
_HALF_CELL_PX, _MAX_UNCERTAIN_ALONE, _MAX_UNCERTAIN, _MIN_AGREEING = 4.0, 0.2, 0.08, 2


def triangulated_depth(cells: PosedCells, run: Run, wanted: int = 0) -> Tensor:
    """Depth of cells along the optical axes, in the unit of the poses.

    Args:
        cells: of mapping views; 200,000 of them are looked for at once.
        run: device, seed and progress.
        wanted: as long as fewer are found, others are looked for.

    Returns:
        (N,) float32, NaN where it is not known: of cells that were not looked for, too.
    """
    generator = torch.Generator().manual_seed(run.seed)
    depth_N = torch.full((len(cells),), torch.nan)
    of_view = _cells_of_views(cells, generator)
    # Of a video a part is encoded: the best partner among all its views would mostly be another.
    used = [view for view, part in enumerate(of_view) if len(part)]
    among_used = _partners(cells.cam_from_world[torch.tensor(used)])
    partners = {
        view: [used[other] for other in others]
        for view, others in zip(used, among_used, strict=True)
    }
    kind = torch.bfloat16 if uses_bf16(run) else torch.float32
    asked_per_view = -(-_MAX_ASKED // len(used))
    for start in range(0, _MAX_CANDIDATES, asked_per_view):
        for view in run.progress.track(used, "triangulating"):
            asked, seen_in = of_view[view][start : start + asked_per_view], partners[view]
            if len(asked) == 0 or len(seen_in) < _MIN_AGREEING:
                continue
            found = [
                _depth_from(cells, view, asked, other, of_view[other], kind) for other in seen_in
            ]
            depths, uncertain = zip(*found, strict=True)
            depth_N[asked] = _agreed(torch.stack(depths), torch.stack(uncertain)).cpu()
        if int(depth_N.isfinite().sum()) >= wanted:
            break
    return depth_N


def _cells_of_views(cells: PosedCells, generator: torch.Generator) -> list[Tensor]:
    """For each view the indices of its cells, shuffled, and not too many."""
    order_N = torch.randperm(len(cells), generator=generator)
    view_N = cells.buffer.view_N.cpu().long()[order_N]
    by_view_N = view_N.argsort(stable=True)
    counts_V = view_N.bincount(minlength=len(cells.focal_px_V))
    return [part[:_MAX_CANDIDATES] for part in order_N[by_view_N].split(counts_V.tolist())]


def _partners(cam_from_world: Rigid3d) -> list[list[int]]:
    """For each view those that it is compared with: one near each of the baselines.

    The very nearest, in a video, tell no depth; how far the scene is, nobody knows yet.
    """
    centers_V3 = cam_from_world.inverse().translation
    extent = local_extent(centers_V3)
    axes_V3 = cam_from_world.rotation[:, 2]
    partners = []
    for center_3, axis_3 in zip(centers_V3, axes_V3, strict=True):
        distance_V = (centers_V3 - center_3).norm(dim=1) / extent
        angle_deg_V = (axes_V3 @ axis_3).clamp(-1, 1).acos().rad2deg()
        # Too far by the baseline itself is as bad as a turn by 60 degrees.
        cost_TV = (distance_V / _BASELINES[:, None] - 1).abs() + angle_deg_V / _MAX_ANGLE_DEG
        unusable_V = (angle_deg_V > _MAX_ANGLE_DEG) | (distance_V < _BASELINES[0] / 2)
        cost_T, nearest_T = cost_TV.masked_fill(unusable_V, torch.inf).min(dim=1)
        partners.append(nearest_T[cost_T.isfinite()].unique().tolist())
    return partners


def _depth_from(
    cells: PosedCells,
    view: int,
    asked_K: Tensor,
    other: int,
    candidates_M: Tensor,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Depth (K,) of a view's cells from one other view, NaN where that tells none.

    And how far it may be off, as a share of it: as much as half a cell is of the parallax. Codes
    are compared in the arithmetic `kind`.
    """
    buffer, poses = cells.buffer, cells.cam_from_world
    other_from_view = (poses[other] @ poses[view].inverse()).to(buffer.rays_N2.device)
    rays_K3 = _homogeneous(buffer.rays_N2[asked_K])
    rays_M3 = _homogeneous(buffer.rays_N2[candidates_M])
    essential_33 = skew(other_from_view.translation) @ other_from_view.rotation
    lines_K3 = (rays_K3.double() @ essential_33.T).float()
    lines_K3 = lines_K3 / lines_K3[:, :2].norm(dim=1, keepdim=True).clamp_min(1e-12)
    max_off = _MAX_LINE_PX / float(cells.focal_px_V[other])
    # Codes have mean square 1.
    codes_KC = buffer.codes_NC[asked_K].float() / buffer.codes_NC.shape[1]
    codes_KC, codes_CM = codes_KC.to(kind), buffer.codes_NC[candidates_M].to(kind).T

    def most_alike(lines_K3: Tensor, codes_KC: Tensor) -> tuple[Tensor, Tensor]:
        far_KM = (lines_K3 @ rays_M3.T).abs_() > max_off
        cosine_K, best_K = (codes_KC @ codes_CM).masked_fill_(far_KM, -1.0).max(dim=1)
        return cosine_K.float(), best_K

    parts = zip(lines_K3.split(_AT_ONCE), codes_KC.split(_AT_ONCE), strict=True)
    cosines, bests = zip(*(most_alike(*part) for part in parts), strict=True)
    cosine_K, best_K = torch.cat(cosines), torch.cat(bests)
    depth_K, parallax_K = _depth_where_rays_meet(rays_K3, rays_M3[best_K], other_from_view)
    uncertain_K = _HALF_CELL_PX / float(cells.focal_px_V[other]) / parallax_K
    usable_K = (cosine_K > _MIN_COSINE) & (uncertain_K < _MAX_UNCERTAIN_ALONE) & (depth_K > 0)
    return torch.where(usable_K, depth_K, torch.nan), uncertain_K


def _depth_where_rays_meet(
    rays_K3: Tensor, other_rays_K3: Tensor, other_from_view: Rigid3d
) -> tuple[Tensor, Tensor]:
    """Depth (K,) at which a ray comes nearest to another camera's, and their angle in radians."""
    turned_K3 = rays_K3.double() @ other_from_view.rotation.T
    other_K3 = other_rays_K3.double()
    # (z a + t) × b = 0, by least squares.
    across_K3 = turned_K3.cross(other_K3, dim=1)
    offset_K3 = other_from_view.translation.expand_as(other_K3).cross(other_K3, dim=1)
    squared_K = across_K3.square().sum(1).clamp_min(1e-18)
    depth_K = -(across_K3 * offset_K3).sum(1) / squared_K
    sine_K = squared_K.sqrt() / (turned_K3.norm(dim=1) * other_K3.norm(dim=1))
    return depth_K.float(), sine_K.clamp(0, 1).asin().float()


def _agreed(depths_PK: Tensor, uncertain_PK: Tensor) -> Tensor:
    """The mean (K,) of the depths that agree with the one that most agree with; NaN for too few.

    Args:
        depths_PK: from P other views, NaN where one tells none.
        uncertain_PK: how far each may be off, as a share of it.
    """
    differs_PPK = (depths_PK[:, None] - depths_PK[None]).abs() / depths_PK
    agrees_PPK = differs_PPK < uncertain_PK[:, None] + uncertain_PK[None]
    best_K = agrees_PPK.sum(0).argmax(0)
    among_PK = agrees_PPK.gather(1, best_K.expand(len(depths_PK), 1, -1))[:, 0]
    weight_PK = torch.where(among_PK, uncertain_PK.square().reciprocal(), 0.0)
    total_K = weight_PK.sum(0).clamp_min(1e-12)
    mean_K = (weight_PK * depths_PK.nan_to_num(0.0)).sum(0) / total_K
    believed_K = (among_PK.sum(0) >= _MIN_AGREEING) & (total_K.rsqrt() < _MAX_UNCERTAIN)
    return torch.where(believed_K, mean_K, torch.nan)


def _homogeneous(rays_N2: Tensor) -> Tensor:
    return torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=1)
