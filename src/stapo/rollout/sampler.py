"""Turning prompts into responses with a Hugging Face model.

Each response draws its tokens from its own stream of uniform numbers (inverse-CDF sampling), so a sample depends on
the prompt and its stream alone: not on which other prompts share the batch, nor on their order.
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
    """Draws one token per row from `uniform_bl` and forces it, recording log-probability and entropy."""

    def __init__(self, uniform_bl: torch.Tensor | None, temperature: float) -> None:
        self.uniform_bl = uniform_bl
        self.temperature = temperature
        self.logprobs: list[torch.Tensor] = []
        self.entropies: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
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
        return torch.full_like(scores, float("-inf")).scatter_(-1, token_b.unsqueeze(-1), 0.0)


class HFSampler:
    """Samples from any `AutoModelForCausalLM` with `generate`.

    Prompts are sorted by length and cut into sub-batches, so that short prompts do not pay for long ones.

    Args:
        model: the causal language model.
        eos_ids: tokens that end a response.
        pad_id: token used on the left of shorter prompts.
        max_new_tokens: longest response.
        batch_tokens: prompt tokens per sub-batch, padding included.
    """

    def __init__(
        self,
        model: Any,
        eos_ids: Sequence[int],
        pad_id: int,
        max_new_tokens: int,
        batch_tokens: int = 16_384,
    ) -> None:
        self.model = model
        self.eos_ids = list(eos_ids)
        self.pad_id = pad_id
        self.max_new_tokens = max_new_tokens
        self.batch_tokens = batch_tokens

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], temperature: float
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
            for batch in micro_batches([len(p) for p in prompts], self.batch_tokens):
                answers = self._generate([prompts[i] for i in batch], [streams[i] for i in batch], temperature)
                for i, answer in zip(batch, answers, strict=True):
                    results[i] = answer
        finally:
            self.model.generation_config = own_config
            self.model.train(was_training)
        return [r for r in results if r is not None]

    def _generate(
        self, prompts: list[Sequence[int]], streams: list[tuple[int, ...]], temperature: float
    ) -> list[Sample]:
        device = self.model.device
        width = max(len(p) for p in prompts)
        ids_bl = torch.full((len(prompts), width), self.pad_id, dtype=torch.long)
        mask_bl = torch.zeros_like(ids_bl)
        for row, prompt in enumerate(prompts):
            ids_bl[row, width - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
            mask_bl[row, width - len(prompt) :] = 1
        uniform_bl = None
        if temperature > 0:
            draws = np.stack([uniforms(stream, self.max_new_tokens) for stream in streams])
            uniform_bl = torch.from_numpy(draws).to(device)
        recorder = _InverseCdf(uniform_bl, temperature)
        out_bl = self.model.generate(
            input_ids=ids_bl.to(device),
            attention_mask=mask_bl.to(device),
            logits_processor=LogitsProcessorList([recorder]),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=self.eos_ids,
                pad_token_id=self.pad_id,
                use_cache=True,
            ),
        )[:, width:].cpu()
        logp_bl = torch.stack(recorder.logprobs, 1).cpu()
        entropy_bl = torch.stack(recorder.entropies, 1).cpu()
        return [self._cut(*row) for row in zip(out_bl.tolist(), logp_bl.tolist(), entropy_bl.tolist(), strict=True)]

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
