"""What `stapo eval` evaluates: a saved policy of a run, a frozen model of this machine, or one behind a server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stapo.cli.words import write_line
from stapo.errors import ConfigError, RunDirectoryError, unknown_name
from stapo.http_client import CallOptions

if TYPE_CHECKING:
    from stapo.config.run_config import RunConfig
    from stapo.rollout.collect import Collector
    from stapo.rollout.encoding import Clock
    from stapo.run import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Served:
    """How a model behind a server is asked.

    Attributes:
        url: base address of the API.
        api: "chat" or "completions".
        tokenizer: folder of the model's tokenizer, to count prompts with; None estimates.
        key_variable: environment variable with the API key; None is the usual one.
        concurrency: requests at once.
        timeout: seconds for one answer, tries and pauses included.
        attempts: tries of one request.
        send_seeds: give each request a seed.
    """

    url: str
    api: str = "chat"
    tokenizer: str | None = None
    key_variable: str | None = None
    concurrency: int = 16
    timeout: float = 600.0
    attempts: int = 4
    send_seeds: bool = False

    def options(self) -> CallOptions:
        """Limits of a request. The server may think for all of its time before the first byte."""
        return CallOptions(
            connect_s=min(10.0, self.timeout),
            read_s=self.timeout,
            total_s=self.timeout,
            attempts=self.attempts,
            backoff_s=0.5,
            backoff_max_s=30.0,
            connections=self.concurrency,
        )


@dataclass(frozen=True)
class EvalTarget:
    """Something that can play.

    Attributes:
        config: settings that it plays with.
        labels: what it is, as it stands in the result.
        title: the same for a reader.
        check: what can be found wrong before an environment is built.
        collector: loads or opens it.
        counts: requests by what came of them, once it has played; None where it is not asked by request.
        close: lets go of what it holds besides the collector.
        run: its run directory, where it has one.
    """

    config: RunConfig
    labels: dict[str, Any]
    title: str
    check: Callable[[], None]
    collector: Callable[[], Collector]
    counts: Callable[[], dict[str, int] | None] = field(default=lambda: None)
    close: Callable[[], None] = field(default=lambda: None)
    run: RunDirectory | None = None


def settings_of(source: str, other_model: bool) -> tuple[RunConfig, RunDirectory | None]:
    """The settings of a run directory, a preset or a file.

    Args:
        source: as the user gave it.
        other_model: another model than that of a run is named, so that presets and files are meant, too.

    Raises:
        RunDirectoryError: no run directory, and nothing else that could be meant.
        UnknownNameError: neither a run, nor a preset, nor a file.
    """
    from stapo.config.presets import load_config, preset_names
    from stapo.config.run_config import read_run_config
    from stapo.run import RunDirectory

    path = Path(source)
    named = source in preset_names() or path.is_file() or path.suffix in (".yaml", ".yml")
    if (path / "config.yaml").exists() or not (named or other_model):
        run = RunDirectory.open(path)
        return read_run_config(run), run
    return load_config(source), None


def saved_policy(run: RunDirectory, config: RunConfig, checkpoint: str) -> EvalTarget:
    """A checkpoint of a run."""

    def check() -> None:
        for said in run.remarks():
            write_line(f"warning: {said}", sys.stderr)
        checkpoints = run.checkpoints()
        if not checkpoints:
            raise RunDirectoryError(f"'{run.path}' has no checkpoint yet; 'stapo train' saves the first before RL.")
        if checkpoint not in checkpoints:
            raise unknown_name("checkpoint", checkpoint, checkpoints)

    labels = {"run": str(run.path), "checkpoint": checkpoint, "algorithm": config.algorithm.name}
    title = f"{run.path}, checkpoint {checkpoint} ({config.algorithm.name})"

    def collector() -> Collector:
        return _local(config, str(run.check_checkpoint(checkpoint)), run.started)

    return EvalTarget(config, labels, title, check, collector, run=run)


def frozen_model(source: str, config: RunConfig, model: str | None) -> EvalTarget:
    """A model of this machine, as it is: nothing of it is trained."""
    path = model or config.model.path
    if path is None:
        raise ConfigError(
            f"'{source}' names no pretrained model; say which with --model FOLDER, or with --endpoint URL --model NAME."
        )

    def check() -> None:
        from stapo.training.preflight import check_prompted

        check_prompted(path, config)

    labels = {"settings": source, "model": path, "algorithm": None}
    return EvalTarget(config, labels, f"{path}, frozen, settings of {source}", check, lambda: _local(config, path))


def served_model(source: str, config: RunConfig, model: str, served: Served) -> EvalTarget:
    """A model behind an OpenAI-compatible server."""
    from stapo.rollout.endpoint import KEY_VARIABLE, EndpointSampler

    sampler = EndpointSampler(
        served.url,
        model,
        config.agent.max_response_tokens,
        api=served.api,  # type: ignore[arg-type]
        options=served.options(),
        key_variable=served.key_variable or KEY_VARIABLE,
        send_seeds=served.send_seeds,
    )

    def collector() -> Collector:
        from stapo.policy import load_tokenizer
        from stapo.rollout.text_codec import SpelledText
        from stapo.training.factories import collector_of

        tokenizer = None if served.tokenizer is None else load_tokenizer(served.tokenizer)
        return collector_of(config, SpelledText(tokenizer), sampler)

    labels = {"settings": source, "model": model, "endpoint": sampler.url, "api": served.api, "algorithm": None}
    return EvalTarget(
        config,
        labels,
        f"{model} at {sampler.url} ({served.api}), frozen, settings of {source}",
        sampler.check,
        collector,
        lambda: dict(sorted(sampler.counts.items())),
        sampler.close,
    )


def _local(config: RunConfig, path: str, clock: Clock | None = None) -> Collector:
    from transformers.utils import logging as transformers_logging

    from stapo.policy import load_policy
    from stapo.rollout.encoding import utc_now
    from stapo.training.loop import build_collector, set_threads

    set_threads(config.log.threads)
    transformers_logging.disable_progress_bar()
    return build_collector(config, load_policy(path, config.model), clock=clock or utc_now)
