"""Camera models, with COLMAP's names, parameter order and pixel convention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reloc.geometry.distortion import Distortion, safe_norm


class _Layout(NamedTuple):
    """How many parameters a model has of each kind, but for the two of the principal point."""

    num_focal: int
    num_radial: int
    num_tangential: int


_LAYOUTS = {
    "SIMPLE_PINHOLE": _Layout(1, 0, 0),
    "PINHOLE": _Layout(2, 0, 0),
    "SIMPLE_RADIAL": _Layout(1, 1, 0),
    "RADIAL": _Layout(1, 2, 0),
    "OPENCV": _Layout(2, 2, 2),
    "OPENCV_FISHEYE": _Layout(2, 4, 0),
}
# COLMAP's guess where nothing is known: focal length over the longer side of the image.
_DEFAULT_FOCAL_RATIO = 1.2


@dataclass(frozen=True, eq=False)
class Camera:
    """The intrinsics of one image.

    Pixels have their top-left corner at integer coordinates: the centre of the first is (0.5, 0.5).

    Attributes:
        model: one of `Camera.MODELS`, with COLMAP's parameters in COLMAP's order: focal length(s),
            principal point, then k | k1 k2 | k1 k2 p1 p2 | k1 k2 k3 k4.
        width: in pixels.
        height: in pixels.
        params: (P,) float64, in pixels where they have a unit.
        has_prior_focal: False where the focal length is a guess, to be estimated with the pose.
    """

    model: str
    width: int
    height: int
    params: Tensor
    has_prior_focal: bool = True

    MODELS = tuple(_LAYOUTS)

    def __post_init__(self) -> None:
        if self.model not in _LAYOUTS:
            raise ValueError(f"camera model {self.model} is not one of {', '.join(_LAYOUTS)}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"an image cannot be {self.width}x{self.height} pixels")
        num_params = sum(self._layout) + 2
        if self.params.shape != (num_params,):
            raise ValueError(
                f"{self.model} takes {num_params} parameters, not {tuple(self.params.shape)}"
            )
        if not bool(torch.isfinite(self.params).all()):
            raise ValueError("a camera parameter is not finite")
        if bool((self.focal <= 0).any()):
            raise ValueError(f"the focal length is {float(self.focal.min()):g}, not positive")

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
        return self.params[: self._layout.num_focal].expand(2)

    @property
    def principal_point(self) -> Tensor:
        """(2,): cx, cy in pixels."""
        num_focal = self._layout.num_focal
        return self.params[num_focal : num_focal + 2]

    @property
    def distortion(self) -> Tensor:
        """What follows the principal point; empty for a pinhole camera."""
        return self.params[self._layout.num_focal + 2 :]

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
        """Project points (..., 3) to pixels (..., 2).

        A point that the camera cannot see gives NaN: one with z <= 0, or beyond the fold of its
        `Distortion`, where the polynomial would bring it back into the picture.
        """
        # What cannot be seen is replaced before the arithmetic: NaN must not reach the derivatives
        # of the other points.
        front = points_cam[..., 2:] > 0
        safe = torch.where(front, points_cam, 1)
        plane = safe[..., :2] / safe[..., 2:]
        if self.model == "OPENCV_FISHEYE":
            radius = safe_norm(plane)
            plane = plane * (radius.atan() / radius)
        if distortion := self._polynomial(plane):
            front = front & (safe_norm(plane) < distortion.max_radius)
            plane = distortion(torch.where(front, plane, 0))
        pixels = plane * self.focal.to(plane) + self.principal_point.to(plane)
        return torch.where(front, pixels, torch.nan)

    def cam_from_img(self, pixels: Tensor) -> Tensor:
        """Pixels (..., 2) to points (..., 2) of the plane z = 1, with the distortion undone.

        A pixel that sees no such point gives NaN: one beyond the fold of the distortion, or 90° or
        more from the axis of a fisheye lens.
        """
        plane = (pixels - self.principal_point.to(pixels)) / self.focal.to(pixels)
        if distortion := self._polynomial(plane):
            plane = distortion.inverse(plane)
        if self.model != "OPENCV_FISHEYE":
            return plane
        angle = safe_norm(plane)
        inside = angle < torch.pi / 2
        safe = torch.where(inside, angle, 1)
        return torch.where(inside, plane * (safe.tan() / safe), torch.nan)

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the same picture at another size. A change of aspect splits the focal."""
        scale = self.params.new_tensor([width / self.width, height / self.height])
        model, distortion = self.model, self.distortion
        if self._layout.num_focal == 1 and width * self.height != height * self.width:
            model = "OPENCV" if len(distortion) else "PINHOLE"
            missing = sum(_LAYOUTS[model][1:]) - len(distortion)
            distortion = torch.cat([distortion, distortion.new_zeros(missing)])
        focal = (self.focal * scale)[: _LAYOUTS[model].num_focal]
        params = torch.cat([focal, self.principal_point * scale, distortion])
        return replace(self, model=model, width=width, height=height, params=params)

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """The camera of the rectangle whose top-left pixel is (left, top)."""
        shift = self.params.new_tensor([left, top])
        focal = self.params[: self._layout.num_focal]
        params = torch.cat([focal, self.principal_point - shift, self.distortion])
        return replace(self, width=width, height=height, params=params)

    def rotated(self, quarter_turns: int) -> Camera:
        """The camera of the picture turned clockwise by `quarter_turns` times 90 degrees.

        The camera frame turns with the picture: see `geometry.rotation.turned_from_cam`.
        """
        camera = self
        for _ in range(quarter_turns % 4):
            (cx, cy), distortion = camera.principal_point, camera.distortion
            if self._layout.num_tangential:
                k1, k2, p1, p2 = distortion
                distortion = torch.stack([k1, k2, p2, -p1])
            focal = camera.focal.flip(0)[: self._layout.num_focal]
            params = torch.cat([focal, torch.stack([camera.height - cy, cx]), distortion])
            camera = replace(camera, width=camera.height, height=camera.width, params=params)
        return camera

    def with_focal(self, focal: float, *, has_prior_focal: bool = True) -> Camera:
        """The same camera with another focal length in pixels (both, where it has two)."""
        num_focal = self._layout.num_focal
        params = torch.cat([self.params.new_full((num_focal,), focal), self.params[num_focal:]])
        return replace(self, params=params, has_prior_focal=has_prior_focal)

    @property
    def _layout(self) -> _Layout:
        return _LAYOUTS[self.model]

    def _polynomial(self, like: Tensor) -> Distortion | None:
        """The distortion in the type of `like`; None for a pinhole camera.

        It acts on the plane z = 1, or for a fisheye lens on the points of the same direction that
        are as far from the middle as their ray is from the optical axis, in radians.
        """
        num_radial, num_tangential = self._layout.num_radial, self._layout.num_tangential
        if not num_radial:
            return None
        distortion = self.distortion.to(like)
        return Distortion(
            radial=distortion[:num_radial],
            tangential=distortion[num_radial:] if num_tangential else distortion.new_zeros(2),
        )
