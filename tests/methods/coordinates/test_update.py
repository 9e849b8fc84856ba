"""Teaching a map new views: they are learned, the old ones are not forgotten, and both is said."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from reloc.contract import Run, Tensors, Updated
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods.coordinates import update
from reloc.methods.coordinates.ace import reprojection_loss
from reloc.methods.coordinates.cameras import cameras_in_frame, mapping_cameras
from reloc.methods.coordinates.map_tensors import head_of, head_tensors
from reloc.methods.coordinates.mapping import fit_head
from reloc.methods.coordinates.parts import PartsConfig
from reloc.methods.coordinates.points import agreeing
from reloc.nn.heads import CoordinateHead
from reloc.scenes.scene import View
from reloc.training.buffer import FeatureBuffer
from reloc.training.replay import PosedCells

CONFIG = PartsConfig(
    width=64, steps=800, batch_size=256, loose_px=100.0, points_until=0.0, replay_cells=512
)
LOSS = partial(reprojection_loss, loose_px=CONFIG.loose_px, tight_px=CONFIG.tight_px)
NUM_CODES, NUM_VIEWS, CELLS_PER_VIEW = 32, 12, 100


def _views(begin: float, end: float) -> list[View]:
    """Cameras along a street that look at the house fronts, two units away."""

    def unread() -> torch.Tensor:
        raise InputError("no photo is needed: the cells are given")

    camera = Camera.simple_pinhole(500.0, 640, 480)
    centers_V = torch.linspace(begin, end, NUM_VIEWS, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    return [
        View(
            f"{x:.2f}.jpg",
            camera,
            Rigid3d(eye, torch.tensor([-x, 0.0, 0.0], dtype=torch.float64)),
            unread,
        )
        for x in centers_V.tolist()
    ]


def _cells(views: list[View], seed: int = 0) -> PosedCells:
    """Cells whose codes are waves of the point that they show: easy to learn from."""
    generator = torch.Generator().manual_seed(seed)
    count = len(views) * CELLS_PER_VIEW
    view_N = torch.arange(count) // CELLS_PER_VIEW
    rays_N2 = torch.rand(count, 2, generator=generator) - 0.5
    depth_N = 2 + 0.3 * torch.sin(7 * rays_N2[:, 0])
    poses = Rigid3d.stack([view.cam_from_world for view in views])
    centers_N3 = poses.inverse().translation[view_N].float()
    points_N3 = centers_N3 + torch.cat([rays_N2, torch.ones(count, 1)], 1) * depth_N[:, None]
    waves = 1.5 * torch.randn(3, NUM_CODES, generator=torch.Generator().manual_seed(9))
    codes_NC = 1.4 * torch.sin(points_N3 @ waves + torch.arange(NUM_CODES))
    buffer = FeatureBuffer(codes_NC.half(), rays_N2, view_N.int(), torch.full((count,), torch.nan))
    return PosedCells(buffer, poses, torch.full((len(views),), 500.0), len(views))


OLD, NEW = _views(0.0, 3.0), _views(3.0, 6.0)


@pytest.fixture(scope="module")
def known() -> Tensors:
    """A map of the first half of the street."""
    cameras = mapping_cameras(OLD, CONFIG, "cpu")
    cells = _cells(OLD)
    torch.manual_seed(0)
    head = CoordinateHead(NUM_CODES, CONFIG.width, 1)

    def draw(generator: torch.Generator) -> torch.Tensor:
        return torch.randint(len(cells), (CONFIG.batch_size,), generator=generator)

    fit_head(head, cells.buffer, cameras, draw, CONFIG, LOSS, Run())
    return {
        **head_tensors(head, cameras),
        **cells.sample(CONFIG.replay_cells, 0).tensors(),
    }


@pytest.fixture(autouse=True)
def given_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are given instead of encoded, and no view is kept apart to be asked."""

    def given(_encoder: object, views: list[View], *_: object) -> PosedCells:
        return _cells(views, seed=1)

    monkeypatch.setattr(update, "encode_cells", given)
    monkeypatch.setattr(update, "encoder_of_map", lambda *_: torch.nn.Identity())
    monkeypatch.setattr(
        update, "learned_and_left_out", lambda views: (list(range(len(views))), range(0))
    )


