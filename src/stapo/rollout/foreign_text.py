"""Text of others that stays text: which markers in a text are somebody else's, and their ids without control tokens.

A tokenizer reads every ``<|im_end|>`` as its token, whoever wrote it. Here, a marker that came from an environment, a
corpus or a file stands between fences while a prompt style and a chat template write around it. Then the markers
outside fences are read as tokens, and those inside as the characters that they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from secrets import token_hex
from typing import Any, NamedTuple

from tokenizers import Tokenizer

_FORMAT_TAG = re.compile(
    r"</?(think|thinking|thought|reasoning|action|search|answer|information|tool_call|tool_response)>", re.IGNORECASE
)
# Those of Qwen, Llama, Gemma, Mistral, DeepSeek, Phi, Granite, GLM, GPT-OSS, EXAONE and their kin.
_KNOWN = (
    r"<\|[^<>|\s]{1,64}\|>|<｜[^<>｜\s]{1,64}｜>|\[\|[^\[\]|\s]{1,64}\|\]|</?s>|<</?SYS>>|<(?:start|end)_of_(?:turn|role|text)>"
    r"|<(?:bos|eos|pad|unk|mask)>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK)\]|\[gMASK\]|<sop>"
)
_KNOWN_FORM = re.compile(_KNOWN)
_BLANKS = " \t\r\n\v\f\u2581"
# An added token without any of these is a word of a vocabulary that somebody has extended.
_BRACKET = re.compile(r"[<>\[\]{}｜＜＞]")


class MarkerCounts(NamedTuple):
    """Markers in what others wrote into a prompt.

    Attributes:
        foreign: how many the prompt shows.
        broken: how many of these were broken up with a blank, because nothing else makes them text.
    """

    foreign: int
    broken: int


class ControlTokens:
    """The control tokens of one tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer.

    Attributes:
        ids: tokens that only a chat template may write.
        dropped: tokens that do not belong to the text of a response.
        formats: special tokens that are tags of a response format, and therefore text.
        markers: all added tokens that the text of others must not become, and their ids; no blanks and no words.
    """

    def __init__(self, tokenizer: Any) -> None:
        added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
        special = {int(i) for i in getattr(tokenizer, "all_special_ids", None) or () if i is not None}
        special |= {int(i) for i, token in added.items() if getattr(token, "special", False)}
        contents = {int(i): str(getattr(token, "content", token)) for i, token in added.items()}
        self.formats = frozenset(i for i in special if _FORMAT_TAG.fullmatch(contents.get(i, "")))
        self.dropped = frozenset(special - self.formats)
        self.markers = {
            text: i for i, text in contents.items() if text.strip(_BLANKS) and (i in special or _BRACKET.search(text))
        }
        # What a vocabulary does not have becomes the unknown token, in the most harmless text.
        self.ids = frozenset(
            i
            for text, i in self.markers.items()
            if i in self.dropped or (_KNOWN_FORM.fullmatch(text) and i not in self.formats)
        ) - {getattr(tokenizer, "unk_token_id", None)}


def known_markers(text: str) -> list[tuple[int, int]]:
    """Where a text has markers of common chat templates, for tokenizers that are not at hand."""
    return [match.span() for match in _KNOWN_FORM.finditer(text)]


Span = tuple[int, int]
"""Where a marker begins and ends in a text."""

# Nobody can write what is drawn anew in every process; ids do not depend on it.
_NONCE = token_hex(16)
_OPEN, _CLOSE = f"\ufdd0{_NONCE}\ufdd1", f"\ufdd2{_NONCE}\ufdd3"
_FENCE = re.compile(f"({_OPEN}|{_CLOSE})")


class Markers:
    """Strings that a tokenizer reads as one token each.

    Args:
        surfaces: the strings.
    """

    def __init__(self, surfaces: Iterable[str]) -> None:
        self._surfaces = frozenset(surfaces)
        self._lengths = sorted({len(surface) for surface in self._surfaces}, reverse=True)
        firsts = "".join(re.escape(first) for first in sorted({surface[0] for surface in self._surfaces}))
        self._first = re.compile(f"[{firsts}]") if firsts else None
        # Two texts side by side must not make one that neither holds.
        self._beginnings = {surface[:n] for surface in self._surfaces for n in range(1, len(surface))}
        self._ends = {surface[n:] for surface in self._surfaces for n in range(1, len(surface))}

    def spans(self, text: str) -> list[Span]:
        """Where the markers of a text are: the first and longest at each place, as tokenizers read them."""
        found: list[Span] = []
        end = 0
        for match in self._first.finditer(text) if self._first else ():
            start = match.start()
            if start >= end:
                length = next((n for n in self._lengths if text[start : start + n] in self._surfaces), 0)
                if length:
                    end = start + length
                    found.append((start, end))
        return found

    def hold(self, text: str) -> str:
        """The text with fences around its markers, and where a part of one stands at its beginning or end."""
        held, longest = fenced(text, self.spans(text)), max(self._lengths, default=0)
        if any(text[:n] in self._ends for n in range(1, longest)):
            held = _OPEN + held
        return held + _CLOSE if any(text[-n:] in self._beginnings for n in range(1, longest)) else held

    def read(self, held: str) -> tuple[str, list[Span], list[Span]]:
        """The text without its fences, its markers outside fences, and those inside or across one."""
        parts = _FENCE.split(held)
        text = "".join(parts[::2])
        opens, closes, place = set[int](), set[int](), 0
        for part in parts:
            if part == _OPEN:
                opens.add(place)
            elif part == _CLOSE:
                closes.add(place)
            else:
                place += len(part)
        own: list[Span] = []
        foreign: list[Span] = []
        fences = opens | closes
        for start, end in self.spans(text):
            inside = start in opens or end in closes or not fences.isdisjoint(range(start + 1, end))
            (foreign if inside else own).append((start, end))
        return text, own, foreign


def released(held: str) -> str:
    """A text without its fences."""
    return _FENCE.sub("", held)


def torn(written: str, text: str) -> bool:
    """Whether a template that has written a text with fences has changed or cut one."""
    whole, given = released(written), released(text)
    return _NONCE in whole or any(whole.count(mark) != given.count(mark) for mark in "\ufdd0\ufdd1\ufdd2\ufdd3")


def fenced(text: str, spans: Iterable[Span]) -> str:
    """A text with fences around these parts."""
    return _replaced(text, spans, lambda marker: f"{_OPEN}{marker}{_CLOSE}")


def broken_up(text: str, spans: Iterable[Span]) -> str:
    """A text with a blank behind the first character of these parts."""
    return _replaced(text, spans, lambda marker: f"{marker[0]} {marker[1:]}")


class TextTokenizer:
    """A tokenizer that reads text as text: it has other names for its added tokens, which no text holds.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        markers: the added tokens in question, and their ids.

    Raises:
        ValueError: no such copy of this tokenizer can be made.
    """

    def __init__(self, tokenizer: Any, markers: Mapping[str, int]) -> None:
        written = json.loads(tokenizer.backend_tokenizer.to_str())
        written |= {"truncation": None, "padding": None}
        self._names = {surface: f"\ufdd4{_NONCE}{i:08x}\ufdd5" for surface, i in markers.items()}
        for token in written["added_tokens"]:
            if token["content"] in self._names:
                token |= {"content": self._names[token["content"]], "normalized": False, "single_word": False}
        _rename(written["model"], self._names)
        self._tokenizer = Tokenizer.from_str(json.dumps(written))
        ids = {surface: self._tokenizer.token_to_id(name) for surface, name in self._names.items()}
        plain = "The mug is on desk 1."
        if ids != dict(markers) or self.encode(plain, []) != tokenizer.encode(plain, add_special_tokens=False):
            raise ValueError("the copy of the tokenizer gives other ids than the tokenizer")

    def encode(self, text: str, own: Iterable[Span], *, whole: bool = False) -> list[int]:
        """The ids of a text of which these markers, and no others, are tokens.

        Args:
            text: the text.
            own: the markers that are tokens.
            whole: add what the tokenizer adds around a text (a bos token).
        """
        named = _replaced(text, own, self._names.__getitem__)
        return list(self._tokenizer.encode(named, add_special_tokens=whole).ids)


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename entries of a vocabulary, so that the model does not make them of characters either."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    else:
        model["vocab"] = {names.get(token, token): i for token, i in vocab.items()}
    if "merges" in model:
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        model["merges"] = [(a, b) for a, b in pairs if names.keys().isdisjoint((a, b, a + b))]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]


def _replaced(text: str, spans: Iterable[Span], change: Callable[[str], str]) -> str:
    parts, last = [], 0
    for start, end in spans:
        parts += [text[last:start], change(text[start:end])]
        last = end
    return "".join([*parts, text[last:]])
