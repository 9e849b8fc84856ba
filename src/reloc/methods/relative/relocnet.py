"""RelocNet: views retrieved by how much of what they see is common, then their relative poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Localizer, Method, Run, Tensors
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.relative import family, learning
from reloc.methods.relative.config import TINY, RelativeConfig
from reloc.methods.relative.heads import HeadName
from reloc.methods.relative.learning import Lesson, Place
from reloc.nn.descriptors.whitening import Whitening
from reloc.scenes.scene import View
from reloc.training.fit import fit
from reloc.training.stages import stage

# Points of a frustum whose share in another one is the overlap: rows, columns, depths.
_SAMPLES = (6, 8, 6)
# The deepest of them, in typical distances between views that are learned from together.
_MAX_DEPTH_UNITS = 12.0
_BATCH = 32


@dataclass(frozen=True)
class RelocNetConfig(RelativeConfig):
    """Settings of RelocNet."""

    head: HeadName = "se3"
    """How the network says a relative pose: by the exponential map of SE(3)."""
    embedding: int = 64
    """Numbers of the vector that is trained; 0: views are retrieved by their whitened codes."""
    embedding_steps: int = 400
    """Steps of its training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding < 0 or self.embedding_steps < 1:
            raise ValueError("embedding must be at least 0, embedding_steps at least 1")


def frustum_overlap(
    cam_from_world: Rigid3d, rays_NL2: Tensor, index_P2: Tensor, max_depth: float
) -> Tensor:
    """Share (P,) of the frustum of the first view of each pair that lies in that of the second.

    Source: Balntas, Li and Prisacariu, "RelocNet", ECCV 2018, section 3.1, by sampling.

    Args:
        cam_from_world: batch (N,).
        rays_NL2: of the corners of each view: (N, 2, 2), the least and the greatest x and y.
        index_P2: pairs of views.
        max_depth: where a frustum ends.
    """
    rows, columns, depths = _SAMPLES
    y, x, z = torch.meshgrid(
        (torch.arange(rows) + 0.5) / rows,
        (torch.arange(columns) + 0.5) / columns,
        # The volume of a slice grows with the square of its depth.
        ((torch.arange(depths) + 0.5) / depths) ** (1 / 3),
        indexing="ij",
    )
    share_S3 = torch.stack([x, y, z], -1).reshape(-1, 3).double()
    first, second = index_P2.unbind(1)
    low_P12, high_P12 = rays_NL2[first].double()[:, None].unbind(2)
    depth_PS1 = (share_S3[:, 2:] * max_depth).expand(len(first), -1, -1)
    plane_PS2 = low_P12 + share_S3[:, :2] * (high_P12 - low_P12)
    points_PS3 = torch.cat([plane_PS2 * depth_PS1, depth_PS1], dim=-1)
    seen_PS3 = (cam_from_world[second] @ cam_from_world[first].inverse()) @ points_PS3
    z_PS = seen_PS3[..., 2]
    plane_PS2 = seen_PS3[..., :2] / z_PS.clamp_min(1e-9)[..., None]
    low_P12, high_P12 = rays_NL2[second].double()[:, None].unbind(2)
    inside = (z_PS > 0) & (z_PS < max_depth) & (plane_PS2 > low_P12).all(-1)
    return (inside & (plane_PS2 < high_P12).all(-1)).double().mean(-1).float()


def build_map(views: Sequence[View], config: RelocNetConfig, run: Run) -> Tensors:
    """Learn a vector whose distances are overlaps of frusta, then relative poses."""
    lesson = learning.prepare(views, config, run)
    # What a vector of overlaps is, only the scene itself can teach.
    if config.embedding and config.trains:
        lesson = replace(lesson, place=_embedded(lesson, config, run))
    return family.finish_map(lesson, config, localizer, run)


def localizer(tensors: Tensors, config: RelocNetConfig, run: Run) -> Localizer:
    """Answers by the mean of what the views with most overlap say."""
    return family.localizer(tensors, config, run)


def _embedded(lesson: Lesson, config: RelocNetConfig, run: Run) -> Place:
    """The place with vectors that overlap has taught."""
    place = lesson.place
    raw_NG = place.frames.vectors_NG
    rays = place.frames.rays_KL2
    corners_N22 = torch.stack([rays.amin(1), rays.amax(1)], 1)[place.frames.camera_N]
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        layer = nn.Linear(raw_NG.shape[1], config.embedding)
        nn.init.normal_(layer.weight, std=raw_NG.shape[1] ** -0.5)
    scale = raw_NG.std(0).clamp_min(1e-4)
    mean = raw_NG.mean(0)
    inputs_NG = (raw_NG - mean) / scale

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
        some_B = torch.randperm(len(inputs_NG), generator=generator)[:_BATCH]
        index_P2 = torch.cartesian_prod(some_B, some_B)
        overlap_P = frustum_overlap(
            place.cam_from_world, corners_N22, index_P2, _MAX_DEPTH_UNITS * place.unit
        )
        vectors_BE = functional.normalize(layer(inputs_NG[some_B]), dim=-1)
        # Half the squared distance of unit vectors is one minus their inner product.
        similarity_P = (vectors_BE @ vectors_BE.T).flatten()
        mean_P = (overlap_P + overlap_P.reshape(len(some_B), -1).T.flatten()) / 2
        return (similarity_P - mean_P).square().mean()

    steps = learning.fit_config(config.embedding_steps, 3e-3)
    fit(layer, loss_at, steps, stage(run, "embedding"), "learning overlaps")
    # The form in which vectors of other rows are whitened: a mean, and a projection.
    offset = torch.linalg.lstsq(layer.weight.detach(), layer.bias.detach()[:, None]).solution[:, 0]
    projection_GE = (layer.weight.detach() / scale).T
    lengths_E = projection_GE.norm(dim=0)
    whitening = Whitening((mean - offset * scale).half(), projection_GE.half(), lengths_E)
    return replace(place, whitening=whitening, vectors_ND=whitening(raw_NG).half().float())


METHOD = Method(
    name="relocnet",
    family="relative",
    summary="Views retrieved by learned overlap of frusta; relative poses in SE(3), averaged.",
    paper="Balntas, Li and Prisacariu, RelocNet: Continuous Metric Learning Relocalisation Using "
    "Neural Nets, ECCV 2018",
    published="0.21 m, 6.7° (7-Scenes, mean of medians); not reproduced",
    config=RelocNetConfig,
    tiny=RelocNetConfig(**TINY, embedding=16, embedding_steps=40),
    build_map=build_map,
    localizer=localizer,
    presets={
        # One answer instead of the mean, as in the paper.
        "single": RelocNetConfig(combination="single", num_neighbours=1),
    },
)
