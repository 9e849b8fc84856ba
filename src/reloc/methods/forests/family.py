"""The forest family: trees say where in the world a pixel's point may be, and a pose explains most.

Map: pixels of the mapping views whose points are known from depth grow trees and fill their leaves.
Query: some thousand pixels fall through the trees, what their leaves say is fused to a few guesses
a pixel, and the pose is sought that most of them agree on: by distance where the trees read depth,
else by reprojection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.estimation.absolute import AbsolutePose, estimate_absolute_pose
from reloc.estimation.rigid_alignment import RigidAlignment, estimate_rigid_alignment
from reloc.estimation.trials import covariance_scale, left_out
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.forests.features import Looks, look
from reloc.methods.forests.leaves import Guesses, Modes, Reservoirs
from reloc.methods.forests.trees import Forest, GrowthConfig
from reloc.scenes.scene import Query, View
from reloc.training.prefetch import prefetch

# To learn how far the covariances are to be trusted, one of so many views, and at most so many, are
# kept from the trees and asked for; then they fill the leaves as the others did.
_VIEWS_PER_TRIAL, _MAX_TRIALS = 12, 12
# Radius in which guesses of several trees are fused, over that of a leaf's modes.
_FUSE_RADIUS = 0.5
# What an error may be when distances are compared, over the radius of a leaf's modes.
_MAX_ERROR = 1.0
# Times that a query with depth is asked to learn its focal length.
_FOCAL_ROUNDS = 4


@dataclass(frozen=True)
class ForestConfig:
    """Settings of a forest and of what is asked of it."""

    growth: GrowthConfig = field(default_factory=GrowthConfig)
    """Of the trees."""
    short_side_px: int = 240
    """Larger images are reduced to this shorter side."""
    max_views: int = 400
    """Most mapping views with depth that are used; of more, evenly spaced ones."""
    filling_pixels: int = 4000
    """Pixels of a view that fill the leaves."""
    num_modes: int = 3
    """Most modes of a leaf."""
    mode_radius: float = 0.1
    """How far, in the scene's unit, points may be from each other and be of one mode; also how far
    a guess may be from a pose that it agrees with, where the trees read depth."""
    query_pixels: int = 3000
    """Pixels of a query that are asked."""
    num_guesses: int = 5
    """Guesses of a pixel that are kept when those of all trees are fused."""
    max_error_px: float = 5.0
    """Reprojection error, in pixels of the reduced image, up to which a guess agrees with a pose
    where the trees read no depth."""
    num_matches: int = 2000
    """Guesses that are tried by reprojection: those that the trees are surest of."""
    min_inlier_ratio: float = 0.05
    """With a smaller share of them agreeing, a query is declined."""

    def __post_init__(self) -> None:
        for name in (
            "short_side_px",
            "max_views",
            "filling_pixels",
            "num_modes",
            "query_pixels",
            "num_guesses",
            "num_matches",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.mode_radius > 0:
            raise ValueError(f"mode_radius is {self.mode_radius}; it must be positive")


Grow = Callable[[Sequence[Looks], Sequence[Tensor]], Forest]
"""Looks of views and the points (P, 3) of their pixels to trees."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """A mapping view: its looks, and the points (P, 3) of its pixels from the map's origin."""

    view: View
    looks: Looks
    points_P3: Tensor


def build_map(
    views: Sequence[View], config: ForestConfig, grow: Grow, run: Run, *, reads_depth: bool
) -> Tensors:
    """Grow trees on the mapping views that have depth, and fill their leaves.

    A view that cannot be read, or shows nothing, is named in the log and left out.

    Args:
        views: the mapping views.
        config: of the map.
        grow: makes the trees.
        run: seed, progress.
        reads_depth: whether queries have depth.

    Raises:
        InputError: no view has depth, or none can be used.
    """
    origin_3 = Rigid3d.stack([view.cam_from_world for view in views]).inverse().translation.mean(0)
    seen = _read(views, origin_3, config, run, reads_depth=reads_depth)
    trials = left_out(len(seen), _VIEWS_PER_TRIAL, _MAX_TRIALS)
    learned = [view for number, view in enumerate(seen) if number not in trials]
    tried = [seen[number] for number in trials]
    learned = learned or tried
    forest = grow([view.looks for view in learned], [view.points_P3 for view in learned])
    reservoirs = Reservoirs(forest.num_leaves, run.seed)
    _fill(reservoirs, forest, learned, run)
    cameras = [view.view.camera for view in seen]
    ratio = torch.tensor([float(cam.focal.mean()) / max(cam.width, cam.height) for cam in cameras])
    tensors = {
        **forest.tensors(),
        **reservoirs.modes(config.num_modes, config.mode_radius).tensors(),
        "origin_3": origin_3,
        "focal_ratio": ratio.median().double(),
        "covariance_scale": torch.tensor(1.0, dtype=torch.float64),
    }
    asked = ForestLocalizer(tensors, config, run, reads_depth=reads_depth)
    scale = covariance_scale(asked, [view.view for view in tried], run, with_depth=True)
    _fill(reservoirs, forest, tried, run)
    run.log.info(f"{forest.num_leaves} leaves; errors are {scale**0.5:.1f} times their sigmas")
    return {
        **tensors,
        **reservoirs.modes(config.num_modes, config.mode_radius).tensors(),
        "covariance_scale": torch.tensor(scale, dtype=torch.float64),
    }


