"""SRC: each cell is told which region of the scene it shows, coarse then fine, then where in it.

Regions within regions are clusters of the scene points that are known before training: those of
depth maps, else those that are triangulated between the mapping views. A region is one of a few
answers, which takes fewer views to learn than a point in space does; the place within it is a small
offset.

Where this differs from the papers: they have depth for every pixel, and label maps that are
predicted from a whole image, with a classifier that learned on other scenes (SRC) or one trained
for hours (HSCNet). Here cells are classified one by one from the codes of the shared encoder; of
RGB views only the cells whose points are triangulated are learned from.

Sources: Dong et al., "Visual localization via few-shot scene region classification", 3DV 2022; Li
et al., "Hierarchical scene coordinate classification and regression for visual localization", CVPR
2020 (regions within regions, each level told of the one before).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Localizer, Method, Run, Tensors, UnfinishedMapError
from reloc.estimation.trials import covariance_scale
from reloc.input_error import InputError
from reloc.methods.coordinates.ace import reprojection_loss
from reloc.methods.coordinates.cameras import MappingCameras, mapping_cameras
from reloc.methods.coordinates.cells import encode_cells, known_depth, learned_and_left_out
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.localizer import CoordinatesLocalizer
from reloc.methods.coordinates.map_tensors import GROWTH, frame_tensors, shared_encoder
from reloc.methods.coordinates.points import point_loss
from reloc.nn.descriptors.vlad import learn_vocabulary
from reloc.nn.precision import autocast
from reloc.nn.shared_encoder import encoder_of_map
from reloc.scenes.scene import View
from reloc.training.fit import FitConfig, fit
from reloc.training.replay import PosedCells
from reloc.training.schedule import one_cycle

_HEAD = "regions."
# With fewer known points there is nothing to cut into regions.
_FEWEST_POINTS = 100
_MAX_CLUSTERED = 20_000
# Numbers by which a level is told of the region of the level before.
_TOLD = 12
# A place that is wrong by so much counts as much as a region of which nothing is known.
_PX_PER_NAT = 10.0


@dataclass(frozen=True)
class SrcConfig(CoordinatesConfig):
    """Settings of SRC."""

    branching: int = 12
    """Regions of the scene, and regions in each of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.branching < 2:
            raise ValueError(f"branching is {self.branching}; it must be at least 2")


