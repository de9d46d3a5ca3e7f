"""What `stapo train --dry-run` says beside the settings: the run in short, and what it takes on a device."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stapo.cli.expected_episodes import Episodes, expect
from stapo.cli.progress import ProgressDisplay
from stapo.cli.words import foreign, say
from stapo.config.environment import environments_of, longest_tokens
from stapo.config.run_config import RunConfig
from stapo.envs.registry import check_options
from stapo.errors import ModelError, StapoError
from stapo.estimate.costs import (
    DEVICES,
    GIB,
    Device,
    Workload,
    activations,
    find_device,
    memory,
    seconds,
    within_budget,
)
from stapo.estimate.sequences import Reading, longest_of
from stapo.estimate.shapes import ModelShape, find_shape
from stapo.estimate.whole import RunOverhead, Speed, disk_bytes, measured_seconds, run_seconds
from stapo.policy.config import UNTIMED, DType
from stapo.policy.sources import folder_here
from stapo.texts import counted, duration
from stapo.training.callbacks import Callbacks


def show_estimate(config: RunConfig, gpu: str | None, out: Path | None = None, *, probed: bool = True) -> None:
    """Print the run in short and the estimate to stderr, where they do not get into the settings.

    Args:
        config: the resolved run.
        gpu: name of the device; None takes this machine, and says of the others whether they have room, and how long
            they take.
        out: run directory, where one is named; a run that is there has chosen dtype and threads.
        probed: time this machine; False takes the data sheet of a CPU for it.

    Raises:
        UnknownNameError: no such device.
    """
    named = find_device(gpu or "cpu") if gpu is not None or not probed else None
    console = Console(stderr=True)
    try:
        shape = shape_of_run(config)
        config = _settled(config, named, out, shape, console)
    except ModelError as err:
        console.print(_summary(config, None, None))
        say(console, f"no estimate: {err}")
        return
    seen = expect(config)
    work, overhead = within_budget(shape, workload(config, seen)), overhead_of(config, seen)
    console.print(_summary(config, shape, seen))
    if seen.why:
        say(console, foreign(f"no demonstration was played: {seen.why}"))
    for told in _of_template(config):
        say(console, foreign(told))
    if named is not None:
        console.print(_costs(shape, work, named, seconds(shape, work, named), seen))
        _say_whole(console, config, seen, run_seconds(shape, work, overhead, named))
        lines = advice(shape, work, named)
        if gpu is None:
            say(console, "speed: assumed, from a data sheet; without --no-probe it is measured here.")
            lines += elsewhere(shape, work, overhead)
    else:
        device, speed, work, overhead = _here(console, config, shape, seen, work, overhead)
        console.print(_costs(shape, work, device, measured_seconds(work, speed), seen))
        _say_whole(console, config, seen, run_seconds(shape, work, overhead, speed))
        lines = [*advice(shape, work, device), *elsewhere(shape, work, overhead)]
    for line in (*lines, disk(config, shape, work, overhead)):
        say(console, line)


def _of_template(config: RunConfig) -> list[str]:
    """What there is to know of the chat template of a model that is here."""
    path = config.model.path
    if path is None or folder_here(path) is None or config.model.chat_template == "none":
        return []
    from stapo.policy import load_tokenizer
    from stapo.rollout.encoding import PromptEncoder, told_of_template

    try:
        encoder = PromptEncoder(load_tokenizer(path, config.model))
        told = [text for own in environments_of(config).values() for text in told_of_template(own.agent, encoder)]
        return list(dict.fromkeys(told))
    except ModelError as err:
        return [str(err)]


def _settled(
    config: RunConfig, named: Device | None, out: Path | None, shape: ModelShape, console: Console
) -> RunConfig:
    """The settings without `auto`: as the run in `out` has them, by a measurement here, or as another machine would."""
    if named is None:
        from stapo.cli.this_machine import config_of
        from stapo.policy.hardware import TimedModel, time_layers
        from stapo.training.choices import resolve_auto

        timed = partial(time_layers, config_of(shape, shape.layers), config.model.device)
        model = TimedModel(shape.parameters, config.model.path is None, timed)
        return resolve_auto(config, out, partial(say, console), model).config
    if config.model.dtype != "auto":
        return config
    large = config.model.path is not None and shape.parameters >= UNTIMED
    dtype: DType = "bfloat16" if large and named.name != "cpu" else "float32"
    if large:
        say(console, f"model.dtype auto is estimated as {dtype} on {named.name}; the run times both there.")
    return replace(config, model=replace(config.model, dtype=dtype))


def check_settings(config: RunConfig, out: Path | None, *, elsewhere: bool) -> None:
    """Refuse what training would refuse of folder, environment and tasks; of the model the estimate tells.

    Args:
        config: the resolved run.
        out: run directory, where one is named.
        elsewhere: the run is planned for another machine, so that files need not be here.

    Raises:
        StapoError: as training would.
    """
    if elsewhere:
        for own in environments_of(config).values():
            check_options(own.env.name, own.env.options)
        return
    from stapo.training.preflight import open_world
    from stapo.training.resume import check_place, is_run

    if out is not None:
        check_place(out, config)
    with ProgressDisplay() as display:
        progress = partial(Callbacks([display]).stage, "checking games")
        open_world(config, out is not None and is_run(out), progress).close()


def overhead_of(config: RunConfig, seen: Episodes) -> RunOverhead:
    """What a run does beside its iterations."""
    sft, plan, log, n = config.sft, config.eval, config.log, config.optim.iterations
    environments = list(environments_of(config).values())
    each = -(-seen.tasks // len(environments))
    full = sum(own.eval.played(each, final=True) for own in environments) * (1 + plan.at_start)
    between = (n - 1) // plan.every if plan.every and n else 0
    # Measurements for `stop_at` and `keep` play episodes.
    measured = sft.steps // sft.probe_every if sft.stop_at < 1 or sft.keep == "best" else 0
    probes = measured * sft.probe_episodes * sft.probe_k * len(environments) if sft.steps else 0
    return RunOverhead(
        sft_steps=sft.steps,
        sft_rows=sft.batch_size,
        sft_tokens=seen.imitated,
        demonstration_seconds=seen.demonstrated * seen.step_seconds,
        sft_save_seconds=log.save_seconds,
        full_evaluations=full,
        quick_evaluations=between * sum(own.eval.played(each, final=False) for own in environments) + probes,
        saves=-(-n // log.save_every),
        keep_saves=log.keep_saves,
        checkpoints=2 + bool(plan.keep_best) + (n // log.checkpoint_every if log.checkpoint_every else 0),
    )


def elsewhere(shape: ModelShape, work: Workload, overhead: RunOverhead) -> list[str]:
    """A line for every device of the table: whether the run has room there, and how long it would take."""
    lines = ["on other devices, by their data sheets:"]
    for device in DEVICES.values():
        room = memory(shape, work)["peak"] <= device.memory * (1 - work.vllm_share)
        hours = run_seconds(shape, work, overhead, device)["all"]
        lines.append(f"  {device.name}: {'fits' if room else 'does NOT fit'}, about {duration(hours)}")
    return lines


def disk(config: RunConfig, shape: ModelShape, work: Workload, overhead: RunOverhead) -> str:
    """What the run folder takes, against what is free where runs are written."""
    found = disk_bytes(shape, work, overhead)
    free, every = shutil.disk_usage(Path.cwd()).free, config.log.save_every
    line = (
        f"disk: about {found['kept'] / 1e9:.2f} GB at the end, {found['most'] / 1e9:.2f} GB at most: "
        f"{counted(overhead.checkpoints, 'checkpoint')}, {counted(overhead.keep_saves, 'save')} of "
        f"{found['one save'] / 1e9:.2f} GB (log.keep_saves), "
        f"one every {counted(every, 'iteration').removeprefix('1 ')}; {free / 1e9:.0f} GB are free here."
    )
    return line if found["most"] < free else f"{line} It does NOT fit."


def _here(
    console: Console, config: RunConfig, shape: ModelShape, seen: Episodes, work: Workload, overhead: RunOverhead
) -> tuple[Device, Speed, Workload, RunOverhead]:
    """This machine, its speed with the model, and what a run asks of it, beside the model as well."""
    from stapo.cli.probe import LARGEST, probe
    from stapo.cli.this_machine import gpu_of, measured, this_machine

    gpu = gpu_of(config.model.device)
    device, path = this_machine(gpu), config.model.path
    # Weights, gradients, a reference, and moments of the optimizer.
    needed = shape.parameters * work.bytes_per_weight * (3 if path else 6)
    if gpu:
        why = "the model runs on a GPU"
    elif config.envs:
        why = "the run has several environments"
    elif path is not None and folder_here(path) is None:
        why = "the model is not here"
    elif shape.parameters > LARGEST or needed > device.memory:
        why = f"a model of {shape.parameters:,} weights is not loaded for it"
    else:
        began = time.monotonic()
        try:
            found = probe(config, seen, work)
        except StapoError as err:
            why = str(err)
        else:
            say(console, f"speed: measured here with the model, in {duration(time.monotonic() - began)}.")
            work = replace(work, step_seconds=found.step_seconds or work.step_seconds)
            before_sft = overhead.demonstration_seconds + found.encode_seconds * seen.demonstrated
            return device, found.speed, work, replace(overhead, demonstration_seconds=before_sft)
    say(console, foreign(f"speed: measured here with a layer of the model's shape, not with the model: {why}."))
    threads = 0 if config.log.threads == "auto" else config.log.threads
    speed = measured(shape, work.bytes_per_weight == 2, threads, int(work.together), int(work.prompt), gpu)
    return device, speed, work, overhead


def _say_whole(console: Console, config: RunConfig, seen: Episodes, stages: dict[str, float]) -> None:
    parts = ", ".join(f"{name} {duration(value)}" for name, value in stages.items() if name != "all" and value)
    guessed = not config.eval.episodes and not seen.counted
    guess = f" (eval.episodes 0 plays each task once; {seen.tasks} tasks are supposed)" if guessed else ""
    say(console, f"the whole run: about {duration(stages['all'])}: {parts}{guess}", "bold")


def shape_of_run(config: RunConfig) -> ModelShape:
    """The shape of the model that a run trains.

    Raises:
        ModelError: it is not known.
    """
    model = config.model
    if model.path is not None:
        return find_shape(str(folder_here(model.path) or model.path))
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


def workload(config: RunConfig, seen: Episodes) -> Workload:
    """What a run asks of its model, where its episodes are as expected."""
    algorithm, model, lengths = config.algorithm, config.model, longest_tokens(config)
    grows = any(own.agent.grows for own in environments_of(config).values())
    vllm, reading = config.rollout.engine == "vllm", seen.reading
    merged = reading if config.optim.merge else None
    work = Workload(
        episodes=config.rollout.groups * config.rollout.group_size,
        steps=seen.steps,
        prompt=seen.prompt,
        response=seen.response,
        longest_prompt=lengths[0],
        longest_response=lengths[1],
        iterations=config.optim.iterations,
        epochs=config.optim.epochs,
        mini_batch=config.optim.mini_batch,
        micro_tokens=config.optim.micro_tokens,
        batch_tokens=config.rollout.batch_tokens,
        decode_tokens=config.rollout.decode_tokens,
        bytes_per_weight=2 if model.dtype == "bfloat16" else 4,
        lora_rank=model.lora.rank,
        reference=("device" if model.reference == "auto" else model.reference) if algorithm.needs_reference else "none",
        scored_by_reference=algorithm.loss.beta > 0,
        checkpointing=model.gradient_checkpointing,
        blind=algorithm.selective_on,
        critic=algorithm.needs_critic,
        all_trained=config.sft.steps > 0,
        vllm_share=config.rollout.vllm.gpu_memory if vllm else 0.0,
        corrected=config.rollout.correction != "none",
        sft_tokens=seen.longest * config.sft.batch_size if config.sft.steps else 0,
        step_seconds=seen.step_seconds,
        kept_bytes=config.rollout.kept_keys_gib * GIB if grows or reading else 0.0,
        sequences=merged.sequences if merged else 0.0,
        sequence=merged.sequence if merged else 0.0,
        new=reading.new if reading and (vllm or config.rollout.kept_keys_gib) else 0.0,
        blind_prompt=seen.blind,
    )
    return replace(work, decoded=longest_of(seen.responses, work.together))


def advice(shape: ModelShape, work: Workload, device: Device) -> list[str]:
    """Whether it fits, and if not, which single setting brings it down, the mildest first."""
    peak = memory(shape, work)["peak"]
    room = device.memory * (1 - work.vllm_share)
    left = f" that vLLM leaves (rollout.vllm.gpu_memory {work.vllm_share:g})" if work.vllm_share else ""
    if peak <= room:
        return [f"fits on {device.name}: about {peak / GIB:.1f} of {room / GIB:.1f} GiB{left}."]
    lines = [f"does NOT fit on {device.name}: about {peak / GIB:.1f} GiB, it has {room / GIB:.1f}{left}. What helps:"]
    least = work.longest_prompt + work.longest_response
    changes: list[tuple[str, Workload]] = []
    if work.micro_tokens > least:
        changes.append((f"--optim.micro-tokens {least}", replace(work, micro_tokens=least)))
    if work.sft_tokens > work.micro_tokens:
        changes.append(("half of sft.batch_size", replace(work, sft_tokens=work.sft_tokens // 2)))
    if not work.checkpointing:
        changes.append(("--model.gradient-checkpointing", replace(work, checkpointing=True)))
    if work.reference == "device" and not work.lora_rank:
        changes.append(("--model.reference cpu (slower)", replace(work, reference="cpu")))
    if work.batch_tokens > work.longest_prompt and not work.vllm_share:
        changes += [
            (f"--rollout.decode-tokens {work.longest_prompt}", replace(work, decode_tokens=work.longest_prompt)),
            (f"--rollout.batch-tokens {work.longest_prompt}", replace(work, batch_tokens=work.longest_prompt)),
        ]
    if work.kept_bytes:
        changes.append(("--rollout.kept-keys-gib 0 (slower)", replace(work, kept_bytes=0.0)))
    if not work.lora_rank:
        changes.append(("--model.lora.rank 32", replace(work, lora_rank=32)))
    for name, changed in changes:
        # What is not part of the peak helps nobody.
        if (less := memory(shape, changed)["peak"]) < 0.99 * peak:
            lines.append(f"  {name}: {less / GIB:.1f} GiB")
    mild = replace(
        work,
        micro_tokens=min(work.micro_tokens, least),
        checkpointing=True,
        batch_tokens=work.longest_prompt,
        decode_tokens=work.longest_prompt,
        kept_bytes=0.0,
        sft_tokens=min(work.sft_tokens, least),
    )
    lines.append(f"  all but adapters and reference: {memory(shape, mild)['peak'] / GIB:.1f} GiB")
    lines.append(f"  all of it: {memory(shape, replace(mild, lora_rank=32, reference='none'))['peak'] / GIB:.1f} GiB")
    lines.append("  or more GPUs: 'stapo verl' shards weights, gradients and optimizer over them (docs/scaling.md)")
    return lines


def _summary(config: RunConfig, shape: ModelShape | None, seen: Episodes | None) -> Table:
    table = Table(title="the run", show_header=False, title_justify="left")
    model, optim, rollout = config.model, config.optim, config.rollout
    size = "" if shape is None else f", {shape.parameters:,} weights"
    environments = environments_of(config)
    weights = {label: f" ({entry.weight:g})" for label, entry in config.envs.items()}
    rows = {
        "environment": "; ".join(
            f"{label}{weights.get(label, '')}, split {own.env.split}; evaluated on {own.eval.split}"
            for label, own in environments.items()
        ),
        "model": f"{model.path or 'a small ' + model.architecture}, {model.dtype}{size}",
        "algorithm": f"{config.algorithm.name} ({config.algorithm.paper})",
        "episodes": f"{counted(rollout.groups, 'group')} x {rollout.group_size}, "
        f"{counted(optim.iterations, 'iteration')}",
        "steps": "; ".join(
            f"at most {own.env.options.get('max_steps', 'as the environment has it')} per episode"
            for own in environments.values()
        ),
        "tokens": "prompt {}, response {} at most".format(*longest_tokens(config)),
        "optimizer": f"AdamW, learning rate {optim.learning_rate:g} ({optim.schedule}), mini-batch {optim.mini_batch} "
        f"rows, {counted(optim.epochs, 'epoch')}, {optim.micro_tokens} tokens per pass",
    }
    if seen is not None and seen.reading is not None:
        rows["an episode"] = _read_once(seen.steps, seen.reading, config.optim.merge)
    for name, text in rows.items():
        table.add_row(name, foreign(text))
    return table


def _read_once(steps: float, reading: Reading, merge: bool) -> str:
    """What it saves to read the steps of an episode as sequences."""
    tokens = reading.sequences * reading.sequence
    count = f"{reading.sequences:.3g} sequence{'' if reading.sequences == 1 else 's'}"
    saved = f"{tokens:,.0f} tokens as {count} ({reading.rows / tokens:.1f} times fewer)"
    return (
        f"{reading.rows:,.0f} tokens as {steps:.3g} rows, "
        + (saved if merge else f"and optim.merge is off; with it {saved}")
        + f"; the rollout reads {reading.new:.0f} new tokens of a prompt of {reading.prompt:.0f}"
    )


def _costs(shape: ModelShape, work: Workload, device: Device, times: dict[str, float], seen: Episodes) -> Table:
    table = Table(title=f"estimate for {device.name}, {seen.basis}", title_justify="left")
    for heading, justify in (("memory", "left"), ("GiB", "right"), ("time", "left"), ("seconds", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    space = memory(shape, work)
    other = activations(shape, work, not work.checkpointing)
    with_or_without = "with" if not work.checkpointing else "without"
    left = [(name, f"{value / GIB:.2f}") for name, value in space.items()]
    left.insert(6, (f"  ({with_or_without} checkpointing)", f"({other / GIB:.2f})"))
    right = [(name, f"{value:,.1f}") for name, value in times.items()]
    right[-1] = (f"all {counted(work.iterations, 'iteration')}", duration(times["run"]))
    for i in range(max(len(left), len(right))):
        row = [*(left[i] if i < len(left) else ("", "")), *(right[i] if i < len(right) else ("", ""))]
        table.add_row(*row, style="bold" if row[0] == "peak" else None)
    return table
