"""The loss of absolute pose regression; which one is data.

Lengths are in the unit of the poses that are given; rotations are `world_from_cam`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.geometry.rotation import angle_between_rad
from reloc.nn.rotations import (
    PARAMETRIZATIONS,
    RotationName,
    bin_cross_entropy,
    quaternion_conjugate,
    quaternion_from_matrix,
    quaternion_log,
    quaternion_product,
)

NormName = Literal["l1", "l2", "squared"]
"""Of residuals."""
DistanceName = Literal[
    "raw", "quaternion", "log-quaternion", "quaternion-error", "angular", "chordal"
]
"""Of rotations."""
# Learned log-variances take so many times the step of a weight: their optimum is units away, and a
# weight's a hundredth of one.
_STEP_OF_LOG_VARIANCE = 10.0


@dataclass(frozen=True)
class PoseLossConfig:
    """Which loss of position and rotation."""

    norm: NormName = "l1"
    """Of residuals: sum of absolute values, length, or squared length."""
    distance: DistanceName = "raw"
    """Of rotations. raw: the difference of the numbers that the network predicts (of quaternions,
    made of length 1, from q with w >= 0), or the cross-entropy of bins; quaternion: of unit
    quaternions, the nearer of ±q; log-quaternion: the difference of the logarithms;
    quaternion-error: the logarithm of q⁻¹ ⊗ q̂ (QEH); angular: the angle in rad; chordal: the norm
    of the difference of the matrices."""
    weights: Literal["fixed", "learned", "max"] = "learned"
    """fixed: position + beta * rotation; learned: exp(-s) times each, + s, with trained s; max: the
    larger of position and beta * rotation."""
    beta: float = 1.0
    """Weight of the rotation, where it is fixed."""
    position_log_variance: float = 0.0
    """Where the s of the position begins."""
    rotation_log_variance: float = -3.0
    """Where the s of the rotation begins."""
    auxiliary: float = 0.3
    """Weight of what auxiliary heads predict."""

    def __post_init__(self) -> None:
        if self.beta < 0 or self.auxiliary < 0:
            raise ValueError("weights of a loss must not be negative")


@dataclass(frozen=True, eq=False)
class PredictedPose:
    """What a network predicts.

    Attributes:
        position_B3: camera centres.
        rotation_BK: numbers of the parametrisation.
        auxiliary: what heads at inner layers predict.
    """

    position_B3: Tensor
    rotation_BK: Tensor
    auxiliary: tuple[PredictedPose, ...] = ()


class Weighting(nn.Module):
    """A position loss and a rotation loss to one number.

    Sources: Kendall et al., ICCV 2015 (β); Kendall and Cipolla, "Geometric loss functions for
    camera pose regression with deep learning", CVPR 2017 (learned).
    """

    def __init__(self, config: PoseLossConfig) -> None:
        super().__init__()
        self._kind, self._beta = config.weights, config.beta
        self.register_buffer(
            "_begin", torch.tensor([config.position_log_variance, config.rotation_log_variance])
        )
        if self._kind == "learned":
            self.moved_2 = nn.Parameter(torch.zeros(2))

    @property
    def log_variance_2(self) -> Tensor:
        """The s of position and rotation."""
        return self.get_buffer("_begin") + _STEP_OF_LOG_VARIANCE * self.moved_2

    def forward(self, position: Tensor, rotation: Tensor) -> Tensor:
        """Means of position and rotation residuals to the loss."""
        if self._kind == "learned":
            s_2 = self.log_variance_2
            return (torch.stack([position, rotation]) * (-s_2).exp() + s_2).sum()
        if self._kind == "max":
            return torch.maximum(position, self._beta * rotation)
        return position + self._beta * rotation


class PoseLoss(nn.Module):
    """The loss of predicted poses."""

    def __init__(self, config: PoseLossConfig, rotation: RotationName) -> None:
        super().__init__()
        self.config = config
        self._rotation: RotationName = rotation
        self.weighting = Weighting(config)

    def forward(
        self, predicted: PredictedPose, position_B3: Tensor, rotation_B33: Tensor
    ) -> Tensor:
        """The mean over a batch, auxiliary predictions included."""
        loss = self.weighting(*self.residuals(predicted, position_B3, rotation_B33))
        for other in predicted.auxiliary:
            part = self.weighting(*self.residuals(other, position_B3, rotation_B33))
            loss = loss + self.config.auxiliary * part
        return loss

    def residuals(
        self, predicted: PredictedPose, position_B3: Tensor, rotation_B33: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means over the batch of what position and rotation are off."""
        position = length(predicted.position_B3 - position_B3, self.config.norm).mean()
        rotation = rotation_residual(
            predicted.rotation_BK, rotation_B33, self._rotation, self.config
        )
        return position, rotation.mean()


