"""Mapping: cells of the mapping views in a buffer, and a head that learns their scene points.

From the poses of the views alone; where depth is known, from that, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from reloc.contract import Run, Tensors, UnfinishedMapError
from reloc.estimation.trials import covariance_scale
from reloc.methods.coordinates.cameras import MappingCameras, mapping_cameras
from reloc.methods.coordinates.cells import encode_cells, known_depth, learned_and_left_out
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.global_codes import GlobalCodes
from reloc.methods.coordinates.localizer import CoordinatesLocalizer
from reloc.methods.coordinates.map_tensors import GROWTH, head_tensors
from reloc.methods.coordinates.points import Loss, begun_with_points
from reloc.nn.descriptors.vlad import learn_vocabulary
from reloc.nn.heads import CoordinateHead
from reloc.nn.precision import autocast
from reloc.scenes.scene import View
from reloc.training.buffer import FeatureBuffer
from reloc.training.fit import FitConfig, fit
from reloc.training.schedule import one_cycle

# Seconds between checkpoints: a map takes a minute, its checkpoint milliseconds.
_CHECKPOINT_S = 10.0


def train_head(
    encoder: nn.Module,
    views: Sequence[View],
    config: CoordinatesConfig,
    loss: Loss,
    run: Run,
    replay_cells: int = 0,
    global_codes: GlobalCodes | None = None,
    num_clusters: int = 0,
) -> Tensors:
    """The tensors of a map but for the name of its encoder.

    Args:
        encoder: grey images (B, 1, H, W) to codes (B, C, H // 8, W // 8) of about unit variance.
        views: the mapping views.
        config: of the buffer, the head and its training.
        loss: of a batch of cells.
        run: device, seed, progress.
        replay_cells: that the map keeps, to be learned again beside those of new views.
        global_codes: of the views, where the head is told them.
        num_clusters: of the mapping cameras, from whose centres the head says its points; below 2
            it says them from the one centre of all.

    Raises:
        InputError: no view can be read, or all are taken from one place.
    """
    cameras = mapping_cameras(views, config, run.device)
    encoder = encoder.to(run.device)
    learned, trials = learned_and_left_out(views)
    cells = encode_cells(encoder, views, learned, cameras.scale, config, run)
    if config.points_until > 0:
        loss = begun_with_points(loss, known_depth(cells, config, run), config, run)
    code = cells.buffer.codes_NC.shape[1]
    if global_codes is not None:
        cameras = replace(cameras, global_codes=global_codes)
        code += global_codes.codes_VD.shape[1]
    centers_K3 = cluster_centers(cameras, num_clusters, run.seed)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        head = CoordinateHead(code, config.width, config.num_blocks, len(centers_K3))
    if head.centers is not None:
        head.centers.copy_(centers_K3)
    head = head.to(run.device)

    def draw(generator: torch.Generator) -> Tensor:
        return torch.randint(len(cells.buffer), (config.batch_size,), generator=generator)

    try:
        fit_head(head, cells.buffer, cameras, draw, config, loss, run)
    except KeyboardInterrupt:
        raise UnfinishedMapError(head_tensors(head, cameras)) from None
    tensors = head_tensors(head, cameras)
    if replay_cells:
        tensors |= cells.sample(replay_cells, run.seed).tensors()
    descriptor = global_codes.descriptor if global_codes is not None else None
    asked = CoordinatesLocalizer(encoder, tensors, config, run, descriptor=descriptor)
    growth = covariance_scale(asked, [views[index] for index in trials], run)
    run.log.info("errors are %.1f times their sigmas", growth**0.5)
    return {**tensors, GROWTH: torch.tensor(growth, dtype=torch.float64)}


def cluster_centers(cameras: MappingCameras, num_clusters: int, seed: int) -> Tensor:
    """Centres (K, 3) of clusters of the cameras by k-means, in the head's frame and unit.

    Fewer than asked where there are fewer cameras; none where fewer than 2 are asked for.
    """
    if num_clusters < 2:
        return torch.empty(0, 3)
    # As the map will hold them: what is learned beside them must not be off by their rounding.
    return learn_vocabulary(cameras.centers_V3.cpu(), num_clusters, seed).half().float()


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
    generator, noise = torch.Generator(), torch.Generator(run.device)

    def loss_at(step: int) -> Tensor:
        generator.manual_seed(run.seed * 1_000_003 + step)
        noise.manual_seed(run.seed * 1_000_003 + step)
        cells_N = draw(generator).to(run.device)
        with autocast(run):
            return loss(head, buffer, cameras.noisy(noise), cells_N, step / config.steps)

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: one_cycle(
            step, config.steps, config.max_learning_rate, config.warm_up
        ),
        muon=config.muon,
        checkpoint_s=_CHECKPOINT_S,
    )
    fit(head, loss_at, schedule, run, "training the map")
