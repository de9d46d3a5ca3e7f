"""Turning prompts into responses with a Hugging Face model.

Each response draws its tokens from its own stream of uniform numbers (inverse-CDF sampling), so a sample depends on
the prompt and its stream alone: not on which other prompts share the batch, nor on their order. Where prompts grow from
turn to turn, a turn reads its new tokens alone; see `stapo.rollout.kept_keys`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from stapo.envs.guard import EnvFailure
from stapo.policy import micro_batches
from stapo.policy.model import head_of
from stapo.rollout.batch_cache import Layers, shared_heads
from stapo.rollout.config import NO_LIMITS, SamplingLimits
from stapo.rollout.decoding import Decoder, Row, cache_kinds, has_plain_cache
from stapo.rollout.drawing import Drawer
from stapo.rollout.kept_keys import KeptKeys, PromptCounts, key_bytes, sub_batches
from stapo.rollout.trie import Grammar


@dataclass(frozen=True, slots=True)
class Sample:
    """One response: token ids, and per token the log-probability and the entropy (nats) of its distribution."""

    ids: list[int]
    logprobs: list[float]
    entropies: list[float]
    ended: bool


class Sampler(Protocol):
    """Anything that answers prompts."""

    def sample(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], temperature: float
    ) -> Sequence[Sample | EnvFailure]:
        """Answer each prompt; `streams` names the random stream of each, temperature 0 is greedy.

        Under `agent.decode=constrained` it is given ``constraints``, a `stapo.rollout.trie.Grammar` of each, by name:
        every response has to follow its own, and the numbers recorded are those of the distribution among the allowed
        tokens. An evaluation that does not draw from all tokens gives ``limits``, a
        `stapo.rollout.config.SamplingLimits`, by name.

        A response that could not be had is a `EnvFailure` in its place, and costs its episode alone.
        """
        ...


@runtime_checkable
class OwnWeights(Protocol):
    """A sampler that answers with a copy of the policy's weights, and has to be told when they change.

    Its samples carry the log-probabilities of its own numbers; their entropies are NaN, and for the trainer to compute.
    """

    def weights_will_move(self) -> None:
        """Let go of what the update may want; the next `sample` fetches the weights as they are then."""
        ...

    def close(self) -> None:
        """Give back all memory; more than once is fine."""
        ...


@runtime_checkable
class ContinuousSampler(Protocol):
    """A sampler that takes prompts while it answers others."""

    def put(
        self,
        slot: int,
        prompt: Sequence[int],
        stream: tuple[int, ...],
        temperature: float,
        limits: SamplingLimits = NO_LIMITS,
    ) -> None:
        """Ask for a response, which `advance` will give for this slot; see `Sampler.sample`."""
        ...

    def advance(self) -> list[tuple[int, Sample | EnvFailure]]:
        """Generate for a moment, a token of each response or so; returns the responses that it completed."""
        ...

    def abandon(self) -> None:
        """Drop every response that is not complete."""
        ...


class HFSampler:
    """Samples from any `AutoModelForCausalLM` whose head is a plain one.

    Prompts are sorted by length and read in parts, so that short prompts do not pay for long ones, and a prompt that
    several rows have is read once. The responses of as many as fit into `decode_tokens` are decoded together.

    Args:
        model: the causal language model.
        eos_ids: tokens that end a response.
        pad_id: token used on the left of shorter prompts.
        max_new_tokens: longest response.
        batch_tokens: prompt tokens that are read together, padding included.
        kept_bytes: of keys and values that may be kept between the turns of a rollout; 0 reads each prompt from its
            start.
        growing: whether each prompt of an episode is known to extend the last one and its response. Otherwise it is
            seen at the second turn, and nothing is kept where it is not so.
        decode_tokens: prompt tokens of the rows that are decoded together, padding included.
        stops: whether the ids of a response so far are complete by their text; None where text ends none.

    Attributes:
        counts: what has been spent on prompts so far.
    """

    def __init__(
        self,
        model: Any,
        eos_ids: Sequence[int],
        pad_id: int,
        max_new_tokens: int,
        batch_tokens: int = 16_384,
        kept_bytes: int = 0,
        growing: bool = False,
        decode_tokens: int = 65_536,
        stops: Callable[[Sequence[int]], bool] | None = None,
    ) -> None:
        self.model = model
        self.eos_ids = list(eos_ids)
        self.pad_id = pad_id
        self.max_new_tokens = max_new_tokens
        self.batch_tokens = batch_tokens
        self.decode_tokens = decode_tokens
        self._stops = stops
        self._kept = KeptKeys(kept_bytes, growing)
        self._plain: bool | None = None

    @property
    def counts(self) -> PromptCounts:
        """See `KeepsKeys.counts`."""
        return self._kept.counts

    def room(self, tokens: int) -> int | None:
        """See `KeepsKeys.room`: on a CPU, a prompt that is read again costs more than a larger batch saves."""
        if self.model.device.type != "cpu" or not self._kept.growing:
            return None
        each = key_bytes(self.model.config, self.model.dtype.itemsize)
        return None if each is None else self._kept.budget // (tokens * each)

    def forget(self) -> None:
        """See `KeepsKeys.forget`."""
        self._kept.forget()

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[tuple[int, ...]],
        temperature: float,
        constraints: Sequence[Grammar | None] | None = None,
        limits: SamplingLimits = NO_LIMITS,
    ) -> list[Sample]:
        """Answer each prompt; see `Sampler.sample`.

        Raises:
            NonFiniteError: the model's log-probabilities are not finite.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            with shared_heads(self.model):
                rows = self._rows(prompts, streams, temperature, constraints or [None] * len(prompts))
                named = {id(row): stream for row, stream in zip(rows, streams, strict=True)}

                def keep(row: Row, size: int, layers: Callable[[], Layers]) -> None:
                    if self._kept.growing:
                        self._kept.keep(named[id(row)], [*row.prompt, *row.ids], size, layers)
                    else:
                        self._kept.note(named[id(row)], [*row.prompt, *row.ids])

                drawer = Drawer(*head_of(self.model), temperature, limits)
                decoder = Decoder(self.model, bool(self._plain), drawer, self.pad_id, keep)
                for parts in self._batches([row for row in rows if not row.done]):
                    decoder.answer(parts)
                self.counts.prefilled += decoder.prefilled
                self.counts.reused += decoder.reused
        finally:
            self.model.train(was_training)
        return [Sample(r.ids, r.logprobs, r.entropies, r.ended) for r in rows]

    def _rows(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[tuple[int, ...]],
        temperature: float,
        constraints: Sequence[Grammar | None],
    ) -> list[Row]:
        if self._plain is None:
            self._plain = has_plain_cache(self.model)
        if self._kept.budget and not self._plain:
            self._kept.give_up(cache_kinds(self.model))
        known = self._kept.begin(prompts, streams, sum(p._version for p in self.model.parameters()))
        rows: list[Row] = []
        for prompt, stream, had, grammar in zip(prompts, streams, known, constraints, strict=True):
            draws = uniforms(stream, self.max_new_tokens).tolist() if temperature > 0 else []
            walk = None if grammar is None else grammar.walk()
            rows.append(Row(prompt, draws, walk, self.eos_ids, self.max_new_tokens, self._stops))
            if had and not rows[-1].done:
                rows[-1].known, rows[-1].kept = had, self._kept.take(stream)
        return rows

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[list[list[Row]]]]:
        """What is in memory together: parts that are read together, each of prompts, each of the rows that have it."""
        alike: dict[tuple[int, ...], list[Row]] = {}
        for i, row in enumerate(rows):
            alike.setdefault((*row.tokens(0, row.length), *(() if self._plain else (-1, i))), []).append(row)
        prompts: list[list[Row]] = []
        for same in alike.values():
            same.sort(key=lambda row: -row.known)
            together = max(1, self.decode_tokens // same[0].length)
            prompts += [same[at : at + together] for at in range(0, len(same), together)]
        first = [same[0] for same in prompts]
        if any(row.known for row in first):
            parts = sub_batches([row.length - row.known for row in first], self.batch_tokens, self.model.device.type)
        else:
            parts = micro_batches([row.length for row in first], self.batch_tokens)
        batch: list[list[list[Row]]] = []
        held = width = 0
        for part in parts:
            if not self._plain:
                yield [[prompts[i] for i in part]]
                continue
            batch.append([])
            for i in part:
                width = max(width, first[i].length)
                if held and (held + len(prompts[i])) * width > self.decode_tokens:
                    yield [rows for rows in batch if rows]
                    batch, held, width = [[]], 0, first[i].length
                batch[-1].append(prompts[i])
                held += len(prompts[i])
        if held:
            yield [rows for rows in batch if rows]


def uniforms(stream: tuple[int, ...], count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) of the stream with this name (SeedSequence-spawned Philox)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(stream))).random(count)
