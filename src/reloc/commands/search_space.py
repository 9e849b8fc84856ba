"""What `reloc search` tries: settings by name, each with a range or a choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reloc.input_error import InputError

DEFAULT_SPACE = ("max_learning_rate=2e-4:5e-3:log", "dropout=0.0:0.7", "width=128|256|512|1024")


@dataclass(frozen=True)
class Choice:
    """A setting that is searched.

    Attributes:
        name: of the setting; a dot leads into a setting that has settings.
        low: least value of a range.
        high: and greatest.
        log: whether it is the logarithm that is even.
        options: values to choose from, where there is no range.
        whole: whether values of the range are whole numbers.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    options: tuple[Any, ...] = ()
    whole: bool = False

    def suggest(self, trial: Any) -> Any:
        """A value, from an Optuna trial."""
        if self.options:
            return trial.suggest_categorical(self.name, self.options)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


def parse_space(words: Sequence[str], config: Any, skip_unknown: bool) -> list[Choice]:
    """Choices from words like `dropout=0:0.7`, checked against a config.

    Args:
        words: of the command line.
        config: whose settings they are.
        skip_unknown: leave out those that the config does not have.

    Raises:
        InputError: a setting is unknown, or its range makes no sense.
    """
    choices = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not text:
            raise InputError(f"--space {word}: write name=low:high, name=low:high:log or name=a|b")
        try:
            now = _value(config, name)
        except AttributeError:
            if skip_unknown:
                continue
            known = ", ".join(entry.name for entry in dataclasses.fields(config))
            raise InputError(
                f"--space {word}: there is no setting {name}; there are {known}"
            ) from None
        choices.append(_choice(word, name, text, now))
    if not choices:
        raise InputError("the method has none of the settings that are searched: give --space")
    return choices


def _choice(word: str, name: str, text: str, now: Any) -> Choice:
    """One choice; `now` is a value of the setting, and says its type."""
    kind = type(now)
    if kind not in (bool, int, float, str):
        raise InputError(f"--space {word}: {name} is no number, word or yes and no")
    try:
        if ":" in text and kind in (int, float):
            low, high, *rest = text.split(":")
            if rest not in ([], ["log"]) or float(low) >= float(high):
                raise ValueError
            if rest and kind(float(low)) <= 0:
                raise InputError(f"--space {word}: {low} has no logarithm; begin above 0")
            return Choice(name, float(low), float(high), bool(rest), whole=kind is int)
        parts = text.split("|")
        if kind is bool:
            return Choice(name, options=tuple({"true": True, "false": False}[p] for p in parts))
        return Choice(name, options=tuple(kind(part) for part in parts))
    except (ValueError, KeyError):
        raise InputError(
            f"--space {word}: {name} is like {now!r}; write name=low:high, name=low:high:log or "
            "name=a|b"
        ) from None


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """The config with other values of some settings.

    Raises:
        InputError: the config refuses one.
    """
    try:
        for name, value in values.items():
            config = _replaced(config, name.split("."), value)
    except ValueError as error:
        raise InputError(f"the settings {dict(values)} do not go together: {error}") from error
    return config


def setting_words(config: Any, values: Mapping[str, Any]) -> list[str]:
    """Other values of some settings as options of `reloc map`."""
    words = []
    for name, value in values.items():
        *groups, last = name.replace("_", "-").split(".")
        if not isinstance(value, bool):
            words += ["--" + ".".join([*groups, last]), str(value)]
        # There is a flag for the other value only.
        elif value != _value(config, name):
            words.append("--" + ".".join([*groups, last if value else f"no-{last}"]))
    return words


def _replaced(config: Any, path: Sequence[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replaced(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: value})


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
