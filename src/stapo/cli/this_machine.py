"""This machine, and how fast it is with a model: a measurement of about a second, of one layer and of two."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from stapo.estimate.costs import Device, kv_bytes_per_token
from stapo.estimate.shapes import ModelShape
from stapo.estimate.whole import Speed
from stapo.policy.hardware import using_threads
from stapo.policy.memory import available_bytes

_LARGEST_LAYER = 30_000_000
"""Weights of a layer that is still built for the measurement; of larger ones a product of matrices is timed."""
_VOCABULARY = 2048
"""Words of the head that is built; what it takes is stretched to the real number."""
_ENOUGH = 0.05
_TOKENS = 1024
_TOGETHER = 32


def gpu_of(device: str) -> bool:
    """Whether a run with this `model.device` uses a GPU here."""
    return torch.cuda.is_available() and (device == "auto" or device.startswith("cuda"))


def this_machine(gpu: bool) -> Device:
    """Name and free memory; its speed is not of a data sheet but measured."""
    device = torch.device("cuda" if gpu else "cpu")
    name = f"this machine ({torch.cuda.get_device_name(device)})" if gpu else "this machine (cpu)"
    return Device(name, float(available_bytes(device) or 0), 0.0, 0.0)


@lru_cache(maxsize=32)
def measured(shape: ModelShape, bfloat16: bool, threads: int, rows: int, prompt: int, gpu: bool) -> Speed:
    """Speeds of this machine with a model of this shape.

    Args:
        shape: of the model.
        bfloat16: its dtype is bfloat16, else float32.
        threads: CPU threads; 0 leaves torch's number.
        rows: episodes that are answered together.
        prompt: tokens of a prompt.
        gpu: on the GPU.
    """
    with using_threads(threads), torch.random.fork_rng(devices=[]):
        return _measured(shape, torch.bfloat16 if bfloat16 else torch.float32, rows, prompt, gpu)


def _measured(shape: ModelShape, dtype: torch.dtype, rows: int, prompt: int, gpu: bool) -> Speed:
    place = torch.device("cuda" if gpu else "cpu")
    if shape.layer_parameters > _LARGEST_LAYER:
        return _by_products(shape, dtype, rows, prompt, place)
    found = []
    for layers in (1, 2):
        model: Any = AutoModelForCausalLM.from_config(config_of(shape, layers)).to(device=place, dtype=dtype).eval()
        found.append([_seconds(once, place) for once in _pieces(model, rows, prompt, place)])
        del model
    rest = shape.layers - 1
    more = shape.vocabulary / _VOCABULARY
    # Two layers minus one is a layer; what is left of one layer is embedding, head and the calling.
    layer = [max(0.0, two - one) for one, two in zip(*found, strict=True)]
    read, train, few, many = (one + rest * each for one, each in zip(found[0], layer, strict=True))
    head = _seconds(_head(shape, dtype, place, _TOKENS), place) * max(0.0, more - 1)
    answered = max(0.0, (many - few) / max(1, min(rows, _TOGETHER) - 1))
    scored = _seconds(_head(shape, dtype, place, 1), place) * max(0.0, more - 1)
    return Speed(read / _TOKENS, (train + 0.1 * 3 * head) / _TOKENS, few + scored, answered + head / _TOKENS)


def config_of(shape: ModelShape, layers: int) -> Any:
    """The transformers configuration of so many layers of this shape, with few words."""
    return AutoConfig.for_model(
        "qwen3" if shape.head_norms else "qwen2" if shape.bias else "llama",
        hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        vocab_size=min(_VOCABULARY, shape.vocabulary), tie_word_embeddings=True,
    )  # fmt: skip


def _pieces(model: Any, rows: int, prompt: int, place: torch.device) -> list[Callable[[], Any]]:
    length = min(prompt, _TOKENS)
    batch = max(1, _TOKENS // length)
    ids = torch.full((batch, length), 7, device=place)
    tokens = batch * length / _TOKENS

    def read() -> float:
        with torch.inference_mode():
            model.base_model(input_ids=ids, use_cache=False)
        return tokens

    def train() -> float:
        out = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        model.zero_grad()
        model.lm_head(out[:, : max(1, length // 10)]).float().logsumexp(-1).sum().backward()
        return tokens

    def decode(count: int) -> Callable[[], float]:
        with torch.inference_mode():
            start = torch.full((count, min(length, 256)), 7, device=place)
            cache = model(input_ids=start, use_cache=True, logits_to_keep=1).past_key_values
        one = torch.full((count, 1), 7, device=place)

        def step() -> float:
            with torch.inference_mode():
                logits = model(input_ids=one, past_key_values=cache, use_cache=True).logits[:, -1].double()
                logits.softmax(-1).cumsum(-1)
            return 1.0

        return step

    return [read, train, decode(1), decode(min(rows, _TOGETHER))]


def _head(shape: ModelShape, dtype: torch.dtype, place: torch.device, tokens: int) -> Callable[[], float]:
    hidden = torch.full((tokens, shape.hidden), 0.1, dtype=dtype, device=place)
    weight = torch.full((min(_VOCABULARY, shape.vocabulary), shape.hidden), 0.1, dtype=dtype, device=place)

    def once() -> float:
        (hidden @ weight.T).float().softmax(-1)
        return 1.0

    return once


def _by_products(shape: ModelShape, dtype: torch.dtype, rows: int, prompt: int, place: torch.device) -> Speed:
    side = 1024
    left, right = (torch.full((side, side), 0.1, dtype=dtype, device=place) for _ in range(2))

    def once() -> float:
        left @ right
        return 1.0

    flops = 2.0 * side**3 / _seconds(once, place)
    large = torch.zeros(16_000_000, dtype=torch.float32, device=place)

    def copied() -> float:
        large.clone()
        return 1.0

    bandwidth = 2.0 * 4 * len(large) / _seconds(copied, place)
    b = dtype.itemsize
    read = 2.0 * shape.layers * shape.layer_parameters / flops
    step = shape.parameters * b / bandwidth
    answered = prompt * kv_bytes_per_token(shape, b) / bandwidth + 2.0 * shape.parameters / flops
    return Speed(read, 3 * read, step, answered)


def _seconds(once: Callable[[], Any], place: torch.device) -> float:
    """Seconds of one call where nothing else runs, the least of several.

    Of a CPU it is the time that its threads computed: what other processes take is not a property of the machine.
    """
    share = once()
    least, spent = float("inf"), 0.0
    for _ in range(20):
        before = _clock(place)
        once()
        took = max(1e-9, _clock(place) - before)
        least, spent = min(least, took), spent + took
        if spent > _ENOUGH:
            break
    return least / (share or 1.0)


def _clock(place: torch.device) -> float:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()
