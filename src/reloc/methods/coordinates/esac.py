"""ESAC: experts for the parts of a place, and a gate that shares out the hypotheses among them.

Each expert is a head on the shared encoder, trained on one cluster of the mapping views, or on one
scene of a composite. The gate reads the pooled codes of an image and says which expert can tell
where it was taken. A query costs about what it costs with one expert: the gate shares out the
samples of RANSAC, and experts that it thinks little of are not asked.

Two differences from the paper. It trains the gate on the number of the scene or cluster, then gate
and experts together on the expected loss of the pose, whose gradient for the gate is a noisy
estimate. Here the target of the gate is measured, without noise, for all experts on all looks of
the mapping views: how many cells an expert puts where the image sees them. And experts are trained
by reprojection alone, as ACE's heads are.

Source: Brachmann and Rother, "Expert sample consensus applied to camera re-localization", ICCV
2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from reloc.contract import Localizer, Method, Run, Tensors, UnfinishedMapError
from reloc.geometry.clusters import extent
from reloc.geometry.rigid3d import Rigid3d
from reloc.methods.coordinates.ace import mapping_loss
from reloc.methods.coordinates.cameras import cameras_in_frame
from reloc.methods.coordinates.cells import encode_cells
from reloc.methods.coordinates.config import CoordinatesConfig
from reloc.methods.coordinates.map_tensors import head_of, shared_encoder
from reloc.methods.coordinates.parts import (
    Choose,
    PartsLocalizer,
    ask_all,
    parts_of,
    split_views,
    train_parts,
)
from reloc.methods.coordinates.points import agreeing
from reloc.nn.descriptors.pooled import pool_codes
from reloc.nn.shared_encoder import FrozenEncoder, encoder_of_map
from reloc.scenes.scene import View
from reloc.training.fit import FitConfig, fit
from reloc.training.schedule import one_cycle
from reloc.training.stages import kept

_GATE = "gate."
# Added to the pooled codes, whose variance is 1, while the gate learns: other looks of a place.
_LOOK_NOISE = 0.2
# Cells whose codes make a look, and on which experts are measured.
_CELLS_PER_LOOK = 1024
# An expert that would get fewer samples finds nothing with them: others get them.
_FEWEST_SAMPLES = 16


@dataclass(frozen=True)
class EsacConfig(CoordinatesConfig):
    """Settings of ESAC; those of the family are of each expert."""

    num_images: int = 200
    """Images encoded for the buffer of an expert, as for a map of one head."""
    steps: int = 1200
    """Steps of training of an expert."""
    num_experts: int = 4
    """Heads, each for the mapping views that see another part of the place."""
    max_experts: int = 3
    """Experts that a query is asked of at most."""
    num_hypotheses: int = 10_000
    """Samples that RANSAC draws for a query at most, shared out by the gate."""
    gate_images: int = 300
    """Looks of mapping views that the gate learns from."""
    gate_width: int = 64
    """Hidden numbers of the gate."""
    gate_steps: int = 500
    """Steps of training of the gate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "num_experts",
            "max_experts",
            "num_hypotheses",
            "gate_images",
            "gate_width",
            "gate_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Gate(nn.Module):
    """Pooled codes (L, 2 C) of images to the logits (L, K) of the experts."""

    mean: Tensor
    std: Tensor

    def __init__(self, look: int, width: int, num_experts: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(look))
        self.register_buffer("std", torch.ones(look))
        self.enter = nn.Linear(look, width)
        self.leave = nn.Linear(width, num_experts)

    def forward(self, looks_LD: Tensor, noise: Tensor | float = 0.0) -> Tensor:
        """Logits; `noise` is added to the looks when they have mean 0 and variance 1."""
        standard_LD = (looks_LD - self.mean) / self.std + noise
        return self.leave(functional.relu(self.enter(standard_LD)))


def build_map(views: Sequence[View], config: EsacConfig, run: Run) -> Tensors:
    """Split the mapping views, train an expert for each part, then the gate.

    Raises:
        InputError: no view can be read, or all are taken from one place.
    """
    encoder, shared = shared_encoder(config, run)
    parts = split_views(Rigid3d.stack([view.cam_from_world for view in views]), config.num_experts)
    run.log.info("experts for %s views", ", ".join(str(len(part)) for part in parts))
    loss = partial(mapping_loss, loose_px=config.loose_px, tight_px=config.tight_px)
    try:
        experts = train_parts(encoder, views, parts, config, loss, run)
    except UnfinishedMapError as unfinished:
        # Without a gate, the experts that there are are all asked.
        raise UnfinishedMapError({**shared, **unfinished.tensors}) from None
    if len(parts) > 1:
        try:
            shared |= kept(run, "gate", partial(_train_gate, encoder, views, experts, config))
        except KeyboardInterrupt:
            raise UnfinishedMapError({**shared, **experts}) from None
    return {**shared, **experts}


