"""Named rewards in training.

1. What steps are paid: the environment's rewards, functions by import path, costs, weights.
2. A function that fails, and settings that cannot be used.
3. In a run: metrics, transcripts, numbers of a run without them.
"""

from __future__ import annotations

import math
import re
import sys

import pytest

import stapo
from paid_steps import group, paid, step
from stapo.cli.main import main
from stapo.config.rewards import RewardsConfig
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.envs.guard import advance
from stapo.envs.protocol import StepResult
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import ConfigError, FailureLimitError, NonFiniteError
from stapo.policy import load_policy
from stapo.rollout.config import RolloutConfig
from stapo.rollout.faults import Attempts
from stapo.run import RunDirectory
from stapo.training.batch import build_batch
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.loop import Trainer
from stapo.training.rewards import Rewards, reward_functions
from stapo.training.sampling import differing_groups
from toy_world import ToyEnv, toy_settings

PLAIN = RolloutConfig(reward_scale=1.0)
FILE = """
calls = []

def short(step, trajectory):
    calls.append(trajectory.task_id)
    return -len(step.action)

def polite(trajectory):
    return trajectory.steps[-1].action == "thanks"

def words(trajectory):
    return "very good"

def nothing(trajectory):
    return None

def nan(trajectory):
    return float("nan")

def broken(trajectory):
    raise RuntimeError("the judge is out")

def once(trajectory, tried=[]):
    tried.append(1)
    if len(tried) == 1:
        raise TimeoutError("no answer")
    return 2

number = 7
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file of reward functions; returns how settings name one of them."""
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return lambda name: f"mine.py:{name}"


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_the_environments_own_reward_is_left_as_it_is():
    played = group(0, [step(reward=0.1), step(reward=0.2)])
    Rewards(RewardsConfig(), PLAIN).pay(played, Attempts(1, 16))
    assert paid(played) == [[0.1, 0.2]]
    assert played[0].steps[0].rewards == {}


def test_rewards_are_weighed_and_added(mine):
    config = RewardsConfig(
        weights={"tidy": 0.5, "short": 0.25, "polite": 3.0, "unknown": 9.0},
        functions={"short": mine("short"), "polite": mine("polite")},
        per_step=("short",),
    )
    # Scale 10 has been applied to what the environment paid.
    played = group(0, [step("go", 10.0, tidy=20.0), step("thanks")])
    rewards = Rewards(config, RolloutConfig(reward_scale=10.0))
    rewards.pay(played, Attempts(1, 16))
    assert played[0].steps[0].rewards == {"env": 10.0, "tidy": 20.0, "short": -20.0}
    assert played[0].steps[1].rewards == {"env": 0.0, "short": -60.0, "polite": 10.0}
    assert paid(played) == [[10 + 10 - 5, -15 + 30]]
    assert rewards.unpaid(played) == ["unknown"]


def test_a_function_of_a_module_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_rewards_module.py").write_text("class Judge:\n    @staticmethod\n    def f(t):\n        return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = RewardsConfig(weights={"env": 0, "judge": 1}, functions={"judge": "my_rewards_module:Judge.f"})
    assert reward_functions(config)["judge"](None) == 1
    sys.modules.pop("my_rewards_module")


def test_costs_are_scaled_by_the_success_of_the_group():
    played = [
        *group(0, [step(reward=1.0, tokens=4)], [step(tokens=2), step(tokens=6)], won=(0,)),
        *group(1, [step(tokens=50)], [step(tokens=70)]),
    ]
    config = RewardsConfig(weights={"tokens": 0.01, "turns": 0.1})
    Rewards(config, PLAIN).pay(played, Attempts(1, 16))
    # Half of the first group was won: a token costs .005, a turn .05. Nobody won in the second.
    assert paid(played)[:2] == [[pytest.approx(1 - 0.02 - 0.05)], pytest.approx([-0.06, -0.08])]
    assert paid(played)[2:] == [[0], [0]]


def test_an_episode_that_failed_is_not_paid_and_has_no_part_in_costs():
    played = group(0, [step(reward=1.0)], [step()], won=(0,))
    played[1].failure = object()
    Rewards(RewardsConfig(weights={"turns": 0.5}), PLAIN).pay(played, Attempts(1, 16))
    assert paid(played) == [[0.5], [0.0]]


def test_equal_sums_of_different_rewards_are_kept_where_each_counts():
    played = group(0, [step(reward=3.0, a=1.0, b=2.0)], [step(reward=3.0, a=2.0, b=1.0)])
    assert differing_groups(played) == []
    assert len(differing_groups(played, each=True)) == 1
    same = group(0, [step(reward=3.0, a=1.0)], [step(reward=3.0, a=1.0)])
    assert differing_groups(same, each=True) == []


