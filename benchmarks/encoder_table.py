"""The same map, budget and scene on different dense features: what each is worth to ACE.

    python benchmarks/encoder_table.py SCENE --features base rootsift --weights FOLDER

A row of JSON a feature on standard output. FOLDER holds squeezenet1_0.safetensors, alike-t.pth,
r2d2_WASF_N16.pt, and what brief_training.py wrote, for those features. All see the same grey
images at the same cells of 8x8 pixels, and are brought to mean 0 and variance 1 over mapping
images, and to one norm, before the head sees them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import brief_training
import cv2
import numpy as np
import safetensors.torch
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Run
from reloc.evaluation.errors import position_error, rotation_error_deg
from reloc.methods.coordinates.ace import AceConfig, mapping_loss
from reloc.methods.coordinates.landmarks import place_landmarks
from reloc.methods.coordinates.localizer import CoordinatesLocalizer
from reloc.methods.coordinates.mapping import train_head
from reloc.nn.encoder import SIZES, STRIDE, Encoder, cell_centers
from reloc.nn.precision import autocast
from reloc.nn.weights import encoder_path, load_encoder
from reloc.provenance import hardware, working_copy_commit
from reloc.scenes import LoadOptions, load_scene
from reloc.training.buffer import resized_grey

Feature = Literal[
    "base", "small", "random", "rootsift", "squeezenet", "alike", "r2d2", "brief-ace", "brief-small"
]
_IMAGENET_MEAN, _IMAGENET_STD = 0.449, 0.226


@dataclass(frozen=True)
class Arguments:
    """What to compare, and on what."""

    scene: tyro.conf.Positional[Path]
    features: tuple[Feature, ...] = get_args(Feature)
    weights: Path = Path()
    split: str | None = None
    seed: int = 0
    every: int = 1
    """Ask every so many queries: some features take seconds a frame."""
    config: AceConfig = field(default_factory=AceConfig)


class RootSift(nn.Module):
    """SIFT descriptors of two sizes at every cell, each under a square root."""

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        rows, columns = (side // STRIDE for side in grey_B1HW.shape[-2:])
        centers = cell_centers(rows, columns).numpy() - 0.5
        sift = cv2.SIFT.create()
        codes = []
        for image in (255 * grey_B1HW[:, 0]).byte().numpy():
            both = [
                sift.compute(image, [cv2.KeyPoint(x, y, size, 0) for x, y in centers.tolist()])[1]
                for size in (12.0, 24.0)
            ]
            code = np.sqrt(np.concatenate(both, axis=1) / 512)
            codes.append(torch.from_numpy(code).T.reshape(-1, rows, columns))
        return torch.stack(codes)


class SqueezeNet(nn.Module):
    """SqueezeNet v1.0 up to its eighth module, whose stride is 8."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.weights = {
            name.removeprefix("features."): value
            for name, value in safetensors.torch.load_file(path).items()
        }

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        image = ((grey_B1HW - _IMAGENET_MEAN) / _IMAGENET_STD).expand(-1, 3, -1, -1)
        hidden = functional.relu(functional.conv2d(image, *self._of("0"), stride=2, padding=3))
        for fire in ("3", "4", "5", "7", "8", "9", "10"):
            if fire in ("3", "7"):
                hidden = functional.max_pool2d(hidden, 3, 2, padding=1)
            squeezed = functional.relu(functional.conv2d(hidden, *self._of(f"{fire}.squeeze")))
            narrow = functional.conv2d(squeezed, *self._of(f"{fire}.expand1x1"))
            wide = functional.conv2d(squeezed, *self._of(f"{fire}.expand3x3"), padding=1)
            hidden = functional.relu(torch.cat([narrow, wide], dim=1))
        return _at_cells(hidden, grey_B1HW)

    def _of(self, layer: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{layer}.weight"], self.weights[f"{layer}.bias"]


class Alike(nn.Module):
    """ALIKE tiny's descriptors (Zhao et al., TMM 2022)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.weights = torch.load(path, weights_only=True)

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        hidden = grey_B1HW.expand(-1, 3, -1, -1)
        levels = []
        for number, pooled in ((1, 1), (2, 2), (3, 4), (4, 4)):
            block = f"block{number}"
            before = functional.max_pool2d(hidden, pooled) if pooled > 1 else hidden
            hidden = functional.relu(self._normed(before, block, 1))
            hidden = self._normed(hidden, block, 2)
            if number > 1:
                down = self.weights[f"{block}.downsample.weight"]
                hidden = hidden + functional.conv2d(
                    before, down, self.weights[f"{block}.downsample.bias"]
                )
            hidden = functional.relu(hidden)
            level = functional.relu(functional.conv2d(hidden, self.weights[f"conv{number}.weight"]))
            levels.append(_at_cells(level, grey_B1HW))
        joined = torch.cat(levels, dim=1)
        return functional.conv2d(joined, self.weights["convhead2.weight"])[:, :-1]

    def _normed(self, hidden: Tensor, block: str, number: int) -> Tensor:
        hidden = functional.conv2d(hidden, self.weights[f"{block}.conv{number}.weight"], padding=1)
        norm = f"{block}.bn{number}"
        return functional.batch_norm(
            hidden,
            *(self.weights[f"{norm}.{part}"] for part in ("running_mean", "running_var")),
            *(self.weights[f"{norm}.{part}"] for part in ("weight", "bias")),
        )


class R2d2(nn.Module):
    """R2D2's descriptors (Revaud et al., NeurIPS 2019): dilated, so at full resolution."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        state = torch.load(path, weights_only=True)["state_dict"]
        self.weights = {name.removeprefix("module.ops."): value for name, value in state.items()}

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        hidden = ((grey_B1HW - _IMAGENET_MEAN) / _IMAGENET_STD).expand(-1, 3, -1, -1)
        # (layer, dilation, normalised by which layer, rectified)
        for layer, dilation, norm, rectified in (
            (0, 1, 1, True), (3, 1, 4, True), (6, 1, 7, True), (9, 2, 10, True),
            (12, 2, 13, True), (15, 4, 16, True), (18, 4, 19, False), (20, 8, 21, False),
            (22, 16, None, False),
        ):  # fmt: skip
            weight = self.weights[f"{layer}.weight"]
            hidden = functional.conv2d(
                hidden,
                weight,
                self.weights[f"{layer}.bias"],
                padding=(weight.shape[-1] - 1) * dilation // 2,
                dilation=dilation,
            )
            if norm is not None:
                mean, variance = (
                    self.weights[f"{norm}.running_{part}"] for part in ("mean", "var")
                )
                hidden = functional.batch_norm(hidden, mean, variance)
            hidden = functional.relu(hidden) if rectified else hidden
        return _at_cells(functional.normalize(hidden, dim=1), grey_B1HW)


class Standardized(nn.Module):
    """Features with mean 0 and variance 1 over some images, in each channel; then of one norm.

    What looks for cells takes codes to have mean square 1, as those of our encoder have.
    """

    def __init__(self, features: nn.Module, greys: list[Tensor]) -> None:
        super().__init__()
        self.features = features
        with torch.no_grad():
            codes = torch.cat([features(grey)[0].float().flatten(1) for grey in greys], dim=1)
        self.mean, self.std = codes.mean(1)[:, None, None], codes.std(1)[:, None, None] + 1e-6

    def forward(self, grey_B1HW: Tensor) -> Tensor:
        code = (self.features(grey_B1HW).float() - self.mean) / self.std
        return functional.normalize(code, dim=1) * code.shape[1] ** 0.5


def _at_cells(level_BCHW: Tensor, grey_B1HW: Tensor) -> Tensor:
    """A map of any resolution, interpolated at the middle of the cells."""
    height, width = grey_B1HW.shape[-2:]
    rows, columns = height // STRIDE, width // STRIDE
    grid = (2 * cell_centers(rows, columns) / torch.tensor([width, height]) - 1).to(level_BCHW)
    grid = grid.reshape(1, rows, columns, 2).expand(len(level_BCHW), -1, -1, -1)
    return functional.grid_sample(level_BCHW, grid, align_corners=False)


def _features(name: Feature, weights: Path) -> nn.Module:
    makers: dict[Feature, Callable[[], nn.Module]] = {
        "base": lambda: load_encoder(encoder_path("base"), "base"),
        "small": lambda: load_encoder(encoder_path("small"), "small"),
        "random": lambda: Encoder(SIZES["base"]).eval().requires_grad_(False),
        "rootsift": RootSift,
        "squeezenet": lambda: SqueezeNet(weights / "squeezenet1_0.safetensors"),
        "alike": lambda: Alike(weights / "alike-t.pth"),
        "r2d2": lambda: R2d2(weights / "r2d2_WASF_N16.pt"),
        "brief-ace": lambda: brief_training.load("ace", weights),
        "brief-small": lambda: brief_training.load("small", weights),
    }
    return makers[name]()


def _num_megabytes(features: nn.Module) -> float:
    """Of its weights in fp16, however it keeps them."""
    kept = list(features.parameters()) + list(getattr(features, "weights", {}).values())
    return 2 * sum(value.numel() for value in kept if value.is_floating_point()) / 1e6


def _giga_macs(features: nn.Module) -> float:
    """Of the convolutions, for 640x480; by the operator, so that functional ones count."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features(torch.rand(1, 1, 480, 640))
    return counter.get_total_flops() / 2e9


def _row(name: Feature, arguments: Arguments) -> dict[str, object]:
    scene = load_scene(arguments.scene, LoadOptions(split=arguments.split))
    run, config = Run(seed=arguments.seed), arguments.config
    torch.manual_seed(run.seed)
    features = _features(name, arguments.weights)
    samples = scene.mapping[:: max(1, len(scene.mapping) // 8)]
    greys = [
        torch.from_numpy(resized_grey(view.read_image(), config.short_side_px))[None, None] / 255
        for view in samples
    ]
    encoder = Standardized(features, greys)
    loss = partial(mapping_loss, loose_px=config.loose_px, tight_px=config.tight_px)
    started, started_cpu = time.perf_counter(), time.process_time()
    tensors = None
    if config.head == "landmarks":
        tensors = place_landmarks(
            encoder, scene.mapping, config, config.num_landmarks, config.key_length, run
        )
    head = "landmarks" if tensors else "layers"
    tensors = tensors or train_head(encoder, scene.mapping, config, loss, run)
    map_s, map_cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    localizer = CoordinatesLocalizer(encoder, tensors, config, run)
    errors = []
    queries = scene.queries[:: arguments.every]
    for view in queries:
        pose = localizer.localize([view.query()])[0].cam_from_world
        if pose is None:
            errors.append((np.inf, 180.0))
        else:
            truth = view.cam_from_world
            errors.append(
                (float(position_error(pose, truth)), float(rotation_error_deg(pose, truth)))
            )
    position, rotation_deg = np.array(errors).T
    unit = 1.0 if scene.metric else scene.extent
    limits = ((0.02, 2), (0.05, 5)) if scene.metric else ((0.005, 0.5), (0.01, 1))
    encode_ms = []
    for _ in range(9):
        begun = time.perf_counter()
        with torch.no_grad(), autocast(Run()):
            features(greys[0])
        encode_ms.append(1e3 * (time.perf_counter() - begun))
    return {
        "features": name,
        "head": head,
        "scene": scene.name,
        "split": arguments.split,
        "seed": run.seed,
        "n_queries": len(queries),
        **{
            f"recall_{limit:g}_{degrees:g}deg": float(
                np.mean((position / unit < limit) & (rotation_deg < degrees))
            )
            for limit, degrees in limits
        },
        # None where more than half of the queries are declined.
        "median": float(np.median(position / unit)) if np.isfinite(position).mean() > 0.5 else None,
        "giga_macs": _giga_macs(features) if name != "rootsift" else None,
        "mb_fp16": _num_megabytes(features),
        "encode_ms": float(np.median(encode_ms)),
        "map_s": map_s,
        "map_cpu_s": map_cpu_s,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "width": config.width,
        "threads": torch.get_num_threads(),
        "hardware": hardware("cpu"),
        "commit": working_copy_commit(),
    }


if __name__ == "__main__":
    given = tyro.cli(Arguments)
    for feature in given.features:
        print(json.dumps(_row(feature, given)), flush=True)
