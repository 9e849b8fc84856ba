"""Whether a training may go on with what lies in a folder."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from reloc.input_error import InputError
from reloc.provenance import write_record
from reloc.training.records import refuse_another_run


@dataclass(frozen=True)
class _Config:
    steps: int = 10
    width: int = 4
    folder: Path | None = None


def _record(tmp_path: Path, config: _Config, seed: int = 0) -> Path:
    path = tmp_path / "weights.json"
    values = {"steps": config.steps, "width": config.width, "folder": config.folder}
    write_record({"config": values, "seed": seed}, path)
    return path


def test_the_same_settings_go_on_and_may_ask_for_more_steps(tmp_path: Path) -> None:
    path = _record(tmp_path, _Config(folder=tmp_path))
    refuse_another_run(_Config(steps=20, folder=tmp_path), 0, path)
    refuse_another_run(_Config(), 0, tmp_path / "none.json")


def test_other_settings_another_seed_and_half_a_record_are_refused(tmp_path: Path) -> None:
    path = _record(tmp_path, _Config())
    with pytest.raises(InputError, match="another width"):
        refuse_another_run(_Config(width=5), 0, path)
    with pytest.raises(InputError, match="another seed"):
        refuse_another_run(_Config(), 1, path)
    for text in ("", '{"config": ', "[]", '{"seed": 0}'):
        path.write_text(text)
        with pytest.raises(InputError, match="no record of a training"):
            refuse_another_run(_Config(), 0, path)
