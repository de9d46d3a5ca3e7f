"""Evaluating a saved policy of a run, a frozen model of this machine, or one behind a server: `stapo.evaluate`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from stapo.api.runs import Run, left_as_found
from stapo.api.settings import Source, checked, fitting, settings_of, with_changes, with_engine
from stapo.config.environment import environment_of
from stapo.config.run_config import RunConfig
from stapo.config.schema import to_data
from stapo.diagnosis import require_checkpoint
from stapo.errors import ConfigError, FailureLimitError
from stapo.http_client import CallOptions
from stapo.policy import load_policy, load_tokenizer
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder, told_of_template
from stapo.rollout.endpoint import KEY_VARIABLE, EndpointSampler
from stapo.rollout.evaluate import EvalProtocol, nothing_played, pass_shares, passed, stop_reasons, summarize
from stapo.rollout.evaluate import evaluate as play_protocol
from stapo.rollout.record import episode_of, fingerprint, record_lines
from stapo.rollout.shares import INTERVAL
from stapo.rollout.templates import utc_now
from stapo.rollout.text_codec import TextCodec, told_of_server
from stapo.rollout.types import NOT_THE_POLICYS, Trajectory
from stapo.run import RunDirectory
from stapo.run.directory import jsonable
from stapo.run.lines import require_new, write_lines
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.choices import resolve_auto, threads_here
from stapo.training.factories import collector_of, tasks_of_split
from stapo.training.loop import build_collector, set_threads
from stapo.training.preflight import check_prompted

SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server, and how it is asked.

    Attributes:
        url: base address of the API, such as http://127.0.0.1:8000/v1.
        model: the name that the server knows the model by.
        api: `chat` sends one user message; `completions` the prompt as it stands, for models without a chat template.
        tokenizer: folder of the model's tokenizer, which counts the tokens of prompts; without it a token counts 4
            characters.
        key_variable: environment variable that holds the API key; None is STAPO_API_KEY.
        concurrency: requests at once.
        timeout: seconds for one response, tries and pauses included.
        attempts: tries of one request.
        send_seeds: give every request a seed of its own, for servers that know `seed`.
    """

    url: str
    model: str
    api: str = "chat"
    tokenizer: str | None = None
    key_variable: str | None = None
    concurrency: int = 16
    timeout: float = 600.0
    attempts: int = 4
    send_seeds: bool = False

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            fitting(name, getattr(self, name), hint)

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
    collector: Callable[[Callbacks], Collector]
    counts: Callable[[], dict[str, int] | None] = field(default=lambda: None)
    close: Callable[[], None] = field(default=lambda: None)
    run: RunDirectory | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        title: what was evaluated.
        document: every number, as `stapo eval --json` prints it.
    """

    title: str
    document: dict[str, Any]

    @property
    def success(self) -> float:
        """Share of the episodes that were solved."""
        return float(self.document["success"])

    @property
    def standard_error(self) -> float:
        """Of the success, with episodes as independent coin flips."""
        return float(self.document["success_standard_error"] or 0.0)

    @property
    def success_interval(self) -> tuple[float, float]:
        """95 % interval of the success, for other tasks and other attempts at them."""
        low, high = self.document["success_interval"]
        return float(low), float(high)

    @property
    def pass_at(self) -> dict[int, tuple[float, float, float]]:
        """Share of tasks that k attempts win, for k = 1, 2, 4 and so on, each with the ends of its 95 % interval.

        Empty where tasks were tried once, or greedily.
        """
        return {int(k): tuple(found) for k, found in self.document.get("pass_at", {}).items()}

    @property
    def success_by_seed(self) -> dict[int, float]:
        """Success of each seed."""
        return dict(zip(self.document["seeds"], self.document["success_by_seed"], strict=True))

    @property
    def success_by_type(self) -> dict[str, float]:
        """Success of each task type."""
        return {name: part["success"] for name, part in self.document["by_type"].items()}

    @property
    def task_score(self) -> float | None:
        """Mean score, 0 to 1; None where the environment does not judge by degrees."""
        score: float | None = self.document["task_score"]
        return score

    @property
    def protocol(self) -> str:
        """What was played, in a sentence that a reader needs to compare the numbers."""
        return str(self.document["protocol"])

    @property
    def error(self) -> str | None:
        """Why nothing was measured: the policy ended none of the episodes."""
        return self.document.get("error")


@dataclass(frozen=True)
class Recorder:
    """Where episodes are recorded.

    Attributes:
        path: a new file.
        won: leave out those that were not won.
    """

    path: Path
    won: bool = False

    def write(self, config: RunConfig, trajectories: Sequence[Trajectory]) -> None:
        """Write episodes that the policy has ended.

        Raises:
            StapoError: the file cannot be written.
        """
        kept = [t for t in trajectories if t.stop_reason not in NOT_THE_POLICYS and (t.won or not self.won)]
        mark = fingerprint(config.agent, config.env.name, config.env.options)
        write_lines(self.path, record_lines(map(episode_of, kept), mark))


@checked(episodes=0, k=1, seeds=0, temperature=0)
def evaluate(
    target: Run | Endpoint | str | os.PathLike[str],
    *,
    config: Source | None = None,
    split: str | None = None,
    episodes: int = 0,
    k: int = 1,
    seeds: Sequence[int] | None = None,
    temperature: float | None = None,
    checkpoint: str | None = None,
    environment: str | None = None,
    engine: str = "transformers",
    env: Mapping[str, Any] | None = None,
    agent: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    save: bool = False,
    record: str | os.PathLike[str] | None = None,
    won: bool = False,
) -> Evaluation:
    """Play the tasks of a split with a trained policy or a frozen model; nothing is learned.

    Args:
        target: a `Run` or its folder; the folder of one of its checkpoints; the folder or name of a pretrained model;
            an `Endpoint`.
        config: settings that a model or an endpoint plays with; a run has its own.
        split: tasks to play; None is eval.split of the settings.
        episodes: per seed; tasks are cycled, or evenly thinned where there are more tasks. 0 plays each task once.
        k: attempts at each task by each seed, for pass@k; episodes counts one of them.
        seeds: of the sampling; each plays the same tasks. None: 0, 1 and 2; with k above 1, 0 alone.
        temperature: of the sampling, 0 is greedy; None is eval.temperature of the settings.
        checkpoint: of a run: `start`, `final` (the default) or one in between.
        environment: which one, where the settings have several.
        engine: what generates, `transformers` or `vllm`; a server is its own engine.
        env: options of the environment that are changed.
        agent: settings of prompts, memory and response format that are changed.
        callbacks: `on_stage` tells how far it is.
        save: append the result to extra-evals.jsonl of the run.
        record: new file for the episodes, from which SFT can learn (`sft.data`).
        won: leave out of it episodes that were not won.

    Raises:
        StapoError: target, settings or split cannot be used.
        FailureLimitError: the policy ended none of the episodes: prompts were too long, or environment or server
            failed.
    """
    before, build = _target_of(target, config, checkpoint)
    before = environment_of(before, environment)
    changed = with_engine(with_changes(before, env, agent), engine, served=isinstance(target, Endpoint))
    found = labeled(build(changed), before)
    if save and found.run is None:
        raise ConfigError("save is for a run's own policy; keep the result of a model yourself.")
    recorder = None if record is None else Recorder(Path(record), won)
    result = play(found, split, episodes, seeds, temperature, Callbacks(callbacks), k, recorder)
    if result.error is not None:
        raise FailureLimitError(result.error)
    if save and found.run is not None:
        found.run.append("extra-evals", result.document)
    return result


def _target_of(
    target: Run | Endpoint | str | os.PathLike[str], config: Source | None, checkpoint: str | None
) -> tuple[RunConfig, Callable[[RunConfig], EvalTarget]]:
    """The settings of a target, and what makes it of them, changed or not."""
    own = None if isinstance(target, Run | Endpoint) else run_of(target)
    if own is not None:
        target, checkpoint = own[0], checkpoint or own[1]
    if isinstance(target, Run):
        if config is not None:
            raise ConfigError("config is for a model or an endpoint; a run has its own (change them by env and agent).")
        return target.config, lambda settings: saved_policy(target.directory, settings, checkpoint or "final")
    text = target.url if isinstance(target, Endpoint) else os.fspath(target)
    if checkpoint is not None:
        raise ConfigError(f"checkpoint is for a run, and '{text}' is not one.")
    if not isinstance(target, Endpoint) and "://" in text:
        raise ConfigError(f"'{text}' is an address; expected stapo.Endpoint(url=…, model=…), with the model's name.")
    if config is None:
        raise ConfigError(
            f"'{text}' is not a run directory. A model or an endpoint plays with settings: give config, a preset or a "
            "YAML file."
        )
    settings, name = settings_of(config)
    if isinstance(target, Endpoint):
        return settings, lambda changed: served_model(name, changed, target)
    return settings, lambda changed: frozen_model(name, changed, text)


def run_of(target: str | os.PathLike[str]) -> tuple[Run, str | None] | None:
    """The run that a folder is, or is a checkpoint of, with its name; None where it is neither."""
    path = Path(target).expanduser()
    if path.parent.name == "checkpoints" and (path.parents[1] / "run.json").is_file():
        return Run(path.parents[1]), path.name
    return (Run(path), None) if (path / "run.json").exists() else None


def _engine(config: RunConfig) -> dict[str, str]:
    """A label of the engine where it is not the usual one."""
    return {} if config.rollout.engine == "transformers" else {"engine": config.rollout.engine}


def labeled(target: EvalTarget, before: RunConfig) -> EvalTarget:
    """The target, with the settings of its agent that are not those of `before` among its labels."""
    old, new = to_data(before.agent), to_data(target.config.agent)
    changed = {key: value for key, value in new.items() if value != old.get(key)}
    return replace(target, labels={**target.labels, "agent": changed}) if changed else target


def play(
    target: EvalTarget,
    split: str | None,
    episodes: int,
    seeds: Sequence[int] | None,
    temperature: float | None,
    callbacks: Callbacks,
    k: int = 1,
    recorder: Recorder | None = None,
) -> Evaluation:
    """Play the protocol; an error of all episodes is in the result."""
    config = target.config
    if recorder is not None:
        require_new(recorder.path)
    seeds = (SEEDS if k == 1 else SEEDS[:1]) if seeds is None else seeds
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds is {list(seeds)}, expected at least one, each once.")
    temperature = config.eval.temperature if temperature is None else temperature
    if k > 1 and temperature == 0:
        raise ConfigError(f"k is {k} at temperature 0, expected 1: greedy attempts at a task are all alike.")
    target.check()
    split = split or config.eval.split
    # The tasks come before the model: a typo costs no loading time.
    tasks = tasks_of_split(config, split)
    if not tasks:
        raise ConfigError(f"split '{split}' holds no task; choose another with --split.")
    # Without random numbers all seeds play the same episodes; a standard deviation of 0 over them would say nothing.
    seeds = tuple(seeds) if temperature > 0 else tuple(seeds[:1])
    protocol = EvalProtocol(split, episodes, temperature, seeds, k)
    with left_as_found():
        collector = target.collector(callbacks)
        try:
            progress = partial(callbacks.stage, "evaluation")
            played = play_protocol(collector, tasks, protocol, batch=config.eval.batch, progress=progress)
        finally:
            collector.close()
            target.close()
    if recorder is not None:
        recorder.write(config, [t for trajectories in played for t in trajectories])
    failures = Counter(failure.boundary.value for failure in collector.take_failures())
    shares = pass_shares(played, 1)
    requests, failed = target.counts(), nothing_played(played, config.agent)
    document = {
        **target.labels,
        "environment": {"name": config.env.name, **config.env.options},
        "mode": "greedy" if temperature == 0 else "sampled",
        "protocol": protocol.describe(len(tasks)),
        "split": split,
        "tasks": len(tasks),
        "episodes_per_seed": (episodes or len(tasks)) * k,
        "temperature": temperature,
        "seeds": list(seeds),
        **summarize(played),
        "success_interval": [shares[1].low, shares[1].high],
        "interval": INTERVAL,
        **passed(played, temperature),
        "stop_reasons": stop_reasons(played),
        "failures": dict(sorted(failures.items())),
        **({} if requests is None else {"requests": requests}),
        **({"error": failed} if failed else {}),
    }
    return Evaluation(target.title, dict(jsonable(document)))


def saved_policy(run: RunDirectory, config: RunConfig, checkpoint: str) -> EvalTarget:
    """A checkpoint of a run."""
    labels = {
        "run": str(run.path), "checkpoint": checkpoint, "algorithm": config.algorithm.name, **_engine(config),
    }  # fmt: skip
    title = f"{run.path}, checkpoint {checkpoint} ({config.algorithm.name})"

    def collector(_: Callbacks) -> Collector:
        set_threads(threads_here(run, config))
        policy = load_policy(str(run.checkpoint(checkpoint)), config.model)
        return build_collector(config, policy, config.rollout.engine, run.started)

    return EvalTarget(config, labels, title, partial(require_checkpoint, run, checkpoint), collector, run=run)


def frozen_model(source: str, config: RunConfig, model: str | None) -> EvalTarget:
    """A model of this machine, as it is: nothing of it is trained."""
    path = model or config.model.path
    if path is None:
        raise ConfigError(
            f"'{source}' names no pretrained model; say which with --model FOLDER, or with --endpoint URL --model NAME."
        )
    labels = {"settings": source, "model": path, "algorithm": None, **_engine(config)}
    title = f"{path}, frozen, settings of {source}"
    return EvalTarget(config, labels, title, partial(check_prompted, path, config), partial(_frozen, config, path))


def served_model(source: str, config: RunConfig, served: Endpoint) -> EvalTarget:
    """A model behind an OpenAI-compatible server."""
    sampler = EndpointSampler(
        served.url,
        served.model,
        config.agent.max_response_tokens,
        api=served.api,  # type: ignore[arg-type]
        options=served.options(),
        key_variable=served.key_variable or KEY_VARIABLE,
        send_seeds=served.send_seeds,
        template_values=config.model.chat_template_kwargs,
        stop=config.agent.stop,
    )

    def collector(callbacks: Callbacks) -> Collector:
        tokenizer = None if served.tokenizer is None else load_tokenizer(served.tokenizer, config.model)
        thinks = config.model.chat_template_kwargs.get("enable_thinking") is not False
        codec = TextCodec(tokenizer, thinks=thinks)
        if served.api == "chat":
            sampler.opens_thought = bool(codec.opens_thought)
            if told := told_of_server(codec):
                callbacks.notice(told)
        return collector_of(config, codec, sampler)

    labels = {"settings": source, "model": served.model, "endpoint": sampler.url, "api": served.api, "algorithm": None}
    title = f"{served.model} at {sampler.url} ({served.api}), frozen, settings of {source}"
    return EvalTarget(
        config, labels, title, sampler.check, collector, lambda: dict(sorted(sampler.counts.items())), sampler.close
    )


def _frozen(config: RunConfig, path: str, callbacks: Callbacks) -> Collector:
    resolved = resolve_auto(replace(config, model=replace(config.model, path=path)), None, callbacks.notice)
    set_threads(resolved.threads)
    policy = load_policy(path, resolved.config.model)
    for told in told_of_template(resolved.config.agent, PromptEncoder(policy.tokenizer)):
        callbacks.notice(told)
    return build_collector(resolved.config, policy, resolved.config.rollout.engine, utc_now)
