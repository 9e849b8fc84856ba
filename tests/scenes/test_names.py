from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reloc.input_error import InputError
from reloc.scenes.names import NameIndex, image_name, natural_key


def test_numbers_sort_as_numbers():
    names = ["b/2.jpg", "a10.png", "a9.png", "b/10.jpg", "a09b.png"]
    assert sorted(names, key=natural_key) == [
        "a9.png",
        "a09b.png",
        "a10.png",
        "b/2.jpg",
        "b/10.jpg",
    ]


@given(st.lists(st.text(max_size=12)))
def test_any_names_can_be_sorted(names):
    keys = sorted(map(natural_key, names))
    assert all(one <= other for one, other in itertools.pairwise(keys))


@pytest.mark.parametrize(
    "spelling",
    [
        "seq-01/frame-000100.color.jpg",
        "./seq-01/frame-000100.color.jpg",
        "seq-01/frame-000100.color",
        "seq-01/frame-000100",
        "frame-000100.color.jpg",
        "frame-000100",
    ],
)
def test_spellings_of_one_image(spelling):
    index = NameIndex(["seq-01/frame-000100.color.jpg", "seq-01/frame-000101.color.jpg"])
    assert index.find(spelling) == "seq-01/frame-000100.color.jpg"


def test_unknown_is_none_and_ambiguous_is_refused():
    index = NameIndex(["seq-01/frame-0.png", "seq-02/frame-0.png"])
    assert index.find("frame-1") is None
    assert index.find("seq-02/frame-0") == "seq-02/frame-0.png"
    with pytest.raises(InputError, match=r"seq-01/frame-0\.png and seq-02/frame-0\.png"):
        index.find("frame-0")


def test_a_whole_name_wins_over_a_spelling_of_another():
    assert NameIndex(["a", "a.png"]).find("a") == "a"


def test_image_name_is_the_path_below_the_scene():
    assert image_name(Path("scene/seq/1.png"), Path("scene")) == "seq/1.png"
