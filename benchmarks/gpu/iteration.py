"""One iteration of a real-size model on one GPU: seconds, memory, tokens a second and utilization by part.

Builds a model of the shape of Qwen2.5-1.5B with random weights and a small tokenizer (ids above it decode to nothing),
so that nothing is downloaded. It plays generated ALFWorld games once; then GiGPO and STAPO update a copy of the model
on these same rollouts, with all weights and with adapters; then the head scores 512 tokens in three ways. Every
part has the shape of the real thing; what the model says is noise, so the benchmark flags every hundredth row itself,
at least one. The paper finds one in a hundred or fewer.

    python benchmarks/gpu/iteration.py            one GPU, some minutes
    python benchmarks/gpu/iteration.py --small    the same on a CPU with a small model, under a minute
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from stapo.agent import AgentConfig
from stapo.algo import get_algorithm
from stapo.algo.head import HeadKernel, flagged_scores
from stapo.config.run_config import EnvConfig, RunConfig
from stapo.config.training import OptimConfig, SFTConfig
from stapo.envs.pool import LocalPool
from stapo.errors import ConfigError
from stapo.estimate.costs import DEVICES, forward_flops
from stapo.estimate.shapes import known_shapes
from stapo.policy import LoraConfig, ModelConfig, Policy, copy_of, load_policy
from stapo.policy.tokenizer import train_tokenizer
from stapo.rollout.collect import RolloutTimes
from stapo.rollout.config import RolloutConfig
from stapo.rollout.types import Trajectory
from stapo.training.batch import build_batch
from stapo.training.demonstrations import demonstrate, tokenizer_texts
from stapo.training.factories import env_factory
from stapo.training.loop import build_collector
from stapo.training.update import Updater

SHAPE = "qwen2.5-1.5b"


def settings(small: bool, groups: int, group_size: int, steps: int, response: int) -> RunConfig:
    """The run whose parts are measured."""
    options = {"scenes": "tiny" if small else "standard", "games_per_type": 4, "max_steps": steps}
    return RunConfig(
        env=EnvConfig(name="alfworld", options=options),
        agent=AgentConfig(max_prompt_tokens=4096, max_response_tokens=response),
        rollout=RolloutConfig(groups=groups, group_size=group_size),
        optim=OptimConfig(mini_batch=64, micro_tokens=4096 if small else 16_384),
    )


def build(folder: Path, config: RunConfig, small: bool) -> Any:
    """Save a model with random weights and its tokenizer; returns its shape."""
    env = env_factory(config)()
    warm = SFTConfig(episodes=12)
    demos = demonstrate(LocalPool(lambda: env), config.agent, warm, "train", "goal_history", 0)
    tokenizer = train_tokenizer(tokenizer_texts(demos), 2048)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}\n{% endif %}"
    )
    shape = known_shapes()[SHAPE]
    if small:
        shape = replace(shape, hidden=64, inner=128, layers=2, heads=4, kv_heads=2, head_dim=16, vocabulary=8192)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "qwen2",
            hidden_size=shape.hidden,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            vocab_size=shape.vocabulary,
            tie_word_embeddings=True,
            max_position_embeddings=32_768,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return shape


def on_gpu() -> bool:
    """Whether there is a GPU to measure."""
    return torch.cuda.is_available()


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds and peak bytes of the GPU (0 on a CPU) of a piece of work."""
    gc.collect()
    if on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = work()
    if on_gpu():
        torch.cuda.synchronize()
    return result, time.perf_counter() - started, torch.cuda.max_memory_allocated() if on_gpu() else 0.0


def head_rows(hidden: int, vocabulary: int, tokens: int) -> list[str]:
    """Seconds and memory of log-probability and divergence with gradients, all logits at once and in chunks."""
    device = "cuda" if on_gpu() else "cpu"
    dtype = torch.bfloat16 if on_gpu() else torch.float32
    torch.manual_seed(0)
    weight = (torch.randn(vocabulary, hidden, device=device, dtype=dtype) * 0.02).requires_grad_()
    p, q = (torch.randn(tokens, hidden, device=device, dtype=dtype, requires_grad=True) for _ in range(2))
    targets = torch.randint(vocabulary, (tokens,), device=device)

    def naive() -> None:
        log_p, log_q = (log_softmax((h @ weight.T).float(), -1) for h in (p, q))
        kl = kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
        (kl.sum() - log_p.gather(1, targets[:, None]).sum()).backward()

    def chunked(kernel: HeadKernel) -> None:
        scores = flagged_scores(p, q, weight, targets, kernel=kernel)
        (scores.kl_pq_n.sum() - scores.logp_n.sum()).backward()

    lines = []
    fused = partial(chunked, "compiled")
    try:
        fused()  # compiling takes seconds once
        kernels = [("naive", naive), ("chunked", partial(chunked, "eager")), ("fused", fused)]
    except ConfigError as err:
        kernels = [("naive", naive), ("chunked", partial(chunked, "eager"))]
        lines.append(f"  fused: {err}")
    for name, work in kernels:
        for tensor in (weight, p, q):
            tensor.grad = None
        base = torch.cuda.memory_allocated() if on_gpu() else 0.0
        _, seconds, peak = measured(work)
        memory = f"{(peak - base) / 2**30:.2f} GiB over the inputs" if on_gpu() else "see benchmarks/head_memory.py"
        lines.append(f"  {name:8} {seconds:8.2f} s  {memory}")
    return lines


