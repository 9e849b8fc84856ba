from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reloc.input_error import InputError
from reloc.scenes.splits import Split, blocks, choose_split


def sequence_of(lengths) -> dict[str, str]:
    return {f"s{s}/{i}": f"s{s}" for s, length in enumerate(lengths) for i in range(length)}


@given(st.lists(st.integers(1, 260), min_size=1, max_size=4))
def test_blocks_keep_their_distance(lengths):
    names = sequence_of(lengths)
    split = blocks(names)
    assert not set(split.mapping) & set(split.queries)
    assert {*split.mapping, *split.queries} <= set(names)
    for s, length in enumerate(lengths):
        mapped = {int(n.split("/")[1]) for n in split.mapping if n.startswith(f"s{s}/")}
        asked = {int(n.split("/")[1]) for n in split.queries if n.startswith(f"s{s}/")}
        assert mapped
        if length >= 50:
            # Two guard frames between a query and any mapping frame, in whole sequences of frames.
            assert min(abs(m - q) for m in mapped for q in asked) == 3
            assert len(asked) == 10 * (length // 50) + max(0, length % 50 - 40)
        elif length >= 5:
            assert len(asked) == length // 5
            assert min(asked) > max(mapped)
        if length >= 13:
            assert min(abs(m - q) for m in mapped for q in asked) > 1
        # Queries come in runs, not one by one.
        runs = sum(q - 1 not in asked for q in asked)
        assert runs <= max(1, -(-length // 50))


def test_fifty_frames_as_the_page_says():
    split = blocks(sequence_of([100]))
    numbers = [int(name.split("/")[1]) for name in split.mapping]
    assert numbers == [*range(38), *range(52, 88)]
    asked = [int(name.split("/")[1]) for name in split.queries]
    assert asked == [*range(40, 50), *range(90, 100)]


class TestChooseSplit:
    names = sequence_of([60])

    def write(self, folder: Path, name: str, lines: list[str]) -> None:
        (folder / name).write_text("\n".join(lines) + "\n")

    def test_files_win_over_made_blocks(self, tmp_path):
        self.write(tmp_path, "split_train.txt", ["s0/1", "s0/2"])
        self.write(tmp_path, "split_test.txt", ["# queries", "", "s0/7"])
        split = choose_split(self.names, tmp_path, None)
        assert (split.mapping, split.queries) == (("s0/1", "s0/2"), ("s0/7",))
        assert choose_split(self.names, tmp_path, "auto") == blocks(self.names)

    def test_the_layouts_own_wins_over_files(self, tmp_path):
        self.write(tmp_path, "split_test.txt", ["s0/7"])
        own = Split(("s0/3",), ("s0/4",))
        assert choose_split(self.names, tmp_path, None, own) == own

    def test_without_a_train_list_the_rest_maps(self, tmp_path):
        self.write(tmp_path, "split_late_test.txt", ["s0/58", "s0/59"])
        split = choose_split(self.names, tmp_path, "late")
        assert split.queries == ("s0/58", "s0/59")
        assert len(split.mapping) == 58

    def test_unknown_split_names_the_known(self, tmp_path):
        self.write(tmp_path, "split_very_hard_test.txt", ["s0/1"])
        with pytest.raises(InputError, match="it has auto, very_hard"):
            choose_split(self.names, tmp_path, "easy")

    def test_absent_images_are_named_and_counted(self, tmp_path):
        self.write(tmp_path, "split_train.txt", ["s0/1"])
        self.write(tmp_path, "split_test.txt", ["s0/2", "s0/60", "s0/61", "s0/62"])
        with pytest.raises(InputError, match=r"split_test.txt names s0/60 and 2 others"):
            choose_split(self.names, tmp_path, None)

    def test_images_that_were_left_out_may_be_listed(self, tmp_path):
        self.write(tmp_path, "split_test.txt", ["s0/2", "s0/60"])
        split = choose_split(self.names, tmp_path, None, left_out=["s0/60"])
        assert split.queries == ("s0/2",)

    def test_empty_list(self, tmp_path):
        self.write(tmp_path, "split_test.txt", ["# nothing"])
        with pytest.raises(InputError, match="lists no image"):
            choose_split(self.names, tmp_path, None)
