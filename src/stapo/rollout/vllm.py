"""Turning prompts into responses with vLLM, in this process, on a copy of the policy's weights.

vLLM is given token ids, and gives back ids with the log-probability of each under the distribution that it was drawn
from. It decides about batches and caches (the beginnings of prompts are cached, so that a turn reads its new tokens
alone); what has to hold for training is decided here: when its weights are renewed, that they were, and that nothing
but the temperature bends the distribution.

Written against vLLM 0.32.
"""

from __future__ import annotations

import gc
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch

from stapo.envs.guard import EnvFailure
from stapo.errors import ConfigError, EngineError, NonFiniteError
from stapo.policy import Policy
from stapo.progress import note
from stapo.rollout.config import VllmConfig
from stapo.rollout.faults import Boundary
from stapo.rollout.kept_keys import PromptCounts
from stapo.rollout.sampler import Sample
from stapo.texts import counted

_ENDED = {"stop": True, "length": False}


def require_vllm() -> Any:
    """The module `vllm`, set up to run in this process.

    Raises:
        ConfigError: it is not installed, or there is no GPU.
    """
    if not gpu_there():
        raise ConfigError(
            "rollout.engine is 'vllm', which needs an NVIDIA GPU, and torch sees none. Set rollout.engine to "
            "'transformers', or run where torch.cuda.is_available() is true."
        )
    # In another process the engine could not be handed weights. Its own name for that is read when it is imported.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        return import_module("vllm")
    except ImportError as err:
        raise ConfigError(
            f"rollout.engine is 'vllm', which needs the package 'vllm' ({err}). Install it with: "
            "pip install '.[vllm]' in a clone of the repository. Or set rollout.engine to 'transformers'."
        ) from err


def gpu_there() -> bool:
    """Whether torch sees a GPU."""
    return torch.cuda.is_available()