class RelativeLoss(nn.Module):
    """How far the steps from one predicted pose to the next are from the true ones.

    It is weighted as the poses are, by the same s, as in MapNet's equations 2 and 3. With an s of
    its own, positions come out as their mean: the steps along a video are small, and so is their s
    soon, and what is then punished most is that predictions differ at all.

    Sources: Brahmbhatt et al., "Geometry-aware learning of maps for camera localization", CVPR 2018
    (difference); Radwan, Valada and Burgard, "VLocNet++", RA-L 2018 (frame).
    """

    def __init__(
        self, config: PoseLossConfig, rotation: RotationName, kind: Literal["difference", "frame"]
    ) -> None:
        """Make one.

        Args:
            config: norm and distance.
            rotation: how rotations are written.
            kind: difference: of the positions and of the numbers of the rotations; frame: the pose
                of the second camera in the frame of the first.
        """
        super().__init__()
        self.config, self._kind = config, kind
        self._rotation: RotationName = rotation

    def forward(
        self,
        predicted: PredictedPose,
        position_X3: Tensor,
        rotation_X33: Tensor,
        first_E: Tensor,
        second_E: Tensor,
        weighting: Weighting,
    ) -> Tensor:
        """The mean over pairs of rows of X = B * T poses, weighted as the loss of the poses is."""
        parametrization = PARAMETRIZATIONS[self._rotation]
        step_E3 = predicted.position_B3[second_E] - predicted.position_B3[first_E]
        true_step_E3 = position_X3[second_E] - position_X3[first_E]
        if self._kind == "difference":
            numbers_XK = predicted.rotation_BK
            if self._rotation == "quaternion":
                numbers_XK = functional.normalize(numbers_XK, dim=-1)
            true_XK = parametrization.from_matrix(rotation_X33)
            turn_EK = numbers_XK[second_E] - numbers_XK[first_E]
            turn_E = length(turn_EK - (true_XK[second_E] - true_XK[first_E]), self.config.norm)
        else:
            predicted_X33 = parametrization.to_matrix(predicted.rotation_BK)
            step_E3 = _in_frame(predicted_X33[first_E], step_E3)
            true_step_E3 = _in_frame(rotation_X33[first_E], true_step_E3)
            turn_E = angle_between_rad(
                predicted_X33[first_E].mT @ predicted_X33[second_E],
                rotation_X33[first_E].mT @ rotation_X33[second_E],
            )
        step_E = length(step_E3 - true_step_E3, self.config.norm)
        return weighting(step_E.mean(), turn_E.mean())


