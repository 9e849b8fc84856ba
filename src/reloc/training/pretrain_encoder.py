"""Train the dense encoder from raw material to a file: contrastive dense correspondence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.nn.encoder import SIZES, STRIDE, Encoder
from reloc.nn.int8_encoder import largest_inputs
from reloc.nn.losses import contrastive_loss
from reloc.nn.precision import autocast
from reloc.nn.shared_encoder import LARGEST_INPUTS
from reloc.provenance import training_record, working_copy_commit, write_record
from reloc.training.correspondences import CollageConfig, Correspondences, collage_pair
from reloc.training.fit import FitConfig, fit
from reloc.training.normalization import fold, normalize
from reloc.training.pictures import procedural_picture
from reloc.training.prefetch import prefetch
from reloc.training.records import refuse_another_run
from reloc.training.room_pairs import RenderedRoom, render_rooms, room_pair
from reloc.training.schedule import trapezoid

_PHOTO_ENDINGS = {".jpg", ".jpeg", ".png"}
_FEWEST_PHOTOS = 10
# Rooms, and pictures up to this size, that tell the ranges of 8-bit arithmetic.
_IMAGES_FOR_RANGES, _RANGE_SIDE = 24, 512


@dataclass(frozen=True)
class PretrainEncoderConfig:
    """Settings of `reloc pretrain encoder`."""

    size: Literal["base", "small"] = "base"
    """Widths of the network."""
    photos: Path | None = None
    """Folder of photos to cut up and warp. The weights are then under the photos' terms."""
    num_pictures: int = 500
    """Procedural pictures, which are cut up and warped as photos are."""
    num_rooms: int = 120
    """Procedural rooms to render; they are kept beside the checkpoint."""
    room_share: float = 0.85
    """Share of the pairs that come from rooms, where there are any."""
    collage: CollageConfig = field(default_factory=CollageConfig)
    """How hard the pairs are."""
    batch_pairs: int = 6
    """Pairs of images a step; all points of a batch are each other's negatives."""
    steps: int = 12_000
    """Steps in all, those before a resumption included."""
    max_learning_rate: float = 6e-3
    """Reached after the warm-up, and left again in the last third."""
    temperature: float = 0.05
    """Of the softmax over cosines."""
    ignored_px: float = 8.0
    """Points of one image nearer than this are no negatives of each other."""
    average: float = 0.998
    """Decay of the running mean of the weights, which is what is kept."""

    def __post_init__(self) -> None:
        for name in ("batch_pairs", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("num_pictures", "num_rooms", "ignored_px"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it cannot be negative")
        for name in ("temperature", "max_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.room_share <= 1:
            raise ValueError(f"room_share is {self.room_share}; it is a share")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}; it must be in [0, 1)")


@dataclass(frozen=True, eq=False)
class Material:
    """What pairs are made from."""

    pictures: Sequence[NDArray[np.uint8]]
    rooms: Sequence[RenderedRoom]


def pretrain_encoder(config: PretrainEncoderConfig, folder: Path, run: Run) -> Path:
    """Train an encoder, or go on from the checkpoint in `folder`.

    Returns:
        The path of the weights in fp16. They lie there from the first checkpoint on, with what they
        are made of in the .json beside them.

    Raises:
        InputError: there are too few photos where they should be, nothing to train with, or no
            renderer; or `folder` has a run of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for record_path in folder.glob("encoder_*.json"):
        refuse_another_run(config, run.seed, record_path)
    material = gather_material(config, folder / "rooms", run)
    encoder = new_encoder(config, run)
    path = folder / f"encoder_{config.size}.safetensors"

    # Now: the working copy may move on beside a run of hours.
    commit = working_copy_commit()

    def keep(weights: dict[str, Tensor], step: int, seconds: float) -> None:
        plain = fold(weights)
        _write_weights(plain, path)
        record: dict[str, object] = {
            "config": asdict(config),
            "pictures": len(material.pictures),
            "rooms": len(material.rooms),
            **training_record(step, seconds, run.seed, run.device, commit),
            LARGEST_INPUTS: _largest_inputs(plain, config, material),
        }
        write_record(record, path.with_suffix(".json"))

    coming: Iterator[Correspondences] | None = None

    def loss_at(step: int) -> Tensor:
        # One batch is made beside the step before it; the first step says where to begin.
        nonlocal coming
        if coming is None:
            coming = prefetch(
                lambda number: make_batch(material, config, run.seed, number),
                range(step, config.steps),
            )
        batch = next(coming)
        with autocast(run):
            return contrast(*codes_of_points(encoder, batch, run), batch, config)

    schedule = FitConfig(
        steps=config.steps,
        learning_rate=lambda step: trapezoid(step, config.steps, config.max_learning_rate),
        average=config.average,
    )
    fit(encoder, loss_at, schedule, replace(run, checkpoint_folder=folder), "encoder", keep)
    return path


def gather_material(config: PretrainEncoderConfig, rooms_folder: Path, run: Run) -> Material:
    """Read, make and render what the settings ask for; rooms are kept in their folder.

    Raises:
        InputError: there are too few photos where they should be, nothing to train with, or no
            renderer.
    """
    material = Material(
        [*_read_photos(config.photos), *_make_pictures(config.num_pictures, run.seed)],
        render_rooms(config.num_rooms, rooms_folder, run),
    )
    if not material.pictures and not material.rooms:
        raise InputError("there is nothing to train with: ask for photos, pictures or rooms")
    return material


def new_encoder(config: PretrainEncoderConfig, run: Run) -> Encoder:
    """An encoder with random weights, normalised: `fold` makes a plain one of what it becomes."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        encoder = Encoder(SIZES[config.size])
        # It learns faster so, by half of the steps; the weights that are kept need none of it.
        normalize(encoder, branch_ends="second", bare="project")
    return encoder.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_batch(
    material: Material, config: PretrainEncoderConfig, seed: int, step: int
) -> Correspondences:
    """The batch of a step: the same one whenever the step is taken."""
    rng = np.random.default_rng((seed, step))

    def pair() -> Correspondences:
        from_room = rng.uniform() < config.room_share
        if material.rooms and (from_room or not material.pictures):
            return room_pair(material.rooms, rng, config.collage)
        return collage_pair(material.pictures, rng, config.collage)

    return Correspondences.join([pair() for _ in range(config.batch_pairs)])


def codes_of_points(encoder: nn.Module, batch: Correspondences, run: Run) -> tuple[Tensor, Tensor]:
    """Codes (N, C) of a batch's points in its first images, and in its second ones."""
    images_2B1HW = torch.cat([batch.images_a_B1HW, batch.images_b_B1HW]).to(run.device)
    pair_N, points_a_N2, points_b_N2 = (
        column.to(run.device) for column in (batch.pair_N, batch.points_a_N2, batch.points_b_N2)
    )
    grey = images_2B1HW.contiguous(memory_format=torch.channels_last).float() / 255
    codes_a, codes_b = encoder(grey).chunk(2)
    return codes_at(codes_a, pair_N, points_a_N2), codes_at(codes_b, pair_N, points_b_N2)


def contrast(
    codes_a_NC: Tensor, codes_b_NC: Tensor, batch: Correspondences, config: PretrainEncoderConfig
) -> Tensor:
    """The loss of a batch whose points have these codes."""
    pair_N, points_a_N2, points_b_N2 = (
        column.to(codes_a_NC.device)
        for column in (batch.pair_N, batch.points_a_N2, batch.points_b_N2)
    )
    ignored_NN = _neighbours(pair_N, points_a_N2, points_b_N2, config.ignored_px)
    return contrastive_loss(codes_a_NC, codes_b_NC, ignored_NN, config.temperature)[0]


def codes_at(codes_BChw: Tensor, image_N: Tensor, points_N2: Tensor) -> Tensor:
    """Codes (N, C) at pixels of images, interpolated between the four nearest cells."""
    height, width = codes_BChw.shape[-2:]
    last = torch.tensor([width - 1, height - 1], device=points_N2.device)
    cells_N2 = (points_N2 / STRIDE - 0.5).clamp_min(0).minimum(last)
    low_N2 = cells_N2.long().minimum(last - 1)
    x, y = (cells_N2 - low_N2).split(1, dim=1)
    # Codes as rows, so that one gather fetches a whole code.
    rows = codes_BChw.permute(0, 2, 3, 1).flatten(0, 2)
    first = (image_N * height + low_N2[:, 1]) * width + low_N2[:, 0]
    upper = rows[first] * (1 - x) + rows[first + 1] * x
    lower = rows[first + width] * (1 - x) + rows[first + width + 1] * x
    return upper * (1 - y) + lower * y


def _neighbours(
    pair_N: Tensor, points_a_N2: Tensor, points_b_N2: Tensor, radius_px: float
) -> Tensor:
    """(N, N): different points of one pair that are near each other in either image."""
    close_a = torch.cdist(points_a_N2, points_a_N2) < radius_px
    close_b = torch.cdist(points_b_N2, points_b_N2) < radius_px
    return ((pair_N[:, None] == pair_N) & (close_a | close_b)).fill_diagonal_(False)


def _make_pictures(count: int, seed: int) -> list[NDArray[np.uint8]]:
    return [procedural_picture(np.random.default_rng((seed, number))) for number in range(count)]


def _read_photos(folder: Path | None) -> list[NDArray[np.uint8]]:
    if folder is None:
        return []
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PHOTO_ENDINGS)
    photos = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    readable = [np.asarray(photo, np.uint8) for photo in photos if photo is not None]
    if len(readable) < _FEWEST_PHOTOS:
        raise InputError(
            f"{folder} has {len(readable)} photos: pretraining takes {_FEWEST_PHOTOS} at least"
        )
    return readable


def _write_weights(state: dict[str, Tensor], path: Path) -> None:
    """fp16, which loses nothing that bf16 arithmetic would see."""
    halved = {name: value.half().cpu().contiguous() for name, value in state.items()}
    partial = path.with_name(f".{path.name}")
    safetensors.torch.save_file(halved, partial)
    partial.rename(path)


def _largest_inputs(
    state: dict[str, Tensor], config: PretrainEncoderConfig, material: Material
) -> dict[str, float]:
    """What each convolution is given, at most, by views of rooms and by pictures: for 8 bits."""
    encoder = Encoder(SIZES[config.size]).eval()
    encoder.load_state_dict({name: value.float().cpu() for name, value in state.items()})
    rooms = material.rooms[:: max(1, len(material.rooms) // _IMAGES_FOR_RANGES)]
    pictures = material.pictures[:: max(1, len(material.pictures) // _IMAGES_FOR_RANGES)]
    greys = [room.grey_VHW[len(room.grey_VHW) // 2] for room in rooms]
    greys += [torch.from_numpy(picture[:_RANGE_SIDE, :_RANGE_SIDE]) for picture in pictures]
    largest = largest_inputs(encoder, (grey_HW[None, None].float() / 255 for grey_HW in greys))
    return {name: round(value, 3) for name, value in largest.items()}
