"""With workers, whatever an environment's code does in any stage of a run costs its attempt, and never the run.

1. An environment that falls ill once in a stage is replaced; the run ends with the numbers of one that never did.
2. One that falls ill every time ends the run in one clear error, with status `failed`.
3. In neither case does a process stay behind, nor does anything take longer than its deadlines.
"""

from __future__ import annotations

import sys
import time

import pytest
from reliable import SOAK, contents, run, write_settings

import diseased_world
from diseased_world import DISEASES, STAGES
from slow import slow_except
from stapo.run import RunDirectory
from toy_world import toy_settings
from unruly_world import running

HARMLESS = {("child", stage) for stage in STAGES} | {("garbage", "preflight")}
"""What nobody notices, apart from the processes that it leaves behind."""


def shuffled(shift):
    """A disease for each stage; over all shifts, every disease meets every stage."""
    names = list(DISEASES)
    return {stage: names[(shift + 5 * number) % len(names)] for number, stage in enumerate(STAGES)}


if SOAK:
    ONCE = [shuffled(shift) for shift in range(len(DISEASES))]
    ALWAYS = [(d, s) for s in STAGES for d in DISEASES]
else:
    ONCE = [
        {"tasks": "kill", "preflight": "os_exit", "demonstrations": "segfault", "rollout": "hang", "close": "hang"},
        {"preflight": "child", "demonstrations": "base_exception", "rollout": "close_hangs", "evaluation": "garbage"},
    ]
    ALWAYS = [("segfault", "demonstrations"), ("babble", "evaluation")]


def settings(model, folder, strikes, **changes):
    # Load may look like a hang; retries make good for that, and so no number depends on it.
    ill = {"hang", "close_hangs"} & set(strikes.values())
    given = {
        "env__name": "diseased",
        "env__options": {"strikes": strikes, "marks": str(folder / "marks"), "games": "all"},
        "rollout__workers": 2,
        "rollout__retries": 4,
        "rollout__group_size": 2,
        "rollout__env_deadline": 3.0 if ill else 60.0,
        "sft": {"steps": 4, "episodes": 4, "batch_size": 4, "stop_at": 0.99, "probe_every": 2,
                       "probe_episodes": 2, "anneal_steps": 0, "curriculum": 0.0},
        "optim__iterations": 1,
        "eval__episodes": 3,
        "eval__greedy": False,
    }  # fmt: skip
    return toy_settings(model, **{**given, **changes})


def play(folder, data):
    """Exit code, what was said, seconds; nobody may stay behind."""
    (folder / "marks").mkdir(parents=True)
    source, log = write_settings(folder, data), folder / "log"
    started = time.monotonic()

    def before():
        # The command lines of workers hold this path.
        sys.path.append(str(folder))
        assert diseased_world

    code = run(["train", str(source), "--quiet", "--out", str(folder / "run")], log, before)
    seconds = time.monotonic() - started
    assert running(str(folder), patience=30.0) == []
    said = log.read_text()
    # The environment's own trace is part of the error; there is no other.
    assert "Traceback" not in said.partition("error:")[0], said
    return code, said, seconds


def numbers(folder):
    """All that is trained and measured; how often something was tried again is not."""
    found = contents(RunDirectory(folder / "run"))
    kept = {k: v for k, v in found.items() if k != "failures" and not k.startswith("saves/")}
    kept["metrics"] = [{k: v for k, v in row.items() if k != "retried_episodes"} for row in found["metrics"]]
    return kept


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, toy_model):
    folder = tmp_path_factory.mktemp("healthy")
    code, said, _ = play(folder, settings(toy_model, folder, {}))
    assert code == 0, said
    return numbers(folder)


def told(strikes, how, seconds):
    if SOAK:
        print(f"| {', '.join(f'{s}: {d}' for s, d in strikes.items())} | {how} | {seconds:.0f} s |")


@pytest.mark.parametrize(
    "strikes", slow_except(ONCE, ONCE[-1]), ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items())
)
def test_falling_ill_once_costs_an_attempt(tmp_path, toy_model, healthy, strikes):
    code, said, seconds = play(tmp_path, settings(toy_model, tmp_path, strikes))
    assert code == 0, said
    # It did happen.
    assert set(strikes) - {"close"} <= {path.name for path in (tmp_path / "marks").iterdir()}
    assert numbers(tmp_path) == healthy
    rows = RunDirectory(tmp_path / "run").rows("failures")
    assert {row["outcome"] for row in rows} <= {"retried"}
    phases = {"preflight": "preflight", "demonstrations": "demonstrations", "evaluation": "evaluation"}
    seen = {row["phase"] for row in rows}
    for stage, disease in strikes.items():
        if stage in phases and (disease, stage) not in HARMLESS and disease != "babble":
            assert phases[stage] in seen
    told(strikes, f"done, {len(rows)} retried", seconds)


@pytest.mark.parametrize("disease, stage", slow_except(ALWAYS, ALWAYS[0]))
def test_falling_ill_every_time_is_one_clear_error(tmp_path, toy_model, healthy, disease, stage):
    data = settings(
        toy_model, tmp_path, {stage: disease}, rollout__max_failures=2, rollout__retries=4 if stage == "close" else 0
    )
    data["env"]["options"]["once"] = False
    if stage == "reset":
        # Preflight resets, too; here the run is to begin.
        data["env"]["options"]["games"] = None
    code, said, seconds = play(tmp_path, data)
    made = RunDirectory(tmp_path / "run")
    if stage == "close" or (disease, stage) in HARMLESS:
        assert code == 0, said
        assert numbers(tmp_path) == healthy
        told({stage: disease}, "every time: done", seconds)
        return
    assert code == 1 or code == 2, said
    errors = [line for line in said.splitlines() if line.startswith("error")]
    assert len(errors) == 1, said
    assert "in a row failed" in said or "could not say what it was asked" in said, said
    # A run that was found impossible before it began has no folder.
    if stage in ("tasks", "preflight"):
        assert not made.path.exists()
    else:
        assert made.info()["status"] == "failed"
    told({stage: disease}, f"every time: {errors[0][:60]}", seconds)
