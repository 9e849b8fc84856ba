"""ESAC's gate: it learns who is right, and shares out what RANSAC may draw."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from reloc.contract import Run, Tensors, UnfinishedMapError
from reloc.methods.coordinates import esac
from reloc.methods.coordinates.ace import reprojection_loss
from reloc.methods.coordinates.esac import EsacConfig, Gate
from reloc.methods.coordinates.parts import train_parts
from reloc.nn.descriptors.pooled import pool_codes
from reloc.nn.encoder import SIZES, Encoder
from reloc.scenes.scene import Scene, View
from reloc.training.buffer import encode, resized_grey

CONFIG = EsacConfig(
    short_side_px=96,
    width=48,
    num_images=20,
    steps=200,
    batch_size=256,
    points_until=0.0,
    gate_images=20,
    gate_steps=60,
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(SIZES["small"]).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def halves(small_room: Scene) -> list[View]:
    """Two walls of a room: views that look one way, then views that look the other way."""
    direction_V3 = torch.stack([view.cam_from_world.rotation[2] for view in small_room.mapping])
    order = (direction_V3 @ direction_V3[0]).argsort(descending=True).tolist()
    return [small_room.mapping[index] for index in (*order[:10], *order[-10:])]


@pytest.fixture(scope="module")
def experts(encoder: Encoder, halves: list[View]) -> Tensors:
    loss = partial(reprojection_loss, loose_px=CONFIG.loose_px, tight_px=CONFIG.tight_px)
    parts = [list(range(10)), list(range(10, 20))]
    return train_parts(encoder, halves, parts, CONFIG, loss, Run())


def test_the_gate_learns_whose_points_agree_with_the_pose(
    encoder: Encoder, halves: list[View], experts: Tensors
) -> None:
    looks, target = esac._measured(encoder, halves, experts, CONFIG, Run())
    assert looks.shape == (20, 2 * 128)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(20))
    # Each expert is right about most of the views that it has learned, the other one is not.
    mine = (target.argmax(dim=1) == (torch.arange(20) >= 10).long()).float().mean()
    assert float(mine) > 0.8
    gate_tensors = esac._train_gate(encoder, halves, experts, CONFIG, Run())
    tensors = {**experts, **gate_tensors}
    choose = esac.choice(tensors, CONFIG, Run())
    right = 0
    for number, view in enumerate(halves):
        grey = torch.from_numpy(resized_grey(view.read_image(), CONFIG.short_side_px))
        preferred, *_ = choose(encode(encoder, grey[None], Run())[0])
        right += preferred == (number >= 10)
    assert right >= 16


def _gate(logits: list[float]) -> Gate:
    """A gate that has made up its mind."""
    gate = Gate(8, 4, len(logits))
    with torch.no_grad():
        gate.leave.weight.zero_()
        gate.leave.bias.copy_(torch.tensor(logits))
    return gate


def test_samples_are_shared_out_by_the_gate_among_the_best_experts() -> None:
    config = replace(CONFIG, max_experts=2, num_hypotheses=1000)
    chances = torch.tensor([0.1, 0.6, 0.3])
    shares = esac._gated(_gate(chances.log().tolist()), config, torch.randn(30, 4))
    assert list(shares.items()) == [(1, 667), (2, 333)]
    sure = esac._gated(_gate([0.0, 20.0, 0.0]), config, torch.randn(30, 4))
    assert list(sure.items()) == [(1, 1000)]
    everyone = replace(config, max_experts=9)
    assert sum(esac._gated(_gate([0.0, 0.0, 0.0]), everyone, torch.randn(30, 4)).values()) == 999


def test_somebody_answers_however_few_samples_there_are() -> None:
    equal = _gate([0.0, 0.0, 0.0])
    config = replace(CONFIG, max_experts=3, num_hypotheses=45)
    assert list(esac._gated(equal, config, torch.randn(30, 4)).items()) == [(0, 45)]
    # Those of an expert that is not heard are shared out among the others.
    chances = torch.tensor([0.02, 0.58, 0.40])
    config = replace(config, num_hypotheses=100)
    shares = esac._gated(_gate(chances.log().tolist()), config, torch.randn(30, 4))
    assert list(shares.items()) == [(1, 59), (2, 41)]


def test_experts_are_not_lost_when_the_gate_is_interrupted(
    encoder: Encoder, halves: list[View], experts: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> Tensors:
        raise KeyboardInterrupt

    monkeypatch.setattr(esac, "shared_encoder", lambda *_: (encoder, {"made_with": torch.ones(1)}))
    monkeypatch.setattr(esac, "split_views", lambda *_: [list(range(10)), list(range(10, 20))])
    monkeypatch.setattr(esac, "train_parts", lambda *_: experts)
    monkeypatch.setattr(esac, "_train_gate", stopped)
    with pytest.raises(UnfinishedMapError) as unfinished:
        esac.build_map(halves, replace(CONFIG, num_experts=2), Run())
    early = unfinished.value.tensors
    assert early.keys() == {*experts, "made_with"}
    # All of them are asked.
    assert list(esac.choice(early, CONFIG, Run())(torch.randn(30, 4))) == [0, 1]


def test_the_look_of_an_image_does_not_depend_on_the_order_of_its_cells() -> None:
    codes = torch.randn(50, 6)
    torch.testing.assert_close(pool_codes(codes), pool_codes(codes.flip(0)))
    torch.testing.assert_close(pool_codes(codes)[:6], codes.mean(dim=0))
    assert bool(pool_codes(codes[:1]).isfinite().all())
