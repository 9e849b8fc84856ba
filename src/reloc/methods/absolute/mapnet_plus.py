"""MapNet+: MapNet, learned also by visual odometry, on frames whose poses it need not be told."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.geometry.rotation import angle_between_rad
from reloc.methods.absolute import family
from reloc.methods.absolute.config import RARELY_BEATS_RETRIEVAL, TINY
from reloc.methods.absolute.family import Design, Step
from reloc.methods.absolute.looks import look_list
from reloc.methods.absolute.odometry import Motion, motions_between
from reloc.methods.absolute.sequences import (
    ClipRegressor,
    Clips,
    SequenceConfig,
    SequenceDesign,
    SequenceLocalizer,
    answer_in_clips,
    with_steps_objective,
)
from reloc.nn.rotations import PARAMETRIZATIONS, RotationName
from reloc.scenes.scene import View

# Motions of a step.
_MOTIONS_OF_STEP = 16


@dataclass(frozen=True)
class MapNetPlusConfig(SequenceConfig):
    """Settings of MapNet+.

    All mapping views of a scene have poses: what is unlabelled elsewhere is here a part of them
    whose poses are hidden from all but the frame and unit of the map. Odometry by photos has no
    scale: it gives turns, and directions.
    """

    rotation: RotationName = "log-quaternion"
    """How rotations are written."""
    clip_length: int = 3
    """Frames that are learned together."""
    max_skip: int = 10
    """Most mapping views from one frame of a clip to the next."""
    batch_size: int = 20
    """Clips of a step."""
    unlabelled_share: float = 0.0
    """Share of the mapping views, at the end of the list, whose poses are hidden: they are learned
    by odometry alone."""
    odometry_from: float = 0.5
    """Share of the training after which odometry is learned, too."""
    odometry_weight: float = 1.0
    """Of its loss."""
    odometry_skip: int = 4
    """Mapping views from the first frame of a motion to the second; at least so many, where not all
    are learned."""
    num_motions: int = 120
    """Motions that are measured at most, spread over the mapping views."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.unlabelled_share < 1 or not 0 <= self.odometry_from <= 1:
            raise ValueError("unlabelled_share is in [0, 1), odometry_from in [0, 1]")
        if min(self.odometry_skip, self.num_motions) < 1 or self.odometry_weight < 0:
            raise ValueError("odometry_skip and num_motions are at least 1, its weight at least 0")


def design(
    sequence_of_view: Sequence[str], motions: Sequence[Motion], num_labelled: int
) -> Design[MapNetPlusConfig]:
    """With the motions between mapping views, of which the first so many have poses."""
    clips: list[Clips] = []

    def objective(network: nn.Module, step: Step, config: MapNetPlusConfig) -> Tensor:
        looks = step.looks
        if not clips:
            labelled_M = looks.view_L < num_labelled
            clips.append(Clips.of(looks.view_L[labelled_M], sequence_of_view))
        clips_BT = clips[0].draw(
            config.batch_size, config.clip_length, config.max_skip, step.generator
        )
        loss = with_steps_objective(network, step, clips_BT.to(looks.view_L.device), config)
        if step.done < config.odometry_from or not motions:
            return loss
        return loss + config.odometry_weight * motion_loss(network, step, motions, config)

    return Design(ClipRegressor, objective=objective)


def motion_loss(
    network: nn.Module, step: Step, motions: Sequence[Motion], config: MapNetPlusConfig
) -> Tensor:
    """How far the steps between predicted poses are from measured motions, in rad."""
    looks = step.looks
    # The first look of a view is the view as it was taken: what odometry has seen.
    views, first_look = np.unique(looks.view_L.cpu().numpy(), return_index=True)
    look_of = dict(zip(views.tolist(), first_look.tolist(), strict=True))
    drawn = torch.randint(len(motions), (_MOTIONS_OF_STEP,), generator=step.generator).tolist()
    chosen = [
        motions[number]
        for number in drawn
        if motions[number].first in look_of and motions[number].second in look_of
    ]
    if not chosen:
        return looks.position_L3.new_zeros(())
    device = looks.view_L.device
    index_2M = torch.tensor(
        [[look_of[motion.first] for motion in chosen], [look_of[m.second] for m in chosen]],
        device=device,
    )
    predicted = network(looks.maps(index_2M))
    rotation_2M33 = PARAMETRIZATIONS[config.rotation].to_matrix(predicted.rotation_BK)
    first_M33, second_M33 = rotation_2M33.unflatten(0, (2, -1))
    position_2M3 = predicted.position_B3.unflatten(0, (2, -1))
    measured = [
        motion.second_from_first.to(device=device, dtype=torch.float32) for motion in chosen
    ]
    turned_M33 = torch.stack([motion.rotation for motion in measured])
    direction_M3 = torch.stack([motion.translation for motion in measured])
    turn_M = angle_between_rad(second_M33.mT @ first_M33, turned_M33)
    moved_M3 = (second_M33.mT @ (position_2M3[0] - position_2M3[1])[..., None])[..., 0]
    off_M = 1 - functional.cosine_similarity(moved_M3, direction_M3)
    known_M = torch.tensor([motion.has_direction for motion in chosen], device=device)
    return turn_M.mean() + (off_M * known_M).mean()


def mapping_motions(views: Sequence[View], config: MapNetPlusConfig, run: Run) -> list[Motion]:
    """Odometry between mapping views of one sequence that are learned, spread over them."""
    looks = look_list(len(views), config.num_looks, run.seed)
    learned = sorted({int(look.view) for look in looks})
    pairs = []
    for first in learned:
        # Where not every view is learned, the next one that is.
        later = bisect_left(learned, first + config.odometry_skip)
        if later < len(learned) and views[learned[later]].sequence == views[first].sequence:
            pairs.append((first, learned[later]))
    if not pairs:
        run.log.warning("odometry is left out: no sequence has two views that are so far apart")
        return []
    chosen = np.unique(np.linspace(0, len(pairs) - 1, config.num_motions).astype(int))
    return motions_between(
        lambda index: views[index].query(with_depth=False),
        [pairs[number] for number in chosen],
        run,
    )


def build_map(views: Sequence[View], config: MapNetPlusConfig, run: Run) -> Tensors:
    """Measure motions between mapping views, and train by poses and motions."""
    motions = mapping_motions(views, config, run)
    run.log.info("%d motions between mapping views were measured", len(motions))
    num_labelled = max(2, round((1 - config.unlabelled_share) * len(views)))
    names = [view.sequence for view in views]
    return family.build_map(views, design(names, motions, num_labelled), config, run)


def localizer(tensors: Tensors, config: MapNetPlusConfig, run: Run) -> Localizer:
    """Answers frame by frame."""
    asked = SequenceDesign(ClipRegressor, with_steps_objective, answer_in_clips)
    return SequenceLocalizer(tensors, asked, config, run)


METHOD = Method(
    name="mapnet-plus",
    family="absolute",
    summary="MapNet learned also by visual odometry between frames, labelled or not.",
    paper="Brahmbhatt et al., Geometry-Aware Learning of Maps for Camera Localization, CVPR 2018",
    published="0.13 m, 11.1° (heads); not reproduced",
    config=MapNetPlusConfig,
    tiny=MapNetPlusConfig(**{**TINY, "batch_size": 11}, num_motions=8),
    build_map=build_map,
    localizer=localizer,
    expected_failures=RARELY_BEATS_RETRIEVAL,
    context="sequence",
    presets={"half-unlabelled": MapNetPlusConfig(unlabelled_share=0.5)},
)
