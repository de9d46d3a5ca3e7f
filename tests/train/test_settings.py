"""Settings: from plain data and back, strictly; the learning rate; the order of tasks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import yaml

from stapo.algo import ALGORITHMS, AlgorithmConfig, get_algorithm
from stapo.config.presets import load_config, preset_names
from stapo.config.run_config import RunConfig, read_run_config
from stapo.config.schema import from_data, read_yaml, to_data
from stapo.config.training import EvalConfig, OptimConfig
from stapo.envs.pool import LocalPool
from stapo.errors import ConfigError, GameFileError, UnknownNameError
from stapo.rollout.config import RolloutConfig
from stapo.run import RunDirectory
from stapo.training.optimizer import learning_rate_factor
from stapo.training.preflight import require_playable
from stapo.training.tasks import TaskStream, drawn

# -- schema ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_survives_the_way_through_yaml(name):
    config = RunConfig(algorithm=get_algorithm(name), optim=OptimConfig(learning_rate=1e-6))
    data = yaml.safe_load(yaml.safe_dump(to_data(config)))
    assert from_data(RunConfig, data) == config
    assert to_data(from_data(RunConfig, data)) == to_data(config)


@pytest.mark.parametrize("preset", preset_names())
def test_every_shipped_preset_survives_it_too(preset):
    config = load_config(preset)
    assert from_data(RunConfig, yaml.safe_load(yaml.safe_dump(to_data(config)))) == config


def test_settings_that_are_left_out_have_their_defaults():
    assert from_data(RunConfig, {}) == RunConfig()
    config = from_data(RunConfig, {"algorithm": {"outlier": {"lam": 3.0}}})
    assert config.algorithm == replace(get_algorithm("stapo"), outlier=replace(get_algorithm("stapo").outlier, lam=3.0))


def test_an_algorithm_is_a_name_or_a_name_with_changes():
    assert from_data(AlgorithmConfig, "grpo") == get_algorithm("grpo")
    changed = from_data(AlgorithmConfig, {"name": "grpo", "loss": {"beta": 0.5}})
    assert changed == replace(get_algorithm("grpo"), loss=replace(get_algorithm("grpo").loss, beta=0.5))


@pytest.mark.parametrize(
    "data, said",
    [
        ({"sede": 1}, r"unknown key 'sede'. Did you mean 'seed'\?"),
        ({"optim": {"lerning_rate": 1}}, r"unknown key 'optim.lerning_rate'. Did you mean 'learning_rate'\?"),
        ({"algorithm": {"loss": {"betta": 1}}}, r"unknown key 'algorithm.loss.betta'. Did you mean 'beta'\?"),
        ({"seed": "1"}, "seed is '1', expected int"),
        ({"seed": True}, "seed is True, expected int"),
        ({"seed": 1.0}, "seed is 1.0, expected int"),
        ({"eval": {"greedy": 1}}, "eval.greedy is 1, expected bool"),
        ({"eval": {"split": 3}}, "eval.split is 3, expected str"),
        ({"optim": {"learning_rate": True}}, "optim.learning_rate is True, expected float"),
        ({"optim": {"learning_rate": 10**400}}, "expected float"),
        ({"optim": {"schedule": "cosin"}}, r"Did you mean 'cosine'\?"),
        ({"agent": {"hidden_commands": "help"}}, "agent.hidden_commands is 'help', expected a list"),
        ({"agent": {"hidden_commands": [1]}}, "agent.hidden_commands is 1, expected str"),
        ({"env": {"options": [1]}}, r"env.options is \[1\], expected a mapping"),
        ([], "expected a mapping with keys such as seed, env, envs"),
    ],
)
def test_what_does_not_fit_is_named(data, said):
    with pytest.raises(ConfigError, match=said):
        from_data(RunConfig, data)


def test_unknown_algorithm():
    with pytest.raises(UnknownNameError, match="Did you mean 'gigpo'"):
        from_data(RunConfig, {"algorithm": {"name": "gigppo"}})


def test_numbers_as_yaml_reads_them():
    config = from_data(RunConfig, yaml.safe_load("{optim: {learning_rate: 1e-3, grad_clip: 2}, model: {path: null}}"))
    assert (config.optim.learning_rate, config.optim.grad_clip) == (1e-3, 2.0)
    assert isinstance(config.optim.grad_clip, float)
    assert config.model.path is None


def test_environment_options_are_kept_and_added_to():
    base = from_data(RunConfig, {"env": {"options": {"a": 1, "b": [2]}}})
    assert base.env.options == {"a": 1, "b": [2]}
    merged = from_data(RunConfig, {"env": {"options": {"a": 5}}}, base=base)
    assert merged.env.options == {"a": 5, "b": [2]}


@pytest.mark.parametrize("field", ["beta1", "beta2", "final_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_shares_are_shares(field, value):
    with pytest.raises(ConfigError, match=f"optim.{field}"):
        OptimConfig(**{field: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_are_finite(value):
    for build in (
        lambda: OptimConfig(learning_rate=value),
        lambda: OptimConfig(weight_decay=value),
        lambda: OptimConfig(grad_clip=value),
        lambda: EvalConfig(temperature=value),
        lambda: from_data(RunConfig, {"rollout": {"temperature": value}}),
        lambda: from_data(RunConfig, {"rollout": {"reward_scale": value}}),
    ):
        with pytest.raises(ConfigError):
            build()


def test_a_yaml_file_that_is_empty(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert from_data(RunConfig, read_yaml(tmp_path / "empty.yaml")) == RunConfig()


def test_the_configuration_of_a_run_is_read_back(tmp_path):
    config = load_config("tiny", "gigpo")
    run = RunDirectory.create(tmp_path / "run", to_data(config), [])
    assert read_run_config(run) == config


def test_a_run_of_another_version_is_named(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {"optim": {"momentum": 1}}, [])
    with pytest.raises(ConfigError, match=r"config.yaml': unknown key 'optim.momentum'"):
        read_run_config(run)


# -- learning rate -----------------------------------------------------------------------------------------------------


def factors(**optim):
    config = RunConfig(optim=OptimConfig(**optim))
    return [learning_rate_factor(config, i) for i in range(1, config.optim.iterations + 1)]


def test_the_constant_rate():
    assert factors(iterations=4) == [1, 1, 1, 1]


def test_warm_up_rises_to_the_peak():
    assert factors(iterations=5, warmup_iterations=3) == [0.25, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_decay_falls_from_the_peak_towards_the_final_fraction(schedule, warmup):
    found = factors(iterations=103, schedule=schedule, warmup_iterations=warmup, final_fraction=0.2)[warmup:]
    assert found[0] == 1
    assert all(a > b for a, b in pairwise(found))
    assert found[len(found) // 2] == pytest.approx(0.6, abs=0.01)
    assert 0.2 < found[-1] < 0.21


def test_linear_is_linear():
    assert factors(iterations=4, schedule="linear", final_fraction=0.0) == [1, 0.75, 0.5, 0.25]


def test_more_warm_up_than_iterations():
    assert factors(iterations=2, schedule="cosine", warmup_iterations=5) == pytest.approx([1 / 6, 2 / 6])


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_each_pass_shows_every_task_once_in_a_new_order():
    stream = TaskStream(list("abcdefgh"), 0)
    passes = [stream.take(8) for _ in range(4)]
    assert all(sorted(p) == list("abcdefgh") for p in passes)
    assert len({tuple(p) for p in passes}) == 4


def test_the_order_is_a_function_of_seed_and_position():
    whole = TaskStream(list("abcde"), 3).take(23)
    parts = TaskStream(list("abcde"), 3)
    assert [task for n in (1, 4, 0, 7, 11) for task in parts.take(n)] == whole
    for position in (0, 4, 5, 13):
        stream = TaskStream(list("abcde"), 3)
        stream.restore({"task_position": position})
        assert stream.take(5) == whole[position : position + 5]
    assert TaskStream(list("abcde"), 4).take(23) != whole


def test_every_task_comes_first_sometimes():
    first = Counter(TaskStream(list("abcd"), seed).take(1)[0] for seed in range(200))
    assert set(first) == set("abcd")
    assert min(first.values()) > 25


def test_a_stream_without_tasks():
    with pytest.raises(ConfigError, match="holds no task"):
        TaskStream([], 0)


def test_some_tasks_are_drawn_by_the_seed():
    tasks = [f"task/{i:03d}" for i in range(200)]
    assert drawn(tasks, 0, 5) == drawn(tasks, 200, 5) == tasks
    some = drawn(tasks, 20, 5)
    assert some == drawn(tasks, 20, 5) == sorted(set(some) & set(tasks))
    assert len(some) == 20
    assert drawn(tasks, 20, 6) != some
    often = Counter(task for seed in range(400) for task in drawn(tasks[:8], 2, seed))
    assert min(often[task] for task in tasks[:8]) > 60


def test_more_tasks_than_there_are():
    with pytest.raises(ConfigError, match=r"rollout\.tasks is 9, but the training split holds 8 tasks"):
        drawn(list("abcdefgh"), 9, 0)
    with pytest.raises(ConfigError, match=r"rollout\.tasks is -1, expected a whole number of 0 or more"):
        RolloutConfig(tasks=-1)


# -- games -------------------------------------------------------------------------------------------------------------


class Games:
    """A world some of whose games are broken."""

    def __init__(self):
        self.task = ""

    def reset(self, task):
        self.task = task
        if "corrupt" in task:
            raise GameFileError(f"game '{task}': nonsense.")

    def expert_plan(self):
        return {"hopeless": None, "solved": []}.get(self.task.rstrip("0123456789"), ["go"])


def test_good_games_pass():
    told = []
    require_playable(LocalPool(Games), ["fine1", "solved2"], lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_games_that_cannot_be_played_or_won_are_named():
    with pytest.raises(GameFileError) as found:
        require_playable(LocalPool(Games), ["fine1", "corrupt2", "hopeless3", "fine4", "corrupt5", "hopeless6"])
    assert str(found.value) == (
        "4 of 6 games that this run would play cannot be used: game 'corrupt2': nonsense; game 'hopeless3': no "
        "sequence of actions reaches its goal; game 'corrupt5': nonsense; and 1 more. Take them out of the files."
    )
