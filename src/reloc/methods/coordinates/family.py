"""The scene coordinate family: a head per scene on a shared encoder, then a robust pose.

Map: codes of the mapping views' cells in a buffer, and a head that learns from the poses alone
where each cell's scene point is. Query: codes, head, and the pose that most of the points agree on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import PoseEstimate, Run, Tensors, UnfinishedMapError
from reloc.estimation.absolute import estimate_absolute_pose
from reloc.estimation.trials import covariance_scale, left_out
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import tensor_to_text, text_to_tensor
from reloc.methods.coordinates.epipolar_depth import triangulated_depth
from reloc.nn.encoder import STRIDE, Encoder, cell_centers
from reloc.nn.heads import CoordinateHead
from reloc.nn.precision import autocast
from reloc.nn.weights import EncoderName, encoder_path, encoder_sha256, load_encoder
from reloc.scenes.scene import Query, View
from reloc.training.augment import Augmentation
from reloc.training.buffer import FeatureBuffer, encode, fill_buffer, resized_grey
from reloc.training.fit import FitConfig, fit
from reloc.training.replay import PosedCells
from reloc.training.schedule import one_cycle

_HEAD, GROWTH = "head.", "covariance_scale"
# To learn how far the covariances are to be trusted, one view of so many, and at most so many, are
# left out of the training and asked for.
_VIEWS_PER_TRIAL, _MAX_TRIALS = 20, 16
# Logistic regression of being right on the logarithm of the ratio of inliers, by
# `benchmarks/confidence.py coordinates`.
_HALF_SURE_RATIO, _CONFIDENCE_SLOPE = 0.0992, 1.87
# Samples of RANSAC, so that hopeless predictions end.
MAX_ITERATIONS = 10_000
# Error at which the loss of known points flattens: some of them are wrong.
_LOOSE_POINT_PX = 300.0
# Cells of a query that a pose is sought for: neighbours err alike, and a third of those of 640x480
# pixels tells as much as all. And of how many times as many the surest are taken.
_MAX_QUERY_CELLS, _PREDICTED_SHARE = 1600, 2
# Images that an accelerator encodes at once.
_MAX_BATCH = 16
# Seconds between checkpoints: a map takes a minute, its checkpoint milliseconds.
_CHECKPOINT_S = 10.0


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
    num_images: int = 400
    """Images encoded for the buffer: those views that differ most, or each in several looks where
    there are fewer."""
    cells_per_image: int = 1500
    """Most cells of an image that are kept in the buffer."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How far the look of a mapping image is changed."""
    batch_size: int = 1024
    """Cells of a step."""
    steps: int = 1800
    """Steps of training."""
    max_learning_rate: float = 3e-3
    """Peak of the one-cycle schedule."""
    warm_up: float = 0.05
    """Share of the steps in which the learning rate rises."""
    muon: float | None = 10.0
    """Rate of Muon's steps for the inner layers, times the learning rate; None: AdamW for all."""
    points_until: float = 0.6
    """Share of the training, from its beginning, in which cells whose point is known are drawn to
    it: from depth maps under --depth, else triangulated between the mapping views. 0: never."""
    loose_px: float = 300.0
    """Reprojection error at which the loss flattens, at the beginning..."""
    tight_px: float = 1.0
    """...and at the end."""
    depth: bool = False
    """Also learn from the depth maps of the mapping views that have one. They must belong to the
    same reconstruction as the poses: on 7-Scenes, use the d-slam ground truth."""
    max_error_px: float = 10.0
    """Reprojection error up to which a predicted point agrees with a pose."""
    min_inlier_ratio: float = 0.02
    """With a smaller share of its cells agreeing, a query is declined."""

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
        for name in ("warm_up", "points_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
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
    made_with = {"encoder_sha256": text_to_tensor([encoder_sha256(config.encoder)])}
    try:
        return {**train_head(encoder, views, config, loss, run), **made_with}
    except UnfinishedMapError as unfinished:
        raise UnfinishedMapError({**unfinished.tensors, **made_with}) from None


def train_head(
    encoder: nn.Module,
    views: Sequence[View],
    config: CoordinatesConfig,
    loss: Loss,
    run: Run,
    replay_cells: int = 0,
) -> Tensors:
    """The tensors of a map but for the name of its encoder.

    Args:
        encoder: grey images (B, 1, H, W) to codes (B, C, H // 8, W // 8) of about unit variance.
        views: the mapping views.
        config: of the buffer, the head and its training.
        loss: of a batch of cells.
        run: device, seed, progress.
        replay_cells: that the map keeps, to be learned again beside those of new views.

    Raises:
        InputError: no view can be read, or all are taken from one place.
    """
    cameras = _mapping_cameras(views, config, run.device)
    encoder = encoder.to(run.device)
    learned, trials = learned_and_left_out(views)
    cells = encode_cells(encoder, views, learned, cameras.scale, config, run)
    if config.points_until > 0:
        loss = begun_with_points(loss, known_depth(cells, config, run), config, run)
    code = cells.buffer.codes_NC.shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        head = CoordinateHead(code, config.width, config.num_blocks).to(run.device)

    def draw(generator: torch.Generator) -> Tensor:
        return torch.randint(len(cells.buffer), (config.batch_size,), generator=generator)

    try:
        fit_head(head, cells.buffer, cameras, draw, config, loss, run)
    except KeyboardInterrupt:
        raise UnfinishedMapError(head_tensors(head, cameras)) from None
    tensors = head_tensors(head, cameras)
    if replay_cells:
        tensors |= cells.sample(replay_cells, run.seed).tensors()
    asked = CoordinatesLocalizer(encoder, tensors, config, run)
    growth = covariance_scale(asked, [views[index] for index in trials], run)
    run.log.info("errors are %.1f times their sigmas", growth**0.5)
    return {**tensors, GROWTH: torch.tensor(growth, dtype=torch.float64)}


def learned_and_left_out(views: Sequence[View]) -> tuple[list[int], range]:
    """Indices of the views that a head learns from, and of those that it is tried on."""
    trials = left_out(len(views), _VIEWS_PER_TRIAL, _MAX_TRIALS)
    return [index for index in range(len(views)) if index not in trials], trials


def encode_cells(
    encoder: nn.Module,
    views: Sequence[View],
    learned: Sequence[int],
    scale: float,
    config: CoordinatesConfig,
    run: Run,
) -> PosedCells:
    """Cells of those of the views that differ most, among the learned ones.

    Raises:
        InputError: no view can be read.
    """
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    order = _images_to_encode(poses[torch.tensor(learned)], scale, config.num_images)
    buffer = fill_buffer(
        encoder,
        views,
        [learned[number] for number in order],
        config.cells_per_image,
        config.short_side_px,
        config.augmentation,
        run,
        with_depth=config.depth,
    )
    return PosedCells(buffer, poses, _focal_px(views, config), len(views))


def known_depth(cells: PosedCells, config: CoordinatesConfig, run: Run) -> Tensor:
    """Depth (N,) of the cells before any training, NaN where it is not known."""
    return cells.buffer.depth_N if config.depth else triangulated_depth(cells, run)


def begun_with_points(loss: Loss, depth_N: Tensor, config: CoordinatesConfig, run: Run) -> Loss:
    """The loss, but in the first part of the training half of the cells learn known points."""
    depth_N = depth_N.to(run.device)
    known_K = depth_N.isfinite().nonzero()[:, 0]
    run.log.info("the points of %.0f %% of the cells are known", 100 * len(known_K) / len(depth_N))
    if len(known_K) == 0:
        return loss

    def begun_with_points(
        head: CoordinateHead,
        buffer: FeatureBuffer,
        cameras: MappingCameras,
        cells_N: Tensor,
        done: float,
    ) -> Tensor:
        first_N, rest_N = cells_N.chunk(2)
        known_N = known_K[first_N % len(known_K)]
        if done >= config.points_until:
            return loss(head, buffer, cameras, torch.cat([known_N, rest_N]), done)
        points = point_loss(head, buffer, cameras, known_N, depth_N[known_N])
        return (points + loss(head, buffer, cameras, rest_N, done)) / 2

    return begun_with_points


def points_in_cameras(
    head: nn.Module, buffer: FeatureBuffer, cameras: MappingCameras, cells_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted points (N, 3) in the frames of their cells' views, in `scale`, and focals (N,).

    And the logarithms (N,) of the pixels by which the head says they are off.
    """
    view_N = buffer.view_N[cells_N].long()
    points_N3, log_error_N = _predicted(head, buffer.codes_NC[cells_N].float())
    rotation_N33 = cameras.rotation_V33[view_N]
    points_cam_N3 = (rotation_N33 * points_N3[:, None]).sum(-1) + cameras.translation_V3[view_N]
    return points_cam_N3, cameras.focal_px_V[view_N], log_error_N


def _predicted(head: nn.Module, codes_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Points (N, 3) and logarithms (N,) of their errors: all the same from a head without them."""
    if isinstance(head, CoordinateHead):
        return head.with_error(codes_NC)
    points_N3 = head(codes_NC)
    return points_N3, torch.zeros_like(points_N3[:, 0])


def point_loss(
    head: nn.Module,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    cells_N: Tensor,
    depth_N: Tensor,
) -> Tensor:
    """The mean of w tanh(e / w), with e the L1 distance to a point as large as it looks, in pixels.

    As the reprojection error, but it counts along the ray, too. w is `_LOOSE_POINT_PX`.

    Args:
        head: that predicts the points.
        buffer: of the cells.
        cameras: of the views.
        cells_N: indices of cells.
        depth_N: of them, along the optical axes, in the unit of the world.
    """
    points_cam_N3, focal_px_N, _ = points_in_cameras(head, buffer, cameras, cells_N)
    rays_N3 = functional.pad(buffer.rays_N2[cells_N], (0, 1), value=1.0)
    depth_N = depth_N / cameras.scale
    off_N = (points_cam_N3 - rays_N3 * depth_N[:, None]).abs().sum(-1)
    error_px_N = focal_px_N * off_N / depth_N
    return (_LOOSE_POINT_PX * (error_px_N / _LOOSE_POINT_PX).tanh()).mean()


def fit_head(
    head: CoordinateHead,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    draw: Callable[[torch.Generator], Tensor],
    config: CoordinatesConfig,
    loss: Loss,
    run: Run,
) -> None:
    """Train a head in place; `draw` gives the cells of a step."""
    generator = torch.Generator()

    def loss_at(step: int) -> Tensor:
        generator.manual_seed(run.seed * 1_000_003 + step)
        cells_N = draw(generator)
        with autocast(run):
            return loss(head, buffer, cameras, cells_N.to(run.device), step / config.steps)

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: one_cycle(
            step, config.steps, config.max_learning_rate, config.warm_up
        ),
        muon=config.muon,
        checkpoint_s=_CHECKPOINT_S,
    )
    fit(head, loss_at, schedule, run, "training the map")


def head_tensors(head: CoordinateHead, cameras: MappingCameras) -> dict[str, Tensor]:
    """A map whose covariances are as the Jacobians say."""
    weights = {_HEAD + name: value.half() for name, value in head.state_dict().items()}
    return {
        **weights,
        "center_3": cameras.center_3.cpu(),
        "scale": torch.tensor(cameras.scale, dtype=torch.float64),
        GROWTH: torch.tensor(1.0, dtype=torch.float64),
    }


def head_of(tensors: Tensors, config: CoordinatesConfig, device: str) -> CoordinateHead:
    """The head that a map holds."""
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
    return head.to(device)


def encoder_of(tensors: Tensors, config: CoordinatesConfig) -> Encoder:
    """The shared encoder that a map was built on.

    Raises:
        InputError: the encoder that is installed is another one.
    """
    if tensor_to_text(tensors["encoder_sha256"]) != [encoder_sha256(config.encoder)]:
        raise InputError(
            f"the map needs another {config.encoder} encoder than this reloc has: build it anew"
        )
    return load_encoder(encoder_path(config.encoder), config.encoder)


def localizer(tensors: Tensors, config: CoordinatesConfig, run: Run) -> CoordinatesLocalizer:
    """Answers with the shared encoder that the map was built on.

    Raises:
        InputError: the encoder that is installed is another one.
    """
    return CoordinatesLocalizer(encoder_of(tensors, config), tensors, config, run)


def confidence(inlier_ratio: float) -> float:
    """Probability that a pose is right on which this share of the cells agrees."""
    return 1 / (1 + (inlier_ratio / _HALF_SURE_RATIO) ** -_CONFIDENCE_SLOPE)


@dataclass(frozen=True, eq=False)
class EncodedQuery:
    """A query and the codes of its cells.

    Attributes:
        query: as it was asked.
        pixels_N2: the middles of the cells, in the query's image.
        codes_NC: float16, of the same cells.
        encode_ms: what the codes took.
    """

    query: Query
    pixels_N2: Tensor
    codes_NC: Tensor
    encode_ms: float

    def some(self, most: int, seed: int) -> EncodedQuery:
        """With so many of the cells at most, chosen at random."""
        if len(self.pixels_N2) <= most:
            return self
        generator = torch.Generator().manual_seed(seed)
        return self.at(torch.randperm(len(self.pixels_N2), generator=generator)[:most])

    def at(self, index_N: Tensor) -> EncodedQuery:
        """With some of the cells."""
        codes_NC = self.codes_NC[index_N.to(self.codes_NC.device)]
        return replace(self, pixels_N2=self.pixels_N2[index_N], codes_NC=codes_NC)


def encode_queries(
    encoder: nn.Module, queries: Sequence[Query], short_side_px: int, run: Run
) -> list[EncodedQuery]:
    """Encode queries of one size together."""
    watch = Watch(run.device)
    greys_BHW = torch.stack(
        [torch.from_numpy(resized_grey(query.image, short_side_px)) for query in queries]
    )
    codes_BNC = encode(encoder, greys_BHW, run)
    encode_ms = watch.lap_ms() / len(queries)
    rows, columns = (side // STRIDE for side in greys_BHW.shape[1:])
    height, width = queries[0].image.shape[-2:]
    to_image = torch.tensor([width / greys_BHW.shape[2], height / greys_BHW.shape[1]])
    pixels_N2 = cell_centers(rows, columns) * to_image
    return [
        EncodedQuery(query, pixels_N2, codes_NC, encode_ms)
        for query, codes_NC in zip(queries, codes_BNC, strict=True)
    ]


def batches(queries: Sequence[Query], device: str) -> Iterator[list[Query]]:
    """Neighbouring queries of one size.

    An accelerator encodes them together; a processor gains nothing by that.
    """
    limit = 1 if torch.device(device).type == "cpu" else _MAX_BATCH
    for _, alike in groupby(queries, key=lambda query: query.image.shape):
        group = list(alike)
        for start in range(0, len(group), limit):
            yield group[start : start + limit]


class CoordinatesLocalizer:
    """Answers queries with an encoder and the head that was trained on it.

    Args:
        encoder: of the codes.
        tensors: a map.
        config: of the map.
        run: device, seed, precision.
        head: from codes to points; None: that of the map.

    Attributes:
        max_cells: of a query that a pose is sought for.
    """

    max_cells = _MAX_QUERY_CELLS

    def __init__(
        self,
        encoder: nn.Module,
        tensors: Tensors,
        config: CoordinatesConfig,
        run: Run,
        head: nn.Module | None = None,
    ) -> None:
        self._config, self._run = config, run
        self._center_3, self._scale = tensors["center_3"], float(tensors["scale"])
        self._growth = float(tensors[GROWTH])
        self._encoder = encoder.to(run.device)
        head = head or head_of(tensors, config, run.device)
        self._head = head.eval().requires_grad_(False)

    def localize(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """One estimate for each query, each for itself."""
        return [
            answer
            for batch in batches(queries, self._run.device)
            for answer in self._localize_batch(batch)
        ]

    def _localize_batch(self, queries: Sequence[Query]) -> list[PoseEstimate]:
        """Answers to queries of one size."""
        short_side_px = self._config.short_side_px
        return [
            self._answer(encoded)
            for encoded in encode_queries(self._encoder, queries, short_side_px, self._run)
        ]

    def _answer(self, encoded: EncodedQuery) -> PoseEstimate:
        watch = Watch(self._run.device)
        pixels_N2, points_N3 = self.points(encoded)
        head_ms = watch.lap_ms()
        answer = self._pose(encoded.query, pixels_N2, points_N3)
        stages_ms = {"encode": encoded.encode_ms, "head": head_ms, "pose": watch.lap_ms()}
        return replace(answer, stage_ms=stages_ms)

    @torch.no_grad()
    def points(self, encoded: EncodedQuery) -> tuple[Tensor, Tensor]:
        """Pixels (N, 2) of cells and their scene points (N, 3) from the head's origin.

        Of at most `max_cells` cells: those whose points the head is surest of, and in that order.
        """
        encoded = encoded.some(_PREDICTED_SHARE * self.max_cells, self._run.seed)
        with autocast(self._run):
            points_N3, log_error_N = _predicted(self._head, encoded.codes_NC.float())
        if len(points_N3) > self.max_cells:
            surest_N = log_error_N.argsort(stable=True)[: self.max_cells]
            encoded = encoded.at(surest_N.cpu())
            points_N3 = points_N3[surest_N]
        return encoded.pixels_N2, (points_N3 * self._scale).cpu()

    def _pose(self, query: Query, pixels_N2: Tensor, points_N3: Tensor) -> PoseEstimate:
        """What a subclass answers in another way."""
        return self.pose(query, pixels_N2, points_N3)

    def pose(
        self,
        query: Query,
        pixels_N2: Tensor,
        points_N3: Tensor,
        max_iterations: int = MAX_ITERATIONS,
    ) -> PoseEstimate:
        """The pose that most of the `points` agree on, found with so many samples at most."""
        config = self._config
        # About the head's origin: coordinates of a whole town would cost float32 its digits.
        found = estimate_absolute_pose(
            pixels_N2,
            points_N3,
            query.camera,
            config.max_error_px * min(query.image.shape[-2:]) / config.short_side_px,
            seed=self._run.seed,
            max_iterations=max_iterations,
        )
        if found is None or found.inlier_ratio < config.min_inlier_ratio:
            return PoseEstimate(None)
        center_from_world = Rigid3d(torch.eye(3, dtype=torch.float64), -self._center_3)
        return PoseEstimate(
            cam_from_world=found.cam_from_world @ center_from_world,
            covariance=self._growth * found.covariance,
            num_inliers=found.num_inliers,
            inlier_ratio=found.inlier_ratio,
            confidence=confidence(found.inlier_ratio),
            camera=None if query.camera.has_prior_focal else found.camera,
        )


class Watch:
    """Milliseconds from one lap to the next."""

    def __init__(self, device: str) -> None:
        self._accelerated = torch.device(device).type != "cpu"
        self._last = time.perf_counter()

    def lap_ms(self) -> float:
        """Since the last lap; what an accelerator was asked for is awaited."""
        if self._accelerated:
            torch.accelerator.synchronize()
        now = time.perf_counter()
        lap_ms, self._last = 1e3 * (now - self._last), now
        return lap_ms


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
    return cameras_in_frame(poses, _focal_px(views, config), center_3, scale, device)


def cameras_in_frame(
    cam_from_world: Rigid3d, focal_px_V: Tensor, center_3: Tensor, scale: float, device: str
) -> MappingCameras:
    """Poses (V) in the frame of a head, which has this origin and this unit."""
    rotation_V33 = cam_from_world.rotation
    translation_V3 = (rotation_V33 @ center_3[:, None])[..., 0] + cam_from_world.translation
    return MappingCameras(
        center_3,
        scale,
        rotation_V33.float().to(device),
        (translation_V3 / scale).float().to(device),
        focal_px_V.to(device),
    )


def agreeing(
    head: CoordinateHead,
    buffer: FeatureBuffer,
    cameras: MappingCameras,
    config: CoordinatesConfig,
    run: Run,
) -> tuple[Tensor, Tensor]:
    """Predicted points (N, 3) of all cells, in the frames of their views and in `scale`.

    And whether each agrees (N,) with the pose of its view, as a query's would.
    """
    every_N = torch.arange(len(buffer), device=buffer.view_N.device)
    with torch.no_grad(), autocast(run):
        points_cam_N3, focal_px_N, _ = points_in_cameras(head, buffer, cameras, every_N)
    residual_N2 = points_cam_N3[:, :2] / points_cam_N3[:, 2:] - buffer.rays_N2
    error_px_N = focal_px_N * residual_N2.norm(dim=1)
    return points_cam_N3, (points_cam_N3[:, 2] > 0) & (error_px_N < config.max_error_px)


def _focal_px(views: Sequence[View], config: CoordinatesConfig) -> Tensor:
    """Focal lengths (V,) of the images as they are resized for encoding."""
    return torch.tensor(
        [
            float(view.camera.focal.mean())
            * config.short_side_px
            / min(view.camera.width, view.camera.height)
            for view in views
        ]
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
