"""The answers to a list of queries, and the file that holds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reloc.contract import PoseEstimate
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError
from reloc.maps import refuse_existing


@dataclass(frozen=True, eq=False)
class PoseEstimates:
    """One estimate a query, by the query's name, in the order they were asked.

    Attributes:
        by_name: name of the query to its estimate. A declined query is here too.
        method: the row (and preset) that answered; "" where it is not known.
        scene: name of the scene that was mapped.
        ground_truth: of the mapping poses: errors against another one mean little.
        query_ms: name to the milliseconds that `Localizer.localize` took.
        read_ms: name to the milliseconds that reading the image took.
    """

    by_name: Mapping[str, PoseEstimate]
    method: str = ""
    scene: str = ""
    ground_truth: str = ""
    query_ms: Mapping[str, float] = field(default_factory=dict)
    read_ms: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> PoseEstimate:
        return self.by_name[name]

    def __len__(self) -> int:
        return len(self.by_name)

    @property
    def num_declined(self) -> int:
        """Queries without a pose."""
        return sum(estimate.cam_from_world is None for estimate in self.by_name.values())

    def write(self, path: Path | str) -> None:
        """Write `estimates.jsonl`: a line about the run, then one for each query.

        Raises:
            InputError: the file exists or cannot be written.
        """
        head = {"method": self.method, "scene": self.scene, "ground_truth": self.ground_truth}
        lines = "".join(json.dumps(self._line(name)) + "\n" for name in self.by_name)
        write_new_text(Path(path), _head_line(head, lines) + lines)

    def _line(self, name: str) -> dict[str, Any]:
        estimate = self.by_name[name]
        pose, camera = estimate.cam_from_world, estimate.camera
        covariance = estimate.covariance
        return {
            "name": name,
            "cam_from_world": None
            if pose is None
            else {"quat_wxyz": pose.quat_wxyz.tolist(), "translation": pose.translation.tolist()},
            "confidence": estimate.confidence,
            "covariance": None if covariance is None else covariance.tolist(),
            "num_inliers": estimate.num_inliers,
            "inlier_ratio": estimate.inlier_ratio,
            "camera": None if camera is None else camera.as_dict(),
            "reference": estimate.reference,
            "query_ms": self.query_ms.get(name),
            "read_ms": self.read_ms.get(name),
        }

    @staticmethod
    def read(path: Path | str) -> PoseEstimates:
        """Read what `write` wrote, or a file of the same lines without the first one.

        The first line has a checksum, so that a file that was cut or damaged is not taken for a run
        with fewer or other answers; a file made by hand does without.

        Raises:
            InputError: the file is missing, or was changed after it was written, or a line of it is
                no estimate; the message names the line.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as estimates: {error}") from error
        # Not splitlines: JSON may have other line separators inside a name.
        lines = text.removesuffix("\n").split("\n")
        head = _read_head(lines[0], text, path)
        by_name: dict[str, PoseEstimate] = {}
        query_ms: dict[str, float] = {}
        read_ms: dict[str, float] = {}
        first = 1 if head else 0
        for number, line in enumerate(lines[first:], start=first + 1):
            try:
                content = json.loads(line)
                name = content["name"]
                if not isinstance(name, str) or name in by_name:
                    raise ValueError(f"{name!r} is no name, or has an estimate already")
                by_name[name] = _estimate(content)
                for key, times in (("query_ms", query_ms), ("read_ms", read_ms)):
                    if content.get(key) is not None:
                        times[name] = float(content[key])
            except _NO_ESTIMATE as error:
                said = f"it has no {error}" if isinstance(error, KeyError) else error
                raise InputError(f"{path}, line {number} is no estimate: {said}") from error
        if not by_name:
            raise InputError(
                f"{path} has no estimates: `reloc localize MAP SCENE --out FILE` writes them"
            )
        return PoseEstimates(by_name, **head, query_ms=query_ms, read_ms=read_ms)


# What a line of JSON that is something else makes of the attempt to read it.
_NO_ESTIMATE = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)


def _read_head(first_line: str, text: str, path: Path) -> dict[str, str]:
    """What the first line says about the run; nothing where it is an estimate already."""
    try:
        content = json.loads(first_line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or "name" in content:
        return {}
    head = {key: str(content.get(key)) for key in ("method", "scene", "ground_truth")}
    _, _, lines = text.partition("\n")
    if f"{first_line}\n" != _head_line(head, lines):
        raise InputError(
            f"{path} was changed or cut after it was written: localize again, or remove its first "
            "line to read it as it is"
        )
    return head


def _head_line(head: Mapping[str, str], lines: str) -> str:
    """The first line of a file: about the run, and about the lines that follow."""
    digest = hashlib.sha256((json.dumps(head) + lines).encode()).hexdigest()
    return json.dumps({**head, "sha256": digest}) + "\n"


def _estimate(content: Mapping[str, Any]) -> PoseEstimate:
    pose, camera, covariance = (
        content["cam_from_world"],
        content.get("camera"),
        content.get("covariance"),
    )
    num_inliers, reference = content.get("num_inliers"), content.get("reference")
    if not isinstance(num_inliers, int | None) or not isinstance(reference, str | None):
        raise TypeError(
            f"num_inliers {num_inliers!r} or reference {reference!r} is of another type"
        )
    return PoseEstimate(
        cam_from_world=None
        if pose is None
        else Rigid3d.from_quat_wxyz(_vector(pose["quat_wxyz"], 4), _vector(pose["translation"], 3)),
        confidence=content.get("confidence"),
        covariance=None if covariance is None else torch.tensor(covariance, dtype=torch.float64),
        num_inliers=num_inliers,
        inlier_ratio=content.get("inlier_ratio"),
        camera=None
        if camera is None
        else Camera.of(camera["model"], camera["width"], camera["height"], camera["params"]),
        reference=reference,
    )


def _vector(values: Sequence[float], size: int) -> Tensor:
    vector = torch.tensor(values, dtype=torch.float64)
    if vector.shape != (size,):
        raise ValueError(f"{values} is not {size} numbers")
    return vector


def write_new_text(path: Path, text: str) -> None:
    """Write a file that must not exist yet, whole or not at all.

    Raises:
        InputError: it exists, or the disk refuses.
    """
    write_new_bytes(path, text.encode())


def write_new_bytes(path: Path, content: bytes) -> None:
    """As `write_new_text`, for a file that is no text."""
    refuse_existing(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
