"""`stapo eval RUN [--split S] [--episodes N] [--seeds 0 1 2] ...`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from stapo.cli.words import foreign, positional, say
from stapo.errors import ConfigError, RunDirectoryError, unknown_name

if TYPE_CHECKING:
    from stapo.run import RunDirectory
    from stapo.train.run_config import RunConfig

_HELP = """usage: stapo eval RUN [--split NAME] [--episodes N] [--seeds 0 1 2] [--temperature T | --greedy]
                      [--checkpoint NAME] [--env.OPTION VALUE ...] [--json] [--save]

Play the tasks of a split with a policy that 'stapo train' has saved: success by task type, mean and spread over seeds.
Prompts, memory and response format are those of the run. Nothing is learned and nothing is written.

arguments:
  RUN                  run directory, as 'stapo train' writes it
  --split NAME         tasks to play (default: eval.split of the run); 'stapo envs NAME' lists the splits
  --episodes N         episodes per seed; tasks are cycled, or evenly thinned when there are more tasks than episodes
                       (default: 0, each task once)
  --seeds 0 1 2        every seed plays the same tasks with its own random numbers (default: 0 1 2)
  --temperature T      sampling temperature (default: eval.temperature of the run)
  --greedy             take the most probable token, the same as --temperature 0; all seeds would play alike, so only
                       one is played
  --checkpoint NAME    start (before RL), final (the default) or one in between, such as iteration-00010
  --env.OPTION VALUE   change an option of the environment, e.g. --env.games DIR to play other games
  --json               print one JSON document
  --save               append the result to RUN/extra-evals.jsonl

examples:
  stapo eval runs/tiny-stapo-20260101-120000
  stapo eval runs/tiny-stapo-20260101-120000 --greedy --json
  stapo eval runs/alfworld --env.games ../shared/data/alfworld --split valid_unseen --seeds 0 1 2 3