@pytest.mark.parametrize(
    "named, said",
    [
        ("much", "expected a dict of names and numbers"),
        ({1: 2.0}, "expected a dict of names and numbers"),
        ({"tidy": "yes"}, r"info\['rewards'\]\['tidy'\] as reward 'yes', expected a number"),
        ({"tidy": None}, "expected a number"),
    ],
)
def test_what_an_environment_pays_is_checked(named, said):
    class Paying(ToyEnv):
        def step(self, action):
            return StepResult("x", None, 0.0, False, False, {"rewards": named})

    found = advance(Paying(), "go")
    assert found.boundary == "reward"
    assert re.search(said, found.error), found.error


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, said",
    [
        ("words", r"rewards\.functions\.judge \(mine\.py:words\) returned 'very good': reward 'very good', expected a"),
        ("nothing", "returned None: .* expected a number"),
        ("broken", "raised RuntimeError: the judge is out"),
        ("short", r"raised TypeError: short\(\) missing 1 required positional argument"),
    ],
)
def test_a_function_that_fails_costs_its_episode(mine, name, said):
    config = RewardsConfig(weights={"judge": 1.0}, functions={"judge": mine(name)})
    played, attempts = group(0, [step()]), Attempts(1, 16)
    Rewards(config, PLAIN).pay(played, attempts)
    failure = played[0].failure
    assert (failure.boundary, failure.outcome, failure.attempt) == ("reward", "left out", 2)
    assert [f.outcome for f in attempts.failures] == ["retried", "left out"]
    assert re.search(said, failure.error), failure.error


def test_too_many_failures_in_a_row_stop_the_run(mine):
    config = RewardsConfig(weights={"judge": 1.0}, functions={"judge": mine("words")})
    with pytest.raises(FailureLimitError, match=r"3 episodes in a row failed .* boundary reward"):
        Rewards(config, PLAIN).pay(group(0, *([step()] for _ in range(5))), Attempts(1, 3))


def test_a_passing_failure_leaves_no_trace(mine):
    config = RewardsConfig(weights={"judge": 1.0}, functions={"judge": mine("once")})
    played = group(0, [step()])
    Rewards(config, PLAIN).pay(played, Attempts(1, 16))
    assert (played[0].failure, paid(played)) == (None, [[2.0]])


def test_nan_is_named_before_the_weights_move(mine):
    config = RewardsConfig(weights={"judge": 1.0}, functions={"judge": mine("nan")})
    played = group(0, [step(), step()], [step()])
    Rewards(config, PLAIN).pay(played, Attempts(1, 16))
    settings = from_data(RunConfig, {})
    with pytest.raises(NonFiniteError, match=r"the reward 'judge' of step 2 of task 'task' .* is nan"):
        build_batch(played, settings.algorithm, rewards=config)


@pytest.mark.parametrize(
    "target, said",
    [
        ("nowhere.py:f", "and there is no file '/.*/nowhere.py'"),
        ("mine.py:absent", "which cannot be imported: module 'mine' has no attribute 'absent'"),
        ("mine.py:number", "which is 7; expected a function"),
        ("no_such_module:f", "which cannot be imported: No module named 'no_such_module'"),
        ("sys:exit.nothing", "cannot be imported"),
    ],
)
def test_a_function_that_is_not_there_is_one_error(mine, target, said):
    config = RewardsConfig(weights={"judge": 1.0}, functions={"judge": target})
    with pytest.raises(ConfigError, match=rf"rewards\.functions\.judge is '{target}'.* ?{said}"):
        reward_functions(config)


def test_a_file_that_exits_is_an_error_and_prints_nothing_on_stdout(tmp_path, capsys):
    (tmp_path / "bad.py").write_text("print('hello')\nimport sys\nsys.exit(3)\n")
    config = RewardsConfig(weights={"judge": 1.0}, functions={"judge": f"{tmp_path / 'bad.py'}:f"})
    with pytest.raises(ConfigError, match="cannot be imported: SystemExit: 3"):
        reward_functions(config)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"weights": {"env": 0}}, "weights are all 0"),
        ({"weights": {"tidy": math.nan}}, r"weights\.tidy is nan"),
        ({"weights": {"tidy": "much"}}, r"weights\.tidy is 'much'"),
        ({"weights": {"a b": 1}}, "has the name 'a b'"),
        (
            {"weights": {"judge": 1}, "functions": {"judge": "no path"}},
            r"functions\.judge is 'no path'; expected",
        ),
        ({"weights": {"judge": 1}, "functions": {"judge": "__import__('os').system('x')"}}, "expected module:function"),
        ({"functions": {"judge": "a:b"}}, r"functions\.judge has no weight"),
        ({"functions": {"env": "a:b"}}, "means another reward"),
        ({"weights": {"judge": 1}, "functions": {"judge": "a:b"}, "per_step": ["jugde"]}, "Did you mean 'judge'"),
        ({"normalize": "mean"}, "normalize is 'mean'"),
    ],
)
def test_settings_that_cannot_be_used(settings, said):
    with pytest.raises(ConfigError, match=said):
        from_data(RunConfig, {"rewards": settings})


