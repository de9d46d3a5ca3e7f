"""Text from outside (environments, models, servers, files), made fit for the ways out of this process.

A terminal or a page must show it and not obey it, UTF-8 must be able to hold it, and no message may give away a
secret. Everything that lets such text out calls these functions instead of its own version of them.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")
_HIDDEN_CATEGORIES = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
HIDDEN = "***"
"""Stands in messages where a secret was."""

SECRET_VARIABLES = (
    "STAPO_API_KEY", "STAPO_ENV_TOKEN", "STAPO_OPENENV_TOKEN", "STAPO_RETRIEVER_TOKEN", "STAPO_VIEW_TOKEN",
    "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_PASSWORD", "COMET_API_KEY", "NEPTUNE_API_TOKEN", "SWANLAB_API_KEY",
)  # fmt: skip
"""Environment variables whose values no message, row or page may show."""

_PIECE = 8
_SHORTEST = 4
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{2,}")
_USERINFO = re.compile(r"(?<=://)[^/?#\s]+@")
_SECRET_NAME = re.compile(
    r"(key|token|secret|passw(or)?d|passphrase|pwd|pass|auth|authorization|sig|signature|credentials?|bearer|jwt|code)$",
    re.IGNORECASE,
)
_KEY_LIKE = re.compile(r"\b(sk|pk|rk|gsk|hf|xai|ghp|gho|glpat|xox[abp]|nvapi|AIza)[-_]?(?=[\w-]{12})[\w-]*[0-9][\w-]*")
_PARAMETER = re.compile(r"([?&#;][^=&#;\s]*?)=([^&#;\s'\"<>`]+)")
_DIRECTION_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def escape_control_chars(text: str) -> str:
    r"""Spell out what would act instead of show: control codes, lone surrogates, changes of direction as \\u{…}."""
    return _SUSPECT.sub(_spelled, text)


def replace_surrogates(text: str) -> str:
    """Put a question mark in the place of each lone surrogate, which UTF-8 cannot hold; other text is unchanged."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def counted(number: float, noun: str, many: str = "") -> str:
    """A number with its noun: "1 task", "2,000 tasks", and `many` where the plural is not a noun with an s."""
    return f"{number:,} {noun if number == 1 else many or f'{noun}s'}"


def _spelled(match: re.Match[str]) -> str:
    c = match.group()
    if unicodedata.category(c) in _HIDDEN_CATEGORIES or c in _DIRECTION_CONTROLS:
        return f"\\u{{{ord(c):x}}}"
    return c


class _Secrets:
    """What must not be shown, in every form in which a library or a server may write it."""

    def __init__(self) -> None:
        self.forms: set[str] = set()
        self.pieces: set[str] = set()
        self.short: set[str] = set()

    def add(self, secret: str) -> None:
        if len(secret) < _SHORTEST or secret in self.forms or secret in self.short:
            return
        if len(secret) < _PIECE:
            self.short.add(secret)
            return
        forms = {form for form in _forms(secret) if len(form) >= _PIECE}
        self.forms |= forms
        self.pieces |= {form[i : i + _PIECE] for form in forms for i in range(len(form) - _PIECE + 1)}

    def hide(self, text: str, shortest: int) -> str:
        if len(text) >= _PIECE and self.pieces:
            text = self._without_pieces(text)
        if shortest < _PIECE:
            for secret in sorted(self.short, key=len, reverse=True):
                text = text.replace(secret, HIDDEN)
        return text

    def _without_pieces(self, text: str) -> str:
        """Every stretch that is made of pieces goes, which also removes what was cut out of a secret."""
        pieces = self.pieces
        found = [i for i in range(len(text) - _PIECE + 1) if text[i : i + _PIECE] in pieces]
        if not found:
            return text
        kept, last, start = [], 0, found[0]
        end = start + _PIECE
        for i in [*found[1:], len(text) + 1]:
            if i > end:
                kept += [text[last:start], HIDDEN]
                last, start = end, i
            end = i + _PIECE
        return "".join([*kept, text[last:]])


_secrets = _Secrets()


def remember_secret(secret: str | None) -> None:
    """From now on `hide_secrets` takes this text out, whole and in pieces, however it is encoded."""
    for form in {secret or "", (secret or "").strip()}:
        _secrets.add(form)


def remember_secrets_of(environment: Mapping[str, str] = os.environ) -> None:
    """Remember the values of the variables that hold keys; see `SECRET_VARIABLES`."""
    for name in SECRET_VARIABLES:
        remember_secret(environment.get(name))


def hide_secrets(text: str) -> str:
    """Take secrets out of a message, before anything cuts it: what is left of a key after a cut cannot be recognized.

    Credentials inside addresses go as well, known or not.
    """
    text = _secrets.hide(text, _SHORTEST)
    return _ADDRESS.sub(_without_credentials, text) if "://" in text else text