± is the standard deviation over seeds; with one seed there is none. The standard error counts episodes as independent
coin flips, and is the least error that the number has.
"""
_OPTIONS = (
    "--split", "--episodes", "--seeds", "--temperature", "--greedy", "--checkpoint", "--json", "--save", "--help",
)  # fmt: skip
_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class _Request:
    run: Path
    split: str | None
    episodes: int
    seeds: tuple[int, ...]
    temperature: float | None
    checkpoint: str
    as_json: bool
    save: bool


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    if any(arg in ("-h", "--help") for arg in argv):
        print(_HELP, end="")
        return 0
    from stapo.run import RunDirectory
    from stapo.train.run_config import read_run_config

    request, rest = _read(argv)
    source = RunDirectory.open(request.run)
    config = read_run_config(source)
    config = _with_env_options(config, rest)
    result = _evaluate(source, config, request)
    if request.save:
        source.append("extra-evals", result)
    if request.as_json:
        print(json.dumps(result, indent=1))
    else:
        _show(result)
    return 0


def _read(argv: list[str]) -> tuple[_Request, list[str]]:
    """Read the options; what starts with ``--env.`` is left for `_with_env_options`."""
    from stapo.cli.arguments import ENV_PREFIX, split_env_args
    from stapo.cli.words import take_flag

    of_env, args = split_env_args(argv)
    split, args = take_flag(args, "--split", needs="the name of a split")
    episodes, args = take_flag(args, "--episodes", needs="a number")
    temperature, args = take_flag(args, "--temperature", needs="a number")
    checkpoint, args = take_flag(args, "--checkpoint", needs="a name, such as final or start")
    seeds, args = _take_seeds(args)
    switches = {name: name in args for name in ("--greedy", "--json", "--save")}
    options = (*_OPTIONS, f"{ENV_PREFIX}OPTION")
    words = positional([a for a in args if a not in switches], 1, "eval", options)
    if not words:
        raise ConfigError("'stapo eval' needs a run directory, as 'stapo train' writes it.")
    if switches["--greedy"] and temperature is not None:
        raise ConfigError("--greedy and --temperature exclude each other; --greedy is --temperature 0.")
    return (
        _Request(
            Path(words[0]),
            split,
            _whole("--episodes", episodes) if episodes is not None else 0,
            seeds,
            0.0 if switches["--greedy"] else None if temperature is None else _temperature(temperature),
            checkpoint or "final",
            switches["--json"],
            switches["--save"],
        ),
        of_env,
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
                raise ConfigError(f"--seeds names a seed twice ({found}); that would make the spread too small.")
            return seeds, args[:i] + args[end:]
    return _SEEDS, args


def _whole(flag: str, text: str) -> int:
    if text.isdecimal() and len(text) <= 18:
        return int(text)
    raise ConfigError(f"{flag} is '{text}', expected a whole number of 0 or more.")


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f"--temperature is '{text}', expected a number of 0 (greedy) or more.")
    return value


def _with_env_options(config: RunConfig, args: list[str]) -> RunConfig:
    from stapo.cli.arguments import take_env_options

    options, rest = take_env_options(args, config.env.name)
    if rest:
        raise ConfigError(
            f"'stapo eval' has no option '{rest[0]}': a run is evaluated in its own environment '{config.env.name}'; "
            "the split is chosen with --split."
        )
    return replace(config, env=replace(config.env, options={**config.env.options, **options}))


def _evaluate(source: RunDirectory, config: RunConfig, request: _Request) -> dict[str, Any]:
    """Play the protocol; returns what is printed, saved or shown."""
    from transformers.utils import logging as transformers_logging

    from stapo.cli.progress import ConsoleWatcher
    from stapo.policy import load_policy
    from stapo.rollout.evaluate import Protocol, evaluate, summarise
    from stapo.run.directory import jsonable
    from stapo.train.loop import build_collector, env_factory, set_threads

    checkpoints = source.checkpoints()
    if not checkpoints:
        raise RunDirectoryError(f"'{source.path}' has no checkpoint yet; 'stapo train' saves the first before RL.")
    if request.checkpoint not in checkpoints:
        raise unknown_name("checkpoint", request.checkpoint, checkpoints)
    split = request.split or config.eval.split
    # The tasks come before the model: a typo costs no loading time.
    env = env_factory(config)()
    tasks = list(env.tasks_of(split))
    env.close()
    if not tasks:
        raise ConfigError(f"split '{split}' holds no task; choose another with --split.")
    set_threads(config.log.threads)
    transformers_logging.disable_progress_bar()
    policy = load_policy(str(source.check_checkpoint(request.checkpoint)), config.model)
    temperature = config.eval.temperature if request.temperature is None else request.temperature
    # Without random numbers all seeds play the same episodes; a spread of 0 over them would say nothing.
    seeds = request.seeds if temperature > 0 else request.seeds[:1]
    protocol = Protocol(split, request.episodes, temperature, seeds)
    collector = build_collector(config, policy)
    with ConsoleWatcher() as watcher:
        played = evaluate(
            collector,
            tasks,
            protocol,
            batch=config.eval.batch,
            progress=lambda done, total: watcher.stage("evaluation", done, total),
        )
    collector.close()
    result = {
        "run": str(source.path),
        "checkpoint": request.checkpoint,
        "algorithm": config.algorithm.name,
        "environment": {"name": config.env.name, **config.env.options},
        "mode": "greedy" if temperature == 0 else "sampled",
        "protocol": protocol.describe(len(tasks)),
        "split": split,
        "tasks": len(tasks),
        "episodes_per_seed": request.episodes or len(tasks),
        "temperature": temperature,
        "seeds": list(seeds),
        **summarise(played),
    }
    return dict(jsonable(result))


def _show(result: dict[str, Any]) -> None:
    console = Console()
    options = {k: v for k, v in result["environment"].items() if k != "name"}
    world = result["environment"]["name"] + "".join(f", {k} {v}" for k, v in options.items())
    say(console, foreign(f"{result['run']}, checkpoint {result['checkpoint']} ({result['algorithm']})"), "bold")
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


def _cells(part: dict[str, Any], judged: bool) -> list[str]:
    spread, score = part["success_std_over_seeds"], part["task_score"]
    cells = [f"{part['success']:.3f}", "–" if spread is None else f"{spread:.3f}"]
    return [*cells, "–" if score is None else f"{score:.3f}"] if judged else cells
