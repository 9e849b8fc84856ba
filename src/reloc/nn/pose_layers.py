"""Layers between the feature maps of a trunk and a pose."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.nn.pose_losses import PredictedPose
from reloc.nn.rotations import PARAMETRIZATIONS, RotationName

_GROUPS = 8


class ConvStage(nn.Module):
    """A convolution that halves the map, normalised: what is trained of a trunk whose rest is not.

    Normalised over groups of channels of one image: no image changes the answer to another.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, channels)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, map_BChw: Tensor) -> Tensor:
        """(B, C, h, w) to (B, channels, ceil(h / stride), ceil(w / stride))."""
        return functional.relu(self.norm(self.conv(map_BChw)))


class ImageVector(nn.Module):
    """Feature maps to one vector an image: two conv stages, then a layer that sees every cell.

    It stands where the papers have the last, trained part of a trunk, its pooling and their first
    fully connected layer. The mean over cells, which the papers take of trunks with hundreds of
    pixels of context, would forget where in the image a thing is: here each cell has weights.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: int, width: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        cells = halved(halved(shape[1])) * halved(halved(shape[2]))
        self.first = ConvStage(shape[0], channels)
        self.second = ConvStage(channels, channels)
        self.connect = nn.Linear(channels * cells, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_normal_(self.connect.weight, nonlinearity="relu")

    def forward(self, map_BChw: Tensor) -> Tensor:
        """(B, C, h, w) to (B, width)."""
        return self.vector(self.second(self.first(map_BChw)))

    def vector(self, map_BChw: Tensor) -> Tensor:
        """What the second stage gives, to (B, width)."""
        return self.dropout(functional.relu(self.connect(map_BChw.flatten(1))))


class PoseHead(nn.Module):
    """Vectors to poses: one linear map for the position and one for the rotation.

    They begin small: an untrained network answers about the mean pose, which is what zeros stand
    for in the frame of `methods.absolute.frame`.
    """

    def __init__(self, width: int, rotation: RotationName, rotation_width: int = 0) -> None:
        super().__init__()
        size = PARAMETRIZATIONS[rotation].size
        self.position = nn.Linear(width, 3)
        self.rotation = nn.Linear(rotation_width or width, size)
        for layer in (self.position, self.rotation):
            nn.init.normal_(layer.weight, std=1e-2)
            nn.init.zeros_(layer.bias)
        if rotation != "euler-bins":
            with torch.no_grad():
                mean = PARAMETRIZATIONS[rotation].from_matrix(torch.eye(3))
                self.rotation.bias.copy_(mean)

    def forward(self, vector_BD: Tensor, rotation_BD: Tensor | None = None) -> PredictedPose:
        """Poses from vectors; the rotation from vectors of its own, where they are given."""
        other_BD = vector_BD if rotation_BD is None else rotation_BD
        return PredictedPose(self.position(vector_BD), self.rotation(other_BD))


class Regressor(nn.Module):
    """Image vector to position and rotation: the plainest of networks."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: int,
        width: int,
        dropout: float,
        rotation: RotationName,
    ) -> None:
        super().__init__()
        self.vector = ImageVector(shape, channels, width, dropout)
        self.head = PoseHead(width, rotation)

    def forward(self, maps: Tensor) -> PredictedPose:
        """Poses (B) of feature maps (B, C, h, w), or (B * T) of clips of them (B, T, C, h, w)."""
        return self.head(self.vector(maps.flatten(0, -4)))


class ChannelAttention(nn.Module):
    """Self-attention between the numbers of a vector, added to it.

    Source: Wang et al., "AtLoc: attention guided camera localization", AAAI 2020, section 3.2.
    """

    def __init__(self, width: int, reduction: int = 8) -> None:
        super().__init__()
        inner = max(1, width // reduction)
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)
        # What attention adds begins at nothing.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, vector_BD: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        query_BI1, key_B1I = self.query(vector_BD)[..., None], self.key(vector_BD)[:, None]
        weights_BII = (query_BI1 * key_B1I).softmax(-1)
        attended_BI = (weights_BII @ self.value(vector_BD)[..., None])[..., 0]
        return vector_BD + self.out(attended_BI)


class FourWayLstm(nn.Module):
    """A vector read as a grid by four LSTMs: down, up, right and left; their last states.

    Source: Walch et al., "Image-based localization using LSTMs for structured feature correlation",
    ICCV 2017.
    """

    def __init__(self, rows: int, columns: int, over_rows: int, over_columns: int) -> None:
        super().__init__()
        self._grid = (rows, columns)
        self.rows = nn.LSTM(columns, over_rows, batch_first=True, bidirectional=True)
        self.columns = nn.LSTM(rows, over_columns, batch_first=True, bidirectional=True)
        self.width = 2 * (over_rows + over_columns)

    def forward(self, vector_BD: Tensor) -> Tensor:
        """(B, rows * columns) to (B, width)."""
        grid_Brc = vector_BD.unflatten(1, self._grid)
        states = []
        for lstm, steps in ((self.rows, grid_Brc), (self.columns, grid_Brc.mT)):
            # Also without a state that is given, it begins at zero: an answer draws nothing.
            _, (last_2BH, _) = lstm(steps)
            states += list(last_2BH)
        return torch.cat(states, dim=1)


def halved(side: int) -> int:
    """Cells of a side after a stage of stride 2."""
    return -(-side // 2)


def open_forget_gates(lstm: nn.RNNBase) -> None:
    """Let LSTMs remember to begin with: biases of the forget gates 1, in place.

    Source: Jozefowicz et al., "An empirical exploration of recurrent network architectures", 2015.
    """
    hidden = lstm.hidden_size
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            if name.startswith("bias_ih"):
                parameter[hidden : 2 * hidden].fill_(1.0)
