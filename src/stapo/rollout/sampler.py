"""Turning prompts into responses with a Hugging Face model.

Each response draws its tokens from its own stream of uniform numbers (inverse-CDF sampling), so a sample depends on
the prompt and its stream alone: not on which other prompts share the batch, nor on their order. Where prompts grow from
turn to turn, a turn reads its new tokens alone; see `stapo.rollout.kept_keys`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from stapo.envs.guard import EnvFailure
from stapo.errors import NonFiniteError
from stapo.policy import micro_batches
from stapo.rollout.kept_keys import KeptKeys, PromptCounts, sub_batches
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
        tokens.

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


class _InverseCdf(LogitsProcessor):
    """Draws one token per row from `uniform_bl` and forces it, recording log-probability and entropy.

    Of a row with a grammar, only tokens that this allows are drawn.
    """

    def __init__(
        self,
        uniform_bl: torch.Tensor | None,
        temperature: float,
        constraints: Sequence[Grammar | None] = (),
    ) -> None:
        self.uniform_bl = uniform_bl
        self.temperature = temperature
        self.walks = {b: grammar.walk() for b, grammar in enumerate(constraints) if grammar is not None}
        self.logprobs: list[torch.Tensor] = []
        self.entropies: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = self._among_allowed(scores) if self.walks else scores
        scale = self.temperature if self.temperature > 0 else 1.0
        logp_bv = torch.log_softmax(scores.float() / scale, dim=-1)
        p_bv = logp_bv.exp()
        if self.uniform_bl is None:
            token_b = logp_bv.argmax(-1)
        else:
            u_b = self.uniform_bl[:, len(self.logprobs)]
            cdf_bv = p_bv.double().cumsum(-1)
            target_b1 = (u_b.double() * cdf_bv[:, -1]).unsqueeze(-1)
            # right=True skips zero-width intervals: a token of probability 0 can never be drawn.
            token_b = torch.searchsorted(cdf_bv, target_b1, right=True).squeeze(-1)
            token_b = token_b.clamp_(max=scores.shape[-1] - 1)
        self.logprobs.append(logp_bv.gather(-1, token_b.unsqueeze(-1)).squeeze(-1))
        self.entropies.append(-(p_bv * logp_bv.clamp(min=-1e4)).sum(-1))
        if self.walks:
            self._take(token_b.tolist())
        return torch.full_like(scores, float("-inf")).scatter_(-1, token_b.unsqueeze(-1), 0.0)

    def _among_allowed(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores with those of other tokens at minus infinity."""
        other_bv = torch.zeros_like(scores, dtype=torch.bool)
        allowed = {b: walk.allowed for b, walk in self.walks.items()}
        other_bv[list(allowed)] = True
        for b, of_row in allowed.items():
            if of_row.free is not None:
                other_bv[b, torch.from_numpy(of_row.free.ids).to(scores.device)] = False
        pairs = [(b, token) for b, of_row in allowed.items() for token in of_row.ids]
        rows, tokens = torch.as_tensor(pairs, dtype=torch.long, device=scores.device).view(-1, 2).unbind(-1)
        other_bv[rows, tokens] = False
        return scores.masked_fill(other_bv, float("-inf"))

    def _take(self, tokens: list[int]) -> None:
        """Go on in every grammar, and leave those whose response is complete."""
        for b, walk in list(self.walks.items()):
            # Of numbers that are not finite anything is drawn; the run stops on them.
            if walk.allowed.has(tokens[b]):
                walk.take(tokens[b])
            if walk.complete:
                del self.walks[b]