def neighbours(num_clips: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of each frame and of the next, of clips that lie behind one another."""
    rows = torch.arange(num_clips * length, device=device).view(num_clips, length)
    return rows[:, :-1].flatten(), rows[:, 1:].flatten()


def _in_frame(rotation_E33: Tensor, vector_E3: Tensor) -> Tensor:
    """Vectors in the frames whose axes the rotations have as columns."""
    return (rotation_E33.mT @ vector_E3[..., None])[..., 0]


def length(residual_BD: Tensor, norm: NormName) -> Tensor:
    """(B,): of residuals (B, D)."""
    if norm == "l1":
        return residual_BD.abs().sum(-1)
    squared = residual_BD.square().sum(-1)
    # The root has no gradient at 0.
    return squared if norm == "squared" else (squared + 1e-12).sqrt()


def rotation_residual(
    numbers_BK: Tensor, rotation_B33: Tensor, name: RotationName, config: PoseLossConfig
) -> Tensor:
    """How far (B,) predicted numbers are from rotations, by the distance of the config.

    Sources: Huynh, "Metrics for 3D rotations", 2009; Żurad, "Deep convolutional neural networks for
    camera relocalization", 2017 (quaternion-error).
    """
    parametrization = PARAMETRIZATIONS[name]
    if config.distance == "raw":
        if name == "euler-bins":
            return bin_cross_entropy(numbers_BK, rotation_B33)
        target_BK = parametrization.from_matrix(rotation_B33)
        if name == "quaternion":
            numbers_BK = functional.normalize(numbers_BK, dim=-1)
        return length(numbers_BK - target_BK, config.norm)
    if config.distance == "log-quaternion" and name == "log-quaternion":
        return length(numbers_BK - parametrization.from_matrix(rotation_B33), config.norm)
    if name == "euler-bins":
        raise ValueError("bins have no gradient but by the distance raw")
    if config.distance in ("angular", "chordal"):
        predicted_B33 = parametrization.to_matrix(numbers_BK)
        if config.distance == "angular":
            return angle_between_rad(predicted_B33, rotation_B33)
        return length((predicted_B33 - rotation_B33).flatten(-2), config.norm)
    predicted_B4 = unit_quaternion(numbers_BK, name)
    target_B4 = quaternion_from_matrix(rotation_B33)
    if config.distance == "quaternion":
        return length(predicted_B4 - _nearer(target_B4, predicted_B4), config.norm)
    if config.distance == "log-quaternion":
        return length(quaternion_log(predicted_B4) - quaternion_log(target_B4), config.norm)
    error_B4 = quaternion_product(quaternion_conjugate(target_B4), predicted_B4)
    return length(quaternion_log(error_B4), config.norm)


def unit_quaternion(numbers_BK: Tensor, name: RotationName) -> Tensor:
    """Predicted numbers as unit quaternions (B, 4), w first, with gradients."""
    if name == "quaternion":
        return functional.normalize(numbers_BK, dim=-1)
    if name in ("log-quaternion", "axis-angle"):
        half_B3 = numbers_BK if name == "log-quaternion" else numbers_BK / 2
        angle_B1 = (half_B3.square().sum(-1, keepdim=True) + 1e-16).sqrt()
        return torch.cat([angle_B1.cos(), half_B3 * angle_B1.sin() / angle_B1], dim=-1)
    return quaternion_from_matrix(PARAMETRIZATIONS[name].to_matrix(numbers_BK))


def reprojection_residual(
    position_B3: Tensor,
    world_from_cam_B33: Tensor,
    points_BN3: Tensor,
    pixels_BN2: Tensor,
    max_residual: float,
) -> Tensor:
    """Mean over the points in front of their camera of the L1 reprojection error.

    Args:
        position_B3: predicted camera centres.
        world_from_cam_B33: predicted rotations.
        points_BN3: scene points that each image shows; NaN where it shows fewer.
        pixels_BN2: where it shows them, on the plane z = 1.
        max_residual: beyond which an error is cut.

    Source: Kendall and Cipolla, CVPR 2017, equation 7.
    """
    known_BN = points_BN3.isfinite().all(-1)
    points_BN3 = points_BN3.nan_to_num(0.0)
    in_cam_BN3 = (points_BN3 - position_B3[:, None]) @ world_from_cam_B33
    z_BN = in_cam_BN3[..., 2]
    # Points that the predicted camera has behind it say nothing about where it should be.
    known_BN = known_BN & (z_BN.detach() > 0.05 * in_cam_BN3.detach().norm(dim=-1))
    plane_BN2 = in_cam_BN3[..., :2] / z_BN.clamp_min(1e-3)[..., None]
    error_BN = (plane_BN2 - pixels_BN2.nan_to_num(0.0)).abs().sum(-1).clamp_max(max_residual)
    return (error_BN * known_BN).sum() / known_BN.sum().clamp_min(1)


def _nearer(target_B4: Tensor, predicted_B4: Tensor) -> Tensor:
    """Of q and -q, which turn alike, the one nearer to what was predicted."""
    inner_B1 = (target_B4 * predicted_B4.detach()).sum(-1, keepdim=True)
    return torch.where(inner_B1 < 0, -target_B4, target_B4)