class VllmSampler:
    """Samples from a policy with vLLM; see `stapo.rollout.sampler.OwnWeights`.

    Args:
        policy: whose weights are copied before the first answer, and again after each `weights_will_move`.
        max_prompt_tokens: longest prompt.
        max_new_tokens: longest response.
        config: shares of the GPU.

    Raises:
        ConfigError: `vllm` is not installed, or there is no GPU.
        EngineError: vLLM cannot be started, for lack of memory or because it does not know the model.
    """

    def __init__(self, policy: Policy, max_prompt_tokens: int, max_new_tokens: int, config: VllmConfig) -> None:
        self._vllm = require_vllm()
        self.policy = policy
        self.max_new_tokens = max_new_tokens
        self._sleep = config.sleep
        self._stale, self._asleep = True, False
        self._sent: tuple[float, float] | None = None
        with tempfile.TemporaryDirectory() as folder:
            # Weights come from the policy, which may be no folder's: after SFT, a resume, with adapters.
            policy.model.config.save_pretrained(folder)
            try:
                self._llm: Any = self._vllm.LLM(
                    model=folder,
                    load_format="dummy",
                    skip_tokenizer_init=True,
                    generation_config="vllm",
                    trust_remote_code=False,
                    dtype=str(policy.model.dtype).removeprefix("torch."),
                    max_model_len=max_prompt_tokens + max_new_tokens,
                    gpu_memory_utilization=config.gpu_memory,
                    enforce_eager=config.enforce_eager,
                    enable_sleep_mode=config.sleep,
                    enable_prefix_caching=True,  # a turn reads its new tokens alone
                    logprobs_mode="processed_logprobs",
                    seed=0,
                )
            except Exception as err:  # vLLM raises what it likes
                reason = (str(err).strip().splitlines() or [type(err).__name__])[0].rstrip(".")
                raise EngineError(
                    f"vLLM cannot be started for {type(policy.model).__name__}: {reason}. If memory is short, change "
                    f"rollout.vllm.gpu_memory ({config.gpu_memory:g}) or set rollout.vllm.enforce_eager; or set "
                    "rollout.engine to 'transformers'."
                ) from err
        self._held = self._fingerprint()
        self.counts = PromptCounts()
        if not self._llm.llm_engine.vllm_config.cache_config.enable_prefix_caching:
            note(f"vLLM caches no prefixes of {type(policy.model).__name__}: each prompt is read from its start")

    def sample(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], temperature: float
    ) -> list[Sample | EnvFailure]:
        """Answer each prompt; see `stapo.rollout.sampler.Sampler.sample`. Entropies are NaN.

        Raises:
            EngineError: the weights did not arrive.
            NonFiniteError: a log-probability is not finite.
        """
        if self._stale:
            self._push()
        asked = [self._vllm.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        params = [self._params(stream, temperature) for stream in streams]
        answers = self._llm.generate(asked, params, use_tqdm=False)
        reused = sum(answer.num_cached_tokens or 0 for answer in answers)
        self.counts.reused += reused
        self.counts.prefilled += sum(map(len, prompts)) - reused
        return [self._read(answer.outputs[0]) for answer in answers]

    def forget(self) -> None:
        """See `KeepsKeys.forget`; vLLM makes room in its cache by itself."""

    def weights_will_move(self) -> None:
        """See `OwnWeights.weights_will_move`."""
        self._stale = True
        if self._sleep and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def close(self) -> None:
        """See `OwnWeights.close`."""
        self._llm = None
        gc.collect()

    def _params(self, stream: tuple[int, ...], temperature: float) -> Any:
        return self._vllm.SamplingParams(
            temperature=temperature,
            top_p=1.0,
            top_k=0,
            max_tokens=self.max_new_tokens,
            stop_token_ids=self.policy.eos_ids,
            logprobs=0,  # that of the sampled token, and no others
            detokenize=False,
            # Greedy ones as well: without a seed vLLM draws one from numpy's shared generator.
            seed=seed_of(stream),
        )

    def _read(self, answer: Any) -> Sample | EnvFailure:
        ids = list(answer.token_ids)
        if answer.finish_reason not in _ENDED or not ids:
            return EnvFailure(
                Boundary.MODEL, f"vLLM ended a response of {counted(len(ids), 'token')} with '{answer.finish_reason}'"
            )
        logprobs = [float(at[token].logprob) for token, at in zip(ids, answer.logprobs, strict=True)]
        if not math.isfinite(sum(logprobs)):
            raise NonFiniteError(
                "the policy's log-probabilities are not finite while vLLM generates. Its weights hold NaN or infinity, "
                "or its numbers overflow: lower optim.learning_rate, or use another model.dtype."
            )
        return Sample(ids, logprobs, [math.nan] * len(ids), _ENDED[answer.finish_reason])

    @torch.no_grad()
    def _push(self) -> None:
        """Copy the policy's weights into vLLM, and drop what it has computed with the old ones.

        Raises:
            EngineError: the policy has moved since the last time, and vLLM's weights are what they were.
        """
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False
        sent = _Sums()
        self._llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": sent.noting(self.policy.plain_weights())}
        )
        held = self._fingerprint()
        if sent.value != self._sent and held == self._held:
            raise EngineError(
                "vLLM was handed the policy's new weights, and still holds the old ones: the next responses would be "
                "another policy's. This version of vLLM may load weights in another way than 0.32 does; set "
                "rollout.engine to 'transformers'."
            )
        if not self._llm.reset_prefix_cache():
            raise EngineError(
                "vLLM did not drop its cache of prompts after its weights were renewed, so responses would be begun "
                "with the old ones. Set rollout.engine to 'transformers'."
            )
        self._sent, self._held, self._stale = sent.value, held, False

    def _fingerprint(self) -> tuple[float, float]:
        value: tuple[float, float] = self._llm.apply_model(_sums_of_model)[0]
        return value


class _Sums:
    """Sums over all numbers of weights, and over their sizes, in float64: no step of an optimizer leaves both alone."""

    def __init__(self) -> None:
        self.value = (0.0, 0.0)

    def noting(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Hand `weights` on, adding them up."""
        for name, weight in weights:
            self.add(weight.detach())
            yield name, weight.detach()

    def add(self, weight: torch.Tensor) -> None:
        total, size = self.value
        self.value = (
            total + float(weight.sum(dtype=torch.float64)),
            size + float(torch.linalg.vector_norm(weight, ord=1, dtype=torch.float64)),
        )


@torch.no_grad()
def _sums_of_model(model: torch.nn.Module) -> tuple[float, float]:
    sums = _Sums()
    for weight in model.parameters():
        sums.add(weight)
    return sums.value


def seed_of(stream: tuple[int, ...]) -> int:
    """The seed of a random stream: 63 bits that depend on its name alone."""
    return int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))
