"""GoMatch: a map without descriptors. Where points lie in a picture must say which points they are.

The map keeps the places of points that cover its views, which view saw which, the views' poses, and
a small vector of each view's whole picture. A query retrieves views by that, and is matched with
what they saw by a network that sees nothing but positions: see `by_geometry.py`. The network was
taught on rendered rooms (`reloc pretrain gomatch`), and has seen no photo.

Not reproduced: the paper's figures are of Cambridge Landmarks (25 cm, 0.6°; 283 cm, 8.1°; 48 cm,
4.8°; 335 cm, 9.9°, of maps of about 12 MB), of a network taught on outdoor reconstructions and of
views retrieved by NetVLAD. What `by_geometry.py` says of keypoints beside points is not in the
paper; the preset `paper` does without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.matching import family
from reloc.methods.matching.by_geometry import (
    GeometryLimits,
    GeometryLocalizer,
)
from reloc.methods.matching.compression import chosen_points
from reloc.methods.matching.config import MatchingConfig
from reloc.methods.matching.geometry_map import GeometryMap, without_descriptors
from reloc.methods.matching.mapping import MatchedViews, build_point_map
from reloc.nn.descriptors import DescriptorName, fit_descriptor, open_descriptor
from reloc.nn.descriptors.descriptor import Descriptor
from reloc.nn.geometric_matcher import load_matcher, matcher_sha256
from reloc.nn.weights import FOLDER
from reloc.scenes.scene import View

_STATE, _SHA256, _MATCHER = "descriptor.", "matcher_sha256", "matcher"


@dataclass(frozen=True)
class GomatchConfig(MatchingConfig):
    """Settings of a map without descriptors."""

    descriptor: DescriptorName = "gem"
    """By which similar views are found: of whole pictures, a vector a view."""
    max_side_px: int = 640
    """Larger images are reduced to this longer side; errors in pixels are of the reduced image."""
    max_keypoints: int = 400
    """Strongest keypoints kept in each image. Geometry does not tell dense points apart."""
    points_per_view: int | None = 200
    """Keep only so many points that each view sees about this number of them; None: all."""
    num_retrieved: int = 5
    """Similar mapping views whose points a query is matched with."""
    min_probability: float = 0.15
    """From which on a match counts."""
    rounds: int = 1
    """Of matching: the first in the frames of the retrieved views, as in the paper, the others in
    that of the pose of the one before."""
    guided: bool = True
    """Also try the poses that single views say, fit all to the keypoints beside the points that
    they put into the picture, and take the one with most of these; the paper does not."""
    min_surprise: float = 8.0
    """By how many standard deviations more keypoints have to lie beside the points of a pose than
    would by chance; with fewer a query is declined."""
    max_error_px: float = 5.0
    """Reprojection error up to which a match agrees with a pose."""
    min_inliers: int = 12
    """With fewer matches that agree with the pose a query is declined."""
    matcher: str = "shipped"
    """The network's weights: those that ship, or a file that `reloc pretrain gomatch` wrote."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.descriptor_bytes is not None or self.full_points_per_view:
            raise ValueError("descriptor_bytes and full_points_per_view: there are no descriptors")
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; it must be at least 1")
        if not 0 <= self.min_probability < 1:
            raise ValueError(f"min_probability is {self.min_probability}; it must be in [0, 1)")


