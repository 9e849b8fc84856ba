"""Arithmetic of networks: bf16 where the processor is fast at it."""

from __future__ import annotations

import torch

from reloc.contract import Run


def uses_bf16(run: Run) -> bool:
    """Whether heavy arithmetic of this run is in bf16."""
    if run.precision != "auto":
        return run.precision == "bf16"
    if run.device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    # Without the instructions, bf16 is emulated and slower than fp32.
    return run.device == "cpu" and torch.cpu._is_avx512_bf16_supported()


def autocast(run: Run) -> torch.autocast:
    """A context whose matrix products and convolutions are in the precision of the run."""
    device = run.device.partition(":")[0]
    return torch.autocast(device, torch.bfloat16, enabled=uses_bf16(run))
