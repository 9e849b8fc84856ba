"""Teach a map new views: landmarks of theirs are added, or layers go on learning.

A map of landmarks keeps its own beside the new ones. Layers go on learning from the new cells and
from those that the map kept. Half of every batch is of the old views: what the head said of them,
where it was right, is learned again beside the points that are triangulated between the new ones.

How well what was known is kept is measured on the old views: whether their cells agree with the
poses as before, and how far their scene points moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from reloc.contract import PartChange, Run, Tensors, Updated
from reloc.estimation.trials import covariance_scale
from reloc.geometry.clusters import extent
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.coordinates.cameras import MappingCameras, cameras_in_frame
from reloc.methods.coordinates.cells import encode_cells, known_depth, learned_and_left_out
from reloc.methods.coordinates.landmarks import find_landmarks
from reloc.methods.coordinates.localizer import CoordinatesLocalizer
from reloc.methods.coordinates.looks import add_looks
from reloc.methods.coordinates.map_tensors import (
    GROWTH,
    REFINED,
    any_head_of,
    head_of,
    head_tensors,
    holds_landmarks,
    landmark_tensors,
    landmarks_of,
)
from reloc.methods.coordinates.mapping import fit_head
from reloc.methods.coordinates.parts import PartsConfig, parts_of, split_views, with_prefix
from reloc.methods.coordinates.points import Loss, agreeing, begun_with_points
from reloc.nn.landmarks import Landmarks
from reloc.nn.shared_encoder import FrozenEncoder, encoder_of_map
from reloc.scenes.scene import View
from reloc.training.replay import PosedCells
from reloc.training.stages import stage

# Of the steps and the peak rate that the map was built with: what is known is not learned anew.
_STEPS, _LEARNING_RATE = 0.5, 0.4
# To say what changed: places of a part that are told apart, and cells of the new views that are
# looked at.
_NUM_PLACES, _NUM_NEW_CELLS = 4, 4096


def update_map(
    tensors: Tensors, views: Sequence[View], config: PartsConfig, loss: Loss, run: Run
) -> Updated:
    """Teach each part of a map those of the new views that look where it does.

    Raises:
        InputError: the map kept no cells, or no view can be read.
    """
    parts = parts_of(tensors)
    known = {
        prefix: cells
        for prefix, part in parts.items()
        if (cells := PosedCells.from_tensors(part, run.device)) is not None
    }
    if len(known) < len(parts):
        raise InputError(
            "the map kept no cells of its views and would forget them: build one that can be "
            "updated, to the end and with --replay-cells 2048"
        )
    encoder = encoder_of_map(tensors, config.encoder, run)
    views_of = _assigned(known, views)
    updated, changes = dict(tensors), []
    for number, (prefix, part) in enumerate(parts.items()):
        name = f"part {number + 1}, " if prefix else ""
        if not views_of[prefix]:
            changes.append(PartChange(f"{name}no new view looks there", 0, None, None, None))
            continue
        taught = _teach(
            encoder, part, known[prefix], views_of[prefix], config, loss, stage(run, f"of{prefix}")
        )
        updated |= with_prefix(taught.tensors, prefix)
        changes += [replace(change, part=name + change.part) for change in taught.changes]
    if "looks" in tensors:
        updated |= add_looks(encoder, tensors, list(views_of.values()), config, run)
    return Updated(updated, changes)


def _assigned(
    known: Mapping[str, PosedCells], views: Sequence[View]
) -> Mapping[str, Sequence[View]]:
    """The new views of each part: a view goes to the part with the camera that is most like it.

    A turn of 60° counts as a way of the extent of all cameras.
    """
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    unit = max(extent(cells.cam_from_world.inverse().translation) for cells in known.values())
    places_V6 = _places(poses, unit)
    distance_PV = torch.stack(
        [
            torch.cdist(places_V6, _places(cells.cam_from_world, unit)).amin(dim=1)
            for cells in known.values()
        ]
    )
    nearest = distance_PV.argmin(dim=0).tolist()
    return {
        prefix: [view for view, part in zip(views, nearest, strict=True) if part == number]
        for number, prefix in enumerate(known)
    }


def _places(cam_from_world: Rigid3d, unit: float) -> Tensor:
    """Centres and directions (V, 6) of cameras."""
    centers_V3 = cam_from_world.inverse().translation / unit
    return torch.cat([centers_V3, cam_from_world.rotation[:, 2]], dim=1)


def _teach(
    encoder: FrozenEncoder,
    tensors: Tensors,
    old: PosedCells,
    views: Sequence[View],
    config: PartsConfig,
    loss: Loss,
    run: Run,
) -> Updated:
    """Teach one part the new views, in the frame that it has."""
    learned, trials = learned_and_left_out(views)
    new = encode_cells(encoder, views, learned, float(tensors["scale"]), config, run)
    if holds_landmarks(tensors):
        taught = _with_more_landmarks(tensors, old, new, config, run)
    else:
        taught = _trained_further(tensors, old, new, config, loss, run)
    num_kept = round(old.num_views / (old.num_views + new.num_views) * len(old))
    kept = old.sample(num_kept, run.seed).joined(new.sample(len(old) - num_kept, run.seed))
    if REFINED in tensors:
        taught = {**taught, REFINED: tensors[REFINED]}
    asked = CoordinatesLocalizer(encoder, taught, config, run)
    growth = covariance_scale(asked, [views[index] for index in trials], run)
    growth = max(growth, float(tensors[GROWTH]))
    taught = {**taught, **kept.tensors(), GROWTH: torch.tensor(growth).double()}
    looked_at = {
        **_at_places(old),
        f"{len(views)} new views": new.sample(_NUM_NEW_CELLS, run.seed),
    }
    before, after = (any_head_of(part, config, run.device) for part in (tensors, taught))
    changes = [
        _change(name, cells, before, after, tensors, config, run)
        for name, cells in looked_at.items()
    ]
    return Updated(taught, changes)


def _cameras(tensors: Tensors, cells: PosedCells, run: Run) -> MappingCameras:
    """Those that saw some cells, in the frame of a part."""
    center_3, scale = tensors["center_3"], float(tensors["scale"])
    return cameras_in_frame(cells.cam_from_world, cells.focal_px_V, center_3, scale, run.device)


def _with_more_landmarks(
    tensors: Tensors, old: PosedCells, new: PosedCells, config: PartsConfig, run: Run
) -> dict[str, Tensor]:
    """A part with those of the new views beside its own.

    Where there are too many, as many of either are left out as there are views of them.
    """
    before = landmarks_of(tensors)
    cameras = _cameras(tensors, new, run)
    limit = config.num_landmarks
    found = find_landmarks(
        new, cameras, config, limit, config.key_length, run, before.basis_CD.to(run.device)
    )
    share = old.num_views / (old.num_views + new.num_views)
    num_old = min(len(before), max(round(share * limit), limit - len(found)))
    order_L = torch.randperm(len(before), generator=torch.Generator().manual_seed(run.seed))
    kept = before.at(order_L[:num_old])
    more = found.at(torch.arange(min(len(found), limit - num_old)))
    if len(more):
        run.log.info("%d new landmarks beside %d old ones", len(more), num_old)
    else:
        run.log.warning(
            "no new landmarks: the new views show nothing that several of them see, or too little "
            "from different places"
        )
    joined = Landmarks(
        torch.cat([kept.points_L3, more.points_L3.cpu()]),
        torch.cat([kept.keys_LD, more.keys_LD.cpu()]),
        before.basis_CD,
        before.reach,
    )
    # In any order: where only the first ones are looked for, they must be old and new alike.
    generator = torch.Generator().manual_seed(run.seed)
    return landmark_tensors(joined.at(torch.randperm(len(joined), generator=generator)), cameras)


def _trained_further(
    tensors: Tensors,
    old: PosedCells,
    new: PosedCells,
    config: PartsConfig,
    loss: Loss,
    run: Run,
) -> dict[str, Tensor]:
    """A part whose layers were trained on old and new cells alike."""
    both = old.joined(new)
    cameras = _cameras(tensors, both, run)
    head = head_of(tensors, config, run.device)
    before = deepcopy(head)
    num_old = config.batch_size // 2

    def draw(generator: torch.Generator) -> Tensor:
        old_N = torch.randint(len(old), (num_old,), generator=generator)
        new_N = torch.randint(len(new), (config.batch_size - num_old,), generator=generator)
        both_N = torch.cat([old_N, len(old) + new_N])
        return both_N[torch.randperm(len(both_N), generator=generator)]

    if config.points_until > 0:
        said_N3, agrees_N = agreeing(before, old.buffer, cameras, config, run)
        old_depth_N = torch.where(agrees_N, cameras.scale * said_N3[:, 2], torch.nan)
        new_depth_N = known_depth(new, config, run).to(run.device)
        loss = begun_with_points(loss, torch.cat([old_depth_N, new_depth_N]), config, run)
    gently = replace(
        config,
        steps=max(1, round(_STEPS * config.steps)),
        max_learning_rate=_LEARNING_RATE * config.max_learning_rate,
    )
    fit_head(head, both.buffer, cameras, draw, gently, loss, run)
    # As the map holds it, in float16.
    return head_tensors(head, cameras)


def _at_places(cells: PosedCells) -> dict[str, PosedCells]:
    """Kept cells by where they look from."""
    places = {}
    for indices in split_views(cells.cam_from_world, _NUM_PLACES):
        middle = cells.cam_from_world[torch.tensor(indices)].inverse().translation.mean(dim=0)
        x, y, z = middle.tolist()
        places[f"seen from about ({x:.3g}, {y:.3g}, {z:.3g})"] = cells.of_views(indices)
    return places


def _change(
    name: str,
    cells: PosedCells,
    before: nn.Module,
    after: nn.Module,
    tensors: Tensors,
    config: PartsConfig,
    run: Run,
) -> PartChange:
    """What a head says of cells now, beside what it said."""
    cameras = _cameras(tensors, cells, run)
    was_N3, agreed_N = agreeing(before, cells.buffer, cameras, config, run)
    is_N3, agrees_N = agreeing(after, cells.buffer, cameras, config, run)
    way_N = cameras.scale * (is_N3 - was_N3).norm(dim=1)[agreed_N]
    return PartChange(
        name,
        len(cells),
        float(way_N.median()) if len(way_N) else None,
        float(agreed_N.float().mean()),
        float(agrees_N.float().mean()),
    )
