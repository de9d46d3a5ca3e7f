"""What `stapo train --dry-run` says beside the settings: the run in short, and what it takes on a device."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from stapo.cli.words import foreign, say
from stapo.errors import ModelError
from stapo.estimate.costs import Workload, activations, memory, seconds
from stapo.estimate.devices import GIB, Device, find_device
from stapo.estimate.shapes import ModelShape, find_shape
from stapo.train.run_config import RunConfig

EXPECTED = 0.5
"""Share of the limits (steps, prompt, response) that an episode is expected to use."""

_STEPS = 30


def show_estimate(config: RunConfig, gpu: str | None) -> None:
    """Print the run in short and the estimate to stderr, where they do not get into the settings.

    Args:
        config: the resolved run.
        gpu: name of the device; None takes an H100, or a CPU for a small model that is built.

    Raises:
        UnknownNameError: no such device.
    """
    device = find_device(gpu or ("cpu" if config.model.path is None else "h100"))
    console = Console(stderr=True)
    try:
        shape = shape_of_run(config)
    except ModelError as err:
        console.print(_summary(config, None))
        say(console, f"no estimate: {err}")
        return
    work = workload(config)
    console.print(_summary(config, shape))
    console.print(_costs(shape, work, device))
    for line in advice(shape, work, device):
        say(console, line)


def shape_of_run(config: RunConfig) -> ModelShape:
    """The shape of the model that a run trains.

    Raises:
        ModelError: it is not known.
    """
    model = config.model
    if model.path is not None:
        return find_shape(model.path)
    return ModelShape(
        hidden=model.hidden_size,
        inner=model.intermediate_size,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.heads,
        head_dim=model.hidden_size // model.heads,
        vocabulary=model.vocab_size,
        tied=True,
        bias=model.architecture == "qwen2",
        head_norms=model.architecture == "qwen3",
    )


def workload(config: RunConfig) -> Workload:
    """What a run asks of its model, at half of every limit."""
    algorithm, agent, model = config.algorithm, config.agent, config.model
    steps = config.env.options.get("max_steps")
    return Workload(
        episodes=config.rollout.groups * config.rollout.group_size,
        steps=max(1.0, EXPECTED * (steps if isinstance(steps, int) else _STEPS)),
        prompt=EXPECTED * agent.max_prompt_tokens,
        response=EXPECTED * agent.max_response_tokens,
        longest_prompt=agent.max_prompt_tokens,
        longest_response=agent.max_response_tokens,
        iterations=config.optim.iterations,
        epochs=config.optim.epochs,
        mini_batch=config.optim.mini_batch,
        micro_tokens=config.optim.micro_tokens,
        batch_tokens=config.rollout.batch_tokens,
        bytes_per_weight=2 if model.dtype == "bfloat16" else 4,
        lora_rank=model.lora.rank,
        reference=("device" if model.reference == "auto" else model.reference) if algorithm.needs_reference else "none",
        scored_by_reference=algorithm.loss.beta > 0,
        checkpointing=model.gradient_checkpointing,
        blind=algorithm.selective_on,
        critic=algorithm.needs_critic,
        all_trained=config.warm_start.steps > 0,
        vllm_share=config.rollout.vllm.gpu_memory if config.rollout.engine == "vllm" else 0.0,
    )


def advice(shape: ModelShape, work: Workload, device: Device) -> list[str]:
    """Whether it fits, and if not, which single setting brings it down, the mildest first."""
    peak = memory(shape, work)["peak"]
    room = device.memory * (1 - work.vllm_share)
    left = f" that vLLM leaves (rollout.vllm.gpu_memory {work.vllm_share:g})" if work.vllm_share else ""
    if peak <= room:
        return [f"fits on {device.name}: about {peak / GIB:.1f} of {room / GIB:.1f} GiB{left}."]
    lines = [f"does NOT fit on {device.name}: about {peak / GIB:.1f} GiB, it has {room / GIB:.1f}{left}. What helps:"]
    least = work.longest_prompt + work.longest_response
    knobs: list[tuple[str, Workload]] = []
    if work.micro_tokens > least:
        knobs.append((f"--optim.micro-tokens {least}", replace(work, micro_tokens=least)))
    if not work.checkpointing:
        knobs.append(("--model.gradient-checkpointing", replace(work, checkpointing=True)))
    if work.reference == "device" and not work.lora_rank:
        knobs.append(("--model.reference cpu (slower)", replace(work, reference="cpu")))
    if work.batch_tokens > work.longest_prompt and not work.vllm_share:
        knobs.append((f"--rollout.batch-tokens {work.longest_prompt}", replace(work, batch_tokens=work.longest_prompt)))
    if not work.lora_rank:
        knobs.append(("--model.lora.rank 32", replace(work, lora_rank=32)))
    for name, changed in knobs:
        # What is no part of the peak helps nobody.
        if (less := memory(shape, changed)["peak"]) < 0.99 * peak:
            lines.append(f"  {name}: {less / GIB:.1f} GiB")
    mild = replace(
        work, micro_tokens=min(work.micro_tokens, least), checkpointing=True, batch_tokens=work.longest_prompt
    )
    lines.append(f"  all but adapters and reference: {memory(shape, mild)['peak'] / GIB:.1f} GiB")
    lines.append(f"  all of it: {memory(shape, replace(mild, lora_rank=32, reference='none'))['peak'] / GIB:.1f} GiB")
    lines.append("  or more GPUs: 'stapo verl' shards weights, gradients and optimizer over them (docs/scaling.md)")
    return lines


def _summary(config: RunConfig, shape: ModelShape | None) -> Table:
    table = Table(title="the run", show_header=False, title_justify="left")
    model, optim, rollout = config.model, config.optim, config.rollout
    size = "" if shape is None else f", {shape.parameters:,} weights"
    rows = {
        "environment": f"{config.env.name}, split {config.env.split}; evaluated on {config.eval.split}",
        "model": f"{model.path or 'a small ' + model.architecture}, {model.dtype}{size}",
        "algorithm": f"{config.algorithm.name} ({config.algorithm.paper})",
        "episodes": f"{rollout.groups} groups x {rollout.group_size}, {optim.iterations} iterations",
        "steps": f"at most {config.env.options.get('max_steps', 'as the environment has it')} per episode",
        "tokens": f"prompt {config.agent.max_prompt_tokens}, response {config.agent.max_response_tokens} at most",
        "optimizer": f"AdamW, learning rate {optim.learning_rate:g} ({optim.schedule}), mini-batch {optim.mini_batch} "
        f"rows, {optim.epochs} epoch{'' if optim.epochs == 1 else 's'}, {optim.micro_tokens} tokens per pass",
    }
    for name, text in rows.items():
        table.add_row(name, foreign(text))
    return table


def _costs(shape: ModelShape, work: Workload, device: Device) -> Table:
    table = Table(title=f"estimate for {device.name}, at half of every limit", title_justify="left")
    for heading, justify in (("memory", "left"), ("GiB", "right"), ("time", "left"), ("seconds", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    space = memory(shape, work)
    other = activations(shape, work, not work.checkpointing)
    with_or_without = "with" if not work.checkpointing else "without"
    left = [(name, f"{value / GIB:.2f}") for name, value in space.items()]
    left.insert(6, (f"  ({with_or_without} checkpointing)", f"({other / GIB:.2f})"))
    right = [(name, f"{value:,.1f}") for name, value in seconds(shape, work, device).items()]
    right[-1] = (f"all {work.iterations} iterations", f"{float(right[-1][1].replace(',', '')) / 3600:,.1f} h")
    for i in range(max(len(left), len(right))):
        row = [*(left[i] if i < len(left) else ("", "")), *(right[i] if i < len(right) else ("", ""))]
        table.add_row(*row, style="bold" if row[0] == "peak" else None)
    return table
