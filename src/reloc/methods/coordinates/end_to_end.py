"""What the DSAC line shares: training through RANSAC, after an initialisation without it.

Stages, each with its own checkpoints: the initialisation (a head on cached codes of the shared
encoder, or the paper's own network from nothing); for a method whose score is a network, the score;
and end to end: of one image a step, poses are drawn, scored, chosen and refined, and the
expectation of their loss is what is learned from. Views that no stage has learned from judge the
last (of few views, some that the last has not): where it makes the expectation worse the map keeps
the initialisation, and the log says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from reloc.contract import PoseEstimate, Run, Tensors, UnfinishedMapError
from reloc.estimation.absolute import MIN_INLIERS
from reloc.estimation.hypotheses import best_hypothesis, draw_hypotheses, refine
from reloc.estimation.observations import MeasuredPoints, Observations, Rays, point_errors
from reloc.estimation.trials import covariance_scale
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.coordinates.cameras import focal_px, mapping_cameras
from reloc.methods.coordinates.cells import learned_and_left_out, views_to_encode
from reloc.methods.coordinates.expectation import (
    SCORER,
    TRUNK,
    EndToEndConfig,
    Expectation,
    Network,
    Picture,
    Recipe,
    load_part,
)
from reloc.methods.coordinates.from_nothing import train_from_nothing
from reloc.methods.coordinates.localizer import CoordinatesLocalizer, confidence
from reloc.methods.coordinates.map_tensors import (
    GROWTH,
    frame_tensors,
    shared_encoder,
)
from reloc.methods.coordinates.mapping import train_head
from reloc.methods.coordinates.scorers import Scorer
from reloc.nn.encoder import STRIDE
from reloc.nn.heads import CoordinateHead
from reloc.nn.shared_encoder import FrozenEncoder, encoder_of_map
from reloc.scenes.scene import Query, View
from reloc.training.augment import Augmentation
from reloc.training.buffer import depth_at, encode, take_look
from reloc.training.fit import FitConfig, fit
from reloc.training.schedule import one_cycle
from reloc.training.stages import kept, stage

# Where fewer views than this were left out of the initialisation, every fourth one of the
# end-to-end stage's views is left out of that stage to judge it.
_FEWEST_JUDGES, _VIEWS_PER_JUDGE = 2, 4
_CHECKPOINT_S = 10.0
# Hypotheses of a query that are refined on its grid and scored again before one is chosen: where
# few points are right, the best of them need not be the best before.
_NUM_TRIED = 8
_CM_PER_M = 100.0


def build_map(views: Sequence[View], config: EndToEndConfig, recipe: Recipe, run: Run) -> Tensors:
    """Initialise a map, and train it end to end where that makes it better.

    Raises:
        InputError: no view can be read, all are taken from one place, or none has depth where the
            map needs it.
    """
    if config.query_depth:
        views = _with_depth(views)
    learned, judges = learned_and_left_out(views)
    encoder, made_with = None, {}
    if config.start == "encoder":
        encoder, made_with = shared_encoder(config, run)
    network = _new_network(encoder, config, recipe, run)
    try:
        initialise = partial(_initialised, network, encoder, views, learned, config, recipe)
        initial = kept(run, "initial", initialise)
    except UnfinishedMapError as unfinished:
        tensors = {**network.tensors(), **unfinished.tensors, **made_with}
        raise UnfinishedMapError(tensors) from None
    network.load(initial)
    tensors = {**network.tensors(), **initial, **made_with}
    if config.end_to_end_steps:
        judge = Expectation(network, float(initial["scale"]), config, recipe, run)
        try:
            tensors |= _train_end_to_end(judge, encoder, views, judges, learned, tensors)
        except UnfinishedMapError:
            raise
        except KeyboardInterrupt:
            # The initialisation, with what the scores have learned.
            raise UnfinishedMapError({**tensors, **network.tensors()}) from None
    answers = localizer(tensors, config, recipe, run)
    tried = [views[index] for index in judges]
    growth = covariance_scale(answers, tried, run, with_depth=config.query_depth)
    return {**tensors, GROWTH: torch.tensor(growth, dtype=torch.float64)}


def _with_depth(views: Sequence[View]) -> Sequence[View]:
    """The views that have depth."""
    useful = [view for view in views if view.depth_reader is not None]
    if len(useful) < 2:
        raise InputError(
            f"{len(useful)} of the {len(views)} mapping views have depth: a map for queries with "
            "depth needs 2 at least; without query_depth it needs none"
        )
    return useful


def _new_network(
    encoder: FrozenEncoder | None, config: EndToEndConfig, recipe: Recipe, run: Run
) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        trunk = None if encoder else recipe.trunk()
        code = encoder.size.code if encoder else recipe.trunk().code
        head = CoordinateHead(code, config.width, config.num_blocks)
        return Network(trunk, head, recipe.scorer()).to(run.device)


def _initialised(
    network: Network,
    encoder: FrozenEncoder | None,
    views: Sequence[View],
    learned: Sequence[int],
    config: EndToEndConfig,
    recipe: Recipe,
    run: Run,
) -> Tensors:
    """Head, trunk and frame of a map."""
    if network.trunk is None:
        assert encoder
        return train_head(encoder, views, config, recipe.loss, run)
    cameras = mapping_cameras(views, config, run.device)
    frame = frame_tensors(cameras)
    try:
        train_from_nothing(
            network.trunk, network.head, views, learned, cameras, config, recipe.loss, run
        )
    except KeyboardInterrupt:
        raise UnfinishedMapError({**network.tensors(), **frame}) from None
    return {**network.tensors(), **frame}


def _train_end_to_end(
    expectation: Expectation,
    encoder: FrozenEncoder | None,
    views: Sequence[View],
    judges: Sequence[int],
    learned: Sequence[int],
    initial: Tensors,
) -> Tensors:
    """The trained tensors; those of the initialisation where training made the loss worse.

    Raises:
        UnfinishedMapError: interrupted before that was judged, with those of the initialisation.
    """
    config, recipe, run = expectation.config, expectation.recipe, expectation.run
    network, center_3 = expectation.network, initial["center_3"]
    poses = Rigid3d.stack([views[index].cam_from_world for index in learned])
    count = min(config.end_to_end_images, len(learned))
    order = views_to_encode(poses, expectation.unit, count)
    pictures = _take_pictures(
        encoder, views, [learned[number] for number in order], center_3, config, run
    )
    judged = _take_pictures(encoder, views, judges, center_3, config, run)
    if len(judged) < _FEWEST_JUDGES:
        judged = pictures[::_VIEWS_PER_JUDGE]
        pictures = [picture for picture in pictures if picture not in judged]
    if not pictures:
        run.log.warning("not trained end to end: too few mapping views can be used")
        return {}

    def drawn(step: int) -> tuple[Picture, int]:
        """The picture of a step, and a seed for it."""
        seed = run.seed * 1_000_003 + step
        return pictures[int(np.random.default_rng(seed).integers(len(pictures)))], seed

    if recipe.score_loss is not None:
        network.head.requires_grad_(False)
        schedule = _schedule(recipe.score_steps, recipe.score_learning_rate)
        fit(
            network.scorer,
            lambda step: expectation.score_loss(*drawn(step)),
            schedule,
            stage(run, "scores"),
            "training the scores",
        )
        network.head.requires_grad_(True)
    before, untrained = expectation.mean_loss(judged), network.tensors()
    try:
        fit(
            network,
            lambda step: expectation.loss(*drawn(step)),
            _schedule(config.end_to_end_steps, config.end_to_end_learning_rate),
            stage(run, "end_to_end"),
            "training end to end",
        )
        trained = network.tensors()
        # As a query will see it: in the precision of the map.
        network.load(trained)
        after = expectation.mean_loss(judged)
    except KeyboardInterrupt:
        raise UnfinishedMapError({**initial, **untrained}) from None
    better = after < before
    run.log.info(
        "end to end: the loss of %d views apart is %.3f, and was %.3f before: %s",
        len(judged),
        after,
        before,
        "kept" if better else "the initialisation is kept",
    )
    return trained if better else untrained


def _schedule(steps: int, max_learning_rate: float) -> FitConfig:
    return FitConfig(
        steps=steps,
        learning_rate=lambda step: one_cycle(step, steps, max_learning_rate),
        checkpoint_s=_CHECKPOINT_S,
    )


def _take_pictures(
    encoder: FrozenEncoder | None,
    views: Sequence[View],
    indices: Sequence[int],
    center_3: Tensor,
    config: EndToEndConfig,
    run: Run,
) -> list[Picture]:
    """Views as they are but for their exposure; those that cannot be used are in the log."""
    world_from_center = Rigid3d(torch.eye(3, dtype=torch.float64), center_3)
    exposed = Augmentation(0.0, 1.0, 1.0, config.augmentation.jitter)
    pictures = []
    for index in run.progress.track(indices, "encoding for the end-to-end stage"):
        view, rng = views[index], np.random.default_rng((run.seed, index))
        try:
            look = take_look(view, config.short_side_px, exposed, rng, config.query_depth)
        except InputError as error:
            run.log.warning("left out: %s", error)
            continue
        rows, columns = (side // STRIDE for side in look.grey_HW.shape)
        cells_N, shape = grid_cells(rows, columns, config.grid)
        codes_NC = torch.empty(0)
        if encoder is not None:
            codes_NC = encode(encoder, look.grey_HW[None], run)[0][cells_N.to(run.device)]
        observations, usable_BN = observe(
            look.rays_N2[cells_N],
            look.depth_N[cells_N],
            focal_px(view.camera, config),
            config,
            run.device,
        )
        pictures.append(
            Picture(
                look.grey_HW,
                cells_N,
                shape,
                codes_NC,
                observations,
                usable_BN,
                (view.cam_from_world @ world_from_center)[None, None].to(run.device),
            )
        )
    return pictures


def grid_cells(rows: int, columns: int, size: int) -> tuple[Tensor, tuple[int, int]]:
    """Numbers of cells spread evenly over a map of them, at most `size` each way; and how many."""
    shape = min(rows, size), min(columns, size)
    row, column = (
        ((torch.arange(count) + 0.5) * (side / count)).long()
        for count, side in zip(shape, (rows, columns), strict=True)
    )
    return (row[:, None] * columns + column).flatten(), shape


def observe(
    rays_N2: Tensor, depth_N: Tensor, focal_px: float, config: EndToEndConfig, device: str
) -> tuple[Observations, Tensor]:
    """What the cells of one image tell, and which of them do (1, N)."""
    usable_N = rays_N2.isfinite().all(-1)
    if config.query_depth:
        usable_N = usable_N & depth_N.isfinite()
    rays_N2 = torch.where(usable_N[:, None], rays_N2, 0.0).double().to(device)
    usable_BN = usable_N[None].to(device)
    if not config.query_depth:
        focal_px_B = torch.tensor([focal_px], dtype=torch.float64, device=device)
        return Rays(rays_N2[None], focal_px_B), usable_BN
    rays_N3 = torch.cat([rays_N2, torch.ones_like(rays_N2[:, :1])], dim=-1)
    depth_N1 = torch.where(usable_N, depth_N, 0.0).double().to(device)[:, None]
    return MeasuredPoints((rays_N3 * depth_N1)[None], _CM_PER_M), usable_BN


def localizer(
    tensors: Tensors, config: EndToEndConfig, recipe: Recipe, run: Run
) -> HypothesisLocalizer:
    """Answers by the hypothesis that the method scores best, refined.

    Raises:
        InputError: the encoder that is installed is not the one that the map was built on.
    """
    # Weights are drawn before they are loaded: not from the caller's numbers.
    with torch.random.fork_rng(devices=[]):
        scorer = recipe.scorer()
        trunk = None if config.start == "encoder" else recipe.trunk()
    load_part(scorer, tensors, SCORER)
    if trunk is None:
        encoder = encoder_of_map(tensors, config.encoder, run)
    else:
        encoder = trunk
        load_part(encoder, tensors, TRUNK)
        encoder.eval().requires_grad_(False)
    return HypothesisLocalizer(encoder, tensors, config, scorer, run)


class HypothesisLocalizer(CoordinatesLocalizer):
    """Answers with the best of scored hypotheses; photos of unknown focal length as the family."""

    # Its cells are those of a grid: all of them are needed.
    max_cells = sys.maxsize

    def __init__(
        self,
        encoder: nn.Module,
        tensors: Tensors,
        config: EndToEndConfig,
        scorer: Scorer,
        run: Run,
    ) -> None:
        super().__init__(encoder, tensors, config, run)
        self._end_to_end, self._scorer = config, scorer.eval().requires_grad_(False)

    @torch.no_grad()
    def _pose(self, query: Query, pixels_N2: Tensor, points_N3: Tensor) -> PoseEstimate:
        config = self._end_to_end
        if config.query_depth and query.depth is None:
            raise InputError(
                f"query {query.name} has no depth and the map is for queries with depth: give its "
                "depth, or build a map without query_depth"
            )
        if not query.camera.has_prior_focal:
            # Depth on rays that nobody knows is no points: the focal length comes with the pose.
            return super()._pose(query, pixels_N2, points_N3)
        pixels_N2 = pixels_N2.double()
        rays_N2 = query.camera.cam_from_img(pixels_N2)
        depth_N = depth_at(query.depth, pixels_N2)
        columns = int((pixels_N2[:, 1] == pixels_N2[0, 1]).sum())
        cells_N, shape = grid_cells(len(pixels_N2) // columns, columns, config.grid)
        query_focal_px = focal_px(query.camera, config)
        seen, usable_BN = observe(rays_N2[cells_N], depth_N[cells_N], query_focal_px, config, "cpu")
        points_BN3 = points_N3.double()[None]
        cells_BN3 = points_BN3[:, cells_N]
        drawn = draw_hypotheses(
            seen,
            cells_BN3,
            usable_BN,
            config.num_hypotheses,
            config.num_draws,
            config.max_error,
            self._run.seed,
        )
        errors_BHN = point_errors(drawn.cam_from_world, seen, cells_BN3)
        scores_BH = self._scorer(errors_BHN, usable_BN, shape)
        ranks_H = scores_BH.masked_fill(~drawn.valid_BH, -torch.inf)[0].argsort(descending=True)
        tried_H = ranks_H[:_NUM_TRIED]
        tried = refine(
            drawn.cam_from_world[:, tried_H], seen, cells_BN3, usable_BN, config.max_error
        )
        errors_BHN = point_errors(tried.cam_from_world, seen, cells_BN3)
        scores_BH = self._scorer(errors_BHN, usable_BN, shape)
        best = int(best_hypothesis(scores_BH, tried.valid_BH & drawn.valid_BH[:, tried_H]))
        if best < 0:
            return PoseEstimate(None)
        seen, usable_BN = observe(rays_N2, depth_N, query_focal_px, config, "cpu")
        refined = refine(
            tried.cam_from_world[:, [best]], seen, points_BN3, usable_BN, config.max_error
        )
        num_inliers = int(refined.inliers_BHN.sum())
        inlier_ratio = num_inliers / len(points_N3)
        enough = num_inliers >= MIN_INLIERS and inlier_ratio >= config.min_inlier_ratio
        if not (enough and bool(refined.valid_BH)):
            return PoseEstimate(None)
        covariance = refined.covariance_BH66[0, 0]
        return PoseEstimate(
            cam_from_world=refined.cam_from_world[0, 0] @ self._center_from_world,
            covariance=self._growth * (covariance + covariance.mT) / 2,
            num_inliers=num_inliers,
            inlier_ratio=inlier_ratio,
            confidence=confidence(inlier_ratio),
        )
