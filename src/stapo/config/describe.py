"""What each setting means, read from the docstrings of the classes that check it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: dotted name.
        value: its value in the configuration that was asked for.
        meaning: what it does, with unit and range.
    """

    name: str
    value: Any
    meaning: str

    @property
    def shown(self) -> str:
        """The value as a file or the command line would have it."""
        if isinstance(self.value, list | tuple):
            return " ".join(map(str, self.value)) or "[]"
        if self.value is None or isinstance(self.value, bool):
            return {None: "null", True: "true", False: "false"}[self.value]
        return str(self.value)


def meanings(cls: type) -> dict[str, str]:
    """Field name -> what the class's docstring says of it under "Attributes:"."""
    found: dict[str, str] = {}
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    for entry in re.split(r"\n(?=    \S)", "\n" + section):
        names, colon, text = entry.strip().partition(":")
        if colon:
            found |= dict.fromkeys((name.strip() for name in names.split(",")), " ".join(text.split()))
    return found


def settings_of(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a tree of dataclasses, in the order of their fields."""
    said = meanings(type(config))
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            yield from settings_of(value, f"{name}.")
        elif isinstance(value, Mapping) and any(map(is_dataclass, value.values())):
            for key, part in value.items():
                yield from settings_of(part, f"{name}.{key}.")
        else:
            yield Setting(name, value, said.get(field.name, ""))
