"""What the networks of the family see: images as one camera would have taken them, and their poses.

All images of a map are brought to one small pinhole camera, its optical axis in the middle.
Turning that camera about its centre is an exact warp of the picture: each mapping view is learned
in several directions, each with its own pose, turned in the plane of the image and out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor

from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.scenes.scene import View

# Standard deviation of the grey values below which an image shows nothing.
_MIN_CONTRAST = 1.0
# The camera's image is never smaller: a trunk needs some cells.
_MIN_SIDE_PX = 32
# Sides of the small image are whole cells of the encoder, in pairs.
_SIDE_STEP_PX = 16
# Where images shrink more than this, they are averaged first: bilinear sampling would alias.
_SHRINKS = 0.8


@dataclass(frozen=True)
class Turning:
    """How far a mapping view is turned and its exposure changed."""

    max_roll_deg: float = 10.0
    """Largest turn in the image plane."""
    max_pan_deg: float = 12.0
    """Largest turn to the side, and up or down: what enters the picture is mirrored from it."""
    jitter: float = 0.2
    """Largest relative change of brightness, and of contrast: of turned pictures, once; where the
    trunk is trained, of all, anew in each step."""

    def __post_init__(self) -> None:
        if self.max_roll_deg < 0 or self.max_pan_deg < 0:
            raise ValueError("the largest turns must not be negative")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter is {self.jitter}; it must be in [0, 1)")


@dataclass(frozen=True)
class SmallCamera:
    """The pinhole camera that all images of a map are brought to.

    Attributes:
        width: in pixels.
        height: in pixels.
        focal_px: of both axes; the principal point is in the middle.
    """

    width: int
    height: int
    focal_px: float

    @staticmethod
    def of(views: Sequence[View], short_side_px: int) -> SmallCamera:
        """With the median aspect and field of view of the mapping views."""
        aspect = float(np.median([view.camera.width / view.camera.height for view in views]))
        # A strip is cut rather than blown up.
        aspect = min(max(aspect, 1 / 3), 3.0)
        width, height = (
            max(_MIN_SIDE_PX, _SIDE_STEP_PX * round(side / _SIDE_STEP_PX))
            for side in (short_side_px * max(aspect, 1.0), short_side_px * max(1 / aspect, 1.0))
        )
        ratios = [_focal_ratio(view.camera) for view in views]
        return SmallCamera(width, height, float(np.median(ratios)) * min(width, height))

    @staticmethod
    def from_tensor(sizes_3: Tensor) -> SmallCamera:
        """The inverse of `tensor`."""
        width, height, focal_px = sizes_3.tolist()
        return SmallCamera(int(width), int(height), focal_px)

    @property
    def tensor(self) -> Tensor:
        """(3,) float64, for a map."""
        return torch.tensor([self.width, self.height, self.focal_px], dtype=torch.float64)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The calibration matrix (3, 3)."""
        return np.array(
            [
                [self.focal_px, 0, self.width / 2],
                [0, self.focal_px, self.height / 2],
                [0, 0, 1],
            ]
        )

    def picture(
        self, image_3HW: Tensor, camera: Camera, image_from_small: NDArray[np.float64] | None = None
    ) -> NDArray[np.uint8]:
        """What this camera sees of an image: (height, width, 3) uint8 RGB.

        Args:
            image_3HW: uint8 RGB.
            camera: of the image. One without a known focal length is taken to have this camera's
                field of view.
            image_from_small: rotation (3, 3) of the image's camera from this one; None: they look
                in the same direction.
        """
        image = np.ascontiguousarray(image_3HW.permute(1, 2, 0).numpy())
        camera = self._with_focal(camera)
        shrink = self.focal_px / float(camera.focal.mean())
        if shrink < _SHRINKS:
            size = tuple(max(1, round(shrink * side)) for side in (camera.width, camera.height))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
            camera = camera.resized(*size)
        return self._warped(image, camera, image_from_small, cv2.INTER_LINEAR)

    def labels(
        self, label_HW: Tensor, camera: Camera, image_from_small: NDArray[np.float64] | None = None
    ) -> NDArray[np.uint8]:
        """What `picture` shows, of labels (H, W) uint8, none of which is mixed with another."""
        label = np.ascontiguousarray(label_HW.numpy())
        return self._warped(label, self._with_focal(camera), image_from_small, cv2.INTER_NEAREST)

    def _with_focal(self, camera: Camera) -> Camera:
        """The camera; one without a known focal length gets this one's field of view."""
        if camera.has_prior_focal:
            return camera
        side = min(camera.width, camera.height)
        focal_px = self.focal_px * side / min(self.width, self.height)
        return Camera.simple_pinhole(focal_px, camera.width, camera.height)

    def _warped(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        image_from_small: NDArray[np.float64] | None,
        interpolation: int,
    ) -> NDArray[np.uint8]:
        """The image at this camera's pixels."""
        rotation = np.eye(3) if image_from_small is None else image_from_small
        if len(camera.distortion):
            pixels = self._pixels_in(camera, rotation)
            return cv2.remap(
                image, *pixels, interpolation, borderMode=cv2.BORDER_REFLECT_101
            ).astype(np.uint8)
        # OpenCV's pixel centres are whole numbers, ours are halves.
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        warp = np.linalg.inv(half) @ camera.matrix.numpy() @ rotation
        warp = warp @ np.linalg.inv(self.matrix) @ half
        flags = interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(
            image, warp, (self.width, self.height), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        ).astype(np.uint8)

    def _pixels_in(
        self, camera: Camera, rotation: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where in a distorted image the pixels of this camera lie, as OpenCV counts: x, y."""
        x, y = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(self.matrix).T
        rays = rays @ rotation.T
        pixels = camera.img_from_cam(torch.from_numpy(rays.reshape(-1, 3))).nan_to_num(-1.0)
        limits = 2.0 * torch.tensor([camera.width, camera.height])
        pixels = pixels.clamp(min=-limits, max=limits).numpy().astype(np.float32) - 0.5
        pixels = pixels.reshape(self.height, self.width, 2)
        return np.ascontiguousarray(pixels[..., 0]), np.ascontiguousarray(pixels[..., 1])


def shows_something(picture: NDArray[np.uint8]) -> bool:
    """Whether a picture (h, w, 3) has any contrast."""
    return float(picture.astype(np.float32).mean(-1).std()) >= _MIN_CONTRAST


@dataclass(frozen=True)
class Look:
    """A mapping view as it was turned.

    Attributes:
        view: its index.
        turn_seed: of what is random in it; None: the view as it is.
    """

    view: int
    turn_seed: tuple[int, ...] | None


def look_list(num_views: int, num_looks: int, seed: int) -> list[Look]:
    """Which views are looked at how often: each as it is first, then turned, evenly.

    Where there are more views than looks, those that are used are evenly spaced.
    """
    if num_views >= num_looks:
        return [Look(view, None) for view in np.linspace(0, num_views - 1, num_looks).astype(int)]
    return [
        Look(number % num_views, None if number < num_views else (seed, number))
        for number in range(num_looks)
    ]


def take_look(
    view: View, image_3HW: Tensor, look: Look, camera: SmallCamera, turning: Turning
) -> tuple[NDArray[np.uint8], Rigid3d]:
    """The picture (h, w, 3) of a view in one look, and its pose cam_from_world.

    Raises:
        InputError: the picture shows nothing.
    """
    if look.turn_seed is None:
        picture, cam_from_world = camera.picture(image_3HW, view.camera), view.cam_from_world
    else:
        image_from_small, rng = _turned(look, turning)
        picture = camera.picture(image_3HW, view.camera, image_from_small.numpy())
        picture = _exposed(picture, turning.jitter, rng)
        small_from_image = Rigid3d(image_from_small.mT, torch.zeros(3, dtype=torch.float64))
        cam_from_world = small_from_image @ view.cam_from_world
    if not shows_something(picture):
        raise InputError(f"image {view.name} has no texture")
    return picture, cam_from_world


def take_labels(
    view: View, label_HW: Tensor, look: Look, camera: SmallCamera, turning: Turning
) -> NDArray[np.uint8]:
    """The labels (h, w) of the picture that `take_look` gives."""
    if look.turn_seed is None:
        return camera.labels(label_HW, view.camera)
    image_from_small, _ = _turned(look, turning)
    return camera.labels(label_HW, view.camera, image_from_small.numpy())


def _turned(look: Look, turning: Turning) -> tuple[Tensor, np.random.Generator]:
    """Rotation (3, 3) of a look's image's camera from the small one, and what else is random."""
    rng = np.random.default_rng(look.turn_seed)
    limits_deg = [turning.max_pan_deg, turning.max_pan_deg, turning.max_roll_deg]
    turn_rad = torch.from_numpy(np.radians(rng.uniform(-1, 1, 3) * limits_deg))
    return roma.rotvec_to_rotmat(turn_rad), rng


def _exposed(
    picture: NDArray[np.uint8], jitter: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Another brightness and contrast."""
    contrast, brightness = 1 + jitter * rng.uniform(-1, 1, 2)
    shift = float(picture.mean()) * brightness * (1 - contrast)
    return cv2.convertScaleAbs(picture, alpha=contrast * brightness, beta=shift).astype(np.uint8)


def exposed(rgb_B3HW: Tensor, jitter: float) -> Tensor:
    """Pictures in [0, 1], each in another brightness and contrast; draws from the process.

    Args:
        rgb_B3HW: the pictures.
        jitter: largest relative change of both.
    """
    change_2B111 = 1 + jitter * (2 * torch.rand(2, len(rgb_B3HW), 1, 1, 1) - 1)
    contrast_B111, brightness_B111 = change_2B111.to(rgb_B3HW.device)
    mean_B111 = rgb_B3HW.mean((1, 2, 3), keepdim=True)
    other_B3HW = mean_B111 + contrast_B111 * (rgb_B3HW - mean_B111)
    return (brightness_B111 * other_B3HW).clamp(0, 1)


def _focal_ratio(camera: Camera) -> float:
    """Focal length over the shorter side."""
    return float(camera.focal.mean()) / min(camera.width, camera.height)