def build_map(views: Sequence[View], config: GomatchConfig, run: Run) -> Tensors:
    """Points of the distinct views, and a vector of each view's picture.

    Raises:
        InputError: an image cannot be read, a view's focal length is not known, or no point is
            seen by two views; or the matcher is not there.
    """
    # Weights that are missing are told of before the work, not after it.
    record = {_SHA256: text_to_tensor([matcher_sha256(_matcher_path(config))])}
    if config.matcher != "shipped":
        # The map may be opened from another folder than it was built in.
        record[_MATCHER] = text_to_tensor([str(_matcher_path(config).resolve())])
    matched = family.match_distinct_views(views, config, run)
    descriptor, vectors_VL = fit_descriptor(config.descriptor, matched.views, run)
    matched = replace(matched, image_vectors_VL=vectors_VL)
    geometry = _geometry(matched, config, run)

    def asked_without(rest: MatchedViews) -> Localizer:
        return _localizer(_geometry(rest, config, run), descriptor, 1.0, config, run)

    scale = family.trial_covariance_scale(matched, asked_without, run)
    num_points = len(geometry.point_map.points_N3)
    run.log.info(f"{num_points} points; errors are {scale**0.5:.1f} times their sigmas")
    state: Mapping[str, Tensor] = descriptor.state()
    return {
        **geometry.tensors(),
        **{f"{_STATE}{name}": value for name, value in state.items()},
        **record,
        "covariance_scale": torch.tensor(scale),
    }


def localizer(tensors: Tensors, config: GomatchConfig, run: Run) -> Localizer:
    """Answers with the matcher that the map was built for.

    Raises:
        InputError: the matcher or the encoder that is installed is another one.
    """
    if _MATCHER in tensors:
        config = replace(config, matcher=tensor_to_text(tensors[_MATCHER])[0])
    if tensor_to_text(tensors[_SHA256]) != [matcher_sha256(_matcher_path(config))]:
        raise InputError(
            "the map was built with another matcher of bearings than this installation has: build "
            "it again"
        )
    state = {
        name.removeprefix(_STATE): value
        for name, value in tensors.items()
        if name.startswith(_STATE)
    }
    descriptor = open_descriptor(config.descriptor, state)
    scale = float(tensors["covariance_scale"])
    return _localizer(GeometryMap.from_tensors(tensors), descriptor, scale, config, run)


def _geometry(matched: MatchedViews, config: GomatchConfig, run: Run) -> GeometryMap:
    """Of views, as it is after it has been in a file: the trial of a map is to be of its kind."""
    point_map = build_point_map(matched, config, run)
    if config.points_per_view is not None:
        point_map, _ = chosen_points(point_map, config)
    whole = GeometryMap(without_descriptors(point_map), matched.cam_from_map)
    return GeometryMap.from_tensors(whole.tensors())


def _localizer(
    geometry: GeometryMap, descriptor: Descriptor, scale: float, config: GomatchConfig, run: Run
) -> Localizer:
    limits = GeometryLimits(
        config.min_probability, config.rounds, config.guided, config.min_surprise
    )
    matcher = load_matcher(_matcher_path(config)).to(run.device)
    return GeometryLocalizer(geometry, descriptor, matcher, scale, config, limits, run)


def _matcher_path(config: GomatchConfig) -> Path:
    if config.matcher == "shipped":
        return FOLDER / "geometric_matcher.safetensors"
    return Path(config.matcher)


_FAR_VIEWS = (
    "most queries of the room are a metre from the nearest mapping view: seen from so far apart, "
    "geometry alone does not tell which points are the same, and the query is declined"
)

METHOD = Method(
    name="gomatch",
    family="matching",
    summary="A map without descriptors: points matched by how they lie, by a network; robust PnP.",
    paper="Zhou, Agostinho, Ošep and Leal-Taixé, Is Geometry Enough for Matching in Visual "
    "Localization?, ECCV 2022",
    published="25 cm, 0.6° to 335 cm, 9.9° (Cambridge, scene by scene); not reproduced",
    config=GomatchConfig,
    tiny=GomatchConfig(
        max_keypoints=250,
        points_per_view=150,
        pairs_by_pose=4,
        pairs_by_retrieval=2,
        vocabulary=16,
        num_retrieved=2,
        guided_radius_px=3.0,
    ),
    build_map=build_map,
    localizer=localizer,
    presets={"paper": GomatchConfig(guided=False, min_surprise=0.0)},
    expected_failures={
        "beats_the_trivial_baseline": _FAR_VIEWS,
        "queries_without_intrinsics_are_answered": _FAR_VIEWS,
    },
    maps_depth=True,
)
