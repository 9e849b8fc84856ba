from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from damage import EVERY_BIT, flipped
from reloc.input_error import InputError
from reloc.maps import Map, Provenance, new_folder, tensor_to_text, text_to_tensor

PROVENANCE = Provenance(
    scene="küche",
    ground_truth="sfm",
    metric=True,
    num_views=12,
    seed=3,
    seconds=0.30000000000000004,
    device="cpu",
    threads=2,
    hardware="a machine",
    versions={"torch": "2.13.0"},
    pretrained_sha256={"encoder": "ab" * 32},
)
# 1e-05 means the same as 1E-05, which is one bit away: a checksum of values would not see it.
CONFIG = {"learning_rate": 1e-05, "name": "ü", "sizes": [1, 2], "nested": {"on": True, "no": None}}
TENSORS = {"points": torch.arange(6.0).reshape(2, 3), "names": text_to_tensor(["a.jpg", "b.jpg"])}


def a_map(**tensors: Tensor) -> Map:
    return Map("sift", CONFIG, tensors or TENSORS, PROVENANCE)


def assert_same(found: Map, expected: Map) -> None:
    assert found.method == expected.method
    assert found.config == expected.config
    assert found.provenance == expected.provenance
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert torch.equal(found.tensors[name].nan_to_num(7), tensor.nan_to_num(7))


dtypes = st.sampled_from(
    [torch.float64, torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool]
)
shapes = st.lists(st.integers(0, 3), max_size=3)
tensors = st.builds(lambda shape, dtype: torch.full(shape, 3).to(dtype), shapes, dtypes)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), tensors, max_size=4),
    st.dictionaries(st.text(), plain, max_size=4),
)
def test_a_map_comes_back(
    tmp_path_factory: pytest.TempPathFactory, held: dict[str, Tensor], config: dict[str, Any]
) -> None:
    held.pop("__metadata__", None)
    folder = tmp_path_factory.mktemp("maps") / "map"
    written = Map("sift", config, held, PROVENANCE)
    written.save(folder)
    assert_same(Map.load(folder), written)


def test_tensors_may_share_memory_and_be_views(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    written = a_map(all=base, same=base, part=base[1:], turned=base.T, row=base[0].expand(2, 4))
    written.save(tmp_path / "map")
    assert_same(Map.load(tmp_path / "map"), written)


def test_size_is_the_size_on_disk(tmp_path: Path) -> None:
    a_map(points=torch.zeros(100_000, 3), part=torch.zeros(1_000_000)[:10]).save(tmp_path / "map")
    on_disk = sum(path.stat().st_size for path in (tmp_path / "map").iterdir()) / 1e6
    assert Map.load(tmp_path / "map").megabytes == pytest.approx(on_disk, abs=2e-3)


@pytest.mark.parametrize("every_bit", EVERY_BIT)
@pytest.mark.parametrize("name", ["map.json", "map.safetensors"])
def test_no_flipped_bit_goes_unseen(tmp_path: Path, name: str, every_bit: bool) -> None:
    a_map().save(tmp_path / "map")
    path = tmp_path / "map" / name
    content = path.read_bytes()
    for changed in flipped(content, every_bit=every_bit):
        path.write_bytes(changed)
        with pytest.raises(InputError) as caught:
            Map.load(tmp_path / "map")
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    assert_same(Map.load(tmp_path / "map"), a_map())


@pytest.mark.parametrize("name", ["map.json", "map.safetensors"])
def test_no_cut_goes_unseen(tmp_path: Path, name: str) -> None:
    a_map().save(tmp_path / "map")
    path = tmp_path / "map" / name
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            Map.load(tmp_path / "map")
    path.write_bytes(content + b"\n")
    with pytest.raises(InputError):
        Map.load(tmp_path / "map")


def test_a_map_that_was_edited_by_hand_says_so(tmp_path: Path) -> None:
    a_map().save(tmp_path / "map")
    path = tmp_path / "map" / "map.json"
    text = path.read_text()
    path.write_text(text.replace('"sizes": [\n', '"sizes": [\n   4,\n'))
    with pytest.raises(InputError, match=r"map.json was changed after it was written: build"):
        Map.load(tmp_path / "map")
    # Also where it means the same: nobody should find out later what a tool rearranged.
    path.write_text(json.dumps(json.loads(text), indent=4))
    with pytest.raises(InputError, match="was changed after it was written"):
        Map.load(tmp_path / "map")


def test_a_newer_map_says_what_to_do(tmp_path: Path) -> None:
    a_map().save(tmp_path / "map")
    path = tmp_path / "map" / "map.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(InputError, match="has format 2, this reloc reads up to 1: upgrade"):
        Map.load(tmp_path / "map")


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "3", "", "{", '{"format_version": "1"}', '{"format_version": 0}', "[" * 10**5],
)
def test_another_json_is_no_map(tmp_path: Path, content: str) -> None:
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(InputError):
        Map.load(tmp_path)


def test_a_half_written_map_is_no_map(tmp_path: Path) -> None:
    a_map().save(tmp_path / "a")
    (tmp_path / "a" / "map.safetensors").unlink()
    with pytest.raises(InputError, match=r"the map is incomplete .*: build it again"):
        Map.load(tmp_path / "a")
    a_map().save(tmp_path / "b")
    (tmp_path / "b" / "map.json").unlink()
    with pytest.raises(InputError, match=r"is not a map: it has no map.json"):
        Map.load(tmp_path / "b")
    with pytest.raises(InputError, match="no such map folder"):
        Map.load(tmp_path / "c")
    (tmp_path / "d").write_text("a file")
    with pytest.raises(InputError, match="no such map folder"):
        Map.load(tmp_path / "d")


def test_tensors_of_another_map_are_refused(tmp_path: Path) -> None:
    a_map().save(tmp_path / "a")
    a_map(points=torch.ones(2, 3), names=TENSORS["names"]).save(tmp_path / "b")
    (tmp_path / "a" / "map.safetensors").replace(tmp_path / "b" / "map.safetensors")
    with pytest.raises(InputError, match=r"map.safetensors is damaged"):
        Map.load(tmp_path / "b")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "map").mkdir()
    with pytest.raises(InputError, match="exists: choose another name"):
        a_map().save(tmp_path / "map")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists: choose another name"):
        a_map().save(tmp_path / "link")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        a_map().save(tmp_path / "file" / "map")
    with pytest.raises(InputError, match="cannot be written: File name too long"):
        a_map().save(tmp_path / ("x" * 300))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "map"]
    assert list((tmp_path / "map").iterdir()) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_folder_leaves_nothing(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    with pytest.raises(interruption), new_folder(tmp_path / "map") as partial:
        (partial / "half").write_text("half")
        raise interruption
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    program = f"""
import resource, torch
from reloc.input_error import InputError
from reloc.maps import Map, Provenance
provenance = {PROVENANCE!r}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    map_ = Map("sift", {{}}, {{"points": torch.zeros(100_000)}}, provenance)
    map_.save({str(tmp_path / "map")!r})
except InputError as error:
    assert "\\n" not in str(error)
    print(error)
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written" in result.stdout
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_texts_come_back(lines: list[str]) -> None:
    assert tensor_to_text(text_to_tensor(lines)) == lines


def test_names_that_are_not_utf8_come_back() -> None:
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    assert tensor_to_text(text_to_tensor([name])) == [name]
    with pytest.raises(ValueError, match="NUL"):
        text_to_tensor(["a\0b"])
