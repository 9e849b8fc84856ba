"""Answering: codes of a query's cells, a head, and the pose that most of its points agree on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor, nn

from reloc.contract import PoseEstimate, Run, Tensors
from reloc.estimation.absolute import (
    AbsolutePose,
    estimate_absolute_pose,
    refine_absolute_pose,
    reprojection_error_px,
)
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.global_codes import with_global
from reloc.methods.coordinates.map_tensors import (
    GROWTH,
    REFINED,
    any_head_of,
    holds_landmarks,
)
from reloc.methods.coordinates.points import predicted
from reloc.methods.coordinates.refinement import LandmarkFit
from reloc.nn.descriptors.descriptor import Descriptor
from reloc.nn.encoder import STRIDE, cell_centers
from reloc.nn.landmarks import LandmarkHead
from reloc.nn.precision import autocast
from reloc.scenes.scene import Query
from reloc.training.buffer import encode, resized_grey

# Logistic regression of being right on the logarithm of the ratio of inliers, by
# `benchmarks/confidence.py`: the ratio at which it is as likely as not, and the slope.
_OF_LAYERS, _OF_LANDMARKS = (0.0992, 1.87), (0.1031, 2.77)
# Samples of RANSAC, so that hopeless predictions end.
MAX_ITERATIONS = 10_000
# Cells of a query that a pose is sought for: neighbours err alike, and a third of those of 640x480
# pixels tells as much as all. And of how many times as many the surest are taken.
_MAX_QUERY_CELLS, _PREDICTED_SHARE = 1600, 2
# The same of landmarks, whose points do not err alike.
_MAX_LANDMARK_CELLS, _LOOKED_UP_SHARE = 1200, 2
# With a smaller share of the cells agreeing, an answer by landmarks is doubtful. The camera may be
# much nearer to things than any mapping view was, or further off: codes tell scales apart, and the
# image is asked again at these sizes.
_DOUBTFUL_RATIO, _OTHER_SIZES = 0.25, (0.7, 0.5, 0.35, 1.4)
# With so many samples of RANSAC: enough where a tenth of the cells agree.
_SAMPLES_AT_OTHER_SIZES = 3000
# Or it may be that of a wall that looks alike elsewhere: so many other poses are looked for.
_OTHER_POSES = 2
# What share of the first pose's inliers another must have to be compared with it.
_COMPARABLE = 0.6
# In errors up to which a cell agrees: how near a pose a cell must be to be fitted again.
_NEAR = 2.0
# Size of the image in whose cells landmarks are looked for to refine a pose: smaller cells place it
# better, and those of twice the size lose as many landmarks as they gain.
_REFINED_SIZE = 1.4
# Images that an accelerator encodes at once.
_MAX_BATCH = 16


def confidence(inlier_ratio: float, of_landmarks: bool = False) -> float:
    """Probability that a pose is right on which this share of the cells agrees."""
    half_sure_ratio, slope = _OF_LANDMARKS if of_landmarks else _OF_LAYERS
    return 1 / (1 + (inlier_ratio / half_sure_ratio) ** -slope)


@dataclass(frozen=True, eq=False)
class Asked:
    """A query at one size of its image, and the answer by it.

    Attributes:
        encoded: all cells.
        pixels_N2: of the cells that were used.
        points_N3: that they show, about the head's origin.
        answer: what most of them agree on.
    """

    encoded: EncodedQuery
    pixels_N2: Tensor
    points_N3: Tensor
    answer: PoseEstimate

    @property
    def is_doubtful(self) -> bool:
        """Whether so few cells agree that the pose may be another one."""
        return (self.answer.inlier_ratio or 0.0) < _DOUBTFUL_RATIO


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
        descriptor: of whole images, whose codes the head is told; None where it is not.

    Attributes:
        max_cells: of a query that a pose is sought for.
    """

    max_cells = _MAX_QUERY_CELLS
    _predicted_share = _PREDICTED_SHARE

    def __init__(
        self,
        encoder: nn.Module,
        tensors: Tensors,
        config: CoordinatesConfig,
        run: Run,
        head: nn.Module | None = None,
        descriptor: Descriptor | None = None,
    ) -> None:
        self._config, self._run = config, run
        self._center_3, self._scale = tensors["center_3"], float(tensors["scale"])
        self._center_from_world = Rigid3d(torch.eye(3, dtype=torch.float64), -self._center_3)
        self._growth = float(tensors[GROWTH])
        self._encoder = encoder.to(run.device)
        head = head or any_head_of(tensors, config, run.device)
        if isinstance(head, LandmarkHead):
            self.max_cells, self._predicted_share = _MAX_LANDMARK_CELLS, _LOOKED_UP_SHARE
        self._head = head.eval().requires_grad_(False)
        self._descriptor = descriptor
        self._landmarks = None
        if holds_landmarks(tensors):
            self._landmarks = LandmarkFit(tensors, config, run.seed)
        self._refines = REFINED in tensors

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
        points = self.points(encoded)
        head_ms = watch.lap_ms()
        asked = Asked(encoded, *points, self._pose(encoded.query, *points))
        pose_ms = watch.lap_ms()
        answer = self.settled(asked)
        stages_ms = {"encode": encoded.encode_ms, "head": head_ms, "pose": pose_ms}
        if self._landmarks is not None:
            stages_ms["refine"] = watch.lap_ms()
        return replace(answer, stage_ms=stages_ms)

    def settled(self, asked: Asked) -> PoseEstimate:
        """An answer by the points of cells, after what landmarks have to say of it."""
        if self._landmarks is None:
            return asked.answer
        if asked.is_doubtful:
            asked = self._at_best_size(self._landmarks, asked)
        # With an unknown focal length, poses a metre apart are not told from zooms.
        if asked.is_doubtful and asked.answer.camera is None:
            asked = self._best_seen(self._landmarks, asked)
        if self._refines:
            return self._refined(self._landmarks, asked)
        return asked.answer

    def _at_best_size(self, landmarks: LandmarkFit, first: Asked) -> Asked:
        """The query at the size that explains most, or at the first that leaves no doubt.

        By the share of the cells that agree, times the landmarks that are seen where the pose says.
        """
        query = first.encoded.query

        def explained(asked: Asked) -> float:
            pose, ratio = asked.answer.cam_from_world, asked.answer.inlier_ratio
            if pose is None or ratio is None:
                return 0.0
            camera = asked.answer.camera or query.camera
            cam_from_center = pose @ self._center_from_world.inverse()
            cells = asked.encoded
            seen = landmarks.num_seen(cells.pixels_N2, cells.codes_NC, camera, cam_from_center)
            return ratio * seen

        best, most = first, explained(first)
        for size in _OTHER_SIZES:
            encoded = self._encoded(query, size)
            points = self.points(encoded)
            answer = self.pose(query, *points, _SAMPLES_AT_OTHER_SIZES)
            asked = Asked(encoded, *points, answer)
            if (now := explained(asked)) > most:
                best, most = asked, now
            if not best.is_doubtful:
                break
        return best

    def _encoded(self, query: Query, size: float) -> EncodedQuery:
        """At a size that is told by its ratio to the usual one."""
        short_side_px = max(STRIDE, round(size * self._config.short_side_px))
        [encoded] = encode_queries(self._encoder, [query], short_side_px, self._run)
        return encoded

    def _best_seen(self, landmarks: LandmarkFit, asked: Asked) -> Asked:
        """The answer, or that of other cells, whichever should see most of what the image shows.

        The cells of a wall of bricks agree on poses that are a brick or a metre away from each
        other. What else is in the image is seen from one of them only.
        """
        encoded, answer, query = asked.encoded, asked.answer, asked.encoded.query
        if answer.cam_from_world is None or answer.num_inliers is None:
            return asked
        pixels_N2, points_N3 = asked.pixels_N2.double(), asked.points_N3.double()

        def errors_px(pose: Rigid3d) -> Tensor:
            return reprojection_error_px(pose, pixels_N2, points_N3, query.camera)

        start = answer.cam_from_world @ self._center_from_world.inverse()
        poses = [start]
        left_N = torch.ones(len(pixels_N2), dtype=torch.bool)
        for _ in range(_OTHER_POSES):
            left_N &= errors_px(poses[-1]) >= self._max_error_px(query)
            found = self._found(query, pixels_N2[left_N], points_N3[left_N], MAX_ITERATIONS)
            if found is None or found.num_inliers < _COMPARABLE * answer.num_inliers:
                break
            poses.append(found.cam_from_world)
        if len(poses) == 1:
            return asked
        seen = [
            landmarks.num_seen(encoded.pixels_N2, encoded.codes_NC, query.camera, pose)
            for pose in poses
        ]
        best = seen.index(max(seen))
        if best == 0:
            return asked
        max_error_px = self._max_error_px(query)
        # Most cells are of the first pose, and would draw it there.
        near_N = errors_px(poses[best]) < _NEAR * max_error_px
        found = refine_absolute_pose(
            pixels_N2[near_N],
            points_N3[near_N],
            query.camera,
            poses[best],
            max_error_px,
            max_error_px / 4,
        )
        if found is None:
            return asked
        agrees_N = errors_px(found.cam_from_world) < max_error_px
        chosen = self._estimate(query, replace(found, inliers_N=agrees_N))
        return asked if chosen.cam_from_world is None else replace(asked, answer=chosen)

    def _refined(self, landmarks: LandmarkFit, asked: Asked) -> PoseEstimate:
        """The answer with the pose of the landmarks around; how sure it is stays as it was."""
        answer = asked.answer
        if answer.cam_from_world is None:
            return answer
        query = asked.encoded.query
        encoded = self._encoded(query, _REFINED_SIZE)
        camera = answer.camera or query.camera
        center_from_world = self._center_from_world
        start = answer.cam_from_world @ center_from_world.inverse()
        found = landmarks.fit(encoded.pixels_N2, encoded.codes_NC, camera, start, from_far=False)
        if found is None:
            return answer
        pose = found.cam_from_world
        if landmarks.holds(pose, start, asked.pixels_N2, asked.points_N3, camera) is None:
            return answer
        return replace(
            answer,
            cam_from_world=pose @ center_from_world,
            covariance=self._growth * found.covariance,
        )

    @torch.no_grad()
    def points(self, encoded: EncodedQuery) -> tuple[Tensor, Tensor]:
        """Pixels (N, 2) of cells and their scene points (N, 3) from the head's origin.

        Of at most `max_cells` cells: those whose points the head is surest of, and in that order.
        """
        encoded = encoded.some(self._predicted_share * self.max_cells, self._run.seed)
        codes_NC = encoded.codes_NC.float()
        if self._descriptor is not None:
            global_D = self._descriptor.describe(encoded.query.image).to(codes_NC.device)
            codes_NC = with_global(codes_NC, global_D.expand(len(codes_NC), -1))
        with autocast(self._run):
            points_N3, log_error_N = predicted(self._head, codes_NC)
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
        found = self._found(query, pixels_N2, points_N3, max_iterations)
        return PoseEstimate(None) if found is None else self._estimate(query, found)

    def _max_error_px(self, query: Query) -> float:
        config = self._config
        return config.max_error_px * min(query.image.shape[-2:]) / config.short_side_px

    def _found(
        self, query: Query, pixels_N2: Tensor, points_N3: Tensor, max_iterations: int
    ) -> AbsolutePose | None:
        # About the head's origin: coordinates of a whole town would cost float32 its digits.
        return estimate_absolute_pose(
            pixels_N2,
            points_N3,
            query.camera,
            self._max_error_px(query),
            seed=self._run.seed,
            max_iterations=max_iterations,
        )

    def _estimate(self, query: Query, found: AbsolutePose) -> PoseEstimate:
        if found.inlier_ratio < self._config.min_inlier_ratio:
            return PoseEstimate(None)
        return PoseEstimate(
            cam_from_world=found.cam_from_world @ self._center_from_world,
            covariance=self._growth * found.covariance,
            num_inliers=found.num_inliers,
            inlier_ratio=found.inlier_ratio,
            confidence=confidence(found.inlier_ratio, isinstance(self._head, LandmarkHead)),
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