class RegionHead(nn.Module):
    """Codes (N, C) to scene points (N, 3), through the likeliest region of each level."""

    centers: Tensor

    def __init__(self, code: int, width: int, num_layers: int, branching: int) -> None:
        super().__init__()
        sizes = [code, *[width] * num_layers]
        self.trunk = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        self.coarse = nn.Linear(width, branching)
        self.tell_coarse = nn.Embedding(branching, _TOLD)
        self.enter_fine = nn.Linear(width + _TOLD, width)
        self.fine = nn.Linear(width, branching)
        self.tell_fine = nn.Embedding(branching**2, _TOLD)
        self.enter_offset = nn.Linear(width + _TOLD, width)
        self.offset = nn.Linear(width, 3)
        # Of the regions, in units of the scene's scale from the scene's centre.
        self.register_buffer("centers", torch.zeros(branching**2, 3))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        for module in (self.coarse, self.fine, self.offset):
            nn.init.normal_(module.weight, std=1e-2)

    def forward(self, codes_NC: Tensor) -> Tensor:
        """Points, float32."""
        hidden = self._hidden(codes_NC)
        coarse_N = self.coarse(hidden).argmax(-1)
        fine_N = self._fine(hidden, coarse_N).argmax(-1)
        return self._points(hidden, coarse_N, fine_N)

    def told(
        self, codes_NC: Tensor, coarse_N: Tensor, fine_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of both levels, and points, where the right regions are told to each level."""
        hidden = self._hidden(codes_NC)
        fine_NK = self._fine(hidden, coarse_N)
        points_N3 = self._points(hidden, coarse_N, fine_N)
        return self.coarse(hidden).float(), fine_NK.float(), points_N3

    def _hidden(self, codes_NC: Tensor) -> Tensor:
        hidden = codes_NC
        for layer in self.trunk:
            hidden = functional.relu(layer(hidden))
        return hidden

    def _fine(self, hidden: Tensor, coarse_N: Tensor) -> Tensor:
        entered = self.enter_fine(torch.cat([hidden, self.tell_coarse(coarse_N)], dim=-1))
        return self.fine(functional.relu(entered))

    def _points(self, hidden: Tensor, coarse_N: Tensor, fine_N: Tensor) -> Tensor:
        region_N = coarse_N * self.coarse.out_features + fine_N
        entered = self.enter_offset(torch.cat([hidden, self.tell_fine(region_N)], dim=-1))
        # Not as autocast has it: a place in bf16 is centimetres off.
        with torch.autocast(entered.device.type, enabled=False):
            return self.centers[region_N] + self.offset(functional.relu(entered).float())


def cut_into_regions(points_M3: Tensor, branching: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clusters of points, and clusters in each.

    Returns:
        Coarse centres (at most K, 3) and fine ones (K, K, 3); where a cluster has fewer than K
        points, its last centre stands for those that are missing.
    """
    coarse_K3 = learn_vocabulary(points_M3, branching, seed)
    nearest_M = torch.cdist(points_M3, coarse_K3).argmin(dim=1)
    every_K = torch.arange(branching)
    fine = []
    for number in range(branching):
        inside_P3 = points_M3[nearest_M == number]
        found_K3 = learn_vocabulary(inside_P3, branching, seed) if len(inside_P3) else coarse_K3[:1]
        fine.append(found_K3[every_K.clamp_max(len(found_K3) - 1)])
    return coarse_K3, torch.stack(fine)


def build_map(views: Sequence[View], config: SrcConfig, run: Run) -> Tensors:
    """Cut the known scene points into regions, and train a head to tell them.

    Raises:
        InputError: no view can be read, all are taken from one place, or too few points are known.
    """
    encoder, made_with = shared_encoder(config, run)
    cameras = mapping_cameras(views, config, run.device)
    learned, trials = learned_and_left_out(views)
    cells = encode_cells(encoder, views, learned, cameras.scale, config, run)
    depth_N = known_depth(cells, config, run).cpu()
    known_K = depth_N.isfinite().nonzero()[:, 0]
    if len(known_K) < _FEWEST_POINTS:
        raise InputError(
            f"the points of {len(known_K)} cells of {len(views)} mapping views are known, of "
            f"{_FEWEST_POINTS} they must be: give views that see the same things from several "
            "places, or with depth, and say --depth"
        )
    run.log.info("the points of %.0f %% of the cells are known", 100 * len(known_K) / len(depth_N))
    head = _new_head(cells.buffer.codes_NC.shape[1], config, run)

    def tensors() -> dict[str, Tensor]:
        weights = {_HEAD + name: value.half() for name, value in head.state_dict().items()}
        # Centres are places: half a float would be centimetres off in a large scene.
        weights[f"{_HEAD}centers"] = head.centers.clone()
        return {**made_with, **weights, **frame_tensors(cameras)}

    try:
        _train(head, cells, cameras, depth_N, known_K, config, run)
    except KeyboardInterrupt:
        raise UnfinishedMapError(tensors()) from None
    asked = localizer(tensors(), config, run)
    growth = covariance_scale(asked, [views[index] for index in trials], run)
    return {**tensors(), GROWTH: torch.tensor(growth, dtype=torch.float64)}


def _new_head(code: int, config: SrcConfig, run: Run) -> RegionHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        head = RegionHead(code, config.width, 1 + 2 * config.num_blocks, config.branching)
    return head.to(run.device)


def _train(
    head: RegionHead,
    cells: PosedCells,
    cameras: MappingCameras,
    depth_N: Tensor,
    known_K: Tensor,
    config: SrcConfig,
    run: Run,
) -> None:
    """Train a head in place on the cells whose points are known."""
    buffer = cells.buffer.at(known_K.to(run.device))
    depth_K = depth_N[known_K].to(run.device)
    points_K3 = _points_in_frame(cells, depth_N, known_K, cameras)
    some_M = torch.randperm(len(points_K3), generator=torch.Generator().manual_seed(run.seed))[
        :_MAX_CLUSTERED
    ]
    coarse_C3, fine_KK3 = cut_into_regions(points_K3[some_M], config.branching, run.seed)
    coarse_K = torch.cdist(points_K3, coarse_C3).argmin(dim=1)
    fine_K = (points_K3[:, None] - fine_KK3[coarse_K]).norm(dim=-1).argmin(dim=1)
    coarse_K, fine_K = coarse_K.to(run.device), fine_K.to(run.device)
    head.centers.copy_(fine_KK3.flatten(0, 1))
    generator = torch.Generator()

    def loss_at(step: int) -> Tensor:
        generator.manual_seed(run.seed * 1_000_003 + step)
        cells_N = torch.randint(len(buffer), (config.batch_size,), generator=generator)
        cells_N, done = cells_N.to(run.device), step / config.steps
        right_N = coarse_K[cells_N], fine_K[cells_N]
        with autocast(run):
            coarse_NK, fine_NK, points_N3 = head.told(buffer.codes_NC[cells_N].float(), *right_N)
            regions = functional.cross_entropy(coarse_NK, right_N[0])
            regions = regions + functional.cross_entropy(fine_NK, right_N[1])
            said = _Said(points_N3)
            if done < config.points_until:
                place_px = point_loss(said, buffer, cameras, cells_N, depth_K[cells_N])
            else:
                tighten = partial(
                    reprojection_loss, loose_px=config.loose_px, tight_px=config.tight_px
                )
                place_px = tighten(said, buffer, cameras, cells_N, done)
            return regions + place_px / _PX_PER_NAT

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: one_cycle(
            step, config.steps, config.max_learning_rate, config.warm_up
        ),
        muon=config.muon,
    )
    fit(head, loss_at, schedule, run, "training the map")


