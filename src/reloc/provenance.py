"""Where a number came from: machine, versions, commit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch

_LIBRARIES = (
    "reloc",
    "torch",
    "numpy",
    "opencv-python-headless",
    "poselib",
    "pycolmap",
    "faiss-cpu",
)


def hardware(device: str) -> str:
    """Processor, cores and accelerator, in words."""
    words = f"{_processor_name()}, {os.cpu_count()} cores"
    if device.startswith("cuda"):
        words += f", {torch.cuda.get_device_name(device)}"
    return words


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def training_record(
    steps: int, seconds: float, seed: int, device: str, commit: str
) -> dict[str, object]:
    """What a model card says of any training: its length, its seed, and on what it ran."""
    return {
        "steps": steps,
        "time": str(timedelta(seconds=round(seconds))),
        "seed": seed,
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
        "commit": commit,
    }


def write_record(record: Mapping[str, object], path: Path) -> None:
    """Write what weights are made of as JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    partial.rename(path)


def library_versions() -> dict[str, str]:
    """Versions of reloc and of what its numbers depend on."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def working_copy_commit() -> str:
    """Commit of the working copy this package lies in, with "+" where it is changed; "" if none."""
    folder = Path(__file__).parent
    try:
        # An installed copy can lie inside somebody else's repository: only a tracked file is ours.
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(folder, "rev-parse", "--short=10", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def peak_rss_mb() -> float:
    """The most memory that this process has held, in MB of 10⁶ bytes."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    # Elsewhere: bytes on macOS. On Linux this figure would include the parent's, from before exec.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
