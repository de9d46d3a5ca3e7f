"""Control tokens: those that structure a chat, and must never come from a text that somebody else wrote.

A tokenizer reads ``<|im_end|>`` in a page, a goal or an answer as the token that ends a message, and what follows would
speak with another voice. Such strings are broken up with a blank where a prompt is encoded; the chat template's own
stay. The tags of the response formats are text even where a tokenizer has tokens for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_FORMAT_TAG = re.compile(
    r"</?(think|thinking|thought|reasoning|action|search|answer|information|tool_call|tool_response)>", re.IGNORECASE
)
_KNOWN = (
    r"<\|[^<>|\s]{1,64}\|>|<｜[^<>｜\s]{1,64}｜>|</?s>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
    r"|<</?SYS>>|<(?:start|end)_of_(?:turn|role|text)>|<(?:bos|eos|pad|unk|mask)>|\[gMASK\]|<sop>"
)
_KNOWN_FORM = re.compile(_KNOWN)
# Parts the pages of shops, and is no control token of models that answer prompts.
_SEPARATOR = "[SEP]"


class ControlTokens:
    """The control tokens of one tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer; None stands for those of servers, of which the usual ones are known.

    Attributes:
        ids: tokens that no foreign text may become.
        dropped: tokens that are no text of a response.
        formats: special tokens that are tags of a response format, and therefore text.
    """

    def __init__(self, tokenizer: Any | None = None) -> None:
        added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
        special = {int(i) for i in getattr(tokenizer, "all_special_ids", None) or () if i is not None}
        special |= {int(i) for i, token in added.items() if getattr(token, "special", False)}
        contents = {int(i): str(getattr(token, "content", token)) for i, token in added.items()}
        self.formats = frozenset(i for i in special if _FORMAT_TAG.fullmatch(contents.get(i, "")))
        self.dropped = frozenset(special - self.formats)
        eos = getattr(tokenizer, "eos_token_id", None)
        control = {
            i: text
            for i, text in contents.items()
            if text.strip()
            and (i in self.dropped or (_KNOWN_FORM.fullmatch(text) and i not in self.formats))
            and (text.strip() != _SEPARATOR or i == eos)
        }
        # What a vocabulary does not have becomes this one, in the most harmless text.
        self.ids = frozenset(control) - {getattr(tokenizer, "unk_token_id", None)}
        literal = "|".join(re.escape(text.strip()) for text in sorted(control.values(), key=len, reverse=True))
        pattern = _KNOWN if tokenizer is None else literal
        self._strings = re.compile(pattern) if pattern else None

    def break_up(self, text: str) -> str:
        """The text with a blank inside every string that is a control token; other texts are returned as they are."""
        for _ in range(3):
            if self._strings is None or not self._strings.search(text):
                return text
            text = self._strings.sub(lambda found: _broken(found[0]), text)
        return text

    def count(self, ids: Any) -> dict[int, int]:
        """How often each control token occurs."""
        counts: dict[int, int] = {}
        for i in ids:
            if i in self.ids:
                counts[i] = counts.get(i, 0) + 1
        return counts


def break_up_surfaces(text: str, surfaces: Iterator[str]) -> str:
    """The text with a blank inside each of these strings, which a tokenizer turned into control tokens."""
    for surface in sorted({s.strip() for s in surfaces} - {""}, key=len, reverse=True):
        text = text.replace(surface, _broken(surface))
    return text


def _broken(text: str) -> str:
    return f"{text[0]} {text[1:]}" if len(text) > 1 else " "
