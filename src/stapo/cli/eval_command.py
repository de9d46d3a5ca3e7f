"""`stapo eval RUN|PRESET|FILE [--model M] [--endpoint URL] [--split S] [--episodes N] [--seeds 0 1 2] ...`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from stapo.cli.command import Command, arg, require_different
from stapo.cli.words import foreign, is_set, say, write_line
from stapo.config.environment import environment_of
from stapo.config.presets import load_config, preset_names
from stapo.config.run_config import RunConfig, read_run_config
from stapo.errors import ConfigError, FailureLimitError
from stapo.models.catalog import KNOWN
from stapo.run import RunDirectory
from stapo.texts import counted

if TYPE_CHECKING:
    from stapo.api.evaluation import EvalTarget

_SERVED = ("api", "tokenizer", "key_variable", "concurrency", "timeout", "attempts")


@dataclass(frozen=True, kw_only=True)
class Eval(Command):
    """Play the tasks of a split with a policy that 'stapo train' has saved, or with a frozen model.

    The output has success by task type, mean and standard deviation over seeds. Prompts, memory and response format are
    those of the run, or of the preset or file. Nothing is trained, and nothing is written without --save.

    Attributes:
        source: run folder, as 'stapo train' writes it; a preset or YAML file gives the settings for a frozen model.
        environment: which one, where the settings have several.
        split: tasks to play (default: eval.split of the settings). 'stapo envs NAME' lists the splits.
        episodes: episodes per seed; 0 or more, 0 plays each task once (default: 0). Tasks are cycled, or evenly thinned
            when there are more tasks than episodes.
        k: attempts at each task by each seed, for pass@k, the share of tasks that k attempts win; 1 or more
            (default: 1). The output has k = 1, 2, 4 and so on. --episodes counts one attempt at each task.
        seeds: seeds of the sampling; 0 or more (default: 0 1 2, with --k 0 alone). Every seed plays the same tasks with
            its own random numbers.
        temperature: sampling temperature; 0 or more (default: eval.temperature of the settings).
        greedy: take the most probable token, the same as --temperature 0. All seeds would play alike, so only one is
            played.
        checkpoint: start (before RL), final (the default) or one in between, such as iteration-00010.
        engine: what generates: transformers (default) or vllm.
        model: folder of a frozen model (default: model.path of the settings). With --endpoint it is the name that the
            server knows the model by.
        endpoint: address of an OpenAI-compatible server to use instead, such as http://127.0.0.1:8000/v1.
        api: chat (default): one user message, the server has the chat template; completions: the bare prompt.
        tokenizer: folder of a tokenizer that counts the tokens of prompts. Without it a token counts 4 characters.
        key_variable: environment variable with the API key (default: STAPO_API_KEY). No key is sent without it.
        concurrency: requests at once; 1 or more (default: 16).
        timeout: seconds for one response, with attempts and pauses; above 0 (default: 600).
        attempts: attempts per request; 1 or more (default: 4).
        send_seeds: give every request its own seed, for servers that know 'seed'.
        json: print one JSON document instead of a table.
        save: append the result to RUN/extra-evals.jsonl.
        record: write the episodes into a new file, from which SFT can learn (sft.data).
        won: leave out of that file episodes that were not won.
    """

    EXAMPLES = """
stapo eval runs/tiny-stapo-20260101-120000 --greedy --json
stapo eval runs/alfworld --env.games $ALFWORLD_DATA --split valid_unseen --seeds 0 1 2 3
stapo eval runs/alfworld --checkpoint start --split train --episodes 64 --k 16
stapo eval runs/alfworld --split train --k 4 --record won.jsonl --won
stapo eval paper/alfworld-1.5b --model FOLDER --env.games DIR
stapo eval paper/alfworld-1.5b --endpoint http://127.0.0.1:8000/v1 --model qwen --env.games DIR
"""
    NOTES = """
