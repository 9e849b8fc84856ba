"""The answers to a list of queries, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reloc.contract import PoseEstimate
from reloc.geometry.camera import Camera
from reloc.geometry.rigid3d import Rigid3d
from reloc.input_error import InputError


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
        path = Path(path)
        head = {"method": self.method, "scene": self.scene, "ground_truth": self.ground_truth}
        lines = [json.dumps(head)]
        lines += [json.dumps(self._line(name)) for name in self.by_name]
        write_new_text(path, "\n".join(lines) + "\n")

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
            "camera": None if camera is None else camera.as_dict(),
            "reference": estimate.reference,
            "query_ms": self.query_ms.get(name),
            "read_ms": self.read_ms.get(name),
        }

    @staticmethod
    def read(path: Path | str) -> PoseEstimates:
        """Read what `write` wrote.

        Raises:
            InputError: the file is missing, or a line of it is no estimate; the message names the line.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as estimates: {error}") from error
        head: dict[str, Any] = {}
        by_name: dict[str, PoseEstimate] = {}
        milliseconds: dict[str, dict[str, float]] = {"query_ms": {}, "read_ms": {}}
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                content = json.loads(line)
                if number == 1 and "name" not in content:
                    head = {key: str(content[key]) for key in ("method", "scene", "ground_truth")}
                    continue
                name = str(content["name"])
                if name in by_name:
                    raise ValueError(f"{name} has an estimate already")
                by_name[name] = _estimate(content)
                for kind, values in milliseconds.items():
                    if content.get(kind) is not None:
                        values[name] = float(content[kind])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{path}, line {number} is no estimate: {error}") from error
        if not by_name:
            raise InputError(f"{path} has no estimates: `reloc localize MAP SCENE --out FILE` writes them")
        return PoseEstimates(by_name, **head, **milliseconds)


def _estimate(content: Mapping[str, Any]) -> PoseEstimate:
    pose, camera, covariance = (content.get(key) for key in ("cam_from_world", "camera", "covariance"))
    return PoseEstimate(
        cam_from_world=None
        if pose is None
        else Rigid3d.from_quat_wxyz(
            torch.tensor(pose["quat_wxyz"], dtype=torch.float64),
            torch.tensor(pose["translation"], dtype=torch.float64),
        ),
        confidence=content.get("confidence"),
        covariance=None if covariance is None else torch.tensor(covariance, dtype=torch.float64),
        num_inliers=content.get("num_inliers"),
        camera=None
        if camera is None
        else Camera.of(camera["model"], camera["width"], camera["height"], camera["params"]),
        reference=content.get("reference"),
    )


def write_new_text(path: Path, text: str) -> None:
    """Write a file that must not exist yet, whole or not at all.

    Raises:
        InputError: it exists, or the disk refuses.
    """
    if path.exists():
        raise InputError(f"{path} exists: choose another name, or remove it first")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
