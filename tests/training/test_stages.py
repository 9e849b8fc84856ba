"""Stages that are done are not done again; those that were stopped are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reloc.contract import Run, Tensors
from reloc.training.stages import kept


def test_a_stage_that_is_done_is_read_and_its_checkpoints_are_gone(tmp_path: Path) -> None:
    calls: list[Path | None] = []

    def make(run: Run) -> Tensors:
        calls.append(run.checkpoint_folder)
        assert run.checkpoint_folder
        run.checkpoint_folder.mkdir()
        (run.checkpoint_folder / "checkpoint.pt").write_text("step 7")
        return {"weights": torch.arange(4.0).half(), "turned": torch.eye(3)[:, :2].T}

    run = Run(checkpoint_folder=tmp_path)
    first = kept(run, "part_0", make)
    second = kept(run, "part_0", make)
    assert calls == [tmp_path / "part_0"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first.keys() == second.keys()
    assert not (tmp_path / "part_0").exists()
    kept(run, "part_1", make)
    assert calls == [tmp_path / "part_0", tmp_path / "part_1"]


def test_a_stage_that_was_stopped_keeps_its_checkpoints_and_no_result(tmp_path: Path) -> None:
    def stopped(run: Run) -> Tensors:
        assert run.checkpoint_folder
        run.checkpoint_folder.mkdir()
        (run.checkpoint_folder / "checkpoint.pt").write_text("step 7")
        raise KeyboardInterrupt

    run = Run(checkpoint_folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        kept(run, "gate", stopped)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["checkpoint.pt"]


def test_without_a_folder_nothing_is_kept() -> None:
    run = replace(Run(), checkpoint_folder=None)
    made = kept(run, "gate", lambda run: {"folder": torch.tensor(run.checkpoint_folder is None)})
    assert bool(made["folder"])
