"""Cells that are learned again beside new ones, so that a map does not forget where it has been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reloc.geometry.rigid3d import Rigid3d
from reloc.training.buffer import FeatureBuffer

_PREFIX = "replay."


@dataclass(frozen=True, eq=False)
class PosedCells:
    """Cells, and the cameras that saw them.

    Attributes:
        buffer: the cells; its `view_N` count the cameras here.
        cam_from_world: of the cameras, batch (V,), float64.
        focal_px_V: float32, of the images as they were encoded.
        num_views: mapping views that the cells stand for, of which V are here.
    """

    buffer: FeatureBuffer
    cam_from_world: Rigid3d
    focal_px_V: Tensor
    num_views: int

    def __len__(self) -> int:
        return len(self.buffer)

    def sample(self, num_cells: int, seed: int) -> PosedCells:
        """So many of the cells at random, all where there are fewer, and the cameras of those."""
        generator = torch.Generator().manual_seed(seed)
        return self._at(torch.randperm(len(self), generator=generator)[:num_cells])

    def of_views(self, indices: Sequence[int]) -> PosedCells:
        """The cells of some of the cameras."""
        wanted_N = torch.isin(self.buffer.view_N.cpu().long(), torch.tensor(indices))
        return self._at(wanted_N.nonzero()[:, 0])

    def _at(self, index_N: Tensor) -> PosedCells:
        buffer = self.buffer.at(index_N.to(self.buffer.view_N.device))
        used_V, view_N = buffer.view_N.cpu().long().unique(return_inverse=True)
        return PosedCells(
            replace(buffer, view_N=view_N.int().to(buffer.view_N.device)),
            self.cam_from_world[used_V],
            self.focal_px_V[used_V],
            self.num_views,
        )

    def joined(self, other: PosedCells) -> PosedCells:
        """These cells, then those."""
        first, second = self.buffer, other.buffer
        return PosedCells(
            FeatureBuffer(
                torch.cat([first.codes_NC, second.codes_NC]),
                torch.cat([first.rays_N2, second.rays_N2]),
                torch.cat([first.view_N, second.view_N + len(self.focal_px_V)]),
                torch.cat([first.depth_N, second.depth_N]),
            ),
            Rigid3d(
                torch.cat([self.cam_from_world.rotation, other.cam_from_world.rotation]),
                torch.cat([self.cam_from_world.translation, other.cam_from_world.translation]),
            ),
            torch.cat([self.focal_px_V, other.focal_px_V]),
            self.num_views + other.num_views,
        )

    def tensors(self) -> dict[str, Tensor]:
        """As a map holds them: a byte for each number of a code, whose errors are then a hundredth.

        Rays are off by a fifth of a pixel at most. Unknown depth is 0.
        """
        codes_NC = self.buffer.codes_NC.float()
        step_N1 = codes_NC.abs().amax(1, keepdim=True).clamp_min(1e-6) / 127
        tensors = {
            "codes": (codes_NC / step_N1).round().to(torch.int8),
            "code_steps": step_N1[:, 0].half(),
            "rays": self.buffer.rays_N2.half(),
            "views": self.buffer.view_N,
            "rotations": self.cam_from_world.rotation,
            "translations": self.cam_from_world.translation,
            "focals_px": self.focal_px_V,
            "num_views": torch.tensor(self.num_views),
        }
        if bool(self.buffer.depth_N.isfinite().any()):
            tensors["depths"] = self.buffer.depth_N.nan_to_num(0.0)
        return {_PREFIX + name: tensor.cpu() for name, tensor in tensors.items()}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], device: str) -> PosedCells | None:
        """Those that a map holds, on a device; None where it holds none."""
        if f"{_PREFIX}codes" not in tensors:
            return None
        held = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(_PREFIX)
        }
        codes_NC = held["codes"].float() * held["code_steps"][:, None].float()
        depth_N = held.get("depths", torch.zeros(len(codes_NC)))
        return PosedCells(
            FeatureBuffer(
                codes_NC.half().to(device),
                held["rays"].float().to(device),
                held["views"].to(device),
                torch.where(depth_N > 0, depth_N, torch.nan).to(device),
            ),
            Rigid3d(held["rotations"], held["translations"]),
            held["focals_px"],
            int(held["num_views"]),
        )
