"""Work in stages, each with checkpoints of its own; a stage that is done is not done again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import safetensors.torch

from reloc.contract import Run, Tensors


def stage(run: Run, name: str) -> Run:
    """The run with a folder of its own for the checkpoints of a stage."""
    folder = run.checkpoint_folder
    return replace(run, checkpoint_folder=folder / name if folder else None)


def kept(run: Run, name: str, make: Callable[[Run], Tensors]) -> Tensors:
    """What a stage makes; read, where it was made before the run was stopped.

    Args:
        run: of the whole work. The stage gets a folder of its own in the run's, for checkpoints.
        name: of the stage, different from those of the others.
        make: the stage.
    """
    folder = run.checkpoint_folder
    if folder is None:
        return _contiguous(make(run))
    finished = folder / f"{name}.safetensors"
    if finished.exists():
        return safetensors.torch.load_file(finished)
    tensors = _contiguous(make(stage(run, name)))
    folder.mkdir(parents=True, exist_ok=True)
    partial = finished.with_name(f".{finished.name}")
    safetensors.torch.save_file({key: tensor.cpu() for key, tensor in tensors.items()}, partial)
    partial.rename(finished)
    shutil.rmtree(folder / name, ignore_errors=True)
    return tensors


def _contiguous(tensors: Tensors) -> Tensors:
    """As they come back from a file: sums over another layout round otherwise."""
    return {key: tensor.contiguous() for key, tensor in tensors.items()}
