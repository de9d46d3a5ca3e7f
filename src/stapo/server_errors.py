"""What servers say when they do not do what they are asked: for how long to wait, why, and whether trying again helps.

OpenAI-compatible servers and the gateways before them agree on little here. An error comes with its own status or
inside an answer of status 200, as an object, a text or a list, beside the answer or in its place; a pause is asked for
in seconds, in milliseconds or as a date.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from stapo.documents import parse_json
from stapo.texts import hide_secrets

PASSING_STATUSES = frozenset((408, 409, 425, 429, 498, 529, *range(500, 528)))
"""What may be gone at the next try, as it stands inside documents."""

_LONGEST_REASON = 300
_LONGEST_PAUSE_S = 86_400.0
_FIRST_DATE = 1e9  # in seconds: 31 years as a pause, the year 2001 as a date
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_AMOUNT = re.compile(
    r"([0-9]{1,15}\.?[0-9]{0,9}|\.[0-9]{1,9})"
    r"(?:\s*(ms(?:ecs?)?|s(?:ecs?|econds?)?|m(?:ins?|inutes?)?|h(?:rs?|ours?)?)(?![a-z])|(?![a-z.0-9]))"
)
_DEEPEST = 6
_CODES = ("code", "status", "status_code", "statusCode", "type", "error_type", "error_code", "kind")
_SAID = ("detail", "message", "msg", "error_message", "error_msg", "errmsg", "status_msg")
_TEXTS = (
    "error", "message", "msg", "detail", "error_message", "error_msg", "errmsg", "status_msg", "error_description",
    "description", "reason", "errors", "title",
)  # fmt: skip
_AROUND = ("base_resp", "fault", "exception", "failure")
_LASTING = re.compile(
    r"insufficient[_ ]quota|exceeded your current quota|billing|credits?\b|payment|api[_ -]?key|unauthori[sz]ed|"
    r"authenti|permission|forbidden|not[_ ]found|no such|does not exist|unknown|invalid|not supported|unsupported|"
    r"bad[_ ]?request|context[_ ](length|window)|too (long|large|many tokens)|maximum context|"
    r"content[_ ](filter|policy)|moderation|not allowed|malformed|required",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"rate[_ -]?limit|too many requests|overload|throttl|time[sd]?[_ -]?out|timeout|temporar|unavailable|capacity|busy|"
    r"try again|retry|server[_ ]error|internal[_ ]|connection|upstream|provider returned error|loading",
    re.IGNORECASE,
)
_RATE = re.compile(r"rate[_ -]?limit|too many requests|throttl|requests per|tokens per", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Why a server did not answer.

    Attributes:
        reason: in its own words: one line without control characters and secrets; "" where it gives none.
        kind: for counting, "rate_limit" or "provider_error".
        passes: another try may help.
    """

    reason: str
    kind: str
    passes: bool


