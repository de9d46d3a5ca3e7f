"""Keys and values of running episodes, kept between turns, so that a turn reads its new tokens alone.

What is kept is looked up by the name of an episode and used as far as its token ids begin the new prompt, so that no
name, break or retry can make a sample another one. It lives for one rollout, within a budget of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from stapo.progress import note

Name = tuple[int, ...]

_STEP_TOKENS = {"cpu": 32}
_STEP_TOKENS_ELSEWHERE = 1024


@dataclass
class PromptCounts:
    """What has been spent on prompts so far.

    Attributes:
        prefilled: tokens that were read, padding left out.
        reused: tokens whose keys and values were there already.
        not_kept: episodes that grew beyond the budget, each once in a rollout.
    """

    prefilled: int = 0
    reused: int = 0
    not_kept: int = 0

    def since(self, before: PromptCounts) -> dict[str, int]:
        """What has come since `before`, as it is logged."""
        return {
            "tokens": self.prefilled - before.prefilled,
            "reused": self.reused - before.reused,
            "not_kept": self.not_kept - before.not_kept,
        }


@runtime_checkable
class KeepsKeys(Protocol):
    """A sampler that keeps something of each episode between turns, and counts what that saves."""

    @property
    def counts(self) -> PromptCounts:
        """What has been spent on prompts so far."""
        ...

    def forget(self) -> None:
        """Drop everything; the rollout has ended."""
        ...


@dataclass
class _Kept:
    """Prompt and response of an episode's last turn, and keys and values (heads, tokens, size) of its beginning."""

    ids: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    nbytes: int = 0

    @property
    def tokens(self) -> int:
        return self.layers[0][0].shape[1] if self.layers else 0


