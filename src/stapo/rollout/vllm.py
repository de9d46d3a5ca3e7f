"""Turning prompts into responses with vLLM, in this process, on a copy of the policy's weights.

vLLM is given token ids, and gives back ids with the log-probability of each under the distribution that it was drawn
from. It decides about batches and caches (the beginnings of prompts are cached, so that a turn reads its new tokens
alone); what has to hold for training is decided here: when its weights are renewed, that they were, and that nothing
but the temperature bends the distribution, and in evaluations the limits that are asked for.

Written against vLLM 0.32.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from stapo.envs.guard import EnvFailure
from stapo.errors import ConfigError, EngineError, NonFiniteError
from stapo.policy import Policy
from stapo.progress import note
from stapo.rollout.config import MAX_TEMPERATURE, NO_LIMITS, SamplingLimits, VllmConfig
from stapo.rollout.faults import Boundary
from stapo.rollout.foreign_text import ControlTokens
from stapo.rollout.kept_keys import PromptCounts
from stapo.rollout.sampler import Sample
from stapo.rollout.stopping import StopRule
from stapo.rollout.vllm_engine import reason_of, require_vllm, start_vllm
from stapo.texts import counted

_ENDED = {"stop": True, "length": False}
_NOT_FINITE = (
    "Its weights hold NaN or infinity, or its numbers overflow: lower optim.learning_rate, or use another model.dtype."
)


_PROBE_TOKENS = 32
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # nats by which the policy may move on the probe unseen
_LARGEST_GAP = {torch.float32: 1e-2, torch.bfloat16: 0.5}  # mean nats per token between vLLM and the policy
_GROWN = 10.0  # times the gap of the first push, where that is larger


class VllmSampler:
    """Samples from a policy with vLLM; see `stapo.rollout.sampler.OwnWeights`.

    Args:
        policy: whose weights are copied before the first answer, and again after each `weights_will_move`.
        max_prompt_tokens: longest prompt.
        max_new_tokens: longest response.
        config: how much of the machine vLLM may take.
        stop: ends responses at texts; None where text ends none.

    Raises:
        ConfigError: `vllm` is not installed, finds nothing to run on, or a setting does not fit to that.
        EngineError: vLLM cannot be started, for lack of memory or because it does not know the model.
    """

    def __init__(
        self,
        policy: Policy,
        max_prompt_tokens: int,
        max_new_tokens: int,
        config: VllmConfig,
        stop: StopRule | None = None,
    ) -> None:
        self._vllm = require_vllm()
        self.policy = policy
        self.max_new_tokens = max_new_tokens
        self._sleep, self._stop = config.sleep, stop
        self._skips = not ControlTokens(policy.tokenizer).formats
        self._stale, self._asleep = True, False
        longest, reads = max_prompt_tokens + max_new_tokens, stop is not None
        self._llm: Any = start_vllm(self._vllm, policy, longest, config, reads=reads)
        self._going: dict[str, _Asked] = {}
        self._submitted = 0
        self._at_the_end = import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY
        self._probe = _Probe(policy.model.config.vocab_size, max_prompt_tokens)
        self.counts = PromptCounts()
        if not self._llm.llm_engine.vllm_config.cache_config.enable_prefix_caching:
            note(f"vLLM caches no prefixes of {type(policy.model).__name__}: each prompt is read from its start")

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[tuple[int, ...]],
        temperature: float,
        limits: SamplingLimits = NO_LIMITS,
    ) -> list[Sample | EnvFailure]:
        """Answer each prompt; see `stapo.rollout.sampler.Sampler.sample`. Entropies are NaN.

        Raises:
            ConfigError: the temperature is higher than vLLM's highest.
            EngineError: the weights did not arrive, or vLLM failed.
            NonFiniteError: a log-probability is not finite.
        """
        self._prepare(temperature)
        rows = [_Row(list(prompt), stream) for prompt, stream in zip(prompts, streams, strict=True)]
        going = rows
        while going:
            asked = [self._tokens(row.prompt + row.sample.ids) for row in going]
            answers = self._generate(asked, [self._params(row, temperature, limits) for row in going])
            going = [row for row, answer in zip(going, answers, strict=True) if self._take(row, answer)]
        return [row.failed or row.sample for row in rows]

    def put(
        self,
        slot: int,
        prompt: Sequence[int],
        stream: tuple[int, ...],
        temperature: float,
        limits: SamplingLimits = NO_LIMITS,
    ) -> None:
        """Ask for a response; see `stapo.rollout.sampler.ContinuousSampler.put`.

        Raises:
            ConfigError: the temperature is higher than vLLM's highest.
            EngineError: the weights did not arrive, or vLLM failed.
        """
        self._prepare(temperature)
        self._submit(_Asked(slot, _Row(list(prompt), stream), temperature, limits))

    def advance(self) -> list[tuple[int, Sample | EnvFailure]]:
        """Generate for a moment; see `stapo.rollout.sampler.ContinuousSampler.advance`.

        Raises:
            EngineError: vLLM failed.
            NonFiniteError: a log-probability is not finite.
        """
        with _generating():
            answers = [answer for answer in self._llm.llm_engine.step() if answer.finished]
        complete: list[tuple[int, Sample | EnvFailure]] = []
        for answer in answers:
            asked = self._going.pop(answer.request_id)
            if self._take(asked.row, answer):
                self._submit(asked)
            else:
                complete.append((asked.slot, asked.row.failed or asked.row.sample))
        return sorted(complete, key=itemgetter(0))

    def abandon(self) -> None:
        """See `stapo.rollout.sampler.ContinuousSampler.abandon`."""
        if self._going:
            with suppress(Exception):  # where vLLM has failed, that error is the one to be told
                self._llm.llm_engine.abort_request(list(self._going))
            self._going.clear()

    def room(self, tokens: int) -> int | None:
        """See `KeepsKeys.room`; vLLM queues what has no room."""
        return None

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

    def _prepare(self, temperature: float) -> None:
        if temperature > MAX_TEMPERATURE:
            raise ConfigError(
                f"the sampling temperature is {temperature:g}, and vLLM samples at {MAX_TEMPERATURE:g} at most."
            )
        if self._stale:
            self._push()

    def _submit(self, asked: _Asked) -> None:
        row, name = asked.row, str(self._submitted)
        self._submitted += 1
        params = self._params(row, asked.temperature, asked.limits)
        params.output_kind = self._at_the_end
        with _generating():
            self._llm.llm_engine.add_request(name, self._tokens(row.prompt + row.sample.ids), params)
        self._going[name] = asked

    def _tokens(self, ids: list[int]) -> Any:
        return self._vllm.TokensPrompt(prompt_token_ids=ids)

    def _take(self, row: _Row, answer: Any) -> bool:
        """Take in what vLLM answered; returns whether the response goes on."""
        reused = answer.num_cached_tokens or 0
        self.counts.reused += reused
        self.counts.prefilled += len(row.prompt) + len(row.sample.ids) - reused
        row.take(self._read(answer.outputs[0]))
        return isinstance(answer.outputs[0].stop_reason, str) and self._goes_on(row)

    def _goes_on(self, row: _Row) -> bool:
        """Whether a response that vLLM has ended at a stop text goes on: within a thought such a text ends nothing."""
        if row.failed is not None or self._stop is None or self._stop.complete(row.sample.ids):
            return False
        row.sample = replace(row.sample, ended=False)
        return len(row.sample.ids) < self.max_new_tokens

    def _params(self, row: _Row, temperature: float, limits: SamplingLimits) -> Any:
        reads: dict[str, Any] = {"detokenize": False}
        if self._stop is not None:
            # A response is read without control tokens, unless tags of formats are among them. End tokens are those
            # of the policy, as without texts.
            reads = {"stop": list(self._stop.texts), "skip_special_tokens": self._skips, "ignore_eos": True}
        return self._vllm.SamplingParams(
            temperature=temperature,
            top_p=limits.top_p,
            top_k=limits.top_k,
            **({"min_p": limits.min_p} if limits.min_p else {}),
            max_tokens=self.max_new_tokens - len(row.sample.ids),
            stop_token_ids=self.policy.eos_ids,
            logprobs=0,  # that of the sampled token, and no others
            **reads,
            # Greedy ones as well: without a seed vLLM draws one from numpy's shared generator.
            seed=seed_of(row.name),
        )

    def _read(self, answer: Any) -> Sample | EnvFailure:
        ids = list(answer.token_ids)
        if answer.finish_reason not in _ENDED or not ids:
            return EnvFailure(
                Boundary.MODEL, f"vLLM ended a response of {counted(len(ids), 'token')} with '{answer.finish_reason}'"
            )
        logprobs = [float(at[token].logprob) for token, at in zip(ids, answer.logprobs, strict=True)]
        if not math.isfinite(sum(logprobs)):
            raise NonFiniteError(f"the policy's log-probabilities are not finite while vLLM generates. {_NOT_FINITE}")
        return Sample(ids, logprobs, [math.nan] * len(ids), _ENDED[answer.finish_reason])

    def _generate(self, asked: list[Any], params: list[Any]) -> list[Any]:
        with _generating():
            return list(self._llm.generate(asked, params, use_tqdm=False))

    @torch.no_grad()
    def _push(self) -> None:
        """Copy the policy's weights into vLLM, and drop what it has computed with the old ones.

        Raises:
            EngineError: the policy has moved since the last time, and vLLM's answers have not, or not with it.
        """
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False
        weights = ((name, weight.detach()) for name, weight in self.policy.plain_weights())
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._llm.reset_prefix_cache():
            raise EngineError(
                "vLLM did not drop its cache of prompts after its weights were renewed, so responses would be begun "
                "with the old ones. Set rollout.engine to 'transformers'."
            )
        self._probe.check(self._logprobs_of_probe(), self.policy)
        self._stale = False

    def _logprobs_of_probe(self) -> list[float]:
        ids = self._probe.ids
        params = self._vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False, seed=0)
        said = self._generate([self._tokens(ids)], [params])[0].prompt_logprobs
        return [float(at[token].logprob) for token, at in zip(ids[1:], said[1:], strict=True)]


@contextmanager
def _generating() -> Iterator[None]:
    try:
        yield
    except Exception as err:  # vLLM raises what it likes
        raise EngineError(
            f"vLLM failed while it generated: {reason_of(err)}. What was saved is kept; resume the run, or set "
            "rollout.engine to 'transformers'."
        ) from err


@dataclass
class _Row:
    """A prompt and its response in the making.

    Attributes:
        prompt: token ids.
        stream: name of its random stream.
        sample: the response so far.
        parts: how many times vLLM was asked for it.
        failed: why there is none.
    """

    prompt: list[int]
    stream: tuple[int, ...]
    sample: Sample = field(default_factory=lambda: Sample([], [], [], False))
    parts: int = 0
    failed: EnvFailure | None = None

    @property
    def name(self) -> tuple[int, ...]:
        """Of the random numbers of its next part: drawn from a seed again, they would be those of the first part."""
        return (*self.stream, self.parts) if self.parts else self.stream

    def take(self, said: Sample | EnvFailure) -> None:
        """Add a part."""
        self.parts += 1
        if isinstance(said, EnvFailure):
            self.failed = said
            return
        own = self.sample
        self.sample = Sample(
            own.ids + said.ids, own.logprobs + said.logprobs, own.entropies + said.entropies, said.ended
        )


@dataclass(frozen=True)
class _Asked:
    """A response that `put` asked for; see there."""

    slot: int
    row: _Row
    temperature: float
    limits: SamplingLimits


class _Probe:
    """A fixed text by which policy and vLLM are compared after each copy of the weights.

    Sums over vLLM's own weights would not do: on a CPU it packs those of linear layers away, and they are not seen.

    Args:
        vocabulary: tokens of the model.
        longest: tokens of a prompt at most.
    """

    def __init__(self, vocabulary: int, longest: int) -> None:
        drawn = np.random.default_rng(0).integers(0, vocabulary, min(_PROBE_TOKENS, longest))
        self.ids: list[int] = drawn.tolist()
        self.gap = math.nan
        self._first: float | None = None
        self._policy_then: list[float] = []
        self._held: list[float] = []

    def check(self, held: list[float], policy: Policy) -> None:
        """Compare log-probabilities of the probe's tokens under vLLM's weights with those under the policy's.

        Raises:
            EngineError: vLLM's are those of before, or are far from the policy's.
            NonFiniteError: the policy's are not finite.
        """
        own = _logprobs(policy, self.ids)
        if not math.isfinite(sum(own)):
            raise NonFiniteError(f"the policy's log-probabilities are not finite. {_NOT_FINITE}")
        dtype = policy.model.dtype
        if held == self._held:
            moved = max(abs(now - then) for now, then in zip(own, self._policy_then, strict=True))
            if moved > _ROUNDING[dtype]:
                raise EngineError(
                    "vLLM was handed the policy's new weights, and still holds the old ones: on a fixed text the "
                    f"policy has moved by up to {moved:.2g} nats, and vLLM by none. This version of vLLM may load "
                    "weights in another way than 0.32 does; set rollout.engine to 'transformers'."
                )
        else:
            self._policy_then, self._held = own, held
        self.gap = float(np.mean(np.abs(np.subtract(own, held))))
        limit = max(_LARGEST_GAP[dtype], _GROWN * (self._first or 0.0))
        if not self.gap <= limit:
            raise EngineError(
                f"after vLLM was handed the policy's weights, it differs from the policy by {self.gap:.2g} nats per "
                f"token on a fixed text, expected at most {limit:.2g}: part of the weights did not arrive, or it "
                "computes this model in another way. Set rollout.engine to 'transformers'."
            )
        if self._first is None:
            self._first = self.gap


def _logprobs(policy: Policy, ids: list[int]) -> list[float]:
    """Log-probabilities of all tokens but the first, by a plain forward pass, from whatever mode the model is in."""
    training = policy.model.training
    policy.model.eval()
    try:
        logits = policy.model(torch.tensor([ids], device=policy.device), use_cache=False).logits[0, :-1]
    finally:
        policy.model.train(training)
    logp = torch.log_softmax(logits.float(), -1)
    found: list[float] = logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist()
    return found


def seed_of(stream: tuple[int, ...]) -> int:
    """The seed of a random stream: 63 bits that depend on its name alone."""
    return int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))
