"""The scene coordinate family: a head per scene on a shared encoder, then a robust pose.

Map: codes of the mapping views' cells in a buffer, and a head that learns from the poses alone
where each cell's scene point is. Query: codes, head, and the pose that most of the points agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.estimation.absolute import estimate_absolute_pose
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.nn.encoder import STRIDE, cell_centers
from reloc.nn.heads import CoordinateHead
from reloc.nn.precision import autocast
from reloc.nn.weights import EncoderName, encoder_path, encoder_sha256, load_encoder
from reloc.scenes.scene import Query, View
from reloc.training.augment import Augmentation
from reloc.training.buffer import FeatureBuffer, encode, fill_buffer, resized_grey
from reloc.training.fit import FitConfig, fit
from reloc.training.schedule import one_cycle

_HEAD = "head."


@dataclass(frozen=True)
class CoordinatesConfig:
    """Settings of a scene coordinate map."""

    encoder: EncoderName = "base"
    """The shared encoder."""
    short_side_px: int = 480
    """Images are resized to this shorter side; errors in pixels are of the resized image."""
    width: int = 256
    """Channels of the head."""
    num_blocks: int = 1
    """Residual blocks of the head, of three layers each."""
    num_images: int = 300
    """Images encoded for the buffer: those views that differ most, or each in several looks where
    there are fewer."""
    cells_per_image: int = 2048
    """Most cells of an image that are kept in the buffer."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How far the look of a mapping image is changed."""
    batch_size: int = 1024
    """Cells of a step."""
    steps: int = 2000
    """Steps of training."""
    max_learning_rate: float = 5e-3
    """Peak of the one-cycle schedule."""
    loose_px: float = 100.0
    """Reprojection error at which the loss flattens, at the beginning..."""
    tight_px: float = 1.0
    """...and at the end."""
    depth: bool = False
    """Also learn from the depth maps of the mapping views that have one. They must belong to the
    same reconstruction as the poses: on 7-Scenes, use the d-slam ground truth."""
    max_error_px: float = 10.0
    """Reprojection error up to which a predicted point agrees with a pose."""
    min_inlier_share: float = 0.02
    """With fewer of its cells agreeing, a query is declined."""

    def __post_init__(self) -> None:
        for name in (
            "short_side_px",
            "width",
            "num_images",
            "cells_per_image",
            "batch_size",
            "steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.tight_px <= self.loose_px:
            raise ValueError(f"the loss cannot tighten from {self.loose_px} to {self.tight_px} px")


@dataclass(frozen=True, eq=False)
class MappingCameras:
    """Poses of the mapping views in the head's own frame, for a loss.

    Attributes:
        center_3: origin of the head's frame in the world, float64.
        scale: length of the head's unit in the world.
        rotation_V33: cam_from_world, float32.
        translation_V3: from the head's frame, in its unit.
        focal_px_V: of the images as they are resized for encoding.
    """

    center_3: Tensor
    scale: float
    rotation_V33: Tensor
    translation_V3: Tensor
    focal_px_V: Tensor


# Head, buffer, cameras, cells of the batch, share of the training done: the loss.
Loss = Callable[[CoordinateHead, FeatureBuffer, MappingCameras, Tensor, float], Tensor]


def build_map(views: Sequence[View], config: CoordinatesConfig, loss: Loss, run: Run) -> Tensors:
    """Train a head for the mapping views on the shared encoder.

    Raises:
        InputError: no view can be read, or all are taken from one place.
    """
    encoder = load_encoder(encoder_path(config.encoder), config.encoder)
    return {
        **train_head(encoder, views, config, loss, run),
        "encoder_sha256": text_to_tensor([encoder_sha256(config.encoder)]),
    }


def train_head(
    encoder: nn.Module, views: Sequence[View], config: CoordinatesConfig, loss: Loss, run: Run
) -> Tensors:
    """The tensors of a map but for the name of its encoder.

    Args:
        encoder: grey images (B, 1, H, W) to codes (B, C, H // 8, W // 8) of about unit variance.
        views: the mapping views.
        config: of the buffer, the head and its training.
        loss: of a batch of cells.
        run: device, seed, progress.

    Raises:
        InputError: no view can be read, or all are taken from one place.
    """
    cameras = _mapping_cameras(views, config, run.device)
    encoder = encoder.to(run.device)
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    buffer = fill_buffer(
        encoder,
        views,
        _images_to_encode(poses, cameras.scale, config.num_images),
        config.cells_per_image,
        config.short_side_px,
        config.augmentation,
        run,
        with_depth=config.depth,
    )
    code = buffer.codes_NC.shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        head = CoordinateHead(code, config.width, config.num_blocks).to(run.device)
    generator = torch.Generator()

    def loss_at(step: int) -> Tensor:
        generator.manual_seed(run.seed * 1_000_003 + step)
        cells_N = torch.randint(len(buffer), (config.batch_size,), generator=generator)
        with autocast(run):
            return loss(head, buffer, cameras, cells_N.to(run.device), step / config.steps)

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: one_cycle(step, config.steps, config.max_learning_rate),
    )
    fit(head, loss_at, schedule, run, "training the map")
    weights = {_HEAD + name: value.half() for name, value in head.state_dict().items()}
    return {
        **weights,
        "center_3": cameras.center_3.cpu(),
        "scale": torch.tensor(cameras.scale, dtype=torch.float64),
    }


