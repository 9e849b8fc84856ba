"""SANet: scene coordinates of a place that nothing was trained on, read off retrieved views.

Mapping stores codes and points of some cells of each view that has depth, of its picture and of a
half-size copy; it takes what encoding takes. A query retrieves the views that look most like it,
and a decoder that was trained once, on rendered rooms (`reloc pretrain sanet`), makes scene points
for its cells of theirs, coarse to fine: see `nn/scene_agnostic.py`. Then the family's robust pose;
with --query-depth the pose that moves the measured points onto the decoded ones.

Where no view has depth, points are triangulated between views; where some have, the others are left
out and named. No scale is needed, and none is assumed: lengths are in units of how far away the
retrieved points are, wherever a number could depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.estimation.trials import covariance_scale, left_out
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import text_to_tensor
from reloc.methods.coordinates.epipolar_depth import triangulated_depth
from reloc.methods.coordinates.sanet_query import SanetConfig, SanetLocalizer, decoder_path
from reloc.nn.descriptors import fit_descriptor
from reloc.nn.descriptors.gem import GemConfig
from reloc.nn.scene_agnostic import decoder_sha256
from reloc.nn.shared_encoder import FrozenEncoder, open_encoder
from reloc.scenes.scene import View
from reloc.training.augment import Augmentation
from reloc.training.buffer import FeatureBuffer, fill_buffer
from reloc.training.replay import PosedCells

# To learn how far the covariances are to be trusted, one view of so many, and at most so many, are
# asked for without being retrieved themselves.
_VIEWS_PER_TRIAL, _MAX_TRIALS = 20, 16
# Of so many times the cells, the points are sought where no view has depth: few are found.
_TRIANGULATED_FROM = 4
_AS_TAKEN = Augmentation(max_turn_deg=0.0, min_scale=1.0, max_scale=1.0, jitter=0.0)


def build_map(views: Sequence[View], config: SanetConfig, run: Run) -> Tensors:
    """Store codes and points of the views' cells; nothing is trained.

    Raises:
        InputError: no view can be read, or no points are known; or the installation lacks the
            decoder.
    """
    with_depth = [view for view in views if view.depth_reader is not None]
    if not with_depth and config.query_depth:
        raise InputError(
            f"none of the {len(views)} mapping views (from {views[0].name} on) has a depth map, so "
            "queries' depth would have another unit: map without --query-depth, or add depth"
        )
    if with_depth and len(with_depth) < len(views):
        names = [view.name for view in views if view.depth_reader is None]
        run.log.warning("left out, having no depth: %s", ", ".join(names))
    used = _evenly(with_depth or views, config.max_views)
    encoder = open_encoder(config.encoder, run)
    coarse, fine = (
        _cells(encoder, used, short_side_px, count, run, with_depth=bool(with_depth))
        for short_side_px, count in (
            (config.short_side_px // 2, config.coarse_cells),
            (config.short_side_px, config.fine_cells),
        )
    )
    known = sorted(set(coarse.view_N.tolist()) & set(fine.view_N.tolist()))
    if not known:
        raise InputError(
            f"no point is known of the {len(used)} mapping views (from {used[0].name} on): their "
            "depth maps are empty, or without depth they overlap too little; map with ace or sift"
        )
    used_known = [used[index] for index in known]
    descriptor, vectors_VD = fit_descriptor(
        "gem", used_known, run, GemConfig(encoder=config.encoder)
    )
    poses = Rigid3d.stack([view.cam_from_world for view in used_known])
    center_3 = poses.inverse().translation.mean(0)
    translation_V3 = (poses.rotation @ center_3[:, None])[..., 0] + poses.translation
    tensors: dict[str, Tensor] = {
        **{f"descriptor.{name}": value for name, value in descriptor.state().items()},
        "vectors": vectors_VD.half(),
        "names": text_to_tensor([view.name for view in used_known]),
        "rotations": poses.rotation,
        "translations": translation_V3,
        "center_3": center_3,
        "covariance_scale": torch.tensor(1.0, dtype=torch.float64),
        **_level("coarse", coarse, known, poses.rotation, translation_V3),
        **_level("fine", fine, known, poses.rotation, translation_V3),
    }
    if config.decoder == "shipped":
        tensors["decoder_sha256"] = text_to_tensor([decoder_sha256(decoder_path())])
    trials = left_out(len(known), _VIEWS_PER_TRIAL, _MAX_TRIALS)
    asked = SanetLocalizer(tensors, config, run, hidden=trials)
    tried = [used_known[index] for index in trials]
    growth = covariance_scale(asked, tried, run, with_depth=config.query_depth)
    run.log.info("%d views; errors are %.1f times their sigmas", len(known), growth**0.5)
    return {**tensors, "covariance_scale": torch.tensor(growth, dtype=torch.float64)}


def localizer(tensors: Tensors, config: SanetConfig, run: Run) -> Localizer:
    """Answers with the shared encoder and decoder that the map was built for.

    Raises:
        InputError: those that are installed are others.
    """
    return SanetLocalizer(tensors, config, run)


def _cells(
    encoder: FrozenEncoder,
    views: Sequence[View],
    short_side_px: int,
    count: int,
    run: Run,
    *,
    with_depth: bool,
) -> FeatureBuffer:
    """Cells with known points, of views as they were taken."""
    if not with_depth:
        count *= _TRIANGULATED_FROM
    buffer = fill_buffer(
        encoder, views, range(len(views)), count, short_side_px, _AS_TAKEN, run, with_depth
    )
    if not with_depth:
        poses = Rigid3d.stack([view.cam_from_world for view in views])
        focal_px_V = torch.tensor(
            [
                float(view.camera.focal.mean())
                * short_side_px
                / min(view.camera.width, view.camera.height)
                for view in views
            ]
        )
        depth_N = triangulated_depth(PosedCells(buffer, poses, focal_px_V, len(views)), run)
        buffer = replace(buffer, depth_N=depth_N.to(buffer.depth_N.device))
    return buffer.at(buffer.depth_N.isfinite().nonzero()[:, 0])


def _level(
    name: str,
    buffer: FeatureBuffer,
    known: Sequence[int],
    rotation_V33: Tensor,
    translation_V3: Tensor,
) -> dict[str, Tensor]:
    """A level of the pyramid: cells view by view, how many each has, and points from the centre."""
    parts, counts = [], []
    for number, index in enumerate(known):
        cells = buffer.at((buffer.view_N == index).nonzero()[:, 0])
        rays_N3 = torch.cat([cells.rays_N2, torch.ones_like(cells.rays_N2[:, :1])], dim=1)
        points_cam_N3 = (rays_N3 * cells.depth_N[:, None]).double().cpu()
        cam_from_center = Rigid3d(rotation_V33[number], translation_V3[number])
        parts.append((cells.codes_NC.half().cpu(), cam_from_center.inverse() @ points_cam_N3))
        counts.append(len(cells))
    codes, points = zip(*parts, strict=True)
    return {
        f"{name}.codes": torch.cat(codes),
        f"{name}.points": torch.cat(points).float(),
        f"{name}.counts": torch.tensor(counts, dtype=torch.int32),
    }


def _evenly(views: Sequence[View], most: int) -> Sequence[View]:
    """At most so many of the views, evenly spaced."""
    step = max(len(views) / most, 1.0)
    return [views[int(number * step)] for number in range(int(len(views) / step))]


METHOD = Method(
    name="sanet",
    family="coordinates",
    summary="RGB-D map, nothing trained on it: a shared decoder reads points off retrieved views.",
    paper="Yang et al., SANet: Scene Agnostic Network for Camera Localization, ICCV 2019",
    published="68.2 % within 5 cm, 5° (7-Scenes); not reproduced",
    config=SanetConfig,
    tiny=SanetConfig(short_side_px=160, fine_cells=250, coarse_cells=80),
    build_map=build_map,
    localizer=localizer,
    presets={
        "soft-nearest": SanetConfig(decoder="soft-nearest"),
        "rgbd": SanetConfig(query_depth=True),
    },
    uses_depth=True,
)
