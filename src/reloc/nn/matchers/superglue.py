"""SuperGlue: a graph network over the keypoints of two images, and optimal transport.

Source: Sarlin, DeTone, Malisiewicz and Rabinovich, "SuperGlue: learning feature matching with graph
neural networks", CVPR 2020. The layers and their names are those of the published weights, which
are for research only; they were not at hand when this was written, and it has not been run with
them.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.nn.matchers.keypoints import ImageKeypoints, Matches, mutual_matches

WIDTH, LAYERS = 256, 18
_HEADS = 4
_ENCODER_WIDTHS = (3, 32, 64, 128, 256, WIDTH)
# Positions are in units of so much of the image's longer side.
_REACH = 0.7
_ITERATIONS, _MIN_PROBABILITY = 100, 0.2


def _perceptron(*widths: int) -> nn.Sequential:
    """Each keypoint for itself: (1, C, N) to (1, C', N)."""
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(widths):
        layers += [nn.Conv1d(width, following, 1), nn.BatchNorm1d(following), nn.ReLU()]
    # The last is linear.
    return nn.Sequential(*layers[:-2])


class KeypointEncoder(nn.Module):
    """Positions and scores to what is added to the descriptors (equation 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _perceptron(*_ENCODER_WIDTHS)

    def forward(self, image: ImageKeypoints) -> Tensor:
        """(1, C, N)."""
        seen_N3 = torch.cat([image.from_centre(_REACH), image.scores_N[:, None]], dim=1)
        return self.encoder(seen_N3.T[None])


class Attention(nn.Module):
    """Attention of several heads (equations 4 and 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.merge = nn.Conv1d(WIDTH, WIDTH, 1)
        self.proj = nn.ModuleList([nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(3)])

    def forward(self, states_1CN: Tensor, source_1CM: Tensor) -> Tensor:
        """Messages (1, C, N) from the source."""
        query, key, value = (
            # The published order of channels: channel of the head, then head.
            project(states)[0].unflatten(0, (-1, _HEADS)).permute(1, 2, 0)
            for project, states in zip(self.proj, (states_1CN, source_1CM, source_1CM), strict=True)
        )
        message_HNd = functional.scaled_dot_product_attention(query, key, value)
        return self.merge(message_HNd.permute(2, 0, 1).flatten(0, 1)[None])


class Propagation(nn.Module):
    """What a message changes in a keypoint's state (equation 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()
        self.mlp = _perceptron(2 * WIDTH, 2 * WIDTH, WIDTH)

    def forward(self, states_1CN: Tensor, source_1CM: Tensor) -> Tensor:
        """(1, C, N)."""
        return self.mlp(torch.cat([states_1CN, self.attn(states_1CN, source_1CM)], dim=1))


class GraphNetwork(nn.Module):
    """Layers along the edges within the images and across them, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Propagation() for _ in range(LAYERS)])

    def forward(self, first_1CN: Tensor, second_1CM: Tensor) -> tuple[Tensor, Tensor]:
        """The last states of both."""
        for number, layer in enumerate(self.layers):
            across = number % 2 == 1
            change = layer(first_1CN, second_1CM if across else first_1CN)
            second_change = layer(second_1CM, first_1CN if across else second_1CM)
            first_1CN, second_1CM = first_1CN + change, second_1CM + second_change
        return first_1CN, second_1CM


def transported(scores_NM: Tensor, dustbin: Tensor, num_iterations: int) -> Tensor:
    """Logarithms (N + 1, M + 1) of a partial assignment, by Sinkhorn's iterations (equation 9).

    Each keypoint has a mass of 1; a dustbin, the last row or column, takes up to what all keypoints
    of the other image have.

    Args:
        scores_NM: of pairs.
        dustbin: score of a keypoint with the other image's dustbin.
        num_iterations: rows, then columns, are brought to their masses so many times.
    """
    num_rows, num_columns = scores_NM.shape
    table = functional.pad(scores_NM, (0, 1, 0, 1))
    table[-1, :] = dustbin
    table[:, -1] = dustbin
    log_mass_rows, log_mass_columns = (
        table.new_zeros(num_rows + 1),
        table.new_zeros(num_columns + 1),
    )
    log_mass_rows[-1] = torch.tensor(float(num_columns)).log()
    log_mass_columns[-1] = torch.tensor(float(num_rows)).log()
    of_columns = torch.zeros_like(log_mass_columns)
    of_rows = torch.zeros_like(log_mass_rows)
    for _ in range(num_iterations):
        of_rows = log_mass_rows - (table + of_columns).logsumexp(dim=1)
        of_columns = log_mass_columns - (table + of_rows[:, None]).logsumexp(dim=0)
    return table + of_rows[:, None] + of_columns


class SuperGlue(nn.Module):
    """SuperPoint's keypoints of two images to matches."""

    def __init__(self) -> None:
        super().__init__()
        self.kenc = KeypointEncoder()
        self.gnn = GraphNetwork()
        self.final_proj = nn.Conv1d(WIDTH, WIDTH, 1)
        self.bin_score = nn.Parameter(torch.tensor(1.0))

    def forward(self, first: ImageKeypoints, second: ImageKeypoints) -> Matches:
        """Mutual matches; none where an image has no keypoint."""
        if not (len(first) and len(second)):
            return mutual_matches(first.scores_N.new_zeros(0, 0), _MIN_PROBABILITY)
        states = [image.descriptors_ND.T[None] + self.kenc(image) for image in (first, second)]
        one_1CN, other_1CM = (self.final_proj(state) for state in self.gnn(*states))
        scores_NM = one_1CN[0].T @ other_1CM[0] / WIDTH**0.5
        log_NM = transported(scores_NM, self.bin_score, _ITERATIONS)[:-1, :-1]
        return mutual_matches(log_NM.exp(), _MIN_PROBABILITY)