class _Said(nn.Module):
    """Points that were predicted already, in the place of a head that predicts them."""

    def __init__(self, points_N3: Tensor) -> None:
        super().__init__()
        self._points_N3 = points_N3

    def forward(self, codes_NC: Tensor) -> Tensor:
        del codes_NC
        return self._points_N3


def _points_in_frame(
    cells: PosedCells, depth_N: Tensor, known_K: Tensor, cameras: MappingCameras
) -> Tensor:
    """Points (K, 3) of cells of known depth, from the head's origin, in its unit; float32."""
    rays_K3 = functional.pad(cells.buffer.rays_N2.cpu()[known_K].double(), (0, 1), value=1.0)
    world_from_cam = cells.cam_from_world.inverse()[cells.buffer.view_N.cpu().long()[known_K]]
    points_K13 = world_from_cam @ (rays_K3 * depth_N[known_K, None])[:, None]
    return ((points_K13[:, 0] - cameras.center_3.cpu()) / cameras.scale).float()


def localizer(tensors: Tensors, config: SrcConfig, run: Run) -> Localizer:
    """Answers by the pose that most predicted points agree on.

    Raises:
        InputError: the encoder that is installed is not the one that the map was built on.
    """
    encoder = encoder_of_map(tensors, config.encoder, run)
    head = _new_head(encoder.size.code, config, run)
    head.load_state_dict(
        {
            name.removeprefix(_HEAD): value.float()
            for name, value in tensors.items()
            if name.startswith(_HEAD)
        }
    )
    return CoordinatesLocalizer(encoder, tensors, config, run, head)


METHOD = Method(
    name="src",
    family="coordinates",
    summary="Regions of the scene, coarse then fine, told of each cell; then the place in them.",
    paper="Dong et al., Visual Localization via Few-Shot Scene Region Classification, 3DV 2022",
    published="81.1 % within 5 cm, 5° (7-Scenes, SfM); not reproduced",
    config=SrcConfig,
    tiny=SrcConfig(
        short_side_px=120,
        width=64,
        num_images=60,
        cells_per_image=400,
        steps=200,
        batch_size=512,
        branching=6,
        # Eight neighbouring views of so few pixels tell no depth.
        depth=True,
    ),
    build_map=build_map,
    localizer=localizer,
    maps_depth=True,
)
