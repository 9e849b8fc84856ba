"""Weak supervision: near views become more alike than far ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reloc.contract import Run
from reloc.geometry.rigid3d import Rigid3d
from reloc.nn.descriptors.codes import ImageCodes
from reloc.nn.descriptors.netvlad import NetVladConfig, initial_layer
from reloc.training.train_netvlad import NetVladTraining, fit_netvlad, near_and_far, train_layer

CONFIG = NetVladConfig(short_side_px=96, num_words=8, num_dimensions=16)
TRAINING = NetVladTraining(
    steps=60, learning_rate=1e-3, near_share=0.3, near_deg=60.0, far_deg=90.0
)


def test_near_and_far_exclude_each_other_and_oneself(small_room) -> None:
    poses = Rigid3d.stack([view.cam_from_world for view in small_room.mapping])
    near_VV, far_VV = near_and_far(poses, NetVladTraining())
    assert not bool((near_VV & far_VV).any())
    assert not bool((near_VV | far_VV).diagonal().any())
    assert torch.equal(near_VV, near_VV.T)


def test_training_lets_near_views_win_against_the_far_ones_most_like_them(small_room) -> None:
    views = small_room.mapping
    codes = ImageCodes("base", CONFIG.short_side_px)
    layer = initial_layer(views, codes, CONFIG.num_words, seed=0)
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    near_VV, far_VV = near_and_far(poses, TRAINING)
    one, other = near_VV.nonzero(as_tuple=True)
    assert len(one) >= 20
    codes_VNC = torch.stack([codes(view.read_image()) for view in views])  # pyright: ignore

    def loss() -> float:
        with torch.no_grad():
            vectors_VL = layer(codes_VNC)
        squared_VV = 2 - 2 * vectors_VL @ vectors_VL.T
        hardest_V = squared_VV.masked_fill(~far_VV, torch.inf).amin(1)
        return float((squared_VV[one, other] + 0.1 - hardest_V[one]).clamp_min(0).mean())

    before = loss()
    train_layer(layer, views, codes, TRAINING, Run())
    assert loss() < 0.8 * before


def test_views_of_one_place_keep_the_words_of_k_means(small_room) -> None:
    one = small_room.mapping[0]
    views = [replace(one, name=f"{index}") for index in range(5)]
    trained, vectors_ND = fit_netvlad(views, CONFIG, TRAINING, Run())
    plain, _ = fit_netvlad(views, CONFIG, NetVladTraining(steps=0), Run())
    assert torch.equal(trained.state()["netvlad_words"], plain.state()["netvlad_words"])
    torch.testing.assert_close(vectors_ND.norm(dim=1), torch.ones(5))


def test_settings_out_of_range_are_refused() -> None:
    for setting in ({"tuples": 0}, {"steps": -1}, {"near_share": 0.9}):
        with pytest.raises(ValueError, match=r"(tuples|steps|nearer)"):
            NetVladTraining(**setting)
