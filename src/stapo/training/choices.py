"""What `auto` stands for in a run: decided once where the run begins, kept in its folder, and checked elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stapo.config.run_config import RunConfig, Threads
from stapo.config.schema import from_data
from stapo.errors import ModelError
from stapo.policy import hardware
from stapo.policy.config import DType
from stapo.policy.hardware import TimedModel
from stapo.run import RunDirectory
from stapo.training.resume import is_finished, is_run, is_same

KEPT = "chosen"
"""Key of run.json under which the choices are, each with its reason."""


@dataclass(frozen=True)
class Resolved:
    """Settings without `auto`.

    Attributes:
        config: of the run.
        chosen: settings that were chosen for the machine on which the run began, by dotted name, and why.
        threads: CPU threads on this machine: those of the run, or as many as there are cores where they were chosen
            for a machine with more.
    """

    config: RunConfig
    chosen: dict[str, str]
    threads: Threads


def resolve_auto(
    config: RunConfig, out: Path | None, notice: Callable[[str], None], timed_model: TimedModel | None = None
) -> Resolved:
    """Decide what `auto` stands for, or look it up in the run that is in `out`; warn of a dtype that is slow here.

    Args:
        config: what was asked for.
        out: folder of the run; None where there is none.
        notice: told what was chosen, and of a dtype that is `hardware.SLOW` times slower here than the other.
        timed_model: the model; left out, that of the settings.

    Raises:
        ModelError: the model cannot be one.
    """
    run = None if out is None or not is_run(out) else RunDirectory.open(out)
    begun = None if run is None or not is_same(run, config) else from_data(RunConfig, run.config())
    if run is not None and begun is not None:
        kept = run.info().get(KEPT)
        chosen = {str(name): str(why) for name, why in kept.items()} if isinstance(kept, dict) else {}
        config = _with(config, begun.model.dtype, begun.log.threads)
        threads = threads_here(run, config)
        if threads != config.log.threads:
            notice(f"log.threads {config.log.threads} was chosen where the run began; this machine has {threads}")
        if not is_finished(run, config) and (config.model.dtype == "bfloat16" or "model.dtype" in chosen):
            with suppress(ModelError):  # the run has the model in its saves; where it came from may be gone
                timed_model = timed_model or hardware.timed_model_of(config.model)
                _warn_of_slow(config, timed_model, threads, notice, "The run keeps it: another dtype is another run.")
        return Resolved(config, chosen, threads)
    timed_model = timed_model or hardware.timed_model_of(config.model)
    dtype, threads, chosen = config.model.dtype, config.log.threads, dict[str, str]()
    if threads == "auto":
        threads = hardware.threads_for(timed_model.weights)
        if threads > 1:
            chosen["log.threads"] = f"{threads} (one for each core)"
    if dtype == "auto":
        dtype, why = hardware.dtype_for(timed_model, threads)
        chosen |= {"model.dtype": why} if why else {}
    elif dtype == "bfloat16":
        _warn_of_slow(config, timed_model, threads, notice, "Set model.dtype to float32, or to auto.")
    if chosen:
        notice("chosen for this machine: " + ", ".join(f"{name} {why}" for name, why in chosen.items()))
    return Resolved(_with(config, dtype, threads), chosen, threads)


def threads_here(run: RunDirectory, config: RunConfig) -> Threads:
    """CPU threads for a run on this machine: its own, but no more than cores where they were chosen for another one."""
    kept, threads = run.info().get(KEPT), config.log.threads
    if threads == "auto" or not isinstance(kept, dict) or "log.threads" not in kept:
        return threads
    return min(threads, hardware.usable_cores())


def _with(config: RunConfig, dtype: DType, threads: Threads) -> RunConfig:
    return replace(config, model=replace(config.model, dtype=dtype), log=replace(config.log, threads=threads))


def _warn_of_slow(
    config: RunConfig, timed_model: TimedModel, threads: Threads, notice: Callable[[str], None], then: str
) -> None:
    on_gpu = config.model.device != "cpu" and torch.cuda.is_available()
    if config.model.dtype == "bfloat16" and on_gpu and torch.cuda.is_bf16_supported():
        return  # such a GPU is not slower in it
    speeds = timed_model.time(0 if threads == "auto" else threads)
    if hardware.much_slower(config.model.dtype, speeds):
        notice(
            f"warning: model.dtype {config.model.dtype} is slow on this machine ({hardware.in_words(speeds)}). {then}"
        )
