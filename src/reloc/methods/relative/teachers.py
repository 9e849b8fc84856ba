"""What networks for unseen places learn from: rooms and scenes, their pairs matched once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from reloc.contract import Run
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.relative.config import RelativeConfig
from reloc.methods.relative.correlation import Guess, coarse_codes, coarse_grid
from reloc.methods.relative.frames import (
    FrameReader,
    Frames,
    encode_image,
    principal_directions,
    read_views,
)
from reloc.methods.relative.learning import Lesson, Place
from reloc.methods.relative.pairs import Pairs, choose_pairs, match_pairs
from reloc.nn.descriptors.whitening import Whitening, fit_whitening
from reloc.nn.shared_encoder import FrozenEncoder
from reloc.scenes.scene import View
from reloc.training.room_pairs import RenderedRoom, render_room

# To this size all images are brought, of whatever aspect they are: rays stay right.
SIZE = (320, 240)
# Directions of codes are learned from so many views of each of the first scenes.
_COMPONENT_SCENES, _COMPONENT_VIEWS = 12, 8


@dataclass(frozen=True, eq=False)
class Teacher:
    """A scene to learn from: its name, and what reads its views."""

    name: str
    read: Callable[[], Sequence[View]]


def room_teacher(seed: int, max_zoom: float, folder: Path) -> Teacher:
    """A rendered room, of which `folder` keeps the pictures; seeds: see `training.room_pairs`."""

    def read() -> Sequence[View]:
        zoom = float(np.random.default_rng([seed, 7]).uniform(1, max_zoom))
        folder.mkdir(parents=True, exist_ok=True)
        return room_views(render_room(seed, folder), seed, zoom)

    return Teacher(f"room-{seed}", read)


def room_views(room: RenderedRoom, seed: int, zoom: float) -> list[View]:
    """Views of a room, each the middle of the rendered one, as a longer lens shows it."""
    width, height = round(room.camera.width / zoom), round(room.camera.height / zoom)
    left, top = (room.camera.width - width) // 2, (room.camera.height - height) // 2
    camera = room.camera.cropped(left, top, width, height)

    def view(number: int) -> View:
        grey_HW = room.grey_VHW[number, top : top + height, left : left + width]
        return View(
            f"room-{seed}/{number:04d}",
            camera,
            room.cam_from_world[number],
            lambda: grey_HW.expand(3, -1, -1).contiguous(),
        )

    return [view(number) for number in range(len(room.grey_VHW))]


def shared_components(
    teachers: Sequence[Teacher], encoder: FrozenEncoder, code: int, folder: Path
) -> Tensor:
    """(C, P), in numbers that fp16 has: those that ship are those that pairs were matched with."""
    path = folder / "components.safetensors"
    if not path.exists():
        codes = []
        for teacher in teachers[:_COMPONENT_SCENES]:
            views = teacher.read()
            for view in views[:: max(1, len(views) // _COMPONENT_VIEWS)]:
                codes_LC = encode_image(encoder, view.read_image(), SIZE)
                codes += [] if codes_LC is None else [codes_LC]
        if not codes:
            raise InputError("none of the images to learn from has texture")
        directions_CP = principal_directions(codes, code).half().float()
        _write({"components": directions_CP}, path)
    return safetensors.torch.load_file(path)["components"]


def matched(
    teacher: Teacher, reader: FrameReader, config: RelativeConfig, folder: Path, run: Run
) -> Mapping[str, Tensor]:
    """A scene's frames and matched pairs; read from `folder`, where they were matched before."""
    path = folder / f"{teacher.name}.safetensors"
    if not path.exists():
        views = teacher.read()
        _, frames, kept = read_views(
            reader.encoder, views, reader.size, config.code, run, reader.components_CP
        )
        poses = Rigid3d.stack([views[index].cam_from_world for index in kept])
        vectors_ND = fit_whitening(frames.vectors_NG, config.num_dimensions)(frames.vectors_NG)
        coarse_NLP = coarse_codes(frames.codes(torch.arange(len(kept))), reader.grid)
        pairs_P2 = choose_pairs(
            vectors_ND,
            coarse_NLP,
            coarse_grid(reader.grid),
            config.pairs_per_view,
            run.seed,
            run,
        )
        pairs = match_pairs(frames, pairs_P2, reader.grid, run, config.consensus)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "codes": frames.codes_NLP,
            "rays": frames.rays_KL2,
            "camera": frames.camera_N,
            "rotation": poses.rotation,
            "translation": poses.translation,
            "query": pairs.query_P,
            "reference": pairs.reference_P,
            "turn": pairs.guess.turn_B33,
            "heading": pairs.guess.heading_B3,
            "channels": pairs.channels_PChw,
            "belief": pairs.belief_P,
        }
        _write(content, path)
    return safetensors.torch.load_file(path)


def as_one_lesson(parts: Sequence[Mapping[str, Tensor]], reader: FrameReader) -> Lesson:
    """All scenes as one: a pair is of two views of one scene.

    Raises:
        InputError: there is no pair.
    """

    def joined(name: str, counted: str = "") -> Tensor:
        """Tensors of all parts; indices into `counted` are moved past those of the parts before."""
        sizes = [len(part[counted]) if counted else 0 for part in parts]
        first = np.cumsum([0, *sizes[:-1]]).tolist()
        return torch.cat(
            [part[name] + f if f else part[name] for part, f in zip(parts, first, strict=True)]
        )

    codes_NLP = joined("codes")
    if not any(len(part["query"]) for part in parts):
        raise InputError(
            f"no two of the {len(codes_NLP)} views of {len(parts)} scenes are of one scene, and "
            "relative poses are learned from pairs: give scenes of more views"
        )
    nothing = torch.zeros(len(codes_NLP), 1)
    frames = Frames(codes_NLP, joined("rays"), joined("camera", "rays"), nothing)
    plain = Whitening(torch.zeros(0), torch.zeros(0, 0), torch.zeros(0))
    place = Place(
        [str(number) for number in range(len(codes_NLP))],
        Rigid3d(joined("rotation"), joined("translation")),
        frames,
        nothing,
        plain,
        1.0,
    )
    pairs = Pairs(
        joined("query", "codes"),
        joined("reference", "codes"),
        Guess(joined("turn"), joined("heading")),
        joined("channels"),
        joined("belief"),
    )
    return Lesson(reader, place, pairs, ())


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    partial = path.with_name(f".{path.name}")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(contiguous, partial)
    partial.rename(path)
