"""Camera models, with COLMAP's names, parameter order and pixel convention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Number of parameters: focal lengths (one or two), principal point, distortion.
_MODELS = {
    "SIMPLE_PINHOLE": (1, 0),
    "PINHOLE": (2, 0),
    "SIMPLE_RADIAL": (1, 1),
    "RADIAL": (1, 2),
    "OPENCV": (2, 4),
    "OPENCV_FISHEYE": (2, 4),
}
# COLMAP's guess where nothing is known: focal length over the longer side of the image.
_DEFAULT_FOCAL_RATIO = 1.2


@dataclass(frozen=True, eq=False)
class Camera:
    """The intrinsics of one image.

    Pixels have their top-left corner at integer coordinates: the centre of the first one is (0.5, 0.5).

    Attributes:
        model: one of `Camera.MODELS`, with COLMAP's parameters in COLMAP's order: focal length(s), principal
            point, then k | k1 k2 | k1 k2 p1 p2 | k1 k2 k3 k4.
        width: in pixels.
        height: in pixels.
        params: (P,) float64, in pixels where they have a unit.
        has_prior_focal: False where the focal length is only a guess, to be estimated with the pose.
    """

    model: str
    width: int
    height: int
    params: Tensor
    has_prior_focal: bool = True

    MODELS = tuple(_MODELS)

    def __post_init__(self) -> None:
        if self.model not in _MODELS:
            raise ValueError(f"camera model {self.model} is not one of {', '.join(_MODELS)}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"an image cannot be {self.width}x{self.height} pixels")
        num_focal, num_distortion = _MODELS[self.model]
        if self.params.shape != (num_focal + 2 + num_distortion,):
            raise ValueError(
                f"{self.model} takes {num_focal + 2 + num_distortion} parameters, "
                f"not {tuple(self.params.shape)}"
            )
        if not bool(torch.isfinite(self.params).all()):
            raise ValueError("a camera parameter is not finite")
        if bool((self.params[:num_focal] <= 0).any()):
            raise ValueError(f"the focal length is {float(self.params[0]):g}, not positive")

    @staticmethod
    def of(model: str, width: int, height: int, params: Sequence[float]) -> Camera:
        """From plain numbers."""
        return Camera(model, width, height, torch.as_tensor(params, dtype=torch.float64))

    @staticmethod
    def simple_pinhole(focal: float, width: int, height: int) -> Camera:
        """One focal length, principal point in the middle, no distortion."""
        return Camera.of("SIMPLE_PINHOLE", width, height, [focal, width / 2, height / 2])

    @staticmethod
    def guess(width: int, height: int) -> Camera:
        """For an image of which only the size is known: the focal length is to be estimated."""
        camera = Camera.simple_pinhole(_DEFAULT_FOCAL_RATIO * max(width, height), width, height)
        return replace(camera, has_prior_focal=False)

    @property
    def focal(self) -> Tensor:
        """(2,): fx, fy in pixels."""
        return self.params[:2] if _MODELS[self.model][0] == 2 else self.params[:1].expand(2)

    @property
    def principal_point(self) -> Tensor:
        """(2,): cx, cy in pixels."""
        num_focal = _MODELS[self.model][0]
        return self.params[num_focal : num_focal + 2]

    @property
    def distortion(self) -> Tensor:
        """What follows the principal point; empty for a pinhole camera."""
        return self.params[_MODELS[self.model][0] + 2 :]

    @property
    def matrix(self) -> Tensor:
        """The calibration matrix (3, 3), without distortion."""
        matrix = torch.diag(torch.cat([self.focal, self.focal.new_ones(1)]))
        matrix[:2, 2] = self.principal_point
        return matrix

    def as_dict(self) -> dict[str, Any]:
        """Plain values under COLMAP's names: what PoseLib takes, and what files hold."""
        return {
            "model": self.model,
            "width": self.width,
            "height": self.height,
            "params": self.params.tolist(),
        }

    def img_from_cam(self, points_cam: Tensor) -> Tensor:
        """Project points (..., 3) to pixels (..., 2). A point with z <= 0 gives NaN."""
        z = points_cam[..., 2:]
        front = z > 0
        plane = points_cam[..., :2] / torch.where(front, z, torch.ones_like(z))
        pixels = self._distort(plane) * self.focal.to(plane) + self.principal_point.to(plane)
        return torch.where(front, pixels, torch.full_like(pixels, torch.nan))

    def cam_from_img(self, pixels: Tensor) -> Tensor:
        """Pixels (..., 2) to points (..., 2) of the plane z = 1, with the distortion undone."""
        plane = (pixels - self.principal_point.to(pixels)) / self.focal.to(pixels)
        if self.model == "OPENCV_FISHEYE":
            return self._undistort_fisheye(plane)
        return _solve_fixed_point(self._distort, plane) if len(self.distortion) else plane

    def _distort(self, plane: Tensor) -> Tensor:
        if not len(self.distortion):
            return plane
        coefficients = self.distortion.to(plane)
        x, y = plane.unbind(-1)
        square = x * x + y * y
        if self.model == "OPENCV_FISHEYE":
            radius = square.clamp_min(1e-24).sqrt()
            theta = radius.atan()
            return plane * (_fisheye_angle(theta, coefficients) / radius)[..., None]
        k1 = coefficients[0]
        k2 = coefficients[1] if len(coefficients) > 1 else torch.zeros_like(k1)
        radial = plane * (1 + k1 * square + k2 * square * square)[..., None]
        if self.model != "OPENCV":
            return radial
        p1, p2 = coefficients[2], coefficients[3]
        tangential_x = 2 * p1 * x * y + p2 * (square + 2 * x * x)
        tangential_y = p1 * (square + 2 * y * y) + 2 * p2 * x * y
        return radial + torch.stack([tangential_x, tangential_y], dim=-1)

    def _undistort_fisheye(self, plane: Tensor) -> Tensor:
        coefficients = self.distortion.to(plane)
        distorted = plane.norm(dim=-1).clamp_min(1e-12)
        theta = _solve_fixed_point(lambda angle: _fisheye_angle(angle, coefficients), distorted)
        # At 90 degrees the plane z = 1 ends: such a pixel has no point on it.
        theta = torch.where(theta < torch.pi / 2, theta, torch.full_like(theta, torch.nan))
        return plane * (theta.tan() / distorted)[..., None]

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the same picture at another size. A change of aspect splits the focal."""
        scale = torch.tensor([width / self.width, height / self.height], dtype=torch.float64)
        model = self.model
        if _MODELS[model][0] == 1 and abs(float(scale[0] / scale[1]) - 1) > 1e-3:
            model, distortion = _with_two_focals(model, self.distortion)
            focal = self.focal * scale
        else:
            distortion = self.distortion
            focal = (self.focal * scale)[: _MODELS[model][0]]
        params = torch.cat([focal, self.principal_point * scale, distortion])
        return replace(self, model=model, width=width, height=height, params=params)

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """The camera of the rectangle whose top-left pixel is (left, top)."""
        shift = torch.tensor([left, top], dtype=torch.float64)
        num_focal = _MODELS[self.model][0]
        params = torch.cat([self.params[:num_focal], self.principal_point - shift, self.distortion])
        return replace(self, width=width, height=height, params=params)

    def rotated(self, quarter_turns: int) -> Camera:
        """The camera of the picture turned clockwise by `quarter_turns` times 90 degrees.

        The camera frame turns with the picture: see `geometry.rotation.turned_from_cam`.
        """
        camera = self
        for _ in range(quarter_turns % 4):
            (fx, fy), (cx, cy) = camera.focal, camera.principal_point
            focal = [fy, fx][: _MODELS[self.model][0]]
            distortion = list(camera.distortion)
            if self.model == "OPENCV":
                k1, k2, p1, p2 = distortion
                distortion = [k1, k2, p2, -p1]
            params = torch.stack([*focal, camera.height - cy, cx, *distortion])
            camera = replace(camera, width=camera.height, height=camera.width, params=params)
        return camera

    def with_focal(self, focal: float, *, has_prior_focal: bool = True) -> Camera:
        """The same camera with another focal length in pixels (both, where it has two)."""
        num_focal = _MODELS[self.model][0]
        params = torch.cat([self.params.new_full((num_focal,), focal), self.params[num_focal:]])
        return replace(self, params=params, has_prior_focal=has_prior_focal)


def _with_two_focals(model: str, distortion: Tensor) -> tuple[str, Tensor]:
    if model == "SIMPLE_PINHOLE":
        return "PINHOLE", distortion
    return "OPENCV", torch.cat([distortion, distortion.new_zeros(4 - len(distortion))])


def _fisheye_angle(theta: Tensor, coefficients: Tensor) -> Tensor:
    """Distorted angle: theta (1 + k1 theta² + k2 theta⁴ + k3 theta⁶ + k4 theta⁸)."""
    square = theta * theta
    series = torch.ones_like(theta)
    for power, coefficient in enumerate(coefficients, start=1):
        series = series + coefficient * square**power
    return theta * series


def _solve_fixed_point(
    distort: Callable[[Tensor], Tensor], target: Tensor, max_rounds: int = 100
) -> Tensor:
    """The x with distort(x) = target, by x <- x + target - distort(x); distortion is near identity."""
    solution = target
    for _ in range(max_rounds):
        step = target - distort(solution)
        solution = solution + step
        if float(step.abs().nan_to_num(0.0).amax() if step.numel() else 0.0) < 1e-12:
            break
    return solution