def test_each_with_a_critic_is_refused():
    with pytest.raises(ConfigError, match=r"normalize is 'each', and algorithm 'ppo' has a critic"):
        from_data(RunConfig, {"rewards": {"normalize": "each"}, "algorithm": "ppo"})


# -- 3 -----------------------------------------------------------------------------------------------------------------


class PayingEnv(ToyEnv):
    """The toy world; also pays for every saying whose length is a multiple of three."""

    name = "toy-paying"

    def step(self, action):
        out = super().step(action)
        out.info["rewards"] = {"brief": float(len(action) % 3 == 0)}
        return out


ENVIRONMENTS.register("toy-paying", PayingEnv)


class Listening(Callback):
    def __init__(self):
        self.said = []

    def on_notice(self, text):
        self.said.append(text)


def trained(model, out, **changes):
    config = from_data(RunConfig, toy_settings(model, env__name="toy-paying", **changes))
    run = RunDirectory.create(out, to_data(config), ["test"])
    listening = Listening()
    trainer = Trainer(config, load_policy(str(model), config.model), run, Callbacks([listening]))
    return trainer, trainer.iterate(1), listening.said


@pytest.mark.parametrize("normalize", ["sum", "each"])
def test_a_run_with_three_rewards(toy_model, tmp_path, mine, normalize):
    rewards = {
        "weights": {"brief": 0.2, "short": 0.01, "turns": 0.05, "bief": 1.0},
        "functions": {"short": mine("short")},
        "per_step": ["short"],
        "normalize": normalize,
    }
    trainer, row, said = trained(toy_model, tmp_path / "run", rewards=rewards)
    assert set(row["rewards"]) == {"env", "brief", "short", "turns"}
    assert row["rewards"]["env"]["mean"] == pytest.approx(row["success"])
    assert row["rewards"]["turns"]["mean"] <= 0
    assert all(row["rewards"][name]["advantage_share"] is not None for name in row["rewards"])
    assert [text for text in said if "rewards.weights.bief" in text]
    first = trainer.run.rows("transcripts/iteration-00001")[0]["steps"][0]
    weights = rewards["weights"] | {"env": 1.0}
    assert first["reward"] == pytest.approx(sum(weights[name] * value for name, value in first["rewards"].items()))


def test_a_weight_of_0_measures_and_changes_nothing(toy_model, tmp_path):
    """The same episodes, advantages and weights, with one metric more."""
    plain, row, _ = trained(toy_model, tmp_path / "plain")
    measured, other, said = trained(toy_model, tmp_path / "measured", rewards={"weights": {"brief": 0.0}})
    assert other["rewards"]["brief"]["mean"] > 0
    assert other["rewards"]["brief"]["advantage_share"] == 0
    assert (row["advantage"], row["update"]) == (other["advantage"], other["update"])
    one, two = (dict(t.policy.model.named_parameters()) for t in (plain, measured))
    assert all(one[name].equal(two[name]) for name in one)
    assert "rewards" not in row
    assert not [text for text in said if "rewards.weights" in text]


def test_who_reads_a_run_never_runs_its_functions(toy_model, tmp_path, mine, monkeypatch):
    """Training needs the function; report, evaluation and diagnosis of the run do not even look for it."""
    rewards = {"weights": {"polite": 1.0}, "functions": {"polite": mine("polite")}}
    settings = toy_settings(toy_model, rewards=rewards, optim__iterations=1)
    run = tmp_path / "run"
    stapo.train(settings, run)
    (tmp_path / "mine.py").write_text("raise SystemExit('this was run')\n")
    assert main(["report", str(run)]) == 0
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    assert main(["diagnose", str(run), "--tasks", "2", "--group-size", "2"]) == 0
    with pytest.raises(ConfigError, match="this was run"):
        stapo.train({**settings, "seed": 1}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_environments_of_one_run_have_rewards_of_their_own(toy_model, tmp_path, mine):
    settings = toy_settings(toy_model, rollout__groups=4, rewards={"weights": {"turns": 0.0}})
    del settings["env"]
    own = {"weights": {"short": 0.1}, "functions": {"short": mine("short")}, "per_step": ["short"]}
    settings["envs"] = {"toy": {}, "toy-paying": {"rewards": own, "rollout": {"limits": {"tokens": 7}}}}
    config = from_data(RunConfig, settings)
    run = RunDirectory.create(tmp_path / "run", to_data(config), ["test"])
    row = Trainer(config, load_policy(str(toy_model), config.model), run).iterate(1)
    assert set(row["envs"]["toy"]["rewards"]) == {"env", "turns"}
    assert set(row["envs"]["toy-paying"]["rewards"]) == {"env", "brief", "turns", "short"}
    assert "token_limit" not in row["envs"]["toy"]["stop_reasons"]
    assert row["envs"]["toy-paying"]["stop_reasons"]["token_limit"] > 0