def pause_asked(headers: Mapping[str, str], now: float | None = None) -> float:
    """Seconds that a server asks to wait, at most a day; 0 where it asks for nothing that can be understood.

    Args:
        headers: of its answer, to be asked for in lower case: ``retry-after-ms`` (and Azure's spelling of it) before
            ``retry-after``, which is a number of seconds or a date of RFC 9110. What servers write in their place is
            also understood: units ("1m30s"), dates of ISO 8601, seconds since 1970, a header that is there twice.
        now: seconds since 1970, where the answer has no date of its own; the clock of this machine without it.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        pause = _seconds(headers.get(name))
        if pause is not None:
            return min(pause / 1000.0, _LONGEST_PAUSE_S)
    asked = (headers.get("retry-after") or "")[:200]
    pause = _seconds(asked)
    until = _date(asked) if pause is None else pause if pause >= _FIRST_DATE else None
    if until is not None:
        # By the server's own clock, where it shows it: two clocks may be minutes apart.
        here = _date(headers.get("date"))
        until /= 1000.0 if until >= 1000 * _FIRST_DATE else 1.0
        pause = until - (here if here is not None else time.time() if now is None else now)
    return min(max(pause or 0.0, 0.0), _LONGEST_PAUSE_S)


def reason_in(data: bytes) -> str:
    """The reason that the document of a refused request gives, "" for none."""
    try:
        found = parse_json(data)
    except ValueError:
        return ""
    return one_line(_words(found, 0))


def refusal_in(document: Any) -> ErrorReply | None:
    """The refusal that stands in the place of an answer, or beside it; None for what may be an answer."""
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if not isinstance(document, Mapping):
        return None
    for key in ("error", "errors"):
        # Some servers write in every answer that there was none.
        if document.get(key) and not (document.get("choices") and _says_nothing(document[key])):
            return refusal_of(document[key], document)
    if document.get("choices"):
        return None
    for key in _AROUND:
        if isinstance(document.get(key), Mapping):
            return refusal_of(document[key], document)
    coded = any((_status(document.get(key)) or 0) >= 400 for key in _CODES)
    if coded or document.get("object") == "error" or any(_words(document.get(key), 0) for key in _SAID):
        return refusal_of(document, document)
    return None


def refusal_of(error: Any, beside: Mapping[str, Any] | None = None) -> ErrorReply:
    """Read what stands under ``error``.

    Args:
        error: anything.
        beside: the document around it, which may hold the code.
    """
    reason, numbers, names = _words(error, 0), list[int](), list[str]()
    for place in (error, beside):
        if isinstance(place, list) and place:
            place = place[0]
        if isinstance(place, Mapping):
            for key in _CODES:
                value = place.get(key)
                number = _status(value)
                if number is not None:
                    numbers.append(number)
                elif isinstance(value, str):
                    names.append(value)
    said = " ".join([*names, reason])
    rate = 429 in numbers or (not numbers and bool(_RATE.search(said)))
    quota = bool(re.search(r"insufficient[_ ]quota|billing", said, re.IGNORECASE))
    if numbers:
        passes = numbers[0] in PASSING_STATUSES and not quota
    else:
        passes = rate or bool(_PASSING.search(said)) or not _LASTING.search(said)
        passes = passes and not quota
    return ErrorReply(one_line(reason or " ".join(names)), "rate_limit" if rate else "provider_error", passes)


def one_line(text: str) -> str:
    """One line without control characters and secrets, of at most 300 characters; it is cut last."""
    text = hide_secrets(text[: 1 << 16])
    words = hide_secrets(" ".join("".join(c if c.isprintable() else " " for c in text).split()))
    return words if len(words) <= _LONGEST_REASON else words[: _LONGEST_REASON - 1] + "…"


def _says_nothing(error: Any) -> bool:
    """Whether an error is the word for none, or has neither words nor a code."""
    if isinstance(error, Mapping):
        codes = [error[key] for key in _CODES if error.get(key)]
        return not any(_status(code) != 200 for code in codes) and _says_nothing(_words(error, 0))
    return isinstance(error, str) and error.strip().lower() in ("", "null", "none", "no error", "ok", "success")


def _words(found: Any, depth: int) -> str:
    """The text of an error, in the forms in use."""
    if isinstance(found, str):
        return found
    if depth > _DEEPEST:
        return ""
    if isinstance(found, list):
        return "; ".join(filter(None, (_words(item, depth + 1) for item in found[:5])))
    if not isinstance(found, Mapping):
        return ""
    # "errors" may hold what "detail" only sums up; the first that says something wins.
    said = next((text for key in _TEXTS if (text := _words(found.get(key), depth + 1))), "")
    metadata = found.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    if isinstance(raw, str) and raw and raw not in said:
        said = f"{said}: {raw}" if said else raw
    return said


def _seconds(text: str | None) -> float | None:
    """A length of time, the longest of several; None for anything else."""
    found = []
    for part in (text or "")[:200].lower().split(","):
        part = part.partition(";")[0].strip(' \t"+')
        amounts = _AMOUNT.findall(part)
        if not amounts or _AMOUNT.sub("", part).strip():
            return None
        found.append(
            sum(float(number) * _UNITS[unit[:2] if unit[:2] == "ms" else unit[:1]] for number, unit in amounts)
        )
    return max(found)


def _date(text: str | None) -> float | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = read((text or "").strip()[:100])
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (TypeError, ValueError, OverflowError, IndexError):
            continue
    return None


def _status(value: Any) -> int | None:
    """A status of HTTP, as a number or as text."""
    if isinstance(value, str) and re.fullmatch("[0-9]{3}", value.strip()):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600 else None
