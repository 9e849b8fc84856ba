"""Scene coordinates of a place that no network has seen: read off the points of retrieved views.

What is known of the place is a pyramid of points with codes. A cell of the query looks up the
points whose codes are nearest to its own; shared perceptrons make a vector of each of them, pooled
vectors tell each of the others, and the answer is their mean under corrected weights, and an
offset. The coarse level does this for the whole picture, where neighbouring cells tell each other
what they found; the fine level does it again, told by the coarse one where to expect the point.

With weights of zero in the last layers, as the decoder begins, it is the soft nearest neighbour:
the mean of those points under a softmax of the similarities. Nothing depends on the world's axes,
origin or unit: see `LocalFrame`.

Source: Yang et al., "SANet: Scene agnostic network for camera localization", ICCV 2019. There the
features are learned along with the decoder and their neighbours beyond the coarsest level are those
in space; here the encoder is frozen, and neighbours are those in feature space on both levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.nn.encoder import STRIDE, cell_centers
from reloc.nn.unfilled import unfilled
from reloc.nn.weights import weights_sha256

# Of the softmax over cosines: the best without a network, of 0.002 to 0.05, in a rendered room.
_TEMPERATURE = 0.02
# Of differences of cosines, to be numbers of about 1.
_COSINE_STEP = 0.1
# Offsets are told in their direction and, squashed, in their length; this long ones by a half.
_HALF_SQUASHED = 0.1
# Of an error of a tenth of the distance, which is a good guess for any scene.
_FIRST_LOG_ERROR = -2.3


@dataclass(frozen=True, eq=False)
class LocalFrame:
    """Axes of the best retrieved view's camera, and the typical distance of what is retrieved.

    A query that looks like the view looks at about the same things from about the same place, so
    numbers in this frame are alike in all scenes, whatever their unit.

    Attributes:
        local_from_world: but for the unit, float64.
        unit: a length in the world.
    """

    local_from_world: Rigid3d
    unit: float

    @staticmethod
    def of(cam_from_world: Rigid3d, points_world_S3: Tensor) -> LocalFrame:
        """Of the best view, and the points of all retrieved ones, at least one."""
        distance_S = (cam_from_world @ points_world_S3.double()).norm(dim=-1)
        return LocalFrame(cam_from_world, max(float(distance_S.median()), 1e-12))

    def local(self, points_world_N3: Tensor) -> Tensor:
        """Points (N, 3), float32."""
        return (self.local_from_world @ points_world_N3.double() / self.unit).float()

    def world(self, points_local_N3: Tensor) -> Tensor:
        """The inverse, float64."""
        return self.local_from_world.inverse() @ (self.unit * points_local_N3.double())


@dataclass(frozen=True, eq=False)
class KnownPoints:
    """A level of the retrieved pyramid.

    Attributes:
        codes_SC: float32, with mean square 1.
        points_S3: float32, in the local frame.
    """

    codes_SC: Tensor
    points_S3: Tensor


@dataclass(frozen=True, eq=False)
class QueryPyramid:
    """What a query shows.

    Attributes:
        coarse_hwC: codes of the reduced picture.
        rays_hw2: on the plane z = 1 of the query's camera, of the same cells.
        fine_NC: codes of cells of the picture.
        place_N2: where these are in the picture, x and y from -1 at one edge of the coarse map to
            1 at the other.
    """

    coarse_hwC: Tensor
    rays_hw2: Tensor
    fine_NC: Tensor
    place_N2: Tensor

    @staticmethod
    def of(
        coarse_MC: Tensor,
        coarse_size: Sequence[int],
        fine_NC: Tensor,
        fine_size: Sequence[int],
        camera: Camera,
    ) -> QueryPyramid:
        """Of the codes of all cells, row by row, of a picture in two sizes (H, W) in pixels.

        Args:
            coarse_MC: codes of the smaller copy.
            coarse_size: of the smaller copy.
            fine_NC: codes of the larger one.
            fine_size: of the larger one.
            camera: of the picture in its own size.
        """
        rows, columns = (side // STRIDE for side in coarse_size)
        coarse_wh, fine_wh = (
            torch.tensor([size[1], size[0]], dtype=torch.float64)
            for size in (coarse_size, fine_size)
        )
        camera_wh = torch.tensor([camera.width, camera.height], dtype=torch.float64)
        pixels_M2 = cell_centers(rows, columns).double() * (camera_wh / coarse_wh)
        # Where a lens is not to be inverted, a cell tells no direction.
        rays_M2 = camera.cam_from_img(pixels_M2).nan_to_num(0.0, 0.0, 0.0)
        fine_N2 = cell_centers(*(side // STRIDE for side in fine_size)).double() / fine_wh
        # Cells need not reach the edges of the smaller copy.
        covered = STRIDE * torch.tensor([columns, rows], dtype=torch.float64)
        place_N2 = 2 * fine_N2 * coarse_wh / covered - 1
        device = coarse_MC.device
        return QueryPyramid(
            coarse_MC.unflatten(0, (rows, columns)),
            rays_M2.float().unflatten(0, (rows, columns)).to(device),
            fine_NC,
            place_N2.float().to(device),
        )

    def at(self, index_N: Tensor) -> QueryPyramid:
        """With some of the fine cells."""
        return replace(self, fine_NC=self.fine_NC[index_N], place_N2=self.place_N2[index_N])


@dataclass(frozen=True, eq=False)
class Decoded:
    """Points (N, 3) in the local frame, and the logarithms (N,) of the lengths that they are off.

    Of the fine cells; `coarse` has what the coarse level said, of its cells row by row, before the
    cells heard of each other and after.
    """

    points_N3: Tensor
    log_error_N: Tensor
    coarse: tuple[Tensor, Tensor]


class CoordinateDecoder(nn.Module):
    """A query's pyramid and the retrieved one to scene coordinates.

    Args:
        code: length of the codes.
        width: of the vectors.
        num_neighbours: points that a cell looks up.
    """

    def __init__(self, code: int = 128, width: int = 64, num_neighbours: int = 16) -> None:
        super().__init__()
        self.num_neighbours = num_neighbours
        self.coarse = _Level(code, width, told=0)
        self.context = _Context(width)
        self.fine = _Level(code, width, told=width)

    def forward(self, query: QueryPyramid, coarse: KnownPoints, fine: KnownPoints) -> Decoded:
        """Coordinates of the query's fine cells."""
        height, width = query.coarse_hwC.shape[:2]
        found = self._look_up(query.coarse_hwC.flatten(0, 1), coarse)
        first_M3, vector_MW, _ = self.coarse(found, None, None)
        grid_W3hw = torch.cat([vector_MW, first_M3], dim=1).T.unflatten(1, (height, width))
        map_hw = self.context(grid_W3hw[None], query.rays_hw2.permute(2, 0, 1)[None])
        told_NW3 = functional.grid_sample(
            map_hw,
            query.place_N2[None, None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )[0, :, 0].T
        found = self._look_up(query.fine_NC, fine)
        points_N3, _, log_error_N = self.fine(found, told_NW3[:, -3:], told_NW3[:, :-3])
        return Decoded(points_N3, log_error_N, (first_M3, map_hw[0, -3:].flatten(1).T))

    def _look_up(self, codes_NC: Tensor, known: KnownPoints) -> Neighbours:
        return look_up(codes_NC, known, self.num_neighbours)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The known points whose codes are nearest to those of N cells.

    Attributes:
        codes_NC: of the cells.
        known: the points.
        index_NK: which of them.
        points_NK3: where these are, in the local frame.
        cosine_NK: of the codes, falling.
    """

    codes_NC: Tensor
    known: KnownPoints
    index_NK: Tensor
    points_NK3: Tensor
    cosine_NK: Tensor

    @property
    def logits_NK(self) -> Tensor:
        """Of the soft nearest neighbour."""
        return self.cosine_NK / _TEMPERATURE

    def soft_nearest(self) -> Tensor:
        """The soft nearest neighbours (N, 3) of the cells."""
        return _mean(self.logits_NK, self.points_NK3)


@torch.no_grad()
def look_up(codes_NC: Tensor, known: KnownPoints, count: int) -> Neighbours:
    """The `count` nearest of the known points for each cell, fewer where there are fewer."""
    cosine_NS = codes_NC @ known.codes_SC.T / codes_NC.shape[1]
    cosine_NK, index_NK = cosine_NS.topk(min(count, len(known.points_S3)), dim=1)
    return Neighbours(codes_NC, known, index_NK, known.points_S3[index_NK], cosine_NK)


class _Level(nn.Module):
    """Neighbours to a point, a vector and an error for each cell, told so many numbers more."""

    def __init__(self, code: int, width: int, told: int) -> None:
        super().__init__()
        compared = width // 2
        self.compare = nn.Linear(code, compared)
        places = 8 if told else 4
        self.enter = nn.Linear(compared + 2 + places, width)
        self.pooled = nn.Linear(width + told, width)
        self.inner = nn.Linear(width, width)
        self.weight = nn.Linear(width, 1)
        self.leave = nn.Linear(2 * width + compared + told, width)
        self.offset = nn.Linear(width, 3)
        self.doubt = nn.Linear(width + 2, width)
        self.error = nn.Linear(width, 1)
        for last in (self.weight, self.offset, self.error):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        nn.init.constant_(self.error.bias, _FIRST_LOG_ERROR)

    def forward(
        self, found: Neighbours, expected_N3: Tensor | None, told_NW: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Points (N, 3), vectors (N, W), logarithms (N,) of errors; these teach nothing else."""
        logits_NK = found.logits_NK
        behind_NK = (found.cosine_NK - found.cosine_NK[:, :1]) / _COSINE_STEP
        nearest_N3 = found.soft_nearest()
        mine_NP = self.compare(found.codes_NC)
        theirs_SP = self.compare(found.known.codes_SC)
        both_NKP = functional.embedding(found.index_NK, theirs_SP) * mine_NP[:, None]
        said_NK2 = torch.stack([behind_NK, found.cosine_NK], dim=-1)
        places = [_squashed(found.points_NK3 - nearest_N3[:, None])]
        if expected_N3 is not None:
            places.append(_squashed(found.points_NK3 - expected_N3[:, None]))
        entered_NKW = functional.relu(self.enter(torch.cat([both_NKP, said_NK2, *places], -1)))
        common = [entered_NKW.amax(1), *([] if told_NW is None else [told_NW])]
        others_NW = self.pooled(torch.cat(common, dim=1))
        hidden_NKW = functional.relu(self.inner(entered_NKW) + others_NW[:, None])
        logits_NK = logits_NK + self.weight(hidden_NKW)[..., 0]
        seen = [hidden_NKW.amax(1), _mean(logits_NK, hidden_NKW), mine_NP]
        seen += [] if told_NW is None else [told_NW]
        vector_NW = functional.relu(self.leave(torch.cat(seen, dim=1)))
        points_N3 = _mean(logits_NK, found.points_NK3) + self.offset(vector_NW)
        off_NK3 = found.points_NK3 - points_N3.detach()[:, None]
        spread_N1 = _mean(logits_NK.detach(), off_NK3.norm(dim=-1, keepdim=True))
        moved_N3 = points_N3 - (nearest_N3 if expected_N3 is None else expected_N3)
        moved_N1 = moved_N3.detach().norm(dim=1, keepdim=True)
        hints_N2 = torch.cat([spread_N1, moved_N1], dim=1).clamp_min(1e-3).log()
        doubt_NW = functional.relu(self.doubt(torch.cat([vector_NW.detach(), hints_N2], dim=1)))
        return points_N3, vector_NW, self.error(doubt_NW)[:, 0]


class _Context(nn.Module):
    """Neighbouring cells tell each other what they found: maps (1, W + 3, h, w) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width + 5, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.offset = nn.Conv2d(width, 3, 1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, map_1W3hw: Tensor, rays_12hw: Tensor) -> Tensor:
        hidden = functional.relu(self.first(torch.cat([map_1W3hw, rays_12hw], dim=1)))
        hidden = functional.relu(self.second(hidden))
        return torch.cat([hidden, map_1W3hw[:, -3:] + self.offset(hidden)], dim=1)


def _mean(logits_NK: Tensor, values_NKD: Tensor) -> Tensor:
    """(N, D): the mean of the neighbours under a softmax."""
    return (logits_NK.softmax(1)[..., None] * values_NKD).sum(1)


def _squashed(offset_NK3: Tensor) -> Tensor:
    """(N, K, 4): an offset, shortened to less than 1, and its length."""
    length_NK1 = offset_NK3.square().sum(-1, keepdim=True).add(1e-12).sqrt()
    shortened = 1 / (length_NK1 + _HALF_SQUASHED)
    return torch.cat([offset_NK3 * shortened, length_NK1 * shortened], dim=-1)


def decoder_sha256(path: Path) -> str:
    """What a map names the decoder in a file by.

    Raises:
        InputError: the installation lacks it.
    """
    return weights_sha256(
        path, "the decoder", "install reloc again, or map with --decoder soft-nearest"
    )


def load_decoder(path: Path, num_neighbours: int) -> CoordinateDecoder:
    """The decoder in a file that `reloc pretrain sanet` wrote, ready to use.

    Raises:
        InputError: the file is missing, or holds no decoder.
    """
    try:
        state = safetensors.torch.load_file(path)
        width, code = len(state["fine.offset.weight"].T), len(state["fine.compare.weight"].T)
        with unfilled():
            decoder = CoordinateDecoder(code, width, num_neighbours)
        decoder.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no decoder of scene coordinates ({reason})") from error
    return decoder.eval().requires_grad_(False)