class _RoomyLayer(DynamicLayer):
    """A layer of a cache with room for what comes: the next token is written, and what was there is not copied."""

    def __init__(self, rows: Sequence[tuple[torch.Tensor, torch.Tensor] | None], filled: int, room: int) -> None:
        super().__init__()
        like = next(row for row in rows if row is not None)
        self.lazy_initialization(*like)
        self._rooms = [part.new_empty(len(rows), part.shape[0], room, part.shape[2]) for part in like]
        for b, row in enumerate(rows):
            start = filled - (0 if row is None else row[0].shape[1])
            for k, whole in enumerate(self._rooms):
                whole[b, :, :start] = 0  # masked, but it has to be finite
                if row is not None:
                    whole[b, :, start:filled] = row[k]
        self._show(filled)

    def _show(self, filled: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (whole[:, :, :filled] for whole in self._rooms)
        self.keys, self.values = keys, values
        return keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens; returns those of all."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for whole, new in zip(self._rooms, (key_states, value_states), strict=True):
            whole[:, :, start:end] = new
        return self._show(end)


class KeptKeys:
    """What is kept of the episodes of one rollout.

    Args:
        budget: bytes that may be kept between turns; 0 keeps nothing.
        growing: prompts are known to grow by appending, so the first turn is kept. Otherwise the second decides: the
            first leaves its ids alone, and where no prompt extends them nothing is ever kept.
    """

    def __init__(self, budget: int, growing: bool) -> None:
        self.budget = budget
        self.counts = PromptCounts()
        self._declared = self._growing = growing
        self._kept: dict[Name, _Kept] = {}
        self._left_out: set[Name] = set()
        self._weights = 0

    @property
    def growing(self) -> bool:
        """Whether keys are to be kept."""
        return self.budget > 0 and self._growing

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now; what several episodes begin with counts once."""
        return sum({id(kept): kept.nbytes for kept in self._kept.values()}.values())

    def forget(self) -> None:
        """Drop everything, and what was seen of the prompts."""
        self._kept.clear()
        self._left_out.clear()
        self._growing = self._declared

    def begin(self, prompts: Sequence[Sequence[int]], streams: Sequence[Name], weights: int) -> list[int]:
        """Drop the episodes that are not asked about; returns for each prompt the tokens that need not be read.

        Args:
            prompts: of one call.
            streams: their random streams; all but the last number names the episode, the last one the turn.
            weights: a number that changes when the weights do.
        """
        if not self.budget:
            return [0] * len(prompts)
        if weights != self._weights:
            self._kept.clear()
            self._weights = weights
        later = {stream[:-1] for stream in streams if stream[-1] > 0}
        self._kept = {name: kept for name, kept in self._kept.items() if name in later}
        # A name that is given twice in one call is two episodes, and what is kept is that of one.
        named = {stream[:-1]: i for i, stream in enumerate(streams)}
        found = [self._kept.get(s[:-1]) if named[s[:-1]] == i else None for i, s in enumerate(streams)]
        self._growing = self._growing or any(
            kept is not None and list(prompt[: len(kept.ids)]) == kept.ids
            for prompt, kept in zip(prompts, found, strict=True)
        )
        return [
            0 if kept is None else _common(kept.ids[: kept.tokens], prompt[:-1])
            for prompt, kept in zip(prompts, found, strict=True)
        ]

    def take(self, streams: Sequence[Name], cuts: Sequence[int], room: int) -> DynamicCache:
        """Put the first `cuts` tokens of these episodes together, flush right, with room for `room` tokens more."""
        kept = [self._kept.pop(stream[:-1]) if cut else None for stream, cut in zip(streams, cuts, strict=True)]
        cache = DynamicCache()
        for at in range(next(len(k.layers) for k in kept if k is not None)):
            rows = [
                None if k is None else (k.layers[at][0][:, :cut], k.layers[at][1][:, :cut])
                for k, cut in zip(kept, cuts, strict=True)
            ]
            cache.layers.append(_RoomyLayer(rows, max(cuts), max(cuts) + room))
        return cache

    def note(self, stream: Name, ids: list[int]) -> None:
        """Remember what an episode has said so far, to see whether its next prompt extends that."""
        if self.budget:
            self._kept[stream[:-1]] = _Kept(ids)

    def keep(self, stream: Name, ids: list[int], cache: Any, row: int, columns: slice) -> None:
        """Keep what a cache holds of an episode, where the budget allows it.

        Args:
            stream: of the turn.
            ids: prompt and response.
            cache: of the batch that was generated.
            row: of the episode in it.
            columns: the tokens of the episode in it; the first ones of `ids`.
        """
        parts = [(layer.keys[row, :, columns], layer.values[row, :, columns]) for layer in cache.layers]
        size = sum(keys.nbytes + values.nbytes for keys, values in parts)
        name = stream[:-1]
        self._kept.pop(name, None)
        if self.nbytes + size <= self.budget:
            self._kept[name] = _Kept(ids, [(keys.clone(), values.clone()) for keys, values in parts], size)
        elif name not in self._left_out:
            self._left_out.add(name)
            self.counts.not_kept += 1

    def share(self, streams: Sequence[Name]) -> bool:
        """Give what is kept of the first of these episodes to all of them; whether there is anything."""
        if kept := self._kept.get(streams[0][:-1]):
            self._kept |= {stream[:-1]: kept for stream in streams}
        return kept is not None

    def check(self, cache: Any, rows: int, tokens: int) -> bool:
        """Whether a cache is one of keys and values of all tokens; if not, nothing is kept from now on, said once."""
        layers = getattr(cache, "layers", None) or []
        plain = type(cache) is DynamicCache and all(
            type(layer) in (DynamicLayer, _RoomyLayer)
            and layer.is_initialized
            and (layer.keys.shape[0], layer.keys.shape[2], layer.values.shape[2]) == (rows, tokens, tokens)
            for layer in layers
        )
        if not (plain and layers):
            self.budget = 0
            self.forget()
            kinds = sorted({type(layer).__name__ for layer in layers}) or [type(cache).__name__]
            note(
                f"this model's cache ({', '.join(kinds)}) is not one of keys and values of all tokens, so nothing is "
                "kept between turns: each prompt is read from its start (rollout.kept_keys_gib)"
            )
        return self.budget > 0


def sub_batches(
    lengths: Sequence[int], known: Sequence[int], budget: int, max_new_tokens: int, device: str
) -> list[list[int]]:
    """Cut rows into sub-batches of at most `budget` padded tokens, those with the fewest tokens to read first.

    Rows of a sub-batch read as many tokens as the one that has most to read. A row begins another one where that costs
    the others more than a second round of decoding would.

    Args:
        lengths: tokens of the prompts.
        known: tokens of them that need not be read.
        budget: of `rollout.batch_tokens`.
        max_new_tokens: decoding steps of a round, at most.
        device: type of the device, which decides how many tokens a decoding step is worth.
    """
    new = [length - had for length, had in zip(lengths, known, strict=True)]
    round_tokens = max_new_tokens * _STEP_TOKENS.get(device, _STEP_TOKENS_ELSEWHERE)
    batches: list[list[int]] = []
    width = 0
    for i in sorted(range(len(lengths)), key=lambda i: (new[i], lengths[i], i)):
        rows, wider = batches[-1] if batches else [], max(width, lengths[i])
        if rows and (len(rows) + 1) * wider <= budget and len(rows) * (new[i] - new[rows[-1]]) <= round_tokens:
            rows.append(i)
            width = wider
        else:
            batches.append([i])
            width = lengths[i]
    return batches


def _common(ids: list[int], prompt: Sequence[int]) -> int:
    if list(prompt[: len(ids)]) == ids:
        return len(ids)
    return next((at for at, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), len(prompt))