def _agreement(tensors: Tensors, views: list[View]) -> float:
    """Share of unseen cells of views whose points a map knows."""
    cells = _cells(views, seed=2)
    cameras = cameras_in_frame(
        cells.cam_from_world,
        cells.focal_px_V,
        tensors["center_3"],
        float(tensors["scale"]),
        "cpu",
    )
    head = head_of(tensors, CONFIG, "cpu")
    _, agrees_N = agreeing(head, cells.buffer, cameras, CONFIG, Run())
    return float(agrees_N.float().mean())


def _update(tensors: Tensors, views: list[View] = NEW, run: Run | None = None) -> Updated:
    return update.update_map(tensors, views, CONFIG, LOSS, run or Run())


def test_new_views_are_learned_and_old_ones_are_not_forgotten(known: Tensors) -> None:
    before = {name: tensor.clone() for name, tensor in known.items()}
    updated = _update(known)
    assert all(torch.equal(before[name], known[name]) for name in known)
    assert updated.tensors.keys() == known.keys()
    old_before, new_before = _agreement(known, OLD), _agreement(known, NEW)
    old_after, new_after = _agreement(updated.tensors, OLD), _agreement(updated.tensors, NEW)
    assert old_before > 0.8
    assert new_before < 0.2
    assert new_after > 0.7
    assert old_after > old_before - 0.1
    # Without the old cells, they would be: the law is not empty.
    one = PosedCells.from_tensors(known, "cpu")
    assert one is not None
    forgetful = _update({**known, **one.sample(1, 0).tensors()})
    assert _agreement(forgetful.tensors, OLD) < old_after - 0.2


def test_what_changed_is_said_place_by_place_and_of_the_new_views(known: Tensors) -> None:
    updated = _update(known)
    *places, new = updated.changes
    assert new.part == f"{NUM_VIEWS} new views"
    assert new.agreeing_before is not None
    assert new.agreeing_after is not None
    assert new.agreeing_after > new.agreeing_before + 0.5
    assert sum(place.num_points for place in places) == CONFIG.replay_cells
    for place in places:
        assert place.part.startswith("seen from about (")
        assert place.moved is not None
        assert 0 < place.moved < 0.3


def test_the_cells_that_are_kept_are_of_old_and_new_views_alike(known: Tensors) -> None:
    kept = PosedCells.from_tensors(_update(known).tensors, "cpu")
    assert kept is not None
    assert len(kept) == CONFIG.replay_cells
    assert kept.num_views == 2 * NUM_VIEWS
    new_V = kept.cam_from_world.inverse().translation[:, 0] > 3.0
    share = float(new_V[kept.buffer.view_N.long()].float().mean())
    assert 0.4 < share < 0.55


def test_a_map_that_kept_no_cells_cannot_learn_more(known: Tensors) -> None:
    without = {name: tensor for name, tensor in known.items() if not name.startswith("replay.")}
    with pytest.raises(InputError, match="--replay-cells"):
        _update(without)


def test_an_interrupted_update_goes_on_to_the_same_map(
    known: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _update(known).tensors
    calls = 0

    def stopping(*arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 50:
            raise KeyboardInterrupt
        return LOSS(*arguments)  # type: ignore[arg-type]

    run = Run(checkpoint_folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        update.update_map(known, NEW, CONFIG, stopping, run)
    assert list(tmp_path.rglob("checkpoint.pt"))
    again = _update(known, run=run).tensors
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_parts_learn_the_views_that_look_where_they_do(known: Tensors) -> None:
    far = {
        **known,
        "center_3": known["center_3"] + torch.tensor([100.0, 0, 0]),
        "replay.translations": known["replay.translations"] - torch.tensor([100.0, 0, 0]),
    }
    both = {
        **{f"part_0.{name}": tensor for name, tensor in far.items()},
        **{f"part_1.{name}": tensor for name, tensor in known.items()},
    }
    updated = _update(both)
    for name, tensor in both.items():
        if name.startswith("part_0."):
            assert updated.tensors[name] is tensor
    alone = _update(known).tensors
    learned = updated.tensors["part_1.head.point.weight"]
    assert torch.equal(learned, alone["head.point.weight"])
    first, *others = updated.changes
    assert first == replace(first, part="part 1, no new view looks there", num_points=0)
    assert all(change.part.startswith("part 2, ") for change in others)
