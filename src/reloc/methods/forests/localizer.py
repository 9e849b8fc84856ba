"""What a forest is asked, and the pose that most of what it says agrees on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.estimation.absolute import AbsolutePose, estimate_absolute_pose
from reloc.estimation.rigid_alignment import RigidAlignment, estimate_rigid_alignment
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.forests.config import ForestConfig
from reloc.methods.forests.features import Looks, look
from reloc.methods.forests.leaves import Guesses, Modes
from reloc.methods.forests.trees import Forest
from reloc.scenes.scene import Query

# Radius in which guesses of several trees are fused, over that of a leaf's modes.
_FUSE_RADIUS = 0.5
# Spread below which a guess is not the surer, over the radius of a leaf's modes: a leaf with a few
# points has none.
_LEAST_SPREAD = 0.3
# What an error may be when distances are compared, over the radius of a leaf's modes.
_MAX_ERROR = 1.0
# Times that a query with depth is asked to learn its focal length.
_FOCAL_ROUNDS = 4


class ForestLocalizer:
    """Answers queries from a forest, each for itself.

    Args:
        tensors: of the map.
        config: of the map.
        run: its seed is that of all that is drawn.
        reads_depth: whether trees read depth: queries must have it.
        aligns_depth: whether the depth of a query that has it decides about poses.
    """

    def __init__(
        self,
        tensors: Tensors,
        config: ForestConfig,
        run: Run,
        *,
        reads_depth: bool,
        aligns_depth: bool = False,
    ) -> None:
        self._forest, self._modes = Forest.from_tensors(tensors), Modes.from_tensors(tensors)
        self._origin_3 = tensors["origin_3"]
        self._focal_ratio = float(tensors["focal_ratio"])
        self._covariance_scale = float(tensors["covariance_scale"])
        self._config, self._seed = config, run.seed
        self._reads_depth, self._aligns_depth = reads_depth, reads_depth or aligns_depth

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, in order.

        Raises:
            InputError: the forest reads depth, and a query has none.
        """
        return [self._localize_one(query) for query in queries]

    def _localize_one(self, query: Query) -> PoseEstimate:
        if self._reads_depth and query.depth is None:
            raise InputError(
                f"query {query.name} has no depth map, and this map reads depth: add it, or ask a "
                "map of rgb-forest, sift or ace, which need none"
            )
        camera = query.camera
        if not camera.has_prior_focal:
            # Probes are as wide as the focal length says: that of the mapping views is a better
            # guess than any.
            focal = self._focal_ratio * max(camera.width, camera.height)
            camera = camera.with_focal(focal, has_prior_focal=False)
        if not self._reads_depth and not _has_depth(query):
            query = replace(query, depth=None)
        has_depth = self._aligns_depth and query.depth is not None
        answer = (self._by_distance if has_depth else self._by_reprojection)(query, camera)
        if answer is None:
            return PoseEstimate(None)
        found, camera = answer
        if found.inlier_ratio < self._config.min_inlier_ratio:
            return PoseEstimate(None)
        origin_from_world = Rigid3d(torch.eye(3, dtype=torch.float64), -self._origin_3)
        return PoseEstimate(
            cam_from_world=found.cam_from_world @ origin_from_world,
            covariance=self._covariance_scale * found.covariance,
            num_inliers=found.num_inliers,
            inlier_ratio=found.inlier_ratio,
            camera=None if query.camera.has_prior_focal else camera,
        )

    def _by_distance(self, query: Query, camera: Camera) -> tuple[RigidAlignment, Camera] | None:
        """Measured points where they are guessed to be, and the focal length that fits them."""
        found = None
        for _ in range(1 if camera.has_prior_focal else _FOCAL_ROUNDS):
            seen = self._ask(query, camera)
            if seen is None:
                return None
            looks, guesses = seen
            found = estimate_rigid_alignment(
                looks.points_cam_P3,
                guesses.points_PM3,
                # Where trees agree, they are mostly right: squares favour them.
                guesses.weights_PM.square(),
                _MAX_ERROR * self._config.mode_radius,
                self._seed,
            )
            if found is None:
                return None
            if not camera.has_prior_focal:
                camera = _with_fitting_focal(camera, looks, guesses, found)
        return None if found is None else (found, camera)

    def _by_reprojection(self, query: Query, camera: Camera) -> tuple[AbsolutePose, Camera] | None:
        """The surest guesses where their pixels see them, then each pixel's best-fitting one."""
        seen = self._ask(query, camera)
        if seen is None:
            return None
        looks, guesses = seen
        config = self._config
        max_error_px = config.max_error_px * camera.height / looks.values_CHW.shape[1]
        best = surest(guesses, config.mode_radius)[: config.num_matches]
        found = estimate_absolute_pose(
            looks.pixels_P2[best // config.num_guesses],
            guesses.points_PM3.flatten(0, 1)[best],
            camera,
            max_error_px,
            self._seed,
        )
        if found is None:
            return None
        points_P3 = _best_fitting(looks, guesses, found)
        found = estimate_absolute_pose(
            looks.pixels_P2, points_P3, found.camera, max_error_px, self._seed
        )
        return None if found is None else (found, found.camera)

    def _ask(self, query: Query, camera: Camera) -> tuple[Looks, Guesses] | None:
        """Pixels of a query and where they may be; None where it shows nothing."""
        config = self._config
        looks = look(
            query.image,
            camera,
            query.depth if self._aligns_depth else None,
            config.short_side_px,
            config.query_pixels,
            self._seed,
            reads_depth=self._reads_depth,
        )
        if looks is None:
            return None
        guesses = self._modes.of(self._forest.leaves(looks))
        return looks, guesses.fused(config.num_guesses, _FUSE_RADIUS * config.mode_radius)


def surest(guesses: Guesses, mode_radius: float) -> Tensor:
    """Numbers of all guesses, pixel by pixel, in order: much of a leaf's weight in little space."""
    variance_PM = guesses.spreads_PM.square() + (_LEAST_SPREAD * mode_radius) ** 2
    sure_PM = guesses.weights_PM / variance_PM
    return sure_PM.flatten().argsort(descending=True, stable=True)


def _has_depth(query: Query) -> bool:
    """Whether the depth of a query, if there is any, is known anywhere."""
    return query.depth is not None and bool((query.depth.isfinite() & (query.depth > 0)).any())


def _with_fitting_focal(
    camera: Camera, looks: Looks, guesses: Guesses, found: RigidAlignment
) -> Camera:
    """The camera with the focal length by which agreeing guesses fall on their pixels.

    A wrong one stretches what is measured across the axis; a rigid pose cannot, and so tells.
    """
    inliers = found.inliers_N.nonzero()[:, 0]
    points_world_N3 = guesses.points_PM3[inliers, found.guess_N[inliers]].double()
    points_cam_N3 = found.cam_from_world @ points_world_N3
    plane_N2 = points_cam_N3[:, :2] / points_cam_N3[:, 2:].clamp_min(1e-9)
    stretch = (plane_N2 * looks.rays_P2[inliers]).sum() / plane_N2.square().sum().clamp_min(1e-9)
    # A step of a factor two at most: nonsense must not leave the range of cameras.
    focal = float(camera.focal.mean() * stretch.clamp(0.5, 2.0))
    return camera.with_focal(focal, has_prior_focal=False)


def _best_fitting(looks: Looks, guesses: Guesses, found: AbsolutePose) -> Tensor:
    """Of each pixel, the guessed point (P, 3) that the pose puts nearest to it; NaN without one."""
    points_PM3 = guesses.points_PM3.double()
    landed_PM2 = found.camera.img_from_cam(found.cam_from_world @ points_PM3.flatten(0, 1))
    offsets_PM2 = landed_PM2.unflatten(0, points_PM3.shape[:2]) - looks.pixels_P2[:, None]
    error_PM = offsets_PM2.norm(dim=-1).nan_to_num(torch.inf)
    error_PM = error_PM.masked_fill(guesses.weights_PM <= 0, torch.inf)
    error_P, nearest_P = error_PM.min(1)
    points_P3 = points_PM3[torch.arange(len(points_PM3)), nearest_P]
    return points_P3.masked_fill(error_P.isinf()[:, None], torch.nan)
