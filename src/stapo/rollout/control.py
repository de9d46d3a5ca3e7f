"""Control tokens: those that structure a chat, and must never come from a text that somebody else wrote.

A tokenizer reads ``<|im_end|>`` in a page, a goal or an answer as the token that ends a message, and what follows would
speak with another voice. The tags of the response formats are text even where a tokenizer has tokens for them: those of
a response and of a prompt style's own rules are read as such tokens, those in texts of others are not.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

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