def localizer(tensors: Tensors, config: CoordinatesConfig, run: Run) -> CoordinatesLocalizer:
    """Answers with the shared encoder that the map was built on.

    Raises:
        InputError: the encoder that is installed is another one.
    """
    if tensor_to_text(tensors["encoder_sha256"]) != [encoder_sha256(config.encoder)]:
        raise InputError(
            f"the map needs another {config.encoder} encoder than this reloc has: build it anew"
        )
    encoder = load_encoder(encoder_path(config.encoder), config.encoder)
    return CoordinatesLocalizer(encoder, tensors, config, run)


class CoordinatesLocalizer:
    """Answers queries with an encoder and the head that was trained on it."""

    def __init__(
        self, encoder: nn.Module, tensors: Tensors, config: CoordinatesConfig, run: Run
    ) -> None:
        self._config, self._run = config, run
        self._center_3, self._scale = tensors["center_3"], float(tensors["scale"])
        self._encoder = encoder.to(run.device)
        code = tensors[_HEAD + "enter.weight"].shape[1]
        with torch.device("meta"):
            head = CoordinateHead(code, config.width, config.num_blocks)
        head.load_state_dict(
            {
                name.removeprefix(_HEAD): value.float()
                for name, value in tensors.items()
                if name.startswith(_HEAD)
            },
            assign=True,
        )
        self._head = head.to(run.device).eval().requires_grad_(False)

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, each for itself."""
        return [self._localize_one(query) for query in queries]

    def _localize_one(self, query: Query) -> PoseEstimate:
        config = self._config
        height, width = query.image.shape[-2:]
        pixels_N2, points_N3 = self.scene_points(query.image)
        # About the head's origin: coordinates of a whole town would cost float32 its digits.
        found = estimate_absolute_pose(
            pixels_N2,
            points_N3,
            query.camera,
            config.max_error_px * min(height, width) / config.short_side_px,
            seed=self._run.seed,
        )
        if found is None or found.num_inliers < config.min_inlier_share * len(points_N3):
            return PoseEstimate(None)
        center_from_world = Rigid3d(torch.eye(3, dtype=torch.float64), -self._center_3)
        return PoseEstimate(
            cam_from_world=found.cam_from_world @ center_from_world,
            covariance=found.covariance,
            num_inliers=found.num_inliers,
            camera=None if query.camera.has_prior_focal else found.camera,
        )

    def scene_points(self, image_3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N, 2) of an image and the points (N, 3) seen there, from the head's origin."""
        height, width = image_3HW.shape[-2:]
        grey = torch.from_numpy(resized_grey(image_3HW, self._config.short_side_px))
        codes_NC = encode(self._encoder, grey[None], self._run)[0]
        with torch.no_grad(), autocast(self._run):
            points_N3 = self._head(codes_NC.float()) * self._scale
        rows, columns = (side // STRIDE for side in grey.shape)
        to_image = torch.tensor([width / grey.shape[1], height / grey.shape[0]])
        return cell_centers(rows, columns) * to_image, points_N3.cpu()


def _mapping_cameras(
    views: Sequence[View], config: CoordinatesConfig, device: str
) -> MappingCameras:
    """Centre and scale of the scene from its cameras: the mean of their centres, and their extent.

    Raises:
        InputError: all views are taken from one place, which tells no depth.
    """
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    centers_V3 = poses.inverse().translation
    center_3 = centers_V3.mean(dim=0)
    scale = float((centers_V3.amax(0) - centers_V3.amin(0)).norm())
    if scale < 1e-9 * max(float(centers_V3.abs().max()), 1.0):
        raise InputError(
            f"all {len(views)} mapping views are taken from one place: their poses tell no depth; "
            "add photos from other places"
        )
    focal = [
        float(view.camera.focal.mean())
        * config.short_side_px
        / min(view.camera.width, view.camera.height)
        for view in views
    ]
    translation_V3 = (poses.rotation @ center_3[:, None])[..., 0] + poses.translation
    return MappingCameras(
        center_3,
        scale,
        poses.rotation.float().to(device),
        (translation_V3 / scale).float().to(device),
        torch.tensor(focal, device=device),
    )


def _images_to_encode(cam_from_world: Rigid3d, scale: float, count: int) -> list[int]:
    """Indices of `count` views: spread over places and directions, or all of them several times.

    Each next view is the one furthest from those before it; a turn of 60° counts as a way of
    `scale`.
    """
    num_views = len(cam_from_world.translation)
    if num_views <= count:
        return [number % num_views for number in range(count)]
    centers_V3 = cam_from_world.inverse().translation / scale
    places_V6 = torch.cat([centers_V3, cam_from_world.rotation[:, 2]], dim=1)
    chosen = [0]
    distance_V = (places_V6 - places_V6[0]).norm(dim=1)
    while len(chosen) < count:
        chosen.append(int(distance_V.argmax()))
        distance_V = distance_V.minimum((places_V6 - places_V6[chosen[-1]]).norm(dim=1))
    return chosen
