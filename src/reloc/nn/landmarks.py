"""A head without layers: landmarks of a scene, known by their codes."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import torch
from torch import Tensor, nn
from torch.nn import functional

# Landmarks that a cell's point is drawn from: the one most alike, and what of the others is near.
_NUM_ALIKE, _TEMPERATURE = 4, 0.03
# Lists that a processor sorts keys into, by the square root of their number, and those it looks in.
_LISTS_PER_ROOT, _LOOKED_IN, _LEARNING_STEPS = 1.0, 4, 6
_MIN_LISTED = 4000
_MAX_INT8, _MAX_INT16 = 127, 2**15 - 1


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Scene points, and the codes of the cells that show them.

    Attributes:
        points_L3: float32, in the head's unit, from its origin.
        keys_LD: float32, of norm 1: codes in the directions in which those of a scene differ.
        basis_CD: from codes to keys, before they are brought to norm 1.
        reach: how far apart two landmarks are, about, that one cell shows.
    """

    points_L3: Tensor
    keys_LD: Tensor
    basis_CD: Tensor
    reach: float

    def __len__(self) -> int:
        return len(self.points_L3)

    def at(self, index_K: Tensor) -> Landmarks:
        """Some of them."""
        return Landmarks(self.points_L3[index_K], self.keys_LD[index_K], self.basis_CD, self.reach)

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """As a map holds them: a byte for each number of a key, two for each of a point."""
        step_L1 = self.keys_LD.abs().amax(1, keepdim=True).clamp_min(1e-12) / _MAX_INT8
        tensors = {
            "points": _packed(self.points_L3),
            "keys": (self.keys_LD / step_L1).round().to(torch.int8),
            "basis": self.basis_CD.half(),
            "reach": torch.tensor(self.reach, dtype=torch.float64),
        }
        return {prefix + name: tensor.cpu() for name, tensor in tensors.items()}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> Landmarks:
        """Those that a map holds, by names without their prefix."""
        return Landmarks(
            _unpacked(tensors["points"]),
            functional.normalize(tensors["keys"].float(), dim=1),
            tensors["basis"].float(),
            float(tensors["reach"]),
        )


def _packed(points_L3: Tensor) -> Tensor:
    """int16 steps of x / (1 + |x|): of 3e-5 near the origin, and no point is too far for them.

    A few points far behind the others would make the steps of a box coarse.
    """
    bent_L3 = points_L3 / (1 + points_L3.abs())
    return (_MAX_INT16 * bent_L3).round().clamp(1 - _MAX_INT16, _MAX_INT16 - 1).short()


def _unpacked(points_L3: Tensor) -> Tensor:
    """The inverse of `_packed`; earlier maps hold the points as float16."""
    if points_L3.dtype != torch.int16:
        return points_L3.float()
    bent_L3 = points_L3.float() / _MAX_INT16
    return bent_L3 / (1 - bent_L3.abs())


def keys_of(codes_NC: Tensor, basis_CD: Tensor) -> Tensor:
    """Keys (N, D) of codes, of norm 1."""
    return functional.normalize(codes_NC.float() @ basis_CD, dim=1)


def principal_basis(codes_NC: Tensor, length: int) -> Tensor:
    """The directions (C, length), orthonormal, in which codes differ most from 0.

    About 0 and not about their mean: inner products are what is to be kept.
    """
    codes_NC = codes_NC.float()
    _, vectors_CC = torch.linalg.eigh(codes_NC.T @ codes_NC / len(codes_NC))
    return vectors_CC[:, -length:].flip(1).contiguous()


class LandmarkHead(nn.Module):
    """Codes (N, C) to scene points (N, 3): those of the landmarks that look most like them.

    A point is the mean of up to four landmarks within reach of the most similar one, weighted by a
    softmax of the similarities. Between landmarks it is so placed more finely than they lie.

    Args:
        landmarks: of the scene; on a processor they are searched through lists of like ones.
    """

    points: Tensor
    keys: Tensor
    basis: Tensor

    def __init__(self, landmarks: Landmarks) -> None:
        super().__init__()
        self.register_buffer("points", landmarks.points_L3, persistent=False)
        self.register_buffer("keys", landmarks.keys_LD, persistent=False)
        self.register_buffer("basis", landmarks.basis_CD, persistent=False)
        self._reach = landmarks.reach
        self._lists = None
        if len(landmarks) >= _MIN_LISTED:
            self._lists = _lists(landmarks.keys_LD.cpu())

    def forward(self, codes_NC: Tensor) -> Tensor:
        """Points (N, 3), float32."""
        return self.with_error(codes_NC)[0]

    def with_error(self, codes_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Points (N, 3), float32, and how unlike (N,) any landmark a code is: 1 - cosine."""
        with torch.autocast(codes_NC.device.type, enabled=False):
            keys_ND = keys_of(codes_NC, self.basis)
            cosine_NK, index_NK = self._most_alike(keys_ND)
            points_NK3 = self.points[index_NK]
            apart_NK = (points_NK3 - points_NK3[:, :1]).norm(dim=-1)
            weight_NK = ((cosine_NK - cosine_NK[:, :1]) / _TEMPERATURE).exp()
            weight_NK = weight_NK * (apart_NK <= self._reach)
            weight_NK = weight_NK / weight_NK.sum(1, keepdim=True)
            return (weight_NK[..., None] * points_NK3).sum(1), 1 - cosine_NK[:, 0]

    def _most_alike(self, keys_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and indices (N, K) of the landmarks most alike, the best first."""
        count = min(_NUM_ALIKE, len(self.keys))
        if self._lists is None or keys_ND.device.type != "cpu":
            cosine_NK, index_NK = (keys_ND @ self.keys.T).topk(count, dim=1)
            return cosine_NK, index_NK
        _, index = self._lists.search(keys_ND.numpy(), count)
        index_NK = torch.from_numpy(index)
        # Lists may hold too few: the first stands for those that are missing.
        index_NK = torch.where(index_NK >= 0, index_NK, index_NK[:, :1].clamp_min(0))
        # The lists are in half precision.
        return (self.keys[index_NK] @ keys_ND[..., None])[..., 0], index_NK


def _lists(keys_LD: Tensor) -> faiss.IndexIVF:
    """Keys sorted by k-means, in half precision; the same keys give the same lists."""
    count, length = keys_LD.shape
    num_lists = max(1, round(_LISTS_PER_ROOT * count**0.5))
    lists = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(length),
        length,
        num_lists,
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
    )
    lists.cp.niter, lists.cp.seed = _LEARNING_STEPS, 0
    lists.nprobe = _LOOKED_IN
    keys = keys_LD.numpy()
    lists.train(keys)
    lists.add(keys)
    return lists
