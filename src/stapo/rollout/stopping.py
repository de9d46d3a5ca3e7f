"""Texts that end a response: `agent.stop`.

A response ends with the token that completes one of them outside its thoughts. Its ids are as they were sampled: that
token may reach beyond the text, and no end token is added.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from stapo.rollout.encoding import Encoder
from stapo.rollout.sampler import Sample

_THINK = re.compile(r"<think>", re.IGNORECASE | re.ASCII)
_THINK_END = re.compile(r"</think>", re.IGNORECASE | re.ASCII)
_MARGIN = 8  # a tokenizer may write a token in another way at the start of a text than inside it


def stop_end(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of these texts ends that stands outside a thought; None where there is none."""
    at = 0
    while True:
        thought = _THINK.search(text, at)
        begin = len(text) if thought is None else thought.start()
        found = [place + len(stop) for stop in stops if (place := text.find(stop, at, begin)) >= 0]
        if found:
            return min(found)
        closed = None if thought is None else _THINK_END.search(text, thought.end())
        if closed is None:
            return None
        at = closed.end()


class StopRule:
    """Ends responses at texts.

    Args:
        stops: the texts.
        encoder: reads responses.

    Attributes:
        texts: as given.
    """

    def __init__(self, stops: Sequence[str], encoder: Encoder) -> None:
        self.texts = tuple(stops)
        self._encoder = encoder
        self._tail = max(len(stop.encode()) for stop in stops) + _MARGIN

    def complete(self, ids: Sequence[int]) -> bool:
        """Whether a response that grows token by token is complete."""
        tail = self._encoder.decode(ids[-self._tail :])
        return any(stop in tail for stop in self.texts) and self._end(ids) is not None

    def cut(self, sample: Sample) -> Sample:
        """A response without what comes after the token that ends it."""
        end = self._end(sample.ids)
        if end is None:
            return sample
        return replace(
            sample,
            ids=sample.ids[:end],
            logprobs=sample.logprobs[:end],
            entropies=sample.entropies[:end],
            ended=True,
        )

    def _end(self, ids: Sequence[int]) -> int | None:
        """How many tokens a response has up to the first text that ends it; None where none does."""
        opening = self._encoder.opening(ids)

        def over(count: int) -> bool:
            return stop_end(opening + self._encoder.decode(ids[:count]), self.texts) is not None

        return bisect_left(range(len(ids)), True, key=over) if over(len(ids)) else None
