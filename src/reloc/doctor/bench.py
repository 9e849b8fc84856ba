"""Matches as judges: how well they fit poses and cameras from which some mistakes were undone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reloc.doctor.diagnosis import Trial
from reloc.doctor.half_lines import symmetric_error_px, triangulated_depths
from reloc.doctor.mistakes import AS_GIVEN, IntrinsicsMending, PoseMending, TimeShift, pose_mendings
from reloc.doctor.pairs import MatchedPairs
from reloc.doctor.times import Trajectories
from reloc.geometry.rigid3d import Rigid3d

# Undoing a mistake must divide the error by this, and each mistake more by this again: an
# explanation with more parts always fits a little better.
MIN_GAIN = 1.4
# Below this angle between two rays their depth is mostly noise.
_MIN_TRIANGULATION_DEG = 1.0


@dataclass(frozen=True)
class Explanation:
    """Mistakes that may have been made, each as what undoes it."""

    poses: PoseMending = pose_mendings()[0]
    intrinsics: IntrinsicsMending = AS_GIVEN
    shift: float = 0.0

    @property
    def num_mistakes(self) -> int:
        """How many it assumes."""
        return len(self.poses.mistakes) + (self.intrinsics != AS_GIVEN) + (self.shift != 0.0)


class Bench:
    """The matched pairs of a scene, and its poses at all times.

    Attributes:
        pairs: the judges.
        trajectories: of all views of the scene.
        given_px_P: error of each pair under poses and cameras as given.
    """

    def __init__(self, pairs: MatchedPairs, trajectories: Trajectories) -> None:
        self.pairs = pairs
        self.trajectories = trajectories
        self._cameras = [view.camera for view in pairs.views]
        self._poses_V = Rigid3d.stack([view.cam_from_world for view in pairs.views])
        self._focals_px_V = torch.stack([camera.focal.mean() for camera in self._cameras])
        widths_V = torch.tensor([float(camera.width) for camera in self._cameras])
        self._widths_P = widths_V[pairs.views_2P[0]].double()
        self._rays_2PM3: dict[IntrinsicsMending, Tensor] = {}
        self._errors_px_P: dict[Explanation, Tensor] = {}
        self.given_px_P = self.errors_px(Explanation())

    def errors_px(self, explanation: Explanation) -> Tensor:
        """The median error (P,) of each pair's matches."""
        if explanation not in self._errors_px_P:
            poses_V = self.mended_poses(explanation)
            self._errors_px_P[explanation] = self.errors_under(poses_V, explanation.intrinsics)
        return self._errors_px_P[explanation]

    def errors_under(
        self, cam_from_world_V: Rigid3d, intrinsics: IntrinsicsMending, roll: int = 0
    ) -> Tensor:
        """As `errors_px`, under these poses, each pair under those of the one `roll` before it."""
        first_P, second_P = self.pairs.views_2P.roll(roll, 1)
        errors_PM = symmetric_error_px(
            self._rays(intrinsics),
            cam_from_world_V[second_P] @ cam_from_world_V[first_P].inverse(),
            self._focals_px_V[self.pairs.views_2P] * intrinsics.factor,
        )
        # A pixel that a camera cannot have is as wrong as can be.
        errors_PM = torch.where(errors_PM.isnan(), self._widths_P[:, None], errors_PM)
        return errors_PM.median(dim=1).values

    def mended_poses(self, explanation: Explanation) -> Rigid3d:
        """cam_from_world (V,) without the mistakes."""
        poses_V = self._poses_V
        if explanation.shift:
            poses_V = self.trajectories.poses_later(self.pairs.views, explanation.shift)
        return explanation.poses.mend(poses_V)

    def unrelated_px(self) -> float:
        """The error under the poses of other pairs: of poses that say nothing about the images."""
        roll = (len(self.pairs) + 1) // 2
        return float(self.errors_under(self._poses_V, AS_GIVEN, roll).median())

    def cost(self, explanation: Explanation) -> float:
        """The error in px, more for every mistake assumed."""
        return float(self.errors_px(explanation).median()) * MIN_GAIN**explanation.num_mistakes

    def trial(self, explanation: Explanation) -> Trial:
        """An explanation against poses and cameras as given, pair by pair."""
        errors_P = self.errors_px(explanation)
        num_pairs, num_better = len(errors_P), int((errors_P < self.given_px_P).sum())
        at_least = sum(math.comb(num_pairs, count) for count in range(num_better, num_pairs + 1))
        mistakes = explanation.poses.mistakes
        if explanation.intrinsics != AS_GIVEN:
            mistakes = (*mistakes, explanation.intrinsics.mistake(self._cameras))
        if explanation.shift:
            mistakes = (*mistakes, TimeShift(explanation.shift, self.trajectories.unit).mistake())
        return Trial(
            mistakes=mistakes,
            error_px=float(errors_P.median()),
            better_share=num_better / num_pairs,
            chance=at_least / 2**num_pairs,
        )

    def common_focal_px(self) -> float | None:
        """The one focal length of all views; None where they differ."""
        lowest, highest = float(self._focals_px_V.min()), float(self._focals_px_V.max())
        return lowest if highest - lowest < 1e-3 * lowest else None

    def depths(self) -> Tensor:
        """Of the matches in their first views, as given, (P, M); NaN where the rays tell little."""
        first_P, second_P = self.pairs.views_2P
        return triangulated_depths(
            self._rays(AS_GIVEN),
            self._poses_V[second_P] @ self._poses_V[first_P].inverse(),
            _MIN_TRIANGULATION_DEG,
        )

    def _rays(self, intrinsics: IntrinsicsMending) -> Tensor:
        """(2, P, M, 3) of the plane z = 1; equal cameras are asked once for all their pixels."""
        if intrinsics in self._rays_2PM3:
            return self._rays_2PM3[intrinsics]
        plane_2PM2 = torch.full_like(self.pairs.pixels_2PM2, torch.nan)
        owners: dict[tuple[object, ...], list[int]] = {}
        for index, camera in enumerate(self._cameras):
            owners.setdefault((camera.model, *camera.params.tolist()), []).append(index)
        for indices in owners.values():
            camera = intrinsics.mend(self._cameras[indices[0]])
            own_2P = torch.isin(self.pairs.views_2P, torch.tensor(indices))
            plane_2PM2[own_2P] = camera.cam_from_img(self.pairs.pixels_2PM2[own_2P])
        rays_2PM3 = torch.cat([plane_2PM2, torch.ones_like(plane_2PM2[..., :1])], dim=-1)
        return self._rays_2PM3.setdefault(intrinsics, rays_2PM3)