def _train_gate(
    encoder: FrozenEncoder, views: Sequence[View], experts: Tensors, config: EsacConfig, run: Run
) -> Tensors:
    """A gate that tells, from an image, which expert's points agree with its pose."""
    looks_LD, target_LK = _measured(encoder, views, experts, config, run)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        gate = Gate(looks_LD.shape[1], config.gate_width, target_LK.shape[1]).to(run.device)
    gate.mean.copy_(looks_LD.mean(dim=0))
    gate.std.copy_(looks_LD.std(dim=0).clamp_min(1e-6))
    generator = torch.Generator()

    def loss_at(step: int) -> Tensor:
        generator.manual_seed(run.seed * 1_000_003 + step)
        noise_LD = _LOOK_NOISE * torch.randn(looks_LD.shape, generator=generator)
        return functional.cross_entropy(gate(looks_LD, noise_LD.to(run.device)), target_LK)

    schedule = FitConfig(config.gate_steps, lambda step: one_cycle(step, config.gate_steps, 3e-3))
    fit(gate, loss_at, schedule, run, "training the gate")
    right = (gate(looks_LD).argmax(dim=1) == target_LK.argmax(dim=1)).float().mean()
    run.log.info("the gate prefers the best expert for %.1f %% of the looks", 100 * float(right))
    return {_GATE + name: value for name, value in gate.state_dict().items()}


def _measured(
    encoder: FrozenEncoder, views: Sequence[View], experts: Tensors, config: EsacConfig, run: Run
) -> tuple[Tensor, Tensor]:
    """Looks (L, 2 C) of mapping views, and the share (L, K) that each expert should get of it.

    That is in proportion to the cells whose points agree with the pose of the view; all get alike
    where none does.
    """
    centers_V3 = torch.stack([view.center_world for view in views])
    some = replace(config, num_images=config.gate_images, cells_per_image=_CELLS_PER_LOOK)
    cells = encode_cells(encoder, views, range(len(views)), extent(centers_V3), some, run)
    # Looks follow one another in the buffer, never two of one view.
    _, sizes_L = cells.buffer.view_N.cpu().unique_consecutive(return_counts=True)
    sizes = sizes_L.tolist()
    shares = []
    for expert in parts_of(experts).values():
        cameras = cameras_in_frame(
            cells.cam_from_world,
            cells.focal_px_V,
            expert["center_3"],
            float(expert["scale"]),
            run.device,
        )
        head = head_of(expert, config, run.device)
        _, agrees_N = agreeing(head, cells.buffer, cameras, config, run)
        shares.append(torch.stack([part.float().mean() for part in agrees_N.split(sizes)]))
    share_LK = torch.stack(shares, dim=1) + 1e-6
    looks_LD = torch.stack([pool_codes(part) for part in cells.buffer.codes_NC.split(sizes)])
    return looks_LD, share_LK / share_LK.sum(dim=1, keepdim=True)


def localizer(tensors: Tensors, config: EsacConfig, run: Run) -> Localizer:
    """Answers by the experts that the gate prefers, the one with the most inliers being right.

    Raises:
        InputError: the encoder that is installed is another one.
    """
    encoder = encoder_of_map(tensors, config.encoder, run)
    return PartsLocalizer(encoder, tensors, choice(tensors, config, run), config, run)


def choice(tensors: Tensors, config: EsacConfig, run: Run) -> Choose:
    """What the gate of a map says; all experts are asked where it has none yet."""
    num_experts = len(parts_of(tensors))
    if f"{_GATE}mean" not in tensors:
        return partial(ask_all, num_experts)
    # Weights are drawn before they are loaded: not from the caller's numbers.
    with torch.random.fork_rng(devices=[]):
        gate = Gate(len(tensors[f"{_GATE}mean"]), config.gate_width, num_experts)
    gate.load_state_dict(
        {
            name.removeprefix(_GATE): value
            for name, value in tensors.items()
            if name.startswith(_GATE)
        }
    )
    return partial(_gated, gate.to(run.device).requires_grad_(False), config)


def _gated(gate: Gate, config: EsacConfig, codes_NC: Tensor) -> Mapping[int, int]:
    """The experts to ask, the likeliest first, and the samples of each."""
    with torch.no_grad():
        chance_K = gate(pool_codes(codes_NC)[None])[0].softmax(dim=0).cpu()
    best_E = chance_K.argsort(descending=True, stable=True)[: config.max_experts]
    chance_E = chance_K[best_E]
    # The likeliest in any case: somebody has to answer. It gets what those left out would have.
    heard_E = config.num_hypotheses * chance_E / chance_E.sum() >= _FEWEST_SAMPLES
    heard_E[0] = True
    best_E, chance_E = best_E[heard_E], chance_E[heard_E]
    samples_E = (config.num_hypotheses * chance_E / chance_E.sum()).round().int()
    return dict(zip(best_E.tolist(), samples_E.tolist(), strict=True))


METHOD = Method(
    name="esac",
    family="coordinates",
    summary="Experts for the parts of a place, and a gate that shares out the hypotheses.",
    paper="Brachmann and Rother, Expert Sample Consensus Applied to Camera Re-Localization, "
    "ICCV 2019",
    published="no figure to compare: 12 and 19 scenes at once",
    config=EsacConfig,
    tiny=EsacConfig(
        short_side_px=120,
        width=64,
        num_images=40,
        cells_per_image=400,
        steps=300,
        batch_size=512,
        num_experts=2,
        gate_images=40,
        gate_steps=100,
    ),
    build_map=build_map,
    localizer=localizer,
    maps_depth=True,
)
