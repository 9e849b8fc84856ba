"""Teach a map new views: its heads go on learning, from the new cells and from those that it kept.

Half of every batch is of the old views: what the head said of them, where it was right, is learned
again beside the points that are triangulated between the new ones. How well that keeps what was
known is measured on the old views: whether their cells agree with the poses as before, and how far
their scene points moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from reloc.contract import PartChange, Run, Tensors, Updated
from reloc.estimation.trials import covariance_scale
from reloc.geometry.clusters import extent
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.coordinates import family
from reloc.methods.coordinates.family import CoordinatesLocalizer, Loss
from reloc.methods.coordinates.looks import add_looks
from reloc.methods.coordinates.parts import PartsConfig, parts_of, split_views, with_prefix
from reloc.nn.encoder import Encoder
from reloc.nn.heads import CoordinateHead
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
    encoder = family.encoder_of(tensors, config).to(run.device)
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
    encoder: Encoder,
    tensors: Tensors,
    old: PosedCells,
    views: Sequence[View],
    config: PartsConfig,
    loss: Loss,
    run: Run,
) -> Updated:
    """Train one head on old and new cells alike, in the frame that it has."""
    scale = float(tensors["scale"])
    learned, trials = family.learned_and_left_out(views)
    new = family.encode_cells(encoder, views, learned, scale, config, run)
    both = old.joined(new)
    cameras = family.cameras_in_frame(
        both.cam_from_world, both.focal_px_V, tensors["center_3"], scale, run.device
    )
    head = family.head_of(tensors, config, run.device)
    before = deepcopy(head)
    num_old = config.batch_size // 2

    def draw(generator: torch.Generator) -> Tensor:
        old_N = torch.randint(len(old), (num_old,), generator=generator)
        new_N = torch.randint(len(new), (config.batch_size - num_old,), generator=generator)
        both_N = torch.cat([old_N, len(old) + new_N])
        return both_N[torch.randperm(len(both_N), generator=generator)]

    if config.points_until > 0:
        said_N3, agrees_N = family.agreeing(before, old.buffer, cameras, config, run)
        old_depth_N = torch.where(agrees_N, scale * said_N3[:, 2], torch.nan)
        new_depth_N = family.known_depth(new, config, run).to(run.device)
        loss = family.begun_with_points(loss, torch.cat([old_depth_N, new_depth_N]), config, run)
    gently = replace(
        config,
        steps=max(1, round(_STEPS * config.steps)),
        max_learning_rate=_LEARNING_RATE * config.max_learning_rate,
    )
    family.fit_head(head, both.buffer, cameras, draw, gently, loss, run)
    # As the map holds it, in float16.
    trained = family.head_tensors(head, cameras)
    after = family.head_of(trained, config, run.device)
    share = old.num_views / both.num_views
    num_kept = round(share * len(old))
    kept = old.sample(num_kept, run.seed).joined(new.sample(len(old) - num_kept, run.seed))
    asked = CoordinatesLocalizer(encoder, trained, config, run)
    growth = covariance_scale(asked, [views[index] for index in trials], run)
    growth = max(growth, float(tensors[family.GROWTH]))
    trained = {**trained, **kept.tensors(), family.GROWTH: torch.tensor(growth).double()}
    looked_at = {
        **_at_places(old),
        f"{len(views)} new views": new.sample(_NUM_NEW_CELLS, run.seed),
    }
    changes = [
        _change(name, cells, before, after, tensors, config, run)
        for name, cells in looked_at.items()
    ]
    return Updated(trained, changes)


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
    before: CoordinateHead,
    after: CoordinateHead,
    tensors: Tensors,
    config: PartsConfig,
    run: Run,
) -> PartChange:
    """What a head says of cells now, beside what it said."""
    scale = float(tensors["scale"])
    cameras = family.cameras_in_frame(
        cells.cam_from_world, cells.focal_px_V, tensors["center_3"], scale, run.device
    )

    was_N3, agreed_N = family.agreeing(before, cells.buffer, cameras, config, run)
    is_N3, agrees_N = family.agreeing(after, cells.buffer, cameras, config, run)
    way_N = scale * (is_N3 - was_N3).norm(dim=1)[agreed_N]
    return PartChange(
        name,
        len(cells),
        float(way_N.median()) if len(way_N) else None,
        float(agreed_N.float().mean()),
        float(agrees_N.float().mean()),
    )
