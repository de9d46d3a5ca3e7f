"""`stapo eval RUN|PRESET|FILE [--model M] [--endpoint URL] [--split S] [--episodes N] [--seeds 0 1 2] ...`."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from stapo.cli.eval_subject import EvalTarget, Served, frozen_model, saved_policy, served_model, settings_of
from stapo.cli.words import foreign, is_set, positional, say
from stapo.errors import ConfigError, FailureLimitError

if TYPE_CHECKING:
    from stapo.config.run_config import RunConfig

_HELP = """usage: stapo eval RUN [--split NAME] [--episodes N] [--seeds 0 1 2] [--temperature T | --greedy]
                      [--checkpoint NAME] [--env.OPTION VALUE ...] [--agent.SETTING VALUE ...] [--json] [--save]
       stapo eval RUN|PRESET|FILE --model FOLDER ...
       stapo eval RUN|PRESET|FILE --endpoint URL --model NAME [--api chat|completions] ...

Play the tasks of a split with a policy that 'stapo train' has saved, or with a frozen model: success by task type, mean
and standard deviation over seeds. Prompts, memory and response format are those of the run, or of the preset or file.
Nothing is learned and nothing is written.

arguments:
  RUN                  run directory, as 'stapo train' writes it
  PRESET or FILE       settings for a frozen model, as for 'stapo train'
  --split NAME         tasks to play (default: eval.split of the settings); 'stapo envs NAME' lists the splits
  --episodes N         episodes per seed; tasks are cycled, or evenly thinned when there are more tasks than episodes
                       (default: 0, each task once)
  --seeds 0 1 2        every seed plays the same tasks with its own random numbers (default: 0 1 2)
  --temperature T      sampling temperature (default: eval.temperature of the settings)
  --greedy             take the most probable token, the same as --temperature 0; all seeds would play alike, so only
                       one is played
  --checkpoint NAME    start (before RL), final (the default) or one in between, such as iteration-00010
  --env.OPTION VALUE   change an option of the environment, e.g. --env.games DIR to play other games
  --agent.SETTING VALUE  change a setting of prompts, memory or response format, e.g. --agent.max_prompt_tokens 4096
  --json               print one JSON document
  --save               append the result to RUN/extra-evals.jsonl

frozen models:
  --model FOLDER       a pretrained model of this machine (default: model.path of the preset or file)
  --endpoint URL       ask an OpenAI-compatible server instead, e.g. http://127.0.0.1:8000/v1; --model is then the name
                       that the server knows the model by
  --api NAME           chat (the default): one user message, the server has the chat template; completions: the prompt
                       as it stands, for models without a chat template
  --tokenizer FOLDER   counts the tokens of prompts; without it a token counts 4 characters
  --key-variable NAME  environment variable that holds the API key (default: STAPO_API_KEY); no key is sent without it
  --concurrency N      requests at once (default: 16)
  --timeout SECONDS    for one answer, tries and pauses included (default: 600)
  --attempts N         tries of one request (default: 4)
  --send-seeds         give every request a seed of its own, for servers that know 'seed'

examples:
  stapo eval runs/tiny-stapo-20260101-120000
  stapo eval runs/tiny-stapo-20260101-120000 --greedy --json
  stapo eval runs/alfworld --env.games ../shared/data/alfworld --split valid_unseen --seeds 0 1 2 3
  stapo eval paper/alfworld-1.5b --endpoint http://127.0.0.1:8000/v1 --model qwen --env.games DIR

Why the episodes ended is always shown. Where every one was ended by something else than the policy (prompts too long, a
failing environment or server), the evaluation is an error, with exit status 1.

