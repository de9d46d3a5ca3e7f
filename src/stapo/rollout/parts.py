"""Which tokens of a response belong to its thought and to its action.

The characters of a part are found in the decoded text; the tokens that carry them are found by decoding ever longer
beginnings of the response. Nothing is tokenized anew: another cut of the same text would count other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stapo.agent import part_spans

_UNFINISHED = "\ufffd"


def token_parts(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> dict[str, tuple[int, int]]:
    """Token range of each part of a response: part -> (first, end).

    A part without text has no tokens and is left out, as is one whose tags are missing. A token that carries the
    bracket of a tag together with text of the part counts.

    Args:
        ids: the sampled tokens.
        decode: turns tokens into text; has to be the one that the response was read with.
    """
    ranges = {}
    text = decode(ids)
    for part, (start, end) in part_spans(text).items():
        if start == end:
            continue
        first, last = _tokens_for(text[:start], ids, decode), _tokens_for(text[:end], ids, decode)
        if first and len(decode(ids[:first])) > start:
            first -= 1
        if first < last:
            ranges[part] = (first, last)
    return ranges


def _tokens_for(beginning: str, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """The least number of tokens whose text starts with `beginning`; all of them where no fewer do.

    Bisection, with a trap in it: of a character that is cut into several tokens, the first ones decode to replacement
    characters, and some decoders replace finished characters next to it, too. Such a text answers nothing, so the
    search steps back to where the last character is whole.
    """
    low, high = 0, len(ids)
    while low < high:
        middle = count = (low + high) // 2
        text = decode(ids[:count])
        while count > low and text.endswith(_UNFINISHED) and not text.startswith(beginning):
            count -= 1
            text = decode(ids[:count])
        if text.startswith(beginning):
            high = count
        else:
            low = middle + 1
    return low
