"""Laws of networks from elsewhere: what they learn from, and maps that nothing is trained for."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import reloc
from reloc.contract import Run
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.methods import get_config
from reloc.methods.relative.mapfree import METHOD as MAPFREE
from reloc.methods.relative.pretraining import PretrainRelativeConfig, pretrain
from reloc.methods.relative.relpose_gnn import METHOD as RELPOSE_GNN
from reloc.methods.relative.shared import open_shared, shipped_path
from reloc.methods.retrieval.thumbnail import METHOD as THUMBNAIL
from reloc.scenes.scene import Scene, View

UNSEEN = dataclasses.replace(RELPOSE_GNN.presets["unseen"], short_side_px=160)
LITTLE = PretrainRelativeConfig(
    num_rooms=0,
    num_graph_rooms=0,
    num_judging_rooms=0,
    pairs_per_view=2,
    steps=3,
    batch_size=4,
    graph_steps=2,
)


def few(room: Scene, **changes: object) -> Scene:
    """A scene of few of the room's views."""
    return dataclasses.replace(room, mapping=room.mapping[:8], queries=(), **changes)


@pytest.fixture(scope="module")
def taught(small_room: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks that a few views have taught, in two goes: the first of fewer steps."""
    folder = tmp_path_factory.mktemp("taught")
    first = pretrain(LITTLE, [few(small_room)], folder, Run())
    (folder / "first").mkdir()
    shutil.copy(first, folder / "first")
    return pretrain(dataclasses.replace(LITTLE, steps=5), [few(small_room)], folder, Run())


def test_a_record_says_what_networks_learned_from_and_they_are_small(taught: Path):
    record = json.loads(taught.with_suffix(".json").read_text(encoding="utf-8"))
    ((name, num_pairs),) = record["pairs"].items()
    assert name.startswith("0-")
    # Both ways round.
    assert num_pairs >= 8
    assert num_pairs % 2 == 0
    assert record["steps"] == 5
    assert taught.stat().st_size < 1e6


def test_a_folder_goes_on_with_its_own_run_only(taught: Path, small_room: Scene):
    other = dataclasses.replace(LITTLE, width=32)
    with pytest.raises(InputError, match="another width"):
        pretrain(other, [few(small_room)], taught.parent, Run())
    with pytest.raises(InputError, match="another scenes"):
        pretrain(LITTLE, [few(small_room, name="other")], taught.parent, Run())


def test_what_goes_on_learns_more_and_its_graph_is_taught_anew(taught: Path):
    """A graph learns from what the network of pairs says: that of another one is not its graph."""
    before = load_file(taught.parent / "first" / taught.name)
    after = load_file(taught)
    assert before.keys() == after.keys()
    assert torch.equal(before["components"], after["components"])
    for prefix in ("network.", "graph."):
        names = [name for name in after if name.startswith(prefix)]
        assert any(not torch.equal(before[name], after[name]) for name in names)
    taught_by = {
        path.parent.parent.name: torch.load(path, weights_only=True)["step"]
        for path in taught.parent.glob("*/graph/checkpoint.pt")
    }
    assert taught_by == {"of-3-steps": LITTLE.graph_steps, "of-5-steps": LITTLE.graph_steps}


def test_a_folder_goes_on_with_the_same_views_and_no_fewer_steps_only(
    taught: Path, small_room: Scene
):
    for fewer in ({"steps": 4}, {"steps": 5, "graph_steps": 1}):
        with pytest.raises(InputError, match=r"as many or more"):
            pretrain(dataclasses.replace(LITTLE, **fewer), [few(small_room)], taught.parent, Run())
    room = few(small_room)
    moved = dataclasses.replace(
        room.mapping[0],
        cam_from_world=Rigid3d.exp(torch.ones(6, dtype=torch.float64))
        @ room.mapping[0].cam_from_world,
    )
    other = dataclasses.replace(room, mapping=[moved, *room.mapping[1:]])
    five = dataclasses.replace(LITTLE, steps=5)
    with pytest.raises(InputError, match=r"other views or poses"):
        pretrain(five, [other], taught.parent, Run())


def test_settings_that_cannot_be_read_are_refused_in_a_line(
    taught: Path, small_room: Scene, tmp_path: Path
):
    whole = (taught.parent / "settings.json").read_text(encoding="utf-8")
    for broken in (whole[: len(whole) // 2], "", "[]", "{}"):
        (tmp_path / "settings.json").write_text(broken, encoding="utf-8")
        with pytest.raises(InputError, match=r"^[^\n]*settings.json does not say[^\n]*$"):
            pretrain(LITTLE, [few(small_room)], tmp_path, Run())


def test_scenes_of_one_view_teach_nothing(tmp_path: Path, small_room: Scene):
    one = dataclasses.replace(small_room, mapping=small_room.mapping[:1], queries=())
    with pytest.raises(InputError, match=r"^no two of the 1 views[^\n]*$"):
        pretrain(LITTLE, [one], tmp_path, Run())


def test_heads_without_a_length_can_be_taught():
    for head in ("quat+direction", "essential"):
        assert PretrainRelativeConfig(head=head).network.combination == "triangulate"


def test_lengths_without_a_metre_teach_nothing(tmp_path: Path, small_room: Scene):
    with pytest.raises(InputError, match="arbitrary units"):
        pretrain(LITTLE, [few(small_room, metric=False)], tmp_path, Run())
    with pytest.raises(InputError, match="nothing to learn from"):
        pretrain(LITTLE, [], tmp_path, Run())


def test_a_map_holds_the_networks_that_it_was_given(taught: Path, small_room: Scene):
    path = taught.parent / "lent" / taught.name
    path.parent.mkdir()
    path.write_bytes(taught.read_bytes())
    config = dataclasses.replace(UNSEEN, weights=str(path.parent))
    tensors = RELPOSE_GNN.build_map(small_room.mapping[:6], config, Run())
    shared = open_shared(config)
    assert shared.tensors
    for name, value in shared.tensors.items():
        assert torch.equal(tensors[name], value)
    assert torch.equal(tensors["components"], shared.components_CP)
    path.unlink()
    query = small_room.mapping[7].query()
    answers = RELPOSE_GNN.localizer(tensors, config, Run()).localize([query])
    assert len(answers) == 1


def test_networks_for_other_settings_or_none_at_all_are_refused(taught: Path, small_room: Scene):
    def build(**changes: object) -> None:
        config = dataclasses.replace(UNSEEN, **changes)
        RELPOSE_GNN.build_map(small_room.mapping[:2], config, Run())

    with pytest.raises(InputError, match="head"):
        build(weights=str(taught), head="se3")
    with pytest.raises(InputError, match="known poses"):
        build(weights=str(taught), known_poses=False)
    with pytest.raises(InputError, match="holds no networks"):
        build(weights=str(taught.with_name("missing.safetensors")))
    with pytest.raises(InputError, match="holds no networks"):
        build(weights=str(taught.with_suffix(".json")))


def _errors(localizer, views: list[View]) -> np.ndarray:
    answers = localizer.localize([view.query() for view in views])
    poses = [answer.cam_from_world for answer in answers]
    return np.array(
        [
            np.inf if pose is None else float((pose.inverse().translation - v.center_world).norm())
            for pose, v in zip(poses, views, strict=True)
        ]
    )


def test_a_place_never_seen_is_known_better_than_by_its_most_similar_view(small_room: Scene):
    """With the networks that ship."""
    views = list(small_room.queries)
    tensors = RELPOSE_GNN.build_map(small_room.mapping, UNSEEN, Run())
    localizer = RELPOSE_GNN.localizer(tensors, UNSEEN, Run())
    retrieved = THUMBNAIL.build_map(small_room.mapping, THUMBNAIL.config(), Run())
    nearest = THUMBNAIL.localizer(retrieved, THUMBNAIL.config(), Run())
    assert np.median(_errors(localizer, views)) < 0.8 * np.median(_errors(nearest, views))


def test_answers_are_as_long_as_a_metre_is_in_the_scene(small_room: Scene):
    """A place three times as large: the unit that is read off it is, and so are the answers."""

    def tripled(view: View) -> View:
        pose = view.cam_from_world
        return dataclasses.replace(
            view, cam_from_world=Rigid3d(pose.rotation, 3 * pose.translation)
        )

    views = small_room.mapping[8:14]
    units, answers = [], []
    for some in (views, [tripled(view) for view in views]):
        tensors = RELPOSE_GNN.build_map(some, UNSEEN, Run())
        units.append(float(tensors["unit"]))
        query = small_room.mapping[14].query()
        answers += RELPOSE_GNN.localizer(tensors, UNSEEN, Run()).localize([query])
    assert units[1] / units[0] == pytest.approx(3, rel=1e-5)
    small, large = (answer.cam_from_world for answer in answers)
    assert small is not None
    assert large is not None
    torch.testing.assert_close(large.translation, 3 * small.translation, rtol=0, atol=1e-3)


def test_one_photo_is_map_enough(small_room: Scene):
    """The photo's neighbour is answered, nearer to the truth than the photo itself is turned."""
    config = dataclasses.replace(MAPFREE.presets["unseen"], short_side_px=160)
    first, second = small_room.mapping[10], small_room.mapping[11]
    tensors = MAPFREE.build_map([first], config, Run())
    assert float(tensors["unit"]) == 1.0
    (answer,) = MAPFREE.localizer(tensors, config, Run()).localize([second.query()])
    assert answer.cam_from_world is not None
    error = answer.cam_from_world @ second.cam_from_world.inverse()
    between = first.cam_from_world @ second.cam_from_world.inverse()
    assert float(error.log()[:3].norm()) < 0.5 * float(between.log()[:3].norm())


def test_a_scene_of_one_photo_is_mapped_by_what_needs_no_training(small_room: Scene):
    """As a whole run does it; what learns from the scene's views says that it needs more."""
    one = dataclasses.replace(small_room, mapping=small_room.mapping[10:11])
    query = small_room.mapping[11].query()
    for method in ("mapfree", "relpose-gnn"):
        row, unseen = get_config(f"{method}:unseen")
        config = dataclasses.replace(unseen, short_side_px=96)
        map_ = reloc.build_map(method, one, config)
        assert map_.provenance.num_views == 1
        # Maps of before the focal length was kept.
        old = {name: value for name, value in map_.tensors.items() if name != "focal_ratio"}
        with pytest.raises(InputError, match="build the map again"):
            row.localizer(old, config, Run())
        assert reloc.localize(map_, [query]).by_name[query.name].cam_from_world is not None
        with pytest.raises(InputError, match=r"learned from pairs: [^\n]*$"):
            reloc.build_map(method, one, row.tiny)
        with pytest.raises(InputError, match="at least 1"):
            reloc.build_map(method, dataclasses.replace(one, mapping=()), config)
    with pytest.raises(InputError, match="at least 2"):
        reloc.build_map("thumbnail", one)


def test_the_networks_that_ship_are_small():
    assert shipped_path().stat().st_size < 1e6