± is the standard deviation over seeds; with one seed there is none. The standard error counts episodes as independent
coin flips, and is the least error that the number has.
"""
_SWITCHES = ("--greedy", "--json", "--save", "--send-seeds")
_OPTIONS = (
    "--split", "--episodes", "--seeds", "--temperature", "--checkpoint", "--help", *_SWITCHES, "--model", "--endpoint",
    "--api", "--tokenizer", "--key-variable", "--concurrency", "--timeout", "--attempts",
)  # fmt: skip
_SERVED = ("--api", "--tokenizer", "--key-variable", "--concurrency", "--timeout", "--attempts")
_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class _Request:
    source: str
    split: str | None
    episodes: int
    seeds: tuple[int, ...]
    temperature: float | None
    checkpoint: str | None
    model: str | None
    served: Served | None
    as_json: bool
    save: bool


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    if any(arg in ("-h", "--help") for arg in argv):
        print(_HELP, end="")
        return 0
    request, rest, of_agent = _read(argv)
    subject = _subject(request, rest, of_agent)
    result = _evaluate(subject, request)
    failed = result.get("error")
    if failed is None and request.save and subject.run is not None:
        subject.run.append("extra-evals", result)
    if request.as_json:
        print(json.dumps(result, indent=1))
    else:
        _show(result, subject.title)
    if failed is not None:
        raise FailureLimitError(failed)
    return 0


def _read(argv: list[str]) -> tuple[_Request, list[str], list[str]]:
    """Read the options; what starts with ``--env.`` or ``--agent.`` comes back as it is."""
    from stapo.cli.arguments import AGENT_PREFIX, ENV_PREFIX, split_env_args
    from stapo.cli.words import take_flag

    of_env, args = split_env_args(argv)
    of_agent, args = split_env_args(args, AGENT_PREFIX)
    split, args = take_flag(args, "--split", needs="the name of a split")
    episodes, args = take_flag(args, "--episodes", needs="a number")
    temperature, args = take_flag(args, "--temperature", needs="a number")
    checkpoint, args = take_flag(args, "--checkpoint", needs="a name, such as final or start")
    model, args = take_flag(args, "--model", needs="a folder or a name")
    endpoint, args = take_flag(args, "--endpoint", needs="an address, such as http://127.0.0.1:8000/v1")
    serving: dict[str, str] = {}
    for flag in _SERVED:
        value, args = take_flag(args, flag, needs="a value")
        if value is not None:
            serving[flag] = value
    seeds, args = _take_seeds(args)
    switches = {name: name in args for name in _SWITCHES}
    options = (*_OPTIONS, f"{ENV_PREFIX}OPTION", f"{AGENT_PREFIX}SETTING")
    words = positional([a for a in args if a not in switches], 1, "eval", options)
    if not words:
        raise ConfigError(
            "'stapo eval' needs a run directory, as 'stapo train' writes it; or a preset or file, for a frozen model."
        )
    if switches["--greedy"] and temperature is not None:
        raise ConfigError("--greedy and --temperature exclude each other; --greedy is --temperature 0.")
    if endpoint is None and (serving or switches["--send-seeds"]):
        raise ConfigError(f"{next(iter(serving), '--send-seeds')} is for --endpoint URL, which is not given.")
    if endpoint is not None and model is None:
        raise ConfigError("--endpoint needs --model NAME: the name that the server knows the model by.")
    if model is not None and checkpoint is not None:
        raise ConfigError("--checkpoint and --model exclude each other: a run's own policy is played, or another one.")
    request = _Request(
        words[0],
        split,
        _whole("--episodes", episodes) if episodes is not None else 0,
        seeds,
        0.0 if switches["--greedy"] else None if temperature is None else _temperature(temperature),
        checkpoint,
        model,
        None if endpoint is None else _served(endpoint, serving, switches["--send-seeds"]),
        switches["--json"],
        switches["--save"],
    )
    return request, of_env, of_agent


def _served(endpoint: str, given: dict[str, str], send_seeds: bool) -> Served:
    from stapo.rollout.endpoint import KEY_VARIABLE

    if "--key-variable" in given and not is_set(given["--key-variable"]):
        raise ConfigError(
            "the environment variable that --key-variable names is not set, or empty; set it to the API key. The name "
            "is wanted here, not the key itself."
        )
    timeout = _number("--timeout", given.get("--timeout", "600"), "seconds above 0")
    if timeout == 0:
        raise ConfigError("--timeout is '0', expected seconds above 0.")
    return Served(
        url=endpoint,
        api=given.get("--api", "chat"),
        tokenizer=given.get("--tokenizer"),
        key_variable=given.get("--key-variable", KEY_VARIABLE),
        concurrency=_whole("--concurrency", given.get("--concurrency", "16"), 1),
        timeout_s=timeout,
        attempts=_whole("--attempts", given.get("--attempts", "4"), 1),
        send_seeds=send_seeds,
    )


def _take_seeds(args: list[str]) -> tuple[tuple[int, ...], list[str]]:
    """Remove ``--seeds 0 1 2`` (or ``--seeds=0,1,2``) from `args`."""
    for i, arg in enumerate(args):
        if arg == "--seeds" or arg.startswith("--seeds="):
            end = i + 1
            while arg == "--seeds" and end < len(args) and args[end].replace(",", "").lstrip("-").isdecimal():
                end += 1
            found = ",".join([arg.partition("=")[2], *args[i + 1 : end]]).strip(",")
            seeds = tuple(_whole("--seeds", part) for part in found.split(",") if part) if found else ()
            if not seeds:
                raise ConfigError("--seeds needs whole numbers, e.g. --seeds 0 1 2.")
            if len(set(seeds)) < len(seeds):
                raise ConfigError(f"--seeds names a seed twice ({found}); the standard deviation would be too small.")
            return seeds, args[:i] + args[end:]
    return _SEEDS, args


def _whole(flag: str, text: str, least: int = 0) -> int:
    if text.isdecimal() and len(text) <= 18 and int(text) >= least:
        return int(text)
    raise ConfigError(f"{flag} is '{text}', expected a whole number of {least} or more.")


def _number(flag: str, text: str, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f"{flag} is '{text}', expected {expected}.")
    return value


def _temperature(text: str) -> float:
    return _number("--temperature", text, "a number of 0 (greedy) or more")


def _subject(request: _Request, of_env: list[str], of_agent: list[str]) -> EvalTarget:
    """Find out what is to be evaluated; nothing is loaded or asked yet."""
    from stapo.cli.arguments import parse_run_config

    before, run = settings_of(request.source, request.model is not None)
    config = _with_env_options(before, of_env)
    if of_agent:
        config = parse_run_config(config, of_agent, "stapo eval")
    if request.served is not None and request.model is not None:
        subject = served_model(request.source, config, request.model, request.served)
    elif run is not None and request.model is None:
        subject = saved_policy(run, config, request.checkpoint or "final")
    elif request.checkpoint is not None:
        raise ConfigError(f"--checkpoint is for a run directory, and '{request.source}' is none.")
    else:
        subject = frozen_model(request.source, config, request.model)
    changed = _changed(before, config)
    return replace(subject, labels={**subject.labels, "agent": changed}) if changed else subject


def _changed(before: RunConfig, config: RunConfig) -> dict[str, Any]:
    """Settings of the agent that are not those of the run, preset or file."""
    from stapo.config.schema import to_data

    old, new = to_data(before.agent), to_data(config.agent)
    return {key: value for key, value in new.items() if value != old.get(key)}


def _with_env_options(config: RunConfig, args: list[str]) -> RunConfig:
    from stapo.cli.arguments import take_env_options

    options, rest = take_env_options(args, config.env.name)
    if rest:
        raise ConfigError(
            f"'stapo eval' has no option '{rest[0]}': a run is evaluated in its own environment '{config.env.name}'; "
            "the split is chosen with --split."
        )
    return replace(config, env=replace(config.env, options={**config.env.options, **options}))


def _evaluate(subject: EvalTarget, request: _Request) -> dict[str, Any]:
    """Play the protocol; returns what is printed, saved or shown."""
    from stapo.cli.progress import ProgressDisplay
    from stapo.rollout.evaluate import EvalProtocol, evaluate, nothing_played, stop_reasons, summarize
    from stapo.run.directory import jsonable
    from stapo.training.callbacks import Callbacks
    from stapo.training.factories import env_factory

    if request.save and subject.run is None:
        raise ConfigError("--save is for a run's own policy; of a frozen model keep what --json prints.")
    config = subject.config
    subject.check()
    split = request.split or config.eval.split
    # The tasks come before the model: a typo costs no loading time.
    env = env_factory(config)()
    tasks = list(env.tasks_of(split))
    env.close()
    if not tasks:
        raise ConfigError(f"split '{split}' holds no task; choose another with --split.")
    temperature = config.eval.temperature if request.temperature is None else request.temperature
    # Without random numbers all seeds play the same episodes; a standard deviation of 0 over them would say nothing.
    seeds = request.seeds if temperature > 0 else request.seeds[:1]
    protocol = EvalProtocol(split, request.episodes, temperature, seeds)
    collector = subject.collector()
    try:
        with ProgressDisplay() as display:
            played = evaluate(
                collector,
                tasks,
                protocol,
                batch=config.eval.batch,
                progress=partial(Callbacks([display]).stage, "evaluation"),
            )
    finally:
        collector.close()
        subject.close()
    failures = Counter(failure.boundary.value for failure in collector.take_failures())
    requests = subject.counts()
    result = {
        **subject.labels,
        "environment": {"name": config.env.name, **config.env.options},
        "mode": "greedy" if temperature == 0 else "sampled",
        "protocol": protocol.describe(len(tasks)),
        "split": split,
        "tasks": len(tasks),
        "episodes_per_seed": request.episodes or len(tasks),
        "temperature": temperature,
        "seeds": list(seeds),
        **summarize(played),
        "stop_reasons": stop_reasons(played),
        "failures": dict(sorted(failures.items())),
        **({} if requests is None else {"requests": requests}),
    }
    failed = nothing_played(played, config.agent)
    if failed:
        result["error"] = failed
    return dict(jsonable(result))


def _show(result: dict[str, Any], title: str) -> None:
    console = Console()
    options = {k: v for k, v in result["environment"].items() if k != "name"}
    world = result["environment"]["name"] + "".join(f", {k} {v}" for k, v in options.items())
    world += "".join(f", agent.{k} {v}" for k, v in result.get("agent", {}).items())
    say(console, foreign(title), "bold")
    say(console, foreign(f"protocol: {result['protocol']}; {world}"))
    table = Table("task type")
    judged = result["task_score"] is not None
    for heading in ("episodes", "success", "± over seeds", *(("score",) if judged else ())):
        table.add_column(heading, justify="right")
    for name, part in result["by_type"].items():
        table.add_row(foreign(name), str(part["episodes"]), *_cells(part, judged))
    table.rows[-1].end_section = True
    if len(result["by_type"]) > 1:
        rest = [""] * (len(table.columns) - 3)
        table.add_row("mean of types", "", f"{result['mean_of_types']:.3f}", *rest)
    table.add_row("all", str(result["episodes"]), *_cells(result, judged), style="bold")
    console.print(table)
    by_seed = ", ".join(f"{s}: {v:.3f}" for s, v in zip(result["seeds"], result["success_by_seed"], strict=True))
    say(console, f"success by seed {by_seed}; binomial standard error {result['success_standard_error']:.3f}", "dim")
    rates = {
        "steps per episode": (result["episode_length"], ".1f"),
        "valid actions": (result["valid_actions"], ".1%"),
        "repeated actions": (result["repeated_actions"], ".1%"),
        "actions without effect": (result["ineffective_actions"], ".1%"),
        "ended by the step limit": (result["step_limit"], ".1%"),
    }
    say(console, "; ".join(f"{k} {v:{form}}" for k, (v, form) in rates.items() if v is not None), "dim")
    ended = result["stop_reasons"]
    say(console, "episodes ended: " + ", ".join(f"{reason} {count}" for reason, count in ended.items()), "dim")
    lost = sum(ended.get(reason, 0) for reason in ("prompt_too_long", "error"))
    if lost:
        say(console, f"{lost} of {result['episodes']} episodes were ended by something else than the policy", "bold")
    if result["failures"]:
        by = ", ".join(f"{boundary} {count}" for boundary, count in result["failures"].items())
        say(console, f"failures by boundary, retried ones included: {by}; {result['errors']} episodes count as lost")
    if result.get("requests"):
        say(console, "requests: " + ", ".join(f"{kind} {count}" for kind, count in result["requests"].items()), "dim")


def _cells(part: dict[str, Any], judged: bool) -> list[str]:
    spread, score = part["success_std_over_seeds"], part["task_score"]
    cells = [f"{part['success']:.3f}", "–" if spread is None else f"{spread:.3f}"]
    return [*cells, "–" if score is None else f"{score:.3f}"] if judged else cells