If something other than the policy (long prompts, a failing server) ended every episode, the
evaluation is an error, with exit status 1. ± is the standard deviation over seeds. The standard
error counts episodes as independent coin flips; the true error is at least as large. Intervals are
for other tasks of the same kind (docs/evaluate.md).
"""
    PASSES = ("env.", "agent.")

    source: Positional[str] = arg(
        "RUN", needs="a run directory, as 'stapo train' writes it; or a preset or file, for a frozen model"
    )
    environment: str | None = arg("NAME", None, needs="the name of an environment of the run")
    split: str | None = arg("NAME", None, needs="the name of a split")
    episodes: int = arg("N", 0, least=0)
    k: int = arg("N", 1, least=1)
    seeds: tuple[int, ...] = arg("0 1 2", (), needs="whole numbers, e.g. --seeds 0 1 2", least=0, commas=True)
    temperature: float | None = arg("T", None, needs="a number", least=0, expects="a number of 0 (greedy) or more")
    greedy: bool = False
    checkpoint: str | None = arg("NAME", None, needs="a name, such as final or start")
    engine: str = arg("NAME", "transformers", needs="transformers or vllm")
    model: str | None = arg("FOLDER", None, needs="a folder or a name")
    endpoint: str | None = arg("URL", None, needs="an address, such as http://127.0.0.1:8000/v1")
    api: str | None = arg("NAME", None)
    tokenizer: str | None = arg("FOLDER", None)
    key_variable: str | None = arg("NAME", None)
    concurrency: int | None = arg("N", None, least=1)
    timeout: float | None = arg("SECONDS", None, least=1e-3, expects="seconds above 0")
    attempts: int | None = arg("N", None, least=1)
    send_seeds: bool = False
    json: bool = False
    save: bool = False
    record: str | None = arg("FILE", None, needs="the name of a file")
    won: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.api.evaluation import Recorder, play
        from stapo.cli.progress import ProgressDisplay
        from stapo.training.callbacks import Callbacks

        self._check()
        target = self._target(settings)
        if self.save and target.run is None:
            raise ConfigError("--save is for a run's own policy; of a frozen model keep what --json prints.")
        for said in [] if target.run is None else target.run.remarks():
            write_line(f"warning: {said}", sys.stderr)
        temperature = 0.0 if self.greedy else self.temperature
        with ProgressDisplay() as display:
            seeds = self.seeds or None
            recorder = None if self.record is None else Recorder(Path(self.record), self.won)
            told = Callbacks([display])
            found = play(target, self.split, self.episodes, seeds, temperature, told, self.k, recorder)
        if found.error is None and self.save and target.run is not None:
            target.run.append("extra-evals", found.document)
        if self.json:
            print(json.dumps(found.document, indent=1))
        else:
            _show(found.document, found.title)
        if found.error is not None:
            raise FailureLimitError(found.error)
        return 0

    def _check(self) -> None:
        require_different(self.seeds)
        given = [n for n in _SERVED if getattr(self, n) is not None] + ["send_seeds"] * self.send_seeds
        if self.won and self.record is None:
            raise ConfigError("--won is for --record FILE, which is not given.")
        if self.greedy and self.temperature is not None:
            raise ConfigError("--greedy and --temperature exclude each other; --greedy is --temperature 0.")
        if self.endpoint is None and given:
            raise ConfigError(f"--{given[0].replace('_', '-')} is for --endpoint URL, which is not given.")
        if self.endpoint is not None and self.model is None:
            raise ConfigError("--endpoint needs --model NAME: the name that the server knows the model by.")
        if self.model is not None and self.checkpoint is not None:
            raise ConfigError(
                "--checkpoint and --model exclude each other: a run's own policy is played, or another one."
            )
        if self.key_variable is not None and not is_set(self.key_variable):
            raise ConfigError(
                "the environment variable that --key-variable names is not set, or empty; set it to the API key. The "
                "name is wanted here, not the key itself."
            )

    def _target(self, settings: list[str]) -> EvalTarget:
        """Find out what is to be evaluated; nothing is loaded or asked yet."""
        from stapo.api.evaluation import (
            Endpoint,
            frozen_model,
            labeled,
            saved_policy,
            served_model,
        )
        from stapo.api.settings import with_engine
        from stapo.cli.arguments import own_env_options, parse_settings

        before, run = self._settings()
        before = environment_of(before, self.environment)
        options, of_agent = own_env_options(settings, before.env.name, "eval")
        config = replace(before, env=replace(before.env, options={**before.env.options, **options}))
        if of_agent:
            config = parse_settings(config, of_agent, "eval")
        config = with_engine(config, self.engine, served=self.endpoint is not None)
        if self.endpoint is not None and self.model is not None:
            given = {n: getattr(self, n) for n in _SERVED if getattr(self, n) is not None}
            endpoint = Endpoint(url=self.endpoint, model=self.model, send_seeds=self.send_seeds, **given)
            return labeled(served_model(self.source, config, endpoint), before)
        if run is not None and self.model is None:
            return labeled(saved_policy(run, config, self.checkpoint or "final"), before)
        if self.checkpoint is not None:
            raise ConfigError(f"--checkpoint is for a run directory, and '{self.source}' is not one.")
        return labeled(frozen_model(self.source, config, self.model), before)

    def _settings(self) -> tuple[RunConfig, RunDirectory | None]:
        """The settings of a run directory; or of a preset or file, which is meant where another model is named."""
        path = Path(self.source)
        if self.model is None and (self.source in KNOWN or path.suffix == ".gguf"):
            raise ConfigError(
                f"'{self.source}' is a model, expected a run directory. To evaluate a model, name the settings that it "
                f"plays with as well: stapo eval PRESET --model {self.source}."
            )
        named = self.source in preset_names() or path.is_file() or path.suffix in (".yaml", ".yml")
        if (path / "config.yaml").exists() or not (named or self.model is not None):
            run = RunDirectory.open(path)
            return read_run_config(run), run
        return load_config(self.source), None


def _show(result: dict[str, Any], title: str) -> None:
    console = Console()
    options = {k: v for k, v in result["environment"].items() if k != "name"}
    environment = result["environment"]["name"] + "".join(f", {k} {v}" for k, v in options.items())
    environment += "".join(f", agent.{k} {v}" for k, v in result.get("agent", {}).items())
    say(console, foreign(title), "bold")
    say(console, foreign(f"protocol: {result['protocol']}; {environment}"))
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
    if "pass_at" in result:
        passed = Table("attempts k", title="share of tasks that one of k attempts wins", title_justify="left")
        for heading in ("pass@k", "95 % interval"):
            passed.add_column(heading, justify="right")
        for k, (value, low, high) in result["pass_at"].items():
            passed.add_row(str(k), f"{value:.3f}", f"{low:.3f} to {high:.3f}")
        console.print(passed)
    by_seed = ", ".join(f"{s}: {v:.3f}" for s, v in zip(result["seeds"], result["success_by_seed"], strict=True))
    low, high = result["success_interval"]
    say(
        console,
        f"success by seed {by_seed}; binomial standard error {result['success_standard_error']:.3f}; 95 % interval "
        f"{low:.3f} to {high:.3f}",
        "dim",
    )
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
        say(
            console,
            f"{lost:,} of {counted(result['episodes'], 'episode')} ended by something else than the policy",
            "bold",
        )
    if result["failures"]:
        by = ", ".join(f"{boundary} {count}" for boundary, count in result["failures"].items())
        say(console, f"failures by boundary, retried ones included: {by}; lost: {counted(result['errors'], 'episode')}")
    if result.get("requests"):
        say(console, "requests: " + ", ".join(f"{kind} {count}" for kind, count in result["requests"].items()), "dim")


def _cells(part: dict[str, Any], judged: bool) -> list[str]:
    deviation, score = part["success_std_over_seeds"], part["task_score"]
    cells = [f"{part['success']:.3f}", "–" if deviation is None else f"{deviation:.3f}"]
    return [*cells, "–" if score is None else f"{score:.3f}"] if judged else cells


COMMAND = Eval