class HFSampler:
    """Samples from any `AutoModelForCausalLM` with `generate`.

    Prompts are sorted by length and cut into sub-batches, so that short prompts do not pay for long ones.

    Args:
        model: the causal language model.
        eos_ids: tokens that end a response.
        pad_id: token used on the left of shorter prompts.
        max_new_tokens: longest response.
        batch_tokens: prompt tokens per sub-batch, padding included.
        kept_bytes: of keys and values that may be kept between the turns of a rollout; 0 reads each prompt from its
            start.
        growing: whether each prompt of an episode is known to extend the last one and its response. Otherwise it is
            seen at the second turn, and nothing is kept where it is not so.

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
    ) -> None:
        self.model = model
        self.eos_ids = list(eos_ids)
        self.pad_id = pad_id
        self.max_new_tokens = max_new_tokens
        self.batch_tokens = batch_tokens
        self._kept = KeptKeys(kept_bytes, growing)

    @property
    def counts(self) -> PromptCounts:
        """See `KeepsKeys.counts`."""
        return self._kept.counts

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
    ) -> list[Sample]:
        """Answer each prompt; see `Sampler.sample`.

        Raises:
            NonFiniteError: the model's log-probabilities are not finite.
        """
        results: list[Sample | None] = [None] * len(prompts)
        was_training, own_config = self.model.training, self.model.generation_config
        self.model.eval()
        # `generate` fills what it is not told from here, and pretrained models bring repetition penalties, forced
        # tokens and the like: responses would not be samples of the distribution that is trained.
        self.model.generation_config = GenerationConfig()
        try:
            known = self._kept.begin(prompts, streams, sum(p._version for p in self.model.parameters()))
            if self._kept.growing:
                self._read_shared(prompts, streams, known)
            for batch in self._batches([len(p) for p in prompts], known):
                asked, named = [prompts[i] for i in batch], [streams[i] for i in batch]
                bound = [] if constraints is None else [constraints[i] for i in batch]
                answers = self._generate(asked, named, temperature, [known[i] for i in batch], bound)
                for i, answer in zip(batch, answers, strict=True):
                    results[i] = answer
        finally:
            self.model.generation_config = own_config
            self.model.train(was_training)
        return [r for r in results if r is not None]

    def _batches(self, lengths: list[int], known: list[int]) -> list[list[int]]:
        if not any(known):
            return micro_batches(lengths, self.batch_tokens)
        return sub_batches(lengths, known, self.batch_tokens, self.max_new_tokens, self.model.device.type)

    def _generate(
        self,
        prompts: list[Sequence[int]],
        streams: list[tuple[int, ...]],
        temperature: float,
        known: list[int],
        constraints: Sequence[Grammar | None],
    ) -> list[Sample]:
        # All rows read as many tokens as the one that has most to read: where others would have padding between what
        # is kept and what is new, they read what they have kept again, and each row is in one piece.
        new = max(len(p) - had for p, had in zip(prompts, known, strict=True))
        cuts = [max(0, len(p) - new) for p in prompts]
        reused = sum(cuts)
        past = self._kept.take(streams, cuts, new + self.max_new_tokens) if reused else None
        self.counts.reused += reused
        uniform_bl = None
        if temperature > 0:
            draws = np.stack([uniforms(stream, self.max_new_tokens) for stream in streams])
            uniform_bl = torch.from_numpy(draws).to(self.model.device)
        recorder = _InverseCdf(uniform_bl, temperature, constraints)
        out_bl, cache, width = self._run(prompts, self.max_new_tokens, past, [recorder])
        logp_bl = torch.stack(recorder.logprobs, 1).cpu()
        entropy_bl = torch.stack(recorder.entropies, 1).cpu()
        rows = zip(out_bl.tolist(), logp_bl.tolist(), entropy_bl.tolist(), strict=True)
        samples = [self._cut(*row) for row in rows]
        # The last token was drawn, and never read.
        self._keep(prompts, streams, samples, cache, width, out_bl.shape[1] - 1)
        return samples

    def _run(
        self, prompts: Sequence[Sequence[int]], limit: int, past: Any, processors: list[LogitsProcessor]
    ) -> tuple[torch.Tensor, Any, int]:
        """Let the model go on; returns what it generated, its cache where keys are kept, and the width of prompts."""
        width = max(len(p) for p in prompts)
        ids_bl = torch.full((len(prompts), width), self.pad_id, dtype=torch.long)
        mask_bl = torch.zeros_like(ids_bl)
        for row, prompt in enumerate(prompts):
            ids_bl[row, width - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
            mask_bl[row, width - len(prompt) :] = 1
        filled = 0 if past is None else past.get_seq_length()
        self.counts.prefilled += int(mask_bl[:, filled:].sum())
        out = self.model.generate(
            input_ids=ids_bl.to(self.model.device),
            attention_mask=mask_bl.to(self.model.device),
            logits_processor=LogitsProcessorList(processors),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=limit,
                eos_token_id=self.eos_ids,
                pad_token_id=self.pad_id,
                use_cache=True,
                return_dict_in_generate=self._kept.growing,
            ),
            **({} if past is None else {"past_key_values": past}),
        )
        whole_bl, cache = (out.sequences, out.past_key_values) if self._kept.growing else (out, None)
        return whole_bl[:, width:].cpu(), cache, width

    def _read_shared(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], known: list[int]
    ) -> None:
        """Read once each prompt that several episodes begin with, and note in `known` that it has been read."""
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for i, prompt in enumerate(prompts):
            if not known[i] and len(prompt) > 1:
                rows_of.setdefault(tuple(prompt), []).append(i)
        shared = [rows for rows in rows_of.values() if len({streams[i][:-1] for i in rows}) == len(rows) > 1]
        for batch in micro_batches([len(prompts[rows[0]]) for rows in shared], self.batch_tokens):
            firsts = [shared[b][0] for b in batch]
            _, cache, width = self._run([prompts[i] for i in firsts], 1, None, [])
            if not self._kept.check(cache, len(batch), width):
                return
            for row, (b, first) in enumerate(zip(batch, firsts, strict=True)):
                ids = list(prompts[first])
                self._kept.keep(streams[first], ids, cache, row, slice(width - len(ids), width))
                if self._kept.share([streams[i] for i in shared[b]]):
                    for i in shared[b]:
                        known[i] = len(ids) - 1

    def _keep(
        self,
        prompts: list[Sequence[int]],
        streams: list[tuple[int, ...]],
        samples: list[Sample],
        cache: Any,
        width: int,
        fed: int,
    ) -> None:
        """Keep what the next turn may begin with; of generated tokens the model has read the first `fed`."""
        keys = self._kept.growing and self._kept.check(cache, len(prompts), width + fed)
        for row, (prompt, stream, sample) in enumerate(zip(prompts, streams, samples, strict=True)):
            ids = [*prompt, *sample.ids]
            if keys:
                columns = slice(width - len(prompt), width + min(len(sample.ids), fed))
                self._kept.keep(stream, ids, cache, row, columns)
            else:
                self._kept.note(stream, ids)

    def _cut(self, ids: list[int], logprobs: list[float], entropies: list[float]) -> Sample:
        ends = [ids.index(eos) for eos in self.eos_ids if eos in ids]
        length = min(ends) + 1 if ends else len(ids)
        if not math.isfinite(sum(logprobs[:length]) + sum(entropies[:length])):
            raise NonFiniteError(
                "the policy's log-probabilities are not finite while it generates. Its weights hold NaN or infinity, "
                "or its numbers overflow: lower optim.learning_rate, or use another model.dtype."
            )
        return Sample(ids[:length], logprobs[:length], entropies[:length], bool(ends))


def uniforms(stream: tuple[int, ...], count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) of the stream with this name (SeedSequence-spawned Philox)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(stream))).random(count)
