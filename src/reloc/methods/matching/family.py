"""The matching family: scene points with descriptors, found again in the query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reloc.contract import Localizer, Run, Tensors
from reloc.estimation.trials import covariance_scale, left_out
from reloc.estimation.view_selection import select_distinct_views
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.matching.compression import pack, unpack
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.localizer import MatchingLocalizer, Propose
from reloc.methods.matching.mapping import MatchedViews, build_point_map, match_views
from reloc.methods.matching.point_map import PointMap
from reloc.scenes.scene import View, refuse_guessed_focals

# To learn how far the covariances are to be trusted, at most so many views are left out of a map
# and asked for, and at most one of so many.
_MAX_TRIALS, _VIEWS_PER_TRIAL = 24, 5


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a method makes of matched views before their points are triangulated.

    Attributes:
        matched: the views, perhaps with other image vectors.
        propose: a map of points of these views, or of some of them, to its first matches.
        tensors: what `propose` needs once the map is opened.
    """

    matched: MatchedViews
    propose: Callable[[PointMap], Propose | None]
    tensors: Tensors


Prepare = Callable[[MatchedViews, Any, Run], Prepared]


def by_aggregated_features(matched: MatchedViews, config: MatchingConfig, run: Run) -> Prepared:
    """Nothing more than `match_views` found: views are compared by their local features."""
    del config, run
    return Prepared(matched, lambda point_map: None, {})


def build_map(views: Sequence[View], config: MatchingConfig, run: Run) -> Tensors:
    """A map whose views are compared by their local features: `build_prepared_map` says more."""
    return build_prepared_map(views, config, run, by_aggregated_features)


def build_prepared_map(
    views: Sequence[View], config: MatchingConfig, run: Run, prepare: Prepare
) -> Tensors:
    """Build a map of the distinct views, and learn from some of them how sure its answers are.

    Raises:
        InputError: an image cannot be read, a view's focal length is not known, or no point is
            seen by two views.
    """
    prepared = prepare(match_distinct_views(views, config, run), config, run)
    tensors = pack(build_point_map(prepared.matched, config, run), config, run.seed)
    scale = _covariance_scale(prepared, config, run)
    run.log.info(
        f"{len(tensors['points_N3'])} points; errors are {scale**0.5:.1f} times their sigmas"
    )
    return {**tensors, **prepared.tensors, "covariance_scale": torch.tensor(scale)}


def match_distinct_views(views: Sequence[View], config: MatchingConfig, run: Run) -> MatchedViews:
    """Leave out views that show what others show, and match the rest.

    Raises:
        InputError: an image cannot be read, or a view's focal length is not known.
    """
    refuse_guessed_focals(views, "points cannot be triangulated")
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    kept = select_distinct_views(poses, config.min_view_distance, config.min_view_angle_deg)
    run.log.info(f"{len(kept)} of {len(views)} views are distinct")
    return match_views([views[index] for index in kept], config, run)


def open_map(tensors: Tensors, config: MatchingConfig, run: Run) -> Localizer:
    """The localizer of what `build_map` returned."""
    return open_prepared_map(tensors, config, run, lambda point_map: None)


def open_prepared_map(
    tensors: Tensors,
    config: MatchingConfig,
    run: Run,
    propose: Callable[[PointMap], Propose | None],
) -> Localizer:
    """The localizer of what `build_prepared_map` returned.

    Args:
        tensors: the map.
        config: of the map.
        run: device, seed.
        propose: the map's points to its first matches, as `Prepared.propose` was.
    """
    point_map = unpack(tensors)
    scale = float(tensors["covariance_scale"])
    return MatchingLocalizer(point_map, scale, config, run, propose(point_map))


def _covariance_scale(prepared: Prepared, config: MatchingConfig, run: Run) -> float:
    """Of a map without some of the views, which are then asked for; 1 where none can be spared."""

    def localizer(rest: MatchedViews) -> Localizer:
        point_map = unpack(pack(build_point_map(rest, config, run), config, run.seed))
        return MatchingLocalizer(point_map, 1.0, config, run, prepared.propose(point_map))

    return trial_covariance_scale(prepared.matched, localizer, run)


def trial_covariance_scale(
    matched: MatchedViews, localizer_of: Callable[[MatchedViews], Localizer], run: Run
) -> float:
    """Of a map without some of the views, which are then asked for; 1 where none can be spared.

    Args:
        matched: all views.
        localizer_of: some of the views to a localizer on a map of them; an InputError says that
            they have no points of their own, though all views together have.
        run: progress, log.
    """
    num_views = len(matched.views)
    trials = left_out(num_views, _VIEWS_PER_TRIAL, _MAX_TRIALS)
    try:
        localizer = localizer_of(
            matched.only([view for view in range(num_views) if view not in trials])
        )
    except InputError:
        return 1.0
    return covariance_scale(localizer, [matched.views[number] for number in trials], run)
