"""Reading the prompts of rows in parts, and decoding all of them together.

A row reads what the model has not seen of it: at first its prompt, then what was drawn. Tokens that a grammar leaves no
choice about are not drawn: they are read together with the token in front of them, and those that end a response are
not read at all. Rows with less to read than others of their pass have padding in front of it, masked.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from stapo.errors import NonFiniteError
from stapo.rollout.batch_cache import BatchCache, Layers
from stapo.rollout.drawing import FEWEST_ROWS, Drawer
from stapo.rollout.trie import Walk


@dataclass(slots=True, eq=False)
class Row:
    """A prompt and its response in the making.

    Attributes:
        prompt: token ids.
        uniforms: one in [0, 1) for each token of the response; empty where the most probable one is taken.
        walk: its way through its grammar; None where all tokens are allowed.
        eos_ids: tokens that end a response.
        limit: tokens of a response at most.
        stops: whether a response so far is complete by its text; None where text ends none.
        kept: keys and values of the first tokens of the prompt.
        known: how many of them may be used.
        ids, logprobs, entropies: of the response so far.
        ended: by an end token, or by its text.
        read: tokens of prompt and response that the model has read, and whose keys are at `columns` of its cache.
        done: the response is complete.
    """

    prompt: Sequence[int]
    uniforms: Sequence[float]
    walk: Walk | None
    eos_ids: Sequence[int]
    limit: int
    stops: Callable[[Sequence[int]], bool] | None = None
    kept: Layers = field(default_factory=list)
    known: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    read: int = 0
    ended: bool = False
    done: bool = False

    def __post_init__(self) -> None:
        self._add_forced()

    @property
    def length(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt) + len(self.ids)

    def tokens(self, start: int, end: int) -> list[int]:
        """Those of prompt and response from `start` to `end`."""
        cut = len(self.prompt)
        return [*self.prompt[start:end], *self.ids[max(0, start - cut) : max(0, end - cut)]]

    def take(self, token: int, logprob: float, entropy: float) -> None:
        """Add a token that was drawn, and those that have to follow."""
        if not (math.isfinite(logprob) and math.isfinite(entropy)):
            raise NonFiniteError(
                "the policy's log-probabilities are not finite while it generates. Its weights hold NaN or infinity, "
                "or its numbers overflow: lower optim.learning_rate, or use another model.dtype."
            )
        self._add(token, logprob, entropy)
        self._add_forced()

    def _add(self, token: int, logprob: float, entropy: float) -> None:
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.entropies.append(entropy)
        if self.walk is not None:
            self.walk.take(token)
        complete = self.walk is not None and self.walk.complete
        self.ended = token in self.eos_ids or (self.stops is not None and self.stops(self.ids))
        self.done = complete or self.ended or len(self.ids) == self.limit

    def _add_forced(self) -> None:
        while self.walk is not None and not self.done and not self.walk.allowed.choice:
            self._add(self.walk.allowed.ids[0], 0.0, 0.0)


class Decoder:
    """Answers rows with a model.

    Args:
        model: the causal language model, in evaluation mode.
        drawer: draws tokens from hidden states.
        pad_id: token in front of shorter rows.
        keep: called with a row whose response is complete, the bytes that keys and values of what it has read take, and
            a way to get them; never of a model without a plain cache.

    Attributes:
        prefilled: tokens of prompts that were read.
        reused: tokens of prompts whose keys and values were there already.
    """

    def __init__(
        self,
        model: Any,
        plain: bool,
        drawer: Drawer,
        pad_id: int,
        keep: Callable[[Row, int, Callable[[], Layers]], None],
    ) -> None:
        self._body = model.base_model
        self._config = model.config
        self._device = model.device
        self._plain = plain
        self._drawer = drawer
        self._pad_id = pad_id
        self._keep = keep
        self._takes = set(inspect.signature(self._body.forward).parameters)
        self._takes_cache = "past_key_values" in self._takes
        self.prefilled = self.reused = 0

    def answer(self, parts: Sequence[Sequence[Sequence[Row]]]) -> None:
        """Answer rows, all of which are in memory together.

        Args:
            parts: prompts that are read together, each as the rows that have it; the first of them is read. A model
                without a plain cache is given one part, and every prompt for one row.
        """
        prompts = [rows for part in parts for rows in part]
        others = [row for rows in prompts for row in rows[1:]]
        sources = [at for at, rows in enumerate(prompts) for _ in rows[1:]]
        self._rows = [rows[0] for rows in prompts] + others
        hidden_rh = self._begin([len(part) for part in parts])
        self.prefilled += sum(len(rows[0].prompt) for rows in prompts)
        if others:
            self._cache.copy(sources, slice(len(prompts), None), self._mask_rc.shape[1])
            self._mask_rc[len(prompts) :] = self._mask_rc[sources]
            hidden_rh = torch.cat((hidden_rh, hidden_rh[sources]))
            self.reused += sum(len(row.prompt) for row in others)
            for row in others:
                row.read, row.kept = row.length, []
        self._decode(hidden_rh)

    def _begin(self, parts: Sequence[int]) -> torch.Tensor:
        """Read so many rows at a time, the first ones, with a new cache; returns their last hidden states."""
        width = max(row.length for row in self._rows)
        layers = DynamicCache(config=self._config) if self._takes_cache else None
        self._cache: Any = layers
        if self._plain and layers is not None:
            self._cache = BatchCache(len(layers.layers), len(self._rows), width + self._rows[0].limit)
        self._mask_rc = torch.zeros(len(self._rows), width, dtype=torch.long, device=self._device)
        hidden, begin = [], 0
        for count in parts:
            hidden.append(self._read(slice(begin, begin + count), width))
            begin += count
        for row in self._rows[:begin]:
            row.read, row.kept = row.length, []
        return torch.cat(hidden)

    def _read(self, at: slice, width: int) -> torch.Tensor:
        """Read the prompts of some rows, flush right at `width`; returns their last hidden states.

        All read as many tokens as the one that has most to read: where others would have padding between what is kept
        and what is new, they read what they have kept again, and each row is in one piece.
        """
        rows = self._rows[at]
        new = max(row.length - row.known for row in rows)
        first = width - max(row.length for row in rows)
        filled = width - new - first
        if filled:
            like = next(row.kept for row in rows if row.kept)
            for r, row in enumerate(rows, at.start):
                cut = max(0, row.length - new)
                self._cache.fill(r, row.kept if cut else like, cut, first + filled)
                self.reused += cut
                self.prefilled -= cut
        for r, row in enumerate(rows, at.start):
            self._mask_rc[r, width - row.length :] = 1
        cache = self._cache.window(at, first, filled) if self._plain else self._cache
        read = [row.tokens(max(0, row.length - new), row.length) for row in rows]
        return self._forward(read, [row.length for row in rows], self._mask_rc[at, first:], cache)

    def _forward(
        self, read: Sequence[Sequence[int]], lengths: Sequence[int], mask_rc: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Read tokens that end rows of these lengths; returns the hidden states of the last ones."""
        width = max(map(len, read))
        ids_rn = torch.full((len(read), width), self._pad_id, dtype=torch.long)
        for r, ids in enumerate(read):
            ids_rn[r, width - len(ids) :] = torch.as_tensor(ids, dtype=torch.long)
        position_rn = torch.as_tensor(lengths).unsqueeze(1) + torch.arange(-width, 0)
        inputs = {"position_ids": position_rn.clamp_(min=0).to(self._device), "past_key_values": cache}
        out = self._body(
            input_ids=ids_rn.to(self._device),
            attention_mask=mask_rc,
            use_cache=self._takes_cache,
            **{name: value for name, value in inputs.items() if name in self._takes},
        )
        last_rh: torch.Tensor = out.last_hidden_state[:, -1]
        return last_rh

    def _decode(self, hidden_rh: torch.Tensor) -> None:
        """Draw, read, draw, until every response is complete."""
        while True:
            self._draw(hidden_rh)
            running = [r for r, row in enumerate(self._rows) if not row.done]
            if not running:
                return
            if self._takes_cache:
                hidden_rh = self._read_new(running)
            else:
                self._rows = [self._rows[r] for r in running]
                hidden_rh = self._begin([len(running)])

    def _read_new(self, running: list[int]) -> torch.Tensor:
        """Read what rows have to read now; returns the last hidden states of all rows."""
        if self._plain and FEWEST_ROWS < len(self._rows) >= 2 * len(running):
            complete = [r for r, row in enumerate(self._rows) if row.done]
            running = running + complete[: max(0, FEWEST_ROWS - len(running))]
            self._cache.select(running)
            self._mask_rc = self._mask_rc[running]
            self._rows = [self._rows[r] for r in running]
        most = max(row.length - row.read for row in self._rows if not row.done) if self._plain else 1
        read: list[list[int]] = []
        for row in self._rows:
            end = min(row.length, row.read + most)
            # Nobody sees what a complete response goes on with.
            read.append([self._pad_id] * most if row.done else row.tokens(row.read, end))
            row.read = row.read if row.done else end
        seen_rn = torch.tensor([[0] * (most - len(ids)) + [1] * len(ids) for ids in read], device=self._device)
        columns = self._mask_rc.shape[1]
        self._mask_rc = torch.cat((self._mask_rc, seen_rn), 1)
        cache = self._cache.window(slice(None), 0, columns) if self._plain else self._cache
        return self._forward(read, [row.read for row in self._rows], self._mask_rc, cache)

    def _draw(self, hidden_rh: torch.Tensor) -> None:
        """Draw a token for each row that has read all it has."""
        asked = [r for r, row in enumerate(self._rows) if not row.done and row.read == row.length]
        rows = [self._rows[r] for r in asked]
        drawn = self._drawer(
            hidden_rh,
            asked,
            [row.uniforms[len(row.ids)] if row.uniforms else 0.0 for row in rows],
            [None if row.walk is None else row.walk.allowed for row in rows],
        )
        for r, row, token, logprob, entropy in zip(asked, rows, *drawn, strict=True):
            row.take(token, logprob, entropy)
            if row.done and self._plain:
                self._offer(r, row)

    def _offer(self, r: int, row: Row) -> None:
        mask_c = self._mask_rc[r]
        self._keep(row, row.read * self._cache.token_bytes, lambda: self._cache.of_row(r, mask_c.nonzero().squeeze(1)))


def has_plain_cache(model: Any) -> bool:
    """Whether the cache of a model is one of keys and values of all tokens, filled as it reads."""
    if "past_key_values" not in inspect.signature(model.base_model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config).layers
    if not all(type(layer) is DynamicLayer for layer in layers):
        return False
    window = BatchCache(len(layers), 1, 1).window(slice(None), 0, 0)
    one = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    model.base_model(input_ids=one, past_key_values=window, use_cache=True)
    return all(window.get_seq_length(at) == 1 for at in range(len(layers)))


def cache_kinds(model: Any) -> str:
    """What kinds of layers the cache of a model has."""
    try:
        kinds = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers}
    except (AttributeError, KeyError, ValueError):
        kinds = {type(model).__name__}
    return ", ".join(sorted(kinds))
