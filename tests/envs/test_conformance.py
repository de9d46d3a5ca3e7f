"""The report on an environment: ours pass, and each fault is found by its check."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial

import pytest

from stapo.cli.main import main
from stapo.envs.conformance import exit_code, report
from stapo.envs.registry import ENVIRONMENTS, make
from stapo.envs.sokoban.env import SokobanEnv
from stapo.errors import EnvServerError

IDS = (
    "runtime.reward_well_formed", "runtime.seed_control", "runtime.episode_determinism", "runtime.episode_isolation",
    "semantic.oracle_max", "semantic.floor_gap", "semantic.no_solution_leakage",
)  # fmt: skip


@pytest.mark.parametrize("name, options", [
    ("sokoban", {"levels": 40}), ("alfworld", {"scenes": "tiny", "games_per_type": 4}),
    ("webshop", {"size": "tiny", "catalog_products": 20}), ("search", {}),
])  # fmt: skip
def test_our_environments_pass(name, options):
    rows = report(partial(make, name, **options), 3)
    assert [row.check_id for row in rows if not row.check_id.startswith("protocol.")] == list(IDS)
    assert {row.check_id for row in rows if row.status not in ("pass", "skip")} == set()
    assert exit_code(rows) == 0
    by_id = {row.check_id: row for row in rows}
    gap = by_id["semantic.floor_gap"].measured
    assert gap["oracle_return"] > gap["random_return"]


class Small(SokobanEnv):
    clock = itertools.count()
    shared = 0

    def __init__(self):
        super().__init__(levels=40)


class Alike(Small):
    def reset(self, task_id):
        return super().reset("train/000000")


class Clock(Small):
    def __init__(self):
        super().__init__()
        self.built = next(Small.clock)

    def step(self, action):
        return replace(super().step(action), text=f"built as number {self.built}")


class Shared(Small):
    """What one episode does is seen in the others, as long as they last."""

    def reset(self, task_id):
        Small.shared = 0
        return super().reset(task_id)

    def step(self, action):
        Small.shared += 1
        return replace(super().step(action), text=f"{Small.shared} steps were taken")


class Generous(Small):
    def step(self, action):
        out = super().step(action)
        return replace(out, reward=20.0 if not out.won else 0.0)


class Lost(Small):
    def expert_plan(self):
        return ["nothing"]


class Telling(Small):
    def reset(self, task_id):
        first = super().reset(task_id)
        return replace(first, text=f"{first.text}\nThe way: {', '.join(self.expert_plan())}")


class Endless(Small):
    def step(self, action):
        return replace(super().step(action), reward=float("inf"))


class Broken(Small):
    def expert_plan(self):
        raise ValueError("no plan today")


@pytest.mark.parametrize("kind, failing", [
    (Alike, {"runtime.seed_control"}),
    (Clock, {"runtime.episode_determinism", "runtime.episode_isolation"}),
    (Shared, {"runtime.episode_isolation"}),
    (Generous, {"semantic.floor_gap"}),
    (Lost, {"semantic.oracle_max"}),
    (Telling, {"semantic.no_solution_leakage"}),
    (Endless, {"runtime.reward_well_formed"}),
])  # fmt: skip
def test_each_fault_is_found_by_its_check(kind, failing):
    rows = report(kind, 4)
    found = {row.check_id for row in rows if row.status == "fail" and not row.check_id.startswith("protocol.")}
    assert failing <= found
    assert found <= failing | {"semantic.floor_gap"}
    assert exit_code(rows) == 1
    assert all(row.evidence and row.remediation for row in rows if row.status == "fail")


def test_the_oracle_has_all_the_steps_that_the_environment_gives(monkeypatch):
    monkeypatch.setattr("stapo.envs.conformance._MOST_STEPS", 1)
    found = {row.check_id: row for row in report(Small, 4)}
    assert found["semantic.oracle_max"].status == "pass"
    assert found["runtime.reward_well_formed"].measured["steps"] == 4


def test_a_check_that_cannot_be_done_is_an_error():
    rows = report(Broken, 2)
    errors = {row.check_id for row in rows if row.status == "error"}
    assert errors == {"semantic.oracle_max", "semantic.floor_gap", "semantic.no_solution_leakage"}
    assert exit_code(rows) == 3
    assert "ValueError: no plan today" in next(row.evidence for row in rows if row.status == "error")


class Leaving(Small):
    def step(self, action):
        raise SystemExit("bye\nbye")


def test_an_environment_that_exits_ends_no_check(monkeypatch, capsys):
    monkeypatch.setitem(ENVIRONMENTS._objects, "leaving-sokoban", Leaving)
    assert main(["check-env", "leaving-sokoban", "--tasks", "2"]) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "error runtime.reward_well_formed SystemExit: bye bye. Run the episode by hand with 'stapo play'." in said
    assert "fail protocol.step_results found SystemExit" in said


class Alone(Small):
    def reset(self, task_id):
        raise EnvServerError("the environment's server http://127.0.0.1:9 cannot be reached.", "refused")


def test_a_server_that_does_not_answer_is_no_fault_of_the_environment(capsys):
    ENVIRONMENTS.register("alone-sokoban", Alone)
    assert main(["check-env", "alone-sokoban", "--json"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: the environment's server http://127.0.0.1:9 cannot be reached.\n")


def test_every_environment_is_closed_also_where_a_check_raises():
    opened, closed = [], []

    class Counted(Broken):
        def __init__(self):
            super().__init__()
            opened.append(self)

        def close(self):
            super().close()
            closed.append(self)

    assert exit_code(report(Counted, 2)) == 3
    assert len(opened) > 5
    assert set(map(id, opened)) == set(map(id, closed))


def test_the_command(capsys):
    assert main(["check-env", "sokoban", "--env.levels", "20", "--tasks", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert set(rows[0]) == {"check_id", "status", "measured", "evidence", "remediation"}
    assert set(IDS) <= {row["check_id"] for row in rows}
    assert main(["check-env", "sokoban", "--env.levels", "20", "--tasks", "2"]) == 0
    assert "pass   semantic.oracle_max" in capsys.readouterr().out
    assert main(["check-env", "sokoban", "--env.boxes", "9"]) == 2
    assert "boxes is 9, expected a whole number from 1 to 3" in capsys.readouterr().err
    ENVIRONMENTS.register("telling-sokoban", Telling)
    assert main(["check-env", "telling-sokoban", "--json"]) == 1
