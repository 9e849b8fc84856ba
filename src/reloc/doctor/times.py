"""Poses of other times: what a clock that is off would have given to the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from reloc.geometry.rigid3d import Rigid3d
from reloc.scenes.scene import View

# A pose is made between two known ones that are at most this many usual steps apart.
_MAX_GAP_STEPS = 3.0


class Trajectories:
    """Every sequence of a scene with its clock, to be asked for poses at other times.

    Attributes:
        unit: "s" where all views have timestamps, else "frames", which counts known poses.
        step: median time from a view to the next, in that unit; 0 where no sequence has two views.
    """

    def __init__(self, views: Sequence[View]) -> None:
        """`views` in order, sequence by sequence."""
        timed = all(view.timestamp_s is not None for view in views)
        self.unit: Literal["s", "frames"] = "s" if timed else "frames"
        sequences: dict[str, list[View]] = {}
        for view in views:
            sequences.setdefault(view.sequence, []).append(view)
        self._place = {
            view.name: (sequence, place)
            for sequence, members in sequences.items()
            for place, view in enumerate(members)
        }
        self._poses = {
            sequence: Rigid3d.stack([view.cam_from_world for view in members])
            for sequence, members in sequences.items()
        }
        self._clocks = {
            sequence: torch.tensor(
                [view.timestamp_s if timed else place for place, view in enumerate(members)],
                dtype=torch.float64,
            )
            for sequence, members in sequences.items()
        }
        steps = torch.cat([clock.diff() for clock in self._clocks.values()])
        self.step = float(steps.median()) if len(steps) else 0.0

    def poses_later(self, views: Sequence[View], shift: float) -> Rigid3d:
        """cam_from_world (V,) at the views' times plus `shift`.

        Between two known poses the motion is taken to be even. A view for whose time there is none
        keeps its own: so a shift has nothing to win by it.
        """
        poses = []
        for view in views:
            sequence, place = self._place[view.name]
            pose = self._pose_at(sequence, float(self._clocks[sequence][place]) + shift)
            poses.append(view.cam_from_world if pose is None else pose)
        return Rigid3d.stack(poses)

    def _pose_at(self, sequence: str, time: float) -> Rigid3d | None:
        clock, poses = self._clocks[sequence], self._poses[sequence]
        after = int(torch.searchsorted(clock, time - 1e-6 * self.step))
        if after == len(clock):
            return None
        if abs(float(clock[after]) - time) < 1e-3 * self.step:
            return poses[after]
        gap = float(clock[after] - clock[after - 1]) if after else torch.inf
        if gap > _MAX_GAP_STEPS * self.step:
            return None
        start, end = poses[after - 1], poses[after]
        share = (time - float(clock[after - 1])) / gap
        return Rigid3d.exp((end @ start.inverse()).log() * share) @ start
