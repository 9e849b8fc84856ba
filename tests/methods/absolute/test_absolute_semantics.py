"""What is seen where: labels go with their pictures, and are learned where there are some."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.methods.absolute.features import looks_of
from reloc.methods.absolute.frame import Frame
from reloc.methods.absolute.looks import Look, SmallCamera, Turning, take_labels, take_look
from reloc.methods.absolute.semantics import label_loss, label_tensors, labels_of, shares
from reloc.methods.absolute.sequences import SequenceLocalizer
from reloc.methods.absolute.vlocnet_pp import METHOD, VLocNetPlusPlus
from reloc.scenes.scene import Scene


@pytest.mark.parametrize("turn_seed", [None, (0, 1), (0, 2)])
def test_labels_are_turned_as_their_picture_is(
    small_room: Scene, turn_seed: tuple[int, ...] | None
) -> None:
    """Labels that can be read off the picture: what is white in it."""
    view = small_room.mapping[0]
    y, x = torch.meshgrid(torch.arange(180), torch.arange(240), indexing="ij")
    label_HW = (((x - 130) ** 2 + (y - 80) ** 2 < 60**2) * 1).byte()
    image_3HW = (255 * label_HW).expand(3, -1, -1)
    small, look, turning = SmallCamera.of([view], 80), Look(0, turn_seed), Turning(10, 6, 0)
    picture, _ = take_look(view, image_3HW, look, small, turning)
    labels = take_labels(view, label_HW, look, small, turning)
    assert labels.shape == picture.shape[:2]
    differ = labels != (picture[..., 0] > 127)
    # But for pixels on the edge of the disc.
    assert differ.mean() < 0.01 < labels.mean() < 0.99


def test_shares_and_loss_count_what_is_known() -> None:
    label = torch.tensor([[[1, 1, 0, 0], [1, 2, 0, 0]]], dtype=torch.uint8)
    share = shares(label, 2, (1, 2))
    torch.testing.assert_close(share, torch.tensor([[[[0.75, 0.0]], [[0.25, 0.0]]]]))
    logits = torch.tensor([[[[3.0, -9.0]], [[0.0, 5.0]]]])
    log_share = logits[0, :, 0, 0].log_softmax(0)
    expected = -(0.75 * log_share[0] + 0.25 * log_share[1])
    torch.testing.assert_close(label_loss(logits, share), expected)


def test_labels_stay_with_their_looks_when_a_view_is_left_out(small_room: Scene) -> None:
    config = dataclasses.replace(METHOD.tiny, num_looks=10)
    views = list(small_room.mapping[:4])
    labels = label_tensors(views, config, Run())
    black = torch.zeros_like(views[1].read_image())
    views[1] = dataclasses.replace(views[1], image_reader=lambda: black)
    camera, frame = SmallCamera.of(views, config.short_side_px), Frame.from_views(views)
    looks = looks_of(views, camera, frame, config, Run())
    kept = labels_of(looks, labels)
    assert len(kept) == len(looks) == 7
    assert torch.equal(labels["view_L"][[0, 1, 2, 6, 7, 8, 9]], looks.view_L)
    assert torch.equal(kept, labels["label_LHW"][[0, 1, 2, 6, 7, 8, 9]])


def test_views_without_labels_are_refused(small_room: Scene) -> None:
    config = dataclasses.replace(METHOD.tiny, semantics=True)
    views = list(small_room.mapping[:4])
    plain = [dataclasses.replace(view, label_reader=None) for view in views]
    with pytest.raises(InputError, match=r"3 of 4 mapping views have none .*leave semantics out"):
        METHOD.build_map([views[0], *plain[1:]], config, Run())
    small = dataclasses.replace(views[0], label_reader=lambda: torch.ones(5, 6).byte())
    with pytest.raises(InputError, match="6x5 pixels but its camera is for 240x180"):
        METHOD.build_map([small, *views[1:]], config, Run())
    nothing = [
        dataclasses.replace(view, label_reader=lambda: torch.zeros(180, 240).byte())
        for view in views
    ]
    with pytest.raises(InputError, match="nothing is known"):
        METHOD.build_map(nothing, config, Run())


def test_what_is_seen_is_learned_and_told_of_pictures_nobody_labelled(small_room: Scene) -> None:
    config = dataclasses.replace(METHOD.tiny, semantics=True, num_looks=40, batch_size=4, steps=60)
    tensors = METHOD.build_map(small_room.mapping, config, Run())
    localizer = METHOD.localizer(tensors, config, Run())
    assert isinstance(localizer, SequenceLocalizer)
    network = localizer.network
    assert isinstance(network, VLocNetPlusPlus)
    assert network.semantics is not None
    camera, frame = SmallCamera.of(small_room.mapping, 80), Frame.from_views(small_room.mapping)
    plain = dataclasses.replace(config, num_looks=len(small_room.queries))
    asked = looks_of(small_room.queries, camera, frame, plain, Run())
    logits = network.semantics(asked.maps(torch.arange(len(asked))))
    truth = label_tensors(small_room.queries, plain, Run())["label_LHW"]
    num_kinds = int(tensors["num_kinds"])
    share = shares(truth, max(num_kinds, int(truth.max())), logits.shape[-2:])
    told = torch.nn.functional.one_hot(logits.argmax(1), share.shape[1]).permute(0, 3, 1, 2)
    right = float((told * share).sum() / share.sum())
    # What it would be to say the commonest kind of all.
    commonest = float(share.sum((0, 2, 3)).max() / share.sum())
    assert right > commonest + 0.1
    # A query has no labels, and is answered.
    answers = localizer.localize([view.query() for view in small_room.queries[:3]])
    assert all(answer.cam_from_world is not None for answer in answers)
    # What is seen has a part in the pose.
    maps = asked.maps(torch.arange(2))[None]
    with torch.no_grad():
        before = network(maps).position_B3
        network.semantics.stage.conv.weight.zero_()
        after = network(maps).position_B3
    assert np.abs((after - before).numpy()).max() > 1e-3
