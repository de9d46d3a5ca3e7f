"""What leaves for a page: JSON whose texts can be shown as they stand.

Every text of a run (a model's, an environment's, a path) passes `cleaned`, the same treatment as in the report: control
codes and changes of direction are spelled out, secrets hidden, endless text cut.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from stapo.html.pages import LONGEST_TEXT, readable
from stapo.texts import hide_secrets

LONGEST_PROMPT = 200_000
"""Characters of one text where a single step is shown."""


def cleaned(value: Any, longest: int = LONGEST_TEXT) -> Any:
    """A value of JSON with every text in it fit to be shown, and null for numbers that are not finite."""
    if isinstance(value, str):
        return readable(hide_secrets(value), longest)
    if isinstance(value, Mapping):
        return {readable(hide_secrets(str(key)), longest): cleaned(item, longest) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item, longest) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def encoded(value: Any) -> bytes:
    """JSON in UTF-8; lone surrogates, which `cleaned` spells out, cannot be in it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
