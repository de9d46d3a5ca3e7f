"""A stand-in for `vllm` with the calls of its version 0.32 that we make; it really samples, with transformers.

Anything that is called otherwise than there is an error. A response is drawn from its seed alone, not as vLLM draws it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

OUTPUT_KINDS = SimpleNamespace(FINAL_ONLY=object())


class SamplingParams:
    def __init__(
        self, *, temperature=1.0, top_p=1.0, top_k=0, max_tokens=16, stop_token_ids=None, logprobs=None,
        detokenize=True, seed=None, prompt_logprobs=None, stop=None, skip_special_tokens=True, ignore_eos=False,
    ):  # fmt: skip
        assert (top_p, top_k, detokenize) == (1.0, 0, bool(stop))
        assert ignore_eos == bool(stop)
        self.texts, self.skips = stop or [], skip_special_tokens
        assert {logprobs, prompt_logprobs} == {0, None}
        self.of_prompt = prompt_logprobs is not None
        self.temperature, self.max_tokens, self.stop, self.seed = temperature, max_tokens, stop_token_ids or [], seed


class Engine:
    """What takes requests while it answers others: a token of each in a step."""

    def __init__(self, llm, vllm_config):
        self.llm, self.vllm_config, self.steps = llm, vllm_config, 0
        self.going: dict[str, tuple[SimpleNamespace, int]] = {}

    @torch.no_grad()
    def add_request(self, request_id, prompt, params):
        assert not self.llm.asleep
        assert request_id not in self.going
        assert params.output_kind is OUTPUT_KINDS.FINAL_ONLY
        self.llm.requests.append((prompt["prompt_token_ids"], params))
        answer = self.llm._cached(prompt["prompt_token_ids"], params)
        answer.request_id, answer.finished = request_id, True
        self.going[request_id] = answer, len(answer.outputs[0].token_ids)

    def step(self):
        self.steps += 1
        self.going = {name: (answer, left - 1) for name, (answer, left) in self.going.items()}
        return [self.going.pop(name)[0] for name, (_, left) in list(self.going.items()) if left == 0]

    def abort_request(self, request_ids):
        for name in request_ids:
            del self.going[name]


class LLM:
    made: ClassVar[list[LLM]] = []
    platform: ClassVar[str] = "cuda"
    caches: ClassVar[bool] = True

    def __init__(
        self, model, *, runner, load_format, skip_tokenizer_init, generation_config, trust_remote_code, dtype,
        max_model_len, enable_sleep_mode, enable_prefix_caching, logprobs_mode, seed, enforce_eager,
        gpu_memory_utilization=None, enable_chunked_prefill=True,
    ):  # fmt: skip
        # A CPU has no such share, and seeds crash there where prompts are read in parts.
        assert (gpu_memory_utilization is None) == (not enable_chunked_prefill) == (LLM.platform == "cpu")
        random.seed(0)
        torch.manual_seed(0)
        torch.set_num_threads(1)
        assert runner == "generate"
        assert (load_format, generation_config) == ("dummy", "vllm")
        self.tokenizer = None if skip_tokenizer_init else AutoTokenizer.from_pretrained(model)
        assert logprobs_mode == "processed_logprobs"
        assert not trust_remote_code
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(99)
            self.model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).eval()
        self.model.to(getattr(torch, dtype))
        self.max_model_len, self.may_sleep, self.asleep = max_model_len, enable_sleep_mode, False
        self.calls: list[str] = []
        self.cache: dict[tuple[int, ...], torch.Tensor] = {}
        self.requests: list[tuple[list[int], SamplingParams]] = []
        self.deaf: Callable[[str], bool] = lambda name: False
        self.blocks: set[tuple[int, ...]] = set()
        cache_config = SimpleNamespace(enable_prefix_caching=enable_prefix_caching and LLM.caches)
        self.llm_engine = Engine(self, SimpleNamespace(cache_config=cache_config))
        LLM.made.append(self)

    @torch.no_grad()
    def generate(self, prompts, sampling_params, *, use_tqdm):
        assert not self.asleep
        assert not self.llm_engine.going
        if sampling_params[0].of_prompt:
            return [self._of_prompt(p["prompt_token_ids"]) for p in prompts]
        assert all(self.tokenizer is not None for s in sampling_params if s.texts)
        self.calls.append("generate")
        pairs = list(zip(prompts, sampling_params, strict=True))
        self.requests += [(p["prompt_token_ids"], s) for p, s in pairs]
        return [self._cached(p["prompt_token_ids"], s) for p, s in pairs]

    def _cached(self, prompt, params):
        """Whole blocks of 16 tokens are cached, and the last token of a prompt is always read."""
        starts = [tuple(prompt[:end]) for end in range(16, len(prompt), 16)]
        hits = next((i for i, start in enumerate(starts) if start not in self.blocks), len(starts))
        answer = self._one(prompt, params)
        read = [*prompt, *answer.token_ids[:-1]]
        self.blocks |= {tuple(read[:end]) for end in range(16, len(read) + 1, 16)}
        return SimpleNamespace(outputs=[answer], num_cached_tokens=16 * hits)

    def _of_prompt(self, prompt):
        assert len(prompt) < self.max_model_len
        logp = torch.log_softmax(self.model(torch.tensor([prompt])).logits[0].float(), -1)
        said = [{token: SimpleNamespace(logprob=float(logp[k, token]))} for k, token in enumerate(prompt[1:])]
        return SimpleNamespace(prompt_logprobs=[None, *said])

    def _one(self, prompt, params):
        generator = torch.Generator().manual_seed(params.seed)
        ids, logprobs, reason, by = [], [], "length", None
        while len(ids) < params.max_tokens:
            # As with a prefix cache: what is kept stays as it was computed until somebody resets it.
            key = (*prompt, *ids)
            assert len(key) < self.max_model_len
            if key not in self.cache:
                self.cache[key] = self.model(torch.tensor([key])).logits[0, -1].float()
            logp = torch.log_softmax(self.cache[key] / (params.temperature or 1.0), -1)
            token = int(torch.multinomial(logp.exp(), 1, generator=generator) if params.temperature else logp.argmax())
            ids.append(token)
            logprobs.append({token: SimpleNamespace(logprob=float(logp[token]))})
            if token in params.stop:
                reason, by = "stop", token
                break
            said = self.tokenizer.decode(ids, skip_special_tokens=params.skips) if params.texts else ""
            by = next((text for text in params.texts if text in said), None)
            if by is not None:
                reason = "stop"
                break
        return SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=reason, stop_reason=by)

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        assert method == "reload_weights"
        assert not self.asleep
        assert set(kwargs) == {"weights_iterator"}
        self.calls.append("reload")
        weights = {name: tensor.clone() for name, tensor in kwargs["weights_iterator"]}
        heard = {name: tensor for name, tensor in weights.items() if not self.deaf(name)}
        missing, unknown = self.model.load_state_dict(heard, strict=False)
        assert not unknown
        assert {name for name in missing if not self.deaf(name)} <= {"lm_head.weight"}
        return [None]

    def reset_prefix_cache(self):
        self.cache.clear()
        self.blocks.clear()
        return True

    def sleep(self, level=1):
        assert self.may_sleep
        assert not self.asleep
        self.asleep = True
        self.calls.append("sleep")
        self.reset_prefix_cache()

    def wake_up(self, tags=None):
        self.asleep = False
        self.calls.append("wake")


def module() -> ModuleType:
    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, SamplingParams
    fake.TokensPrompt = lambda *, prompt_token_ids: {"prompt_token_ids": prompt_token_ids}
    return fake


def sampling_params() -> ModuleType:
    fake = ModuleType("vllm.sampling_params")
    fake.RequestOutputKind = OUTPUT_KINDS
    return fake


def platforms() -> ModuleType:
    fake = ModuleType("vllm.platforms")
    fake.current_platform = SimpleNamespace(
        is_cpu=lambda: LLM.platform == "cpu", is_cuda=lambda: LLM.platform == "cuda", device_name=LLM.platform
    )
    return fake