def _read(
    views: Sequence[View], origin_3: Tensor, config: ForestConfig, run: Run, *, reads_depth: bool
) -> list[_Seen]:
    """The views that have depth and can be used."""
    with_depth = [view for view in views if view.depth_reader is not None]
    if not with_depth:
        raise InputError(
            f"none of the {len(views)} mapping views (from {views[0].name} on) has a depth map, "
            "and forests learn scene points from depth: add depth, or map with sift or ace"
        )
    step = max(len(with_depth) / config.max_views, 1.0)
    chosen = [with_depth[int(number * step)] for number in range(int(len(with_depth) / step))]

    def read(number: int) -> _Seen | None:
        view = chosen[number]
        try:
            image_3HW, depth_HW = view.read_image(), view.read_depth()
        except InputError as error:
            run.log.warning("left out: %s", error)
            return None
        looks = look(
            image_3HW,
            view.camera,
            depth_HW,
            config.short_side_px,
            config.filling_pixels,
            run.seed * 1_000_003 + number,
            reads_depth=reads_depth,
        )
        if looks is None:
            run.log.warning("left out: view %s has no texture, or no depth", view.name)
            return None
        world_from_cam = view.cam_from_world.inverse()
        points_P3 = world_from_cam @ looks.points_cam_P3 - origin_3
        return _Seen(view, looks, points_P3.float())

    numbers = range(len(chosen))
    read_views = run.progress.track(prefetch(read, numbers), "reading", total=len(numbers))
    seen = [view for view in read_views if view is not None]
    if not seen:
        raise InputError(
            f"none of the {len(chosen)} mapping views with depth (from {chosen[0].name} on) can be "
            "read and has texture: the log says why; look at them, are they black?"
        )
    return seen


def _fill(reservoirs: Reservoirs, forest: Forest, seen: Sequence[_Seen], run: Run) -> None:
    for view in run.progress.track(seen, "filling leaves"):
        reservoirs.add(forest.leaves(view.looks), view.points_P3)


class ForestLocalizer:
    """Answers queries from a forest, each for itself.

    Args:
        tensors: of the map.
        config: of the map.
        run: its seed is that of all that is drawn.
        reads_depth: whether queries must have depth.
    """

    def __init__(
        self, tensors: Tensors, config: ForestConfig, run: Run, *, reads_depth: bool
    ) -> None:
        self._forest, self._modes = Forest.from_tensors(tensors), Modes.from_tensors(tensors)
        self._origin_3 = tensors["origin_3"]
        self._focal_ratio = float(tensors["focal_ratio"])
        self._covariance_scale = float(tensors["covariance_scale"])
        self._config, self._seed, self._reads_depth = config, run.seed, reads_depth

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
        ask = self._by_distance if self._reads_depth else self._by_reprojection
        answer = ask(query, camera)
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
        """The surest guesses where their pixels see them."""
        seen = self._ask(query, camera)
        if seen is None:
            return None
        looks, guesses = seen
        config = self._config
        best = guesses.weights_PM.flatten().argsort(descending=True, stable=True)
        best = best[: config.num_matches]
        found = estimate_absolute_pose(
            looks.pixels_P2[best // config.num_guesses],
            guesses.points_PM3.flatten(0, 1)[best],
            camera,
            config.max_error_px * camera.height / looks.values_CHW.shape[1],
            self._seed,
        )
        return None if found is None else (found, found.camera)

    def _ask(self, query: Query, camera: Camera) -> tuple[Looks, Guesses] | None:
        """Pixels of a query and where they may be; None where it shows nothing."""
        config = self._config
        looks = look(
            query.image,
            camera,
            query.depth if self._reads_depth else None,
            config.short_side_px,
            config.query_pixels,
            self._seed,
            reads_depth=self._reads_depth,
        )
        if looks is None:
            return None
        guesses = self._modes.of(self._forest.leaves(looks))
        return looks, guesses.fused(config.num_guesses, _FUSE_RADIUS * config.mode_radius)


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
