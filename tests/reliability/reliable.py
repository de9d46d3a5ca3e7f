"""Runs of seconds for the reliability suite: start them, kill them, compare what they leave.

A run here is the real command line on a real environment, in a forked child: the parent has done already what each
would do for itself once (`forked.warm`), so that a child starts at once and many can be killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from forked import warm
from stapo.algo import ALGORITHMS, get_algorithm
from stapo.cli.main import main
from stapo.run import RunDirectory
from stapo.run.saves import SaveStore
from toy_world import register_toy

PATIENCE = 600.0
"""Seconds after which a child that should have ended counts as hanging."""

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "alfworld": {
        "env": {"name": "alfworld", "options": {"scenes": "tiny", "games_per_type": 4, "max_steps": 5}},
        "agent": {"prompt": "compact", "response": "action", "max_prompt_tokens": 600, "max_response_tokens": 6},
        "sft": {"steps": 40, "episodes": 12, "batch_size": 4, "learning_rate": 0.005},
        "rollout": {"groups": 2, "group_size": 3, "anchor": "observation_and_admissible", "reward_scale": 1.0},
    },
    "search": {
        "env": {"name": "search", "options": {"topk": 1, "max_steps": 3}},
        "agent": {
            "prompt": "search-compact",
            "response": "search_answer",
            "history_length": 3,
            "max_prompt_tokens": 600,
            "max_response_tokens": 10,
        },
        "sft": {"steps": 40, "episodes": 12, "batch_size": 4, "learning_rate": 0.005, "curriculum": 0.0},
        "rollout": {"groups": 2, "group_size": 3, "reward_scale": 1.0},
    },
    "sokoban": {
        "env": {"name": "sokoban", "options": {"levels": 40, "max_steps": 4}},
        "agent": {
            "prompt": "compact",
            "response": "action",
            "history_length": 0,
            "command_history": 4,
            "max_prompt_tokens": 200,
            "max_response_tokens": 4,
        },
        "sft": {"steps": 8, "episodes": 6, "batch_size": 4, "learning_rate": 0.005},
        "rollout": {"groups": 2, "group_size": 3, "reward_scale": 1.0},
    },
    "webshop": {
        "env": {"name": "webshop", "options": {"size": "tiny", "catalog_products": 20, "max_steps": 5}},
        "agent": {
            "prompt": "compact",
            "response": "action",
            "history_length": 0,
            "command_history": 4,
            "max_prompt_tokens": 900,
            "max_response_tokens": 8,
        },
        "sft": {"steps": 40, "episodes": 12, "batch_size": 4, "learning_rate": 0.005},
        "rollout": {"groups": 2, "group_size": 3, "anchor": "observation_and_admissible", "reward_scale": 1.0},
        "eval": {"split": "test", "episodes": 4, "every": 2, "quick_episodes": 2},
    },
}
"""What the suite is run on: an environment added here is covered."""

COMMON: dict[str, Any] = {
    "seed": 3,
    "model": {
        "architecture": "qwen3",
        "hidden_size": 16,
        "layers": 1,
        "heads": 2,
        "intermediate_size": 32,
        "vocab_size": 400,
        "device": "cpu",
    },
    "optim": {"iterations": 4, "learning_rate": 5e-3, "mini_batch": 12, "schedule": "cosine"},
    "eval": {"episodes": 4, "every": 2, "quick_episodes": 2},
    "log": {"transcript_every": 1, "transcript_groups": 2, "checkpoint_every": 2, "save_seconds": 0.0, "grace": 30.0},
}

SOAK = os.environ.get("STAPO_SOAK") == "1"
"""Every algorithm in every environment (`make soak`); otherwise those that the loops of `cases` name."""

PATHS = ("stapo", "grpo", "empg", "stapo-random", "stapo-running", "stapo-dynamic", "ppo")
"""One algorithm for each way through the trainer: what draws, what carries state, what has a critic or plays again."""


def cases(paths: tuple[str, ...] = PATHS) -> list[tuple[str, str]]:
    """(environment, algorithm) of the tests that train: all of them in a soak; otherwise `paths` in the first
    environment, and `stapo` in the others.
    """
    if SOAK:
        return [(e, a) for e in ENVIRONMENTS for a in ALGORITHMS]
    first, *others = ENVIRONMENTS
    return [(first, a) for a in paths] + [(e, "stapo") for e in others]


WEIGHTS: dict[str, dict[str, Any]] = {
    "adapters": {"model__lora": {"rank": 4, "dropout": 0.25}},
    "bfloat16": {"model__dtype": "bfloat16"},
    "adapters-on-bfloat16": {"model__lora": {"rank": 4}, "model__dtype": "bfloat16"},
    "checkpointed": {"model__gradient_checkpointing": True},
    "reference-on-cpu": {"model__reference": "cpu"},
}
"""Settings that decide which weights are trained and how they are kept: a kind added here is covered."""


def weight_cases() -> list[tuple[str, str]]:
    """(algorithm, kind): in a soak all kinds, with a critic and without; otherwise three of them."""
    if SOAK:
        return [(algorithm, kind) for algorithm in ("stapo", "ppo") for kind in WEIGHTS]
    return [("stapo", kind) for kind in list(WEIGHTS)[:2]] + [("ppo", "adapters-on-bfloat16")]


FLAGGING = {"outlier": {"select": "all"}, "selective": {"alpha": 0.1, "gamma": 0.1}}
"""So that runs of a few dozen steps have flagged rows at all."""


def flagging(name: str) -> dict[str, Any]:
    """Settings with which runs of a few dozen steps have flagged rows, and the algorithm stays what it is."""
    outlier, selective = get_algorithm(name).outlier, get_algorithm(name).selective
    if outlier.select == "none":
        return {}
    # Where the choice of rows is what sets it apart, the fences come near instead.
    own = outlier.metric != "normalized" or outlier.select == "random"
    return {
        "outlier": {"lam": 0.1} if own else {"select": "all"},
        "selective": {k: 0.1 for k in ("alpha", "gamma") if getattr(selective, k) > 0},
    }


def settings(environment: str = "alfworld", algorithm: str = "stapo", **changes: Any) -> dict[str, Any]:
    """Settings as a YAML file would hold them; `changes` are dotted keys with `__` as the dot."""
    chosen: dict[str, Any] = {"name": algorithm}
    chosen |= flagging(algorithm)
    if algorithm == "ppo":
        chosen |= {"critic": {"learning_rate": 5e-3, "warmup_iterations": 1}}
    if get_algorithm(algorithm).sampling.dynamic:
        # These policies hardly ever win: every round is played, and ten of them would be most of the suite's time.
        chosen |= {"sampling": {"max_rounds": 3}}
    data = json.loads(json.dumps({**COMMON, **ENVIRONMENTS[environment], "algorithm": chosen}))
    for key, value in changes.items():
        *path, last = key.split("__")
        place = data
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return data


def write_settings(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "settings.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data))
    return path


def start(argv: list[str], log: Path, before: Callable[[], None] | None = None) -> int:
    """Fork a child that runs `stapo ARGV`; returns its process id.

    Args:
        argv: of the command line.
        log: gets what the child prints.
        before: called in the child first.
    """
    warm()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            register_toy()
            if before is not None:
                before()
            code = main(argv)
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(pid: int, seconds: float = PATIENCE) -> int | None:
    """The child's exit code, minus the signal that killed it, or None if it runs on after `seconds`."""
    end = time.monotonic() + seconds
    pause = 0.001
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(pause)
        pause = min(0.01, pause * 2)


