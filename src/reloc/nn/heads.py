"""Heads: from codes to what a method predicts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Homogeneous output (ACE, supplement): the fourth number is at least 1/4, and 1 for an output of 0.
_MIN_W, _MAX_W = 0.25, 100.0
# Of an error of about 10 px, which is a good guess for any scene.
_FIRST_LOG_ERROR = 2.3
_BETA = torch.log(torch.tensor(2.0)).item() / (1 - _MIN_W)


class CoordinateHead(nn.Module):
    """Codes (N, C) to scene points (N, 3), in units of the scene's scale from the scene's centre.

    And to how far off each point will be found, which a training may or may not teach it. What the
    papers write as 1x1 convolutions over images are here the same linear maps over rows:
    cells of many images are trained side by side in any order.

    With clusters, a point is an offset from a mixture of their centres, of which the head says how
    much of each: in a large scene, what is left to the offset is small.

    Sources: Brachmann, Cavallari and Prisacariu, "Accelerated coordinate encoding", CVPR 2023; of
    the mixture, Wang et al., "GLACE: global local accelerated coordinate encoding", CVPR 2024.

    Attributes:
        centers: of the clusters (K, 3), in the unit and the frame of the points; None without any.
            Zeros in a new head.
    """

    centers: Tensor | None

    def __init__(self, code: int, width: int, num_blocks: int, num_clusters: int = 0) -> None:
        super().__init__()
        self.enter = nn.Linear(code, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in range(3)) for _ in range(num_blocks)
        )
        self.leave = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.point = nn.Linear(width, 4)
        self.error = nn.Linear(width, 1)
        self.cluster = nn.Linear(width, num_clusters) if num_clusters else None
        self.register_buffer("centers", torch.zeros(num_clusters, 3) if num_clusters else None)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            nn.init.normal_(block[-1].weight, std=1e-2)  # type: ignore[index]
        nn.init.normal_(self.point.weight, std=1e-2)
        if self.cluster is not None:
            nn.init.normal_(self.cluster.weight, std=1e-2)
        nn.init.zeros_(self.error.weight)
        nn.init.constant_(self.error.bias, _FIRST_LOG_ERROR)

    def forward(self, codes_NC: Tensor) -> Tensor:
        """Points (N, 3), float32."""
        return self._points(self._hidden(codes_NC))

    def with_error(self, codes_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Points (N, 3), float32, and the logarithm (N,) of the pixels by which they are off.

        What teaches the second does not reach the points.
        """
        hidden = self._hidden(codes_NC)
        return self._points(hidden), self.error(hidden.detach())[:, 0].float()

    def _hidden(self, codes_NC: Tensor) -> Tensor:
        hidden = functional.relu(self.enter(codes_NC))
        for block in self.blocks:
            inner = hidden
            for layer in block:  # type: ignore[union-attr]
                inner = functional.relu(layer(inner))
            hidden = hidden + inner
        for layer in self.leave:
            hidden = functional.relu(layer(hidden))
        return hidden

    def _points(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            # Places are what is said here: in bf16 they would be 2 cm apart in a room of 5 m.
            hidden = hidden.float()
            xyzw = self.point(hidden)
            mixture = None if self.cluster is None else self.cluster(hidden)
        w = functional.softplus(xyzw[:, 3:], beta=_BETA) + _MIN_W
        offset_N3 = xyzw[:, :3] / w.clamp_max(_MAX_W)
        if mixture is None or self.centers is None:
            return offset_N3
        share_NK = mixture.softmax(dim=1)
        # No matrix product: autocast would round places.
        return offset_N3 + (share_NK[:, :, None] * self.centers).sum(dim=1)
