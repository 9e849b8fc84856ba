"""A map and the folder that holds it: map.json beside map.safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from reloc.input_error import InputError

FORMAT_VERSION = 1
_JSON, _TENSORS = "map.json", "map.safetensors"
# How names of tensors end that are digests of shared weights.
_DIGEST = "_sha256"


@dataclass(frozen=True)
class Provenance:
    """How a map came to be.

    Attributes:
        scene: name of the scene.
        ground_truth: of the mapping poses.
        metric: False where lengths are in arbitrary units.
        num_views: mapping views given.
        seed: of the run.
        seconds: wall time of build_map.
        device: "cpu", "cuda", ...
        threads: that torch used.
        hardware: processor and memory, in words.
        versions: of reloc, torch and the method's libraries.
        commit: of the working copy of reloc, "" where it is installed from a release.
        pretrained_sha256: name to digest of the shared weights that the map was made with and does
            not hold.
    """

    scene: str
    ground_truth: str
    metric: bool
    num_views: int
    seed: int
    seconds: float
    device: str
    threads: int
    hardware: str
    versions: Mapping[str, str]
    commit: str = ""
    pretrained_sha256: Mapping[str, str] | None = None


@dataclass(frozen=True, eq=False)
class Map:
    """What a method keeps of a scene.

    Attributes:
        method: a row of `methods.METHODS`.
        config: the method's config as plain values.
        tensors: exactly what its build_map returned.
        provenance: how it came to be.
    """

    method: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    provenance: Provenance

    @property
    def megabytes(self) -> float:
        """Size of the tensors, which is the size on disk but for a few hundred bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values()) / 1e6

    def save(self, folder: Path | str) -> None:
        """Write the folder, whole or not at all.

        Raises:
            InputError: the folder exists, or cannot be written.
        """
        with new_folder(Path(folder)) as partial:
            # Cloned: tensors that share memory cannot be told apart in a file.
            tensors = {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in self.tensors.items()
            }
            try:
                safetensors.torch.save_file(tensors, partial / _TENSORS)
            except safetensors.SafetensorError as error:
                raise InputError(f"{folder} cannot be written: {error}") from error
            content = {
                "format_version": FORMAT_VERSION,
                "method": self.method,
                "config": dict(self.config),
                "provenance": asdict(self.provenance),
                "tensors_sha256": _sha256(partial / _TENSORS),
            }
            content["sha256"] = _sha256_of_json(content)
            (partial / _JSON).write_text(_json_text(content), encoding="utf-8")

    @staticmethod
    def load(folder: Path | str) -> Map:
        """Open a folder that `save` wrote. Runs no code from it.

        Raises:
            InputError: it is no map, is incomplete, of a newer version, damaged or edited.
        """
        folder = Path(folder)
        text, content = _read_json(folder)
        try:
            version = content["format_version"]
            if not isinstance(version, int) or version < 1:
                raise InputError(
                    f"{folder / _JSON} is damaged (format {version!r}): build the map again"
                )
            if version > FORMAT_VERSION:
                raise InputError(
                    f"{folder}: the map has format {version}, this reloc reads up to "
                    f"{FORMAT_VERSION}: upgrade reloc, or build the map again"
                )
            # The text too: a changed byte need not change what it means, as 1e-05 to 1E-05.
            unchanged = text == _json_text(content)
            if content.pop("sha256") != _sha256_of_json(content) or not unchanged:
                raise InputError(
                    f"{folder / _JSON} was changed after it was written: build the map again "
                    "(its settings belong to its tensors)"
                )
            if content["tensors_sha256"] != _sha256(folder / _TENSORS):
                raise InputError(f"{folder / _TENSORS} is damaged: copy or build the map again")
            known = {entry.name for entry in fields(Provenance)}
            provenance = {
                key: value for key, value in content["provenance"].items() if key in known
            }
            return Map(
                method=content["method"],
                config=content["config"],
                tensors=safetensors.torch.load_file(folder / _TENSORS),
                provenance=Provenance(**provenance),
            )
        except (KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
            raise InputError(f"{folder}: the map is damaged ({error}): build it again") from error
        except OSError as error:
            raise InputError(
                f"{folder}: the map is incomplete ({error.strerror}): build it again"
            ) from error


def fingerprint(folder: Path) -> str:
    """What tells the map in a folder from every other: a hash of what has the hash of its tensors.

    Raises:
        InputError: there is no map.
    """
    text, _ = _read_json(folder)
    return hashlib.sha256(text.encode()).hexdigest()


def text_to_tensor(lines: Sequence[str]) -> Tensor:
    """Texts (names of views, say) as a uint8 tensor that a map can hold.

    Raises:
        ValueError: one contains the character NUL, which ends each of them here; no file name does.
    """
    if any("\0" in line for line in lines):
        raise ValueError("a text for a map cannot contain NUL")
    content = "".join(f"{line}\0" for line in lines).encode(errors="surrogateescape")
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def tensor_to_text(tensor: Tensor) -> list[str]:
    """The inverse of `text_to_tensor`."""
    return tensor.cpu().numpy().tobytes().decode(errors="surrogateescape").split("\0")[:-1]


def digests_in(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What the tensors of a map say of the shared weights that it needs: name to sha256."""
    return {
        name.removesuffix(_DIGEST): tensor_to_text(tensor)[0]
        for name, tensor in tensors.items()
        if name.endswith(_DIGEST)
    }


def _read_json(folder: Path) -> tuple[str, dict[str, Any]]:
    try:
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such map folder; `reloc map METHOD SCENE --out "
                f"{shlex.quote(str(folder))}` builds one"
            )
        text = (folder / _JSON).read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError:
        raise InputError(f"{folder} is not a map: it has no {_JSON}") from None
    except OSError as error:
        raise InputError(f"{folder / _JSON} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{folder / _JSON} is damaged ({error}): build the map again") from error
    if not isinstance(content, dict):
        raise InputError(f"{folder / _JSON} is damaged: build the map again")
    return text, content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _sha256_of_json(content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well, and else vanishes.

    Raises:
        InputError: `target` exists, or the disk refuses.
    """
    refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from error
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_unwritable(target: Path) -> None:
    """Raise InputError where `target` could not be written: its folder, or that to make it in."""
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{target} cannot be written: {parent} cannot be written to")


def refuse_existing(target: Path) -> None:
    """Raise InputError where `target` exists: nothing is overwritten. Ask before long work, too."""
    try:
        exists = target.exists() or target.is_symlink()
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from error
    if exists:
        raise InputError(f"{target} exists: choose another name, or remove it first")
