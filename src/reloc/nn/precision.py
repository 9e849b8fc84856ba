"""Arithmetic of networks: bf16, or 8-bit whole numbers, where the device is fast at them."""

from __future__ import annotations

import functools
import time

import torch

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.nn.int8_encoder import gain_by_int8

# A layer of a small head; of so many tries the fastest counts, since others may be at work.
_ROWS, _WIDTH, _TRIES = 1024, 256, 7
# Rounding to bf16 has to be worth it.
_WORTH = 0.8


def uses_bf16(run: Run) -> bool:
    """Whether heavy arithmetic of this run is in bf16."""
    if run.precision != "auto":
        return run.precision == "bf16"
    if run.device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return run.device == "cpu" and _processor_gains_by_bf16()


def uses_int8(run: Run) -> bool:
    """Whether the shared encoder of this run is in 8-bit whole numbers.

    Raises:
        InputError: that is asked for, and the device cannot do it.
    """
    if run.precision != "int8":
        return run.precision == "auto" and run.device == "cpu" and gain_by_int8() > 1 / _WORTH
    if run.device != "cpu":
        raise InputError(f"--precision int8 is for --device cpu, not {run.device}: leave it out")
    if not gain_by_int8():
        raise InputError("--precision int8 is nothing that this processor can do: leave it out")
    return True


def autocast(run: Run) -> torch.autocast:
    """A context whose matrix products and convolutions are in the precision of the run."""
    device = run.device.partition(":")[0]
    return torch.autocast(device, torch.bfloat16, enabled=uses_bf16(run))


@functools.cache
def _processor_gains_by_bf16() -> bool:
    """Measured, once, in some milliseconds: having the instructions tells nothing.

    On AMD's Zen 4 bf16 takes half the time of fp32, on Intel's processors without AMX, which
    virtual machines often hide, twice the time.
    """
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    layers = {
        kind: (torch.ones(_ROWS, _WIDTH, dtype=kind), torch.ones(_WIDTH, _WIDTH, dtype=kind))
        for kind in (torch.float32, torch.bfloat16)
    }
    fastest_s = dict.fromkeys(layers, float("inf"))
    for _ in range(_TRIES):
        for kind, (rows, weights) in layers.items():
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weights)
            fastest_s[kind] = min(fastest_s[kind], time.perf_counter() - started)
    return fastest_s[torch.bfloat16] < _WORTH * fastest_s[torch.float32]
