"""Networks that other scenes have taught: one file, which any map of the family can be made with.

`reloc pretrain relative` writes it: directions of the encoder's codes, a network of pairs that
speaks in metres, and a graph network. A map made with it trains nothing and holds it, so that it
needs no file afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
from torch import Tensor, nn

from reloc.contract import Run
from reloc.input_error import InputError
from reloc.methods.relative.config import RelativeConfig
from reloc.nn import weights
from reloc.nn.weights import encoder_sha256

FILE = "relative_rooms.safetensors"
COMPONENTS, NETWORK, GRAPH = "components", "network.", "graph."
_SETTINGS = "settings"
# Settings of which another value means another network, or other things that it is shown.
_OF_PAIRS = ("encoder", "head", "code", "scene_codes", "consensus", "width")
_OF_GRAPHS = ("recursions", "known_poses")

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Shared:
    """Networks from elsewhere.

    Attributes:
        path: of their file.
        components_CP: codes to fewer numbers, float32.
        tensors: weights in float32, under the prefixes NETWORK and GRAPH.
    """

    path: Path
    components_CP: Tensor
    tensors: Mapping[str, Tensor]

    def fill(self, network: NetworkT, prefix: str, run: Run) -> NetworkT:
        """The network with weights of the file; it may be made of meta tensors."""
        state = {
            name.removeprefix(prefix): value
            for name, value in self.tensors.items()
            if name.startswith(prefix)
        }
        network.load_state_dict(state, assign=True)
        return network.to(run.device).eval().requires_grad_(False)


def shipped_path() -> Path:
    """Where the networks lie in an installation that has them."""
    return weights.FOLDER / FILE


def save_shared(
    path: Path, components_CP: Tensor, tensors: Mapping[str, Tensor], config: RelativeConfig
) -> None:
    """Write networks in fp16, whole or not at all.

    Args:
        path: of the file.
        components_CP: of the codes.
        tensors: under the prefixes NETWORK and GRAPH.
        config: that they were made with.
    """
    kept = {COMPONENTS: components_CP, **tensors}
    halved = {name: value.detach().half().cpu().contiguous() for name, value in kept.items()}
    settings = {"encoder_sha256": encoder_sha256(config.encoder), **_settings(config)}
    partial = path.with_name(f".{path.name}")
    safetensors.torch.save_file(halved, partial, {_SETTINGS: json.dumps(settings)})
    partial.rename(path)


def open_shared(config: RelativeConfig) -> Shared:
    """The networks that `config.weights` names.

    Raises:
        InputError: there are none, or they are made for other settings or another encoder.
    """
    shipped = config.weights == "shipped"
    path = shipped_path() if shipped else Path(config.weights)
    path = path / FILE if path.is_dir() else path
    remedy = "install reloc again" if shipped else "`reloc pretrain relative --out FOLDER` makes it"
    try:
        with safetensors.safe_open(path, "pt") as file:
            made = json.loads((file.metadata() or {})[_SETTINGS])
        tensors = {name: value.float() for name, value in safetensors.torch.load_file(path).items()}
        components_CP = tensors.pop(COMPONENTS)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} holds no networks of pairs ({reason}): {remedy}") from error
    asked = _settings(config)
    # Without a graph it does not matter how one was made.
    used = [*_OF_PAIRS, *(_OF_GRAPHS if asked.get("recursions") else ())]
    for name in used:
        if made.get(name) != asked[name]:
            words = name.replace("_", " ")
            raise InputError(
                f"the networks in {path} are made for {words} {made.get(name)!r}, not "
                f"{asked[name]!r}: map with that, or `reloc pretrain relative` others"
            )
    if asked.get("recursions") and not any(name.startswith(GRAPH) for name in tensors):
        raise InputError(f"{path} has no graph network: map with --recursions 0, or train one")
    if made["encoder_sha256"] != encoder_sha256(config.encoder):
        raise InputError(
            f"the networks in {path} were trained on another {config.encoder} encoder than this "
            "installation has: `reloc pretrain relative` others"
        )
    return Shared(path, components_CP, tensors)


def _settings(config: RelativeConfig) -> dict[str, object]:
    names = [name for name in (*_OF_PAIRS, *_OF_GRAPHS) if hasattr(config, name)]
    return {name: getattr(config, name) for name in names}