def kill(pid: int, signum: int = signal.SIGKILL) -> int | None:
    os.kill(pid, signum)
    return wait(pid)


def run(argv: list[str], log: Path, before: Callable[[], None] | None = None) -> int:
    """Run `stapo ARGV` to its end; returns the exit code."""
    pid = start(argv, log, before)
    code = wait(pid)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        raise AssertionError(f"'stapo {' '.join(argv)}' did not end within {PATIENCE} s:\n{log.read_text()[-2000:]}")
    return code


def train(folder: Path, data: dict[str, Any], *more: str, name: str = "run", expect: int | None = 0) -> RunDirectory:
    """Train into `folder/name` with the command line; returns the run."""
    source = write_settings(folder, data)
    log = folder / f"{name}.log"
    code = run(["train", str(source), "--quiet", "--out", str(folder / name), *more], log)
    if expect is not None:
        assert code == expect, log.read_text()[-3000:]
    return RunDirectory(folder / name)


def copying(folder: Path) -> None:
    """Make every save of this process leave a copy of the whole run in `folder/copies`."""
    write = SaveStore.write

    def write_and_copy(self: SaveStore, fill: Callable[[Path], None], keep: int) -> Path:
        path = write(self, fill, keep)
        shutil.copytree(self.folder.parent, folder / "copies" / path.name)
        return path

    SaveStore.write = write_and_copy  # type: ignore[method-assign]


WALL_CLOCK = ("seconds", "time", "started", "ended")


def without_clock(value: Any) -> Any:
    """Rows without what a clock has measured."""
    if isinstance(value, dict):
        return {k: without_clock(v) for k, v in value.items() if k not in WALL_CLOCK}
    if isinstance(value, list):
        return [without_clock(v) for v in value]
    return value


def contents(run: RunDirectory) -> dict[str, Any]:
    """Everything that two equal runs have in common: bytes of tensors, rows without the clock, text of rollouts."""
    found: dict[str, Any] = {}
    for path in sorted(run.path.rglob("*.safetensors")):
        found[str(path.relative_to(run.path))] = path.read_bytes()
    for name in ("sft", "metrics", "evals", "failures", "steps"):
        found[name] = without_clock(run.rows(name))
    for path in run.transcripts():
        found[path.name] = path.read_bytes()
    newest = run.saves.complete()[0]
    state = json.loads((newest / "state.json").read_text())
    found["state"] = {k: v for k, v in without_clock(state).items() if k not in ("rows", "config")}
    found["status"] = run.info()["status"]
    # How often a run was saved depends on how often it was stopped; what is saved at its end does not.
    return {key.replace(newest.name, "newest"): v for key, v in found.items() if not _older_save(key, newest.name)}


def _older_save(key: str, newest: str) -> bool:
    return key.startswith("saves/") and not key.startswith(f"saves/{newest}/")


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    wrong = [key for key in one if one[key] != two[key]]
    assert not wrong, f"these differ: {wrong}"


def moments(seed: int, count: int, longest: float) -> list[float]:
    """Seeded random moments, in seconds from the start of a child."""
    rng = random.Random(seed)
    return [rng.uniform(0.0, longest) for _ in range(count)]
