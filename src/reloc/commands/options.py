"""Options that several commands share."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reloc.contract import Precision, Run
from reloc.input_error import InputError
from reloc.progress import Progress
from reloc.scenes import LoadOptions


@dataclass(frozen=True)
class MachineOptions:
    """Where and how a method runs."""

    device: str = "cpu"
    """Of tensors: cpu, cuda, cuda:1."""
    seed: int = 0
    """Of everything random: the same seed gives the same map."""
    precision: Precision = "auto"
    """Of heavy arithmetic; auto takes what the machine is fast at, int8 for the shared encoder
    included."""
    threads: int | None = None
    """Processor threads; None: OMP_NUM_THREADS, else all cores."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads {self.threads}: give 1 or more")


Machine = Annotated[MachineOptions, tyro.conf.arg(name="")]
Load = Annotated[LoadOptions, tyro.conf.arg(name="")]


def scene_words(folder: Path, load: LoadOptions) -> str:
    """A scene as it would be typed again: folder and options."""
    words = [str(folder)]
    defaults = LoadOptions()
    for name in sorted(load.given()):
        words.append(f"--{name.replace('_', '-')}")
        # What is off unless it is said is a flag without a value.
        words += [] if getattr(defaults, name) is False else [str(getattr(load, name))]
    return shlex.join(words)


def start_run(machine: MachineOptions, progress: Progress) -> Run:
    """Settle the threads of this process, and say what a method may use.

    Raises:
        InputError: the device is unknown or not here.
    """
    import cv2
    import faiss
    import torch

    threads = machine.threads or default_threads()
    # Runtimes that are loaded later, and child processes, read the variable.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    faiss.omp_set_num_threads(threads)
    try:
        # Poses are in double precision, which not all devices have.
        torch.zeros(1, dtype=torch.float64, device=machine.device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise InputError(f"--device {machine.device} cannot be used: {reason}") from error
    return Run(machine.device, machine.seed, machine.precision, progress)


def default_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the cores that this process may use."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
