"""Writing values so that Hydra's override grammar reads them back as they were."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stapo.errors import ConfigError
from stapo.texts import hide_secrets, remember_secret, secret_in_address

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")
_PLAIN_TEXT = re.compile(r"[A-Za-z_/][\w/.-]*")
_SECRET_KEY = re.compile(
    r"(api_?key|access_?key|(hf|hub|auth|access|api|bearer)_token|(^|[.+])token|secret|passw(or)?d)$", re.IGNORECASE
)
_WORDS = {"true", "false", "null", "nan", "inf"}


def literal(value: Any) -> str:
    """One value: null, truth values, numbers, text, lists and mappings of them.

    Text is quoted unless it is a plain word or path, never an interpolation.

    Raises:
        ConfigError: the value cannot be written.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(literal, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(key)}:{literal(item)}" for key, item in value.items()) + "}"
    raise ConfigError(f"{value!r} cannot be handed to verl; expected text, a number, a list or a mapping.")


def override(key: str, value: Any, *, new: bool = False) -> str:
    """``key=value``; `new` where verl's configuration does not have the key yet."""
    return f"{'+' if new else ''}{key}={literal(value)}"


def refuse_secrets(overrides: Sequence[str]) -> None:
    """Look for secrets among overrides: a command line is seen by every user of the machine, and logged.

    Raises:
        ConfigError: a setting that is named like a key has a value, or a value is an address with a key in it. The
            value is not shown.
    """
    for text in overrides:
        name, _, value = text.partition("=")
        given = value.strip("'\"")
        named = _SECRET_KEY.search(name) and given.lower() not in ("", "null", "true", "false")
        if named or ("://" in value and secret_in_address(value)):
            remember_secret(given)
            raise ConfigError(
                f"verl's setting '{name.lstrip('+~')}' would hold a secret, and command lines are seen and logged. "
                "Give it as an environment variable that verl or its logger reads."
            )


def _key(key: Any) -> str:
    if isinstance(key, str) and _PLAIN_KEY.fullmatch(key) and key.lower() not in _WORDS:
        return key
    raise ConfigError(f"the key {key!r} cannot be handed to verl; expected letters, digits, '_' and '-'.")


def _text(text: str) -> str:
    if _PLAIN_TEXT.fullmatch(text) and text.lower() not in _WORDS:
        return text
    if "\n" in text or "${" in text:
        raise ConfigError(
            f"the text {hide_secrets(text)[:60]!r} cannot be handed to verl, whose configuration has neither line ends "
            "nor '${'."
        )
    # A quote is escaped by a backslash, and so are backslashes before a quote or the end.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"
