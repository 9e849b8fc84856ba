"""What a map holds: a head, its frame, its trust in its covariances, and the encoder's name."""

from __future__ import annotations

import torch
from torch import Tensor

from reloc.contract import Run, Tensors
from reloc.methods.coordinates.cameras import MappingCameras
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.nn.heads import CoordinateHead
from reloc.nn.landmarks import LandmarkHead, Landmarks
from reloc.nn.shared_encoder import FrozenEncoder, encoder_record, open_encoder
from reloc.nn.unfilled import unfilled

HEAD, LANDMARKS, GROWTH = "head.", "landmarks.", "covariance_scale"
# Held by maps whose answers are refined on their landmarks.
REFINED = "refined"


def head_tensors(head: CoordinateHead, cameras: MappingCameras) -> dict[str, Tensor]:
    """A map whose covariances are as the Jacobians say."""
    weights = {HEAD + name: value.half() for name, value in head.state_dict().items()}
    return {**weights, **frame_tensors(cameras)}


def landmark_tensors(landmarks: Landmarks, cameras: MappingCameras) -> dict[str, Tensor]:
    """A map of landmarks, whose covariances are as the Jacobians say."""
    return {**landmarks.tensors(LANDMARKS), **frame_tensors(cameras)}


def frame_tensors(cameras: MappingCameras) -> dict[str, Tensor]:
    """The frame of a head, and covariances that are as the Jacobians say."""
    return {
        "center_3": cameras.center_3.cpu(),
        "scale": torch.tensor(cameras.scale, dtype=torch.float64),
        GROWTH: torch.tensor(1.0, dtype=torch.float64),
    }


def any_head_of(
    tensors: Tensors, config: CoordinatesConfig, device: str
) -> CoordinateHead | LandmarkHead:
    """The landmarks or the layers that a map holds."""
    if holds_landmarks(tensors):
        return LandmarkHead(landmarks_of(tensors)).to(device)
    return head_of(tensors, config, device)


def head_of(tensors: Tensors, config: CoordinatesConfig, device: str) -> CoordinateHead:
    """The layers that a map holds."""
    code = tensors[f"{HEAD}enter.weight"].shape[1]
    num_clusters = len(tensors.get(f"{HEAD}centers", ()))
    with unfilled():
        head = CoordinateHead(code, config.width, config.num_blocks, num_clusters)
    head.load_state_dict(
        {
            name.removeprefix(HEAD): value.float()
            for name, value in tensors.items()
            if name.startswith(HEAD)
        },
        assign=True,
    )
    return head.to(device)


def landmarks_of(tensors: Tensors) -> Landmarks:
    """The landmarks that a map holds."""
    held = {
        name.removeprefix(LANDMARKS): tensor
        for name, tensor in tensors.items()
        if name.startswith(LANDMARKS)
    }
    return Landmarks.from_tensors(held)


def holds_landmarks(tensors: Tensors) -> bool:
    """Whether a map is of landmarks, and not of a head of layers."""
    return f"{LANDMARKS}points" in tensors


def shared_encoder(config: CoordinatesConfig, run: Run) -> tuple[FrozenEncoder, dict[str, Tensor]]:
    """The encoder that a new map stands on, and what the map remembers it by."""
    return open_encoder(config.encoder, run), encoder_record(config.encoder)
