"""What every scene coordinate map obeys, whatever the encoder: here one of random weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from reloc.contract import Run, Tensors, UnfinishedMapError
from reloc.geometry.camera import Camera
from reloc.input_error import InputError
from reloc.methods import get_method
from reloc.methods.coordinates.ace import AceConfig, reprojection_loss
from reloc.methods.coordinates.localizer import CoordinatesLocalizer
from reloc.methods.coordinates.mapping import train_head
from reloc.nn.encoder import SIZES, Encoder
from reloc.progress import Item, Silent
from reloc.scenes.scene import Scene

CONFIG = AceConfig(short_side_px=64, width=32, num_images=10, steps=30, batch_size=128)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(SIZES["small"]).eval().requires_grad_(False)


def _train(encoder: Encoder, scene: Scene, run: Run, config: AceConfig = CONFIG) -> Tensors:
    loss = partial(reprojection_loss, loose_px=config.loose_px, tight_px=config.tight_px)
    return train_head(encoder, scene.mapping[::4], config, loss, run)


@dataclass(frozen=True)
class _InterruptedAt(Silent):
    """Ctrl-C before a step of the training."""

    step: int

    def track(
        self, items: Iterable[Item], description: str, total: int | None = None
    ) -> Iterator[Item]:
        del total
        for number, item in enumerate(items):
            if description == "training the map" and number == self.step:
                raise KeyboardInterrupt
            yield item


def test_an_interrupted_map_answers_and_goes_on_to_the_same_map(
    encoder: Encoder, small_room: Scene, tmp_path: Path
) -> None:
    whole = _train(encoder, small_room, Run())
    run = Run(checkpoint_folder=tmp_path)
    with pytest.raises(UnfinishedMapError) as stopped:
        _train(encoder, small_room, replace(run, progress=_InterruptedAt(12)))
    early = stopped.value.tensors
    assert set(early) == set(whole)
    CoordinatesLocalizer(encoder, early, CONFIG, Run()).localize([small_room.queries[0].query()])
    assert save(dict(_train(encoder, small_room, run))) == save(dict(whole))
    assert save(dict(early)) != save(dict(whole))


def test_a_view_that_cannot_be_read_is_named_and_left_out(
    encoder: Encoder, small_room: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> torch.Tensor:
        raise InputError("frame.png is cut short")

    broken = [replace(view, image_reader=fail) for view in small_room.mapping]
    some = [
        broken[number] if number % 8 == 0 else view
        for number, view in enumerate(small_room.mapping)
    ]
    _train(encoder, replace(small_room, mapping=some), Run())
    assert "frame.png is cut short" in caplog.text
    with pytest.raises(InputError, match="none of the 10 mapping images"):
        _train(encoder, replace(small_room, mapping=broken), Run())


def test_a_batch_answers_each_query_as_it_would_alone(encoder: Encoder, small_room: Scene) -> None:
    config = replace(CONFIG, min_inlier_ratio=0.0)
    tensors = _train(encoder, small_room, Run(), config)
    localizer = CoordinatesLocalizer(encoder, tensors, config, Run(precision="fp32"))
    queries = [view.query() for view in small_room.queries[:4]]
    alone = localizer.localize(queries)
    # What accelerators do; a processor takes queries one by one.
    together = localizer._localize_batch(queries)
    assert any(answer.cam_from_world is not None for answer in alone)
    for one, other in zip(alone, together, strict=True):
        assert set(one.stage_ms) == {"encode", "head", "pose"}
        if one.cam_from_world is None:
            assert other.cam_from_world is None
        else:
            assert other.cam_from_world is not None
            torch.testing.assert_close(
                other.cam_from_world.matrix, one.cam_from_world.matrix, rtol=0, atol=1e-3
            )


def test_scene_points_are_not_learned_with_a_guessed_focal_length(small_room: Scene) -> None:
    """They would be wrong by as much as it is, and nothing would say so."""
    guessed = [
        replace(view, camera=Camera.guess(view.camera.width, view.camera.height))
        for view in small_room.mapping[:3]
    ]
    views = [*guessed, *small_room.mapping[3:]]
    said = r"3 of 40 mapping views, the first is mapping/0000, have no known focal length"
    for name in ("ace", "scorf"):
        with pytest.raises(InputError, match=said):
            get_method(name).build_map(views, get_method(name).tiny, Run())
