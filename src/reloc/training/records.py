"""The record beside weights that are being trained: whether a run may go on with them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reloc.input_error import InputError


def refuse_another_run(config: Any, seed: int, record_path: Path) -> None:
    """See that a run goes on with its own work; it may have more steps now.

    Args:
        config: a dataclass, with what is asked for now.
        seed: likewise.
        record_path: of what was asked for; it need not exist.

    Raises:
        InputError: the record is of other settings or another seed, or cannot be read.
    """
    if not record_path.exists():
        return
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        made = {**record["config"], "seed": record["seed"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record_path} is no record of a training: remove it, or give another folder"
        ) from error
    asked = json.loads(json.dumps({**asdict(config), "seed": seed}, default=str))
    different = [key for key in asked if key != "steps" and made.get(key) != asked[key]]
    if different:
        raise InputError(
            f"{record_path.parent} has a run with another {different[0]}: give the same settings "
            "to go on with it, or another folder"
        )