def hide_known_secrets(text: str) -> str:
    """Take secrets out of a text from outside that is kept (a response, a page), and change nothing else in it.

    Secrets of fewer than eight characters stay: a key such as "none" is a word in what a model says.
    """
    return _secrets.hide(text, _PIECE)


def secret_in_address(text: str) -> str:
    """What part of an address holds a secret, in words; "" where none does.

    A password may hold anything, slashes, blanks and quotes included, so everything between the scheme and the next
    address counts.

    Args:
        text: an address, or a text with addresses in it. One without a scheme ("user:password@host") also counts.
    """
    starts = [match.end() for match in _SCHEME.finditer(text)]
    for start, end in zip(starts or [0], [*starts[1:], len(text)], strict=True):
        rest = text[start:end]
        if "@" in rest:
            return "a password or a user name before '@'"
        for mark, part in (("?", "query"), ("#", "fragment")):
            for given in re.split("[?&#;]", rest.partition(mark)[2]):
                # Also without a value: it may go on behind a mark that ends it.
                if _SECRET_NAME.search(unquote(given.partition("=")[0]).strip()):
                    return f"a key in its {part}"
        if starts and _KEY_LIKE.search(unquote(rest)):
            return "what looks like a key"
    return ""


def without_addresses(value: Any) -> Any:
    """A value of a configuration or command, all of its texts, with addresses that hold a secret blanked.

    Today's runs hold none; those of earlier versions may. A password may hold any character, so that everything before
    the last "@" goes.
    """
    if isinstance(value, dict):
        return {key: without_addresses(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_addresses(item) for item in value]
    if isinstance(value, str) and "://" in value and secret_in_address(value):
        return re.sub(r"(?s)://.*@", f"://{HIDDEN}@", hide_secrets(value))
    return value


def _without_credentials(match: re.Match[str]) -> str:
    address = _USERINFO.sub(f"{HIDDEN}@", match.group())
    return _PARAMETER.sub(lambda m: f"{m[1]}={HIDDEN}" if _SECRET_NAME.search(m[1]) else m[0], address)


def _forms(secret: str) -> set[str]:
    forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    forms |= {html.escape(secret), secret.encode("unicode_escape").decode("ascii"), escape_control_chars(secret)}
    data = secret.encode("utf-8", "surrogateescape" if _is_foreign_bytes(secret) else "replace")
    percent = [quote(data, safe=""), quote(data), quote_plus(data)]
    forms |= {*percent, *(re.sub(r"%..", lambda m: m[0].lower(), form) for form in percent), data.hex()}
    # Inside "user:secret" the groups of three bytes begin anywhere; only those that are the secret's alone are known.
    for before in range(3):
        known = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        known = known[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        forms |= {known, known.replace("+", "-").replace("/", "_")}
    return forms


def _is_foreign_bytes(text: str) -> bool:
    return any("\udc80" <= c <= "\udcff" for c in text) and not any("\ud800" <= c < "\udc80" for c in text)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a text.

    Attributes:
        kind: the name of its tags, as it was asked for.
        start: where its opening tag begins.
        end: where its closing tag ends.
        text: what stands between the two.
    """

    kind: str
    start: int
    end: int
    text: str


def first_block(text: str, kinds: Sequence[str], ignore_case: bool = False) -> Block | None:
    """The first block of any of these kinds: the earliest opening tag that has a closing tag of its kind behind it.

    It reaches to the next closing tag of its kind, so an opening tag inside it belongs to its text.
    """
    found: Block | None = None
    for kind in kinds:
        opening, closing = (_pattern(tag, ignore_case) for tag in (f"<{kind}>", f"</{kind}>"))
        begin = opening.search(text)
        finish = closing.search(text, begin.end()) if begin else None
        if begin and finish and (found is None or begin.start() < found.start):
            found = Block(kind, begin.start(), finish.end(), text[begin.end() : finish.start()])
    return found


def blocks(text: str, kind: str) -> Iterator[Block]:
    """Every block of a kind, in order; none inside another."""
    opening, closing = f"<{kind}>", f"</{kind}>"
    at = 0
    while True:
        start = text.find(opening, at)
        finish = text.find(closing, start + len(opening)) if start >= 0 else -1
        if finish < 0:
            return
        at = finish + len(closing)
        yield Block(kind, start, at, text[start + len(opening) : finish])


@lru_cache(maxsize=64)
def _pattern(tag: str, ignore_case: bool) -> re.Pattern[str]:
    # Lower-casing the text instead can change its length, and with it every position.
    return re.compile(re.escape(tag), re.IGNORECASE | re.ASCII if ignore_case else 0)


def duration(seconds: float) -> str:
    """Seconds in the unit that people read."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
