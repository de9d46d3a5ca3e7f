"""Which characters of a response each of its tokens stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "\ufffd"
_MOST_OF_A_CHARACTER = 32  # tokens; a response of loose bytes would otherwise take the square of its length


def token_characters(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[int] | None:
    """How many characters of `decode(ids)` each token adds; None where tokens and text do not fit together.

    A token that shows nothing, such as an end token, has none. A character of several tokens belongs to the last.

    Args:
        ids: the sampled tokens.
        decode: turns tokens into text.
    """
    text = decode(ids)
    single = [decode([i]) for i in ids]
    if "".join(single) == text:
        return [len(piece) for piece in single]
    # Some tokenizers read a joined piece differently (a blank before a word), and a character may be cut in two: read
    # each token behind the ones that finished the last character.
    lengths: list[int] = []
    window = begun = done = 0
    for end in range(1, len(ids) + 1):
        before, now = decode(ids[window:begun]), decode(ids[window:end])
        if len(now) > len(before) and not now.endswith(_UNFINISHED):
            added = now[len(before) :]
            if not text.startswith(added, done):
                return None
            lengths.append(len(added))
            done += len(added)
            window, begun = begun, end
        elif end - begun > _MOST_OF_A_CHARACTER:
            return None
        else:
            lengths.append(0)
    if done < len(text):
        if not ids or not set(text[done:]) <= {_UNFINISHED}:
            return None
        lengths[-1] += len(text) - done
    return lengths
