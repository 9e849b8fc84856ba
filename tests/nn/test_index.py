"""The index of image vectors: exact among few, nearly so among many; on the disk and off it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reloc.input_error import InputError
from reloc.nn.descriptors.index import DescriptorIndex, IndexConfig

CONFIG = IndexConfig(exact_up_to=10_000, probed_share=0.1)


def vectors_of_places(num_places: int, views: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(num_places, 1, 32, generator=generator)
    vectors = places + 0.5 * torch.randn(num_places, views, 32, generator=generator)
    return functional.normalize(vectors.flatten(0, 1), dim=1).half().float()


@pytest.fixture(scope="module")
def many() -> Tensor:
    return vectors_of_places(600, 20)


@pytest.fixture(scope="module")
def celled(many) -> DescriptorIndex:
    return DescriptorIndex.build(many, CONFIG)


def test_few_are_compared_one_by_one() -> None:
    vectors = vectors_of_places(40, 5)
    index = DescriptorIndex.build(vectors)
    for query in vectors[::17]:
        products, found = index.search(query, 10)
        expected = (vectors @ query).sort(descending=True, stable=True)
        torch.testing.assert_close(products, expected.values[:10])
        assert set(found.tolist()) == set(expected.indices[:10].tolist())
    products, found = index.search(vectors[0], 1000)
    assert len(found) == len(products) == 200


def test_many_are_found_nearly_as_well(many, celled) -> None:
    recall = []
    for query in vectors_of_places(600, 1, seed=0)[::10]:
        products, found = celled.search(query, 10)
        assert bool((products.diff() <= 0).all())
        torch.testing.assert_close(products, many[found] @ query, rtol=0, atol=1e-3)
        exact = (many @ query).topk(10).indices
        recall.append(len(set(found.tolist()) & set(exact.tolist())) / 10)
    assert np.mean(recall) >= 0.95


def test_what_is_added_is_found(many) -> None:
    index = DescriptorIndex.build(many, CONFIG)
    more = vectors_of_places(5, 4, seed=9)
    index.add(more)
    assert len(index) == len(many) + 20
    for number, query in enumerate(more):
        assert int(index.search(query, 1)[1][0]) == len(many) + number


@pytest.mark.parametrize("memory_map", [True, False])
def test_a_saved_index_answers_the_same(many, celled, tmp_path, memory_map) -> None:
    small = DescriptorIndex.build(many[:50])
    for name, index in (("many", celled), ("few", small)):
        index.save(tmp_path / name)
        opened = DescriptorIndex.open(tmp_path / name, CONFIG, memory_map=memory_map)
        assert len(opened) == len(index)
        for query in many[:40:7]:
            assert torch.equal(opened.search(query, 5)[1], index.search(query, 5)[1])
        if memory_map:
            with pytest.raises(InputError, match="memory-mapped"):
                opened.add(many[:1])
        else:
            opened.add(many[:1])
            assert len(opened) == len(index) + 1


def test_damage_is_one_line(celled, tmp_path) -> None:
    with pytest.raises(InputError, match="is no index"):
        DescriptorIndex.open(tmp_path / "nothing")
    celled.save(tmp_path / "index")
    vectors = tmp_path / "index" / "vectors.npy"
    np.save(vectors, np.load(vectors)[:-1])
    with pytest.raises(InputError, match="damaged"):
        DescriptorIndex.open(tmp_path / "index")
    (tmp_path / "index" / "cells.faiss").write_bytes(b"IxF")
    with pytest.raises(InputError, match="damaged") as caught:
        DescriptorIndex.open(tmp_path / "index")
    assert "\n" not in str(caught.value)


def test_settings_out_of_range_are_refused() -> None:
    for setting in ({"exact_up_to": 10}, {"probed_share": 0.0}, {"shortlist": 0}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            IndexConfig(**setting)