def play(config: RunConfig, policy: Policy) -> tuple[list[Trajectory], float, float, RolloutTimes]:
    """Trajectories of one iteration, seconds, peak bytes, and the parts of the seconds."""
    collector = build_collector(config, policy)
    tasks = collector.tasks_of("train")[: config.rollout.groups]
    rollout = config.rollout
    played, seconds, memory = measured(
        lambda: collector.collect(tasks, rollout.group_size, rollout.temperature, (0, 1, 1))
    )
    collector.close()
    return played, seconds, memory, collector.times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small model, for a CPU")
    parser.add_argument("--groups", type=int, default=None)
    parser.add_argument("--group-size", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="steps of an episode at most")
    parser.add_argument("--response", type=int, default=None, help="tokens of a response at most")
    parser.add_argument("--device", default="h100", choices=sorted(DEVICES), help="peak arithmetic to compare with")
    args = parser.parse_args()
    small = args.small
    if not small and not on_gpu():
        parser.error("there is no GPU; --small runs a small model on a CPU.")
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    if small:
        torch.set_num_threads(1)
    config = settings(
        small,
        args.groups or (2 if small else 4),
        args.group_size or (2 if small else 8),
        args.steps or (3 if small else 6),
        args.response or (12 if small else 128),
    )
    peak = DEVICES["cpu" if small else args.device].flops
    where = torch.cuda.get_device_name() if on_gpu() else "CPU, 1 thread"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shape = build(folder, config, small)
        model = ModelConfig(
            path=str(folder), dtype="float32" if small else "bfloat16", gradient_checkpointing=not small
        )
        print(f"{where}: {shape.parameters:,} weights, {model.dtype}, torch {torch.__version__}")
        policy = load_policy(str(folder), model)
        played, spent, memory, times = play(config, policy)
        rows = [s for t in played for s in t.steps]
        prompt = sum(len(s.prompt_ids) for s in rows)
        response = sum(len(s.response_ids) for s in rows)
        length = (prompt + response) / len(rows)
        flops = forward_flops(shape, prompt + response, length, response)
        print(f"{len(rows)} rows, prompts of {prompt / len(rows):.0f} tokens, responses of {response / len(rows):.0f}")
        print(
            f"rollout: {spent:.2f} s (generation {times.generation:.2f}, environment and prompts "
            f"{times.environment:.2f}), {response / times.generation:,.0f} new tokens/s, utilization "
            f"{flops / times.generation / peak:.2%}, peak {memory / 2**30:.1f} GiB"
        )
        del policy
        print(
            f"{'update':24}{'reference':>10}{'update':>10}{'blind':>10}{'all':>10}{'tokens/s':>12}{'MFU':>8}{'GiB':>8}"
        )
        kinds = ["all weights"] + (["adapters"] if find_spec("peft") else [])
        for kind in kinds:
            totals = {}
            for name in ("gigpo", "stapo"):
                policy = load_policy(str(folder), model)
                if kind == "adapters":
                    policy.attach(LoraConfig(rank=32), 0)
                algorithm = get_algorithm(name)
                batch = build_batch(played, algorithm)
                if algorithm.selective_on:
                    batch.flag_b[:: 100 if len(rows) > 100 else len(rows)] = True
                reference = copy_of(policy, on_cpu=False) if policy.adapter is None else None
                updater = Updater(policy, reference, algorithm, config.optim, config.rollout.temperature)
                updater.update(batch, 1e-6, seed=(0, 2, 0))  # the first builds the optimizer's state
                (_, parts), spent, memory = measured(
                    lambda updater=updater, batch=batch: updater.update(batch, 1e-6, seed=(0, 2, 1))
                )
                totals[name] = spent
                # Backward is two forwards (with adapters one); what checkpointing does again is no use.
                use = flops * (1 + (2 if kind == "adapters" else 3)) / spent / peak
                cells = "".join(f"{parts.get(part, 0.0):10.2f}" for part in ("reference", "update", "blind"))
                speed = (prompt + response) / spent
                print(f"{name + ', ' + kind:24}{cells}{spent:10.2f}{speed:12,.0f}{use:8.2%}{memory / 2**30:8.1f}")
                del policy, reference, updater
            print(f"  STAPO over GiGPO, update alone: {totals['stapo'] / totals['gigpo'] - 1:+.1%}")
        print("head, 512 tokens:" if not small else "head, 128 tokens:")
        print("\n".join(head_rows(shape.hidden, shape.vocabulary, 128 if small else 512)))


if __name__ == "__main__":
    main()
