"""Dynamic sampling: groups whose attempts all scored the same are replaced.

1. Which groups differ.
2. Rounds: what is played, numbered, kept, dropped; when it ends; what happens if nothing is left.
3. In a run: tasks and random streams, metrics, progress, workers.
"""

from __future__ import annotations

import math

import pytest

from stapo.algo import SamplingConfig
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import ConfigError
from stapo.policy import load_policy
from stapo.rollout import Step, Trajectory
from stapo.run import RunDirectory
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.loop import Trainer
from stapo.training.preflight import tasks_of_run
from stapo.training.sampling import differing_groups, sample_groups
from stapo.training.tasks import TaskStream
from toy_world import ToyEnv, toy_settings


def step(reward):
    return Step([1], [1], [2], [-0.1], [0.5], "p", "b", "r", "a", True, "", "s", "o", reward)


def group(number, *scores):
    return [Trajectory("task", "type", "goal", number, m, [step(s)]) for m, s in enumerate(scores)]


EQUAL, UNEQUAL = (0.0, 0.0), (0.0, 1.0)
DYNAMIC = SamplingConfig(dynamic=True)


class Player:
    """Plays groups with the given scores, one after the other, and notes what it was asked for."""

    def __init__(self, *scores):
        self.scores, self.asked = list(scores), []

    def __call__(self, groups, first, number):
        self.asked.append((groups, first, number))
        taken = [self.scores.pop(0) for _ in range(groups)]
        return [t for u, scores in enumerate(taken, start=first) for t in group(u, *scores)], []


def numbers(trajectories):
    return list(dict.fromkeys(t.group for t in trajectories))


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_groups_that_differ():
    played = [*group(0, 1, 1, 1), *group(1, 0, 1, 0), *group(4, 0, 0), *group(7, 2), *group(8, 0.5, 0.25)]
    assert [g[0].group for g in differing_groups(played)] == [1, 8]
    assert differing_groups([]) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_returns_that_are_not_finite_are_not_hidden(bad):
    assert len(differing_groups(group(0, bad, bad))) == 1
    assert len(differing_groups(group(0, bad))) == 1


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_without_it_every_group_is_kept():
    play = Player(EQUAL, UNEQUAL, EQUAL)
    found = sample_groups(3, SamplingConfig(), play)
    assert numbers(found.kept) == [0, 1, 2]
    assert play.asked == [(3, 0, 1)]
    assert found.summary() == {"rounds": 1, "kept_groups": 3, "dropped_groups": 0}


def test_each_round_plays_what_is_missing():
    play = Player(EQUAL, UNEQUAL, EQUAL, EQUAL, UNEQUAL, UNEQUAL)
    found = sample_groups(3, DYNAMIC, play)
    assert play.asked == [(3, 0, 1), (2, 3, 2), (1, 5, 3)]
    assert numbers(found.kept) == [1, 4, 5]
    assert numbers(found.played) == [0, 1, 2, 3, 4, 5]
    assert found.summary() == {"rounds": 3, "kept_groups": 3, "dropped_groups": 3}


def test_nothing_is_played_again_where_all_differ():
    play = Player(UNEQUAL, UNEQUAL)
    assert sample_groups(2, DYNAMIC, play).summary() == {"rounds": 1, "kept_groups": 2, "dropped_groups": 0}
    assert play.asked == [(2, 0, 1)]


def test_after_the_last_round_it_goes_on_with_what_there_is():
    play = Player(EQUAL, UNEQUAL, EQUAL, EQUAL)
    found = sample_groups(2, SamplingConfig(dynamic=True, max_rounds=3), play)
    assert play.asked == [(2, 0, 1), (1, 2, 2), (1, 3, 3)]
    assert numbers(found.kept) == [1]
    assert found.summary() == {"rounds": 3, "kept_groups": 1, "dropped_groups": 3}


def test_where_nothing_differs_the_first_group_with_steps_is_kept():
    def play(groups, first, number):
        played = group(first, *EQUAL)
        if first == 0:
            for t in played:
                t.steps.clear()
        return played, []

    found = sample_groups(1, DYNAMIC, play)
    assert numbers(found.kept) == [1]
    assert found.summary() == {"rounds": 10, "kept_groups": 0, "dropped_groups": 10}


def test_a_round_in_which_every_episode_failed_is_a_round():
    def play(groups, first, number):
        return ([], ["failure"]) if number == 1 else (group(first, *UNEQUAL), [])

    found = sample_groups(1, DYNAMIC, play)
    assert numbers(found.kept) == [1]
    assert found.ended == ["failure"]
    assert found.summary() == {"rounds": 2, "kept_groups": 1, "dropped_groups": 1}


def test_rounds_have_to_be_some():
    with pytest.raises(ConfigError, match=r"sampling\.max_rounds is 0"):
        SamplingConfig(max_rounds=0)


# -- 3 -----------------------------------------------------------------------------------------------------------------


def start(model, out, callbacks=(), **changes):
    changes = {"algorithm": "dapo", "rollout__group_size": 2, "rollout__groups": 4, "seed": 1, **changes}
    config = from_data(RunConfig, toy_settings(model, **changes))
    run = RunDirectory.create(out, to_data(config), ["test"])
    return Trainer(config, load_policy(str(model), config.model), run, Callbacks(callbacks))


class Listening(Callback):
    def __init__(self):
        self.stages = []
        self.said = []

    def on_stage(self, event):
        if event.name not in self.stages:
            self.stages.append(event.name)

    def on_notice(self, text):
        self.said.append(text)


def test_streams_and_tasks_go_on_from_round_to_round(toy_model, tmp_path):
    listening = Listening()
    trainer = start(toy_model, tmp_path / "run", [listening])
    streams, asked = [], trainer.collector.sampler.sample

    def noted(prompts, names, temperature):
        streams.extend(names)
        return asked(prompts, names, temperature)

    trainer.collector.sampler.sample = noted
    row = trainer.iterate(1)
    sampling = row["sampling"]
    played = sampling["kept_groups"] + sampling["dropped_groups"]
    # With two attempts that win half of the time, about half of the groups are equal.
    assert sampling["rounds"] > 1
    assert sampling["kept_groups"] == 4
    assert trainer.environments[0].tasks.position == played
    assert len(streams) == len(set(streams)) == played * 2 * 3
    assert {name[3] for name in streams} == set(range(played))
    assert listening.stages == [f"rollout (round {i + 1})" for i in range(sampling["rounds"])] + ["update"]
    # What is trained on, and what was played.
    assert (row["episodes"], row["rows"]) == (8, 24)
    assert row["equal_reward_groups"] == pytest.approx(sampling["dropped_groups"] / played)
    transcript = trainer.run.rows("transcripts/iteration-00001")
    assert len({t["score"] for t in transcript}) == 2
    # The next iteration begins with the next task.
    expected = TaskStream(trainer.environments[0].tasks.tasks, 1)
    expected.take(played)
    assert trainer.environments[0].tasks.take(3) == expected.take(3)


def test_a_first_round_without_equal_groups_is_that_of_a_run_without_it(toy_model, tmp_path):
    """Seed 0 at 6 attempts: no group is equal, so that both runs play the same episodes."""
    change = {"rollout__group_size": 6, "seed": 0}
    one = start(toy_model, tmp_path / "one", **change).iterate(1)
    two = start(toy_model, tmp_path / "two", **{**change, "algorithm": "grpo"}).iterate(1)
    assert one["sampling"] == {"rounds": 1, "kept_groups": 4, "dropped_groups": 0}
    assert "sampling" not in two
    assert (one["success"], one["entropy"], one["advantage"]) == (two["success"], two["entropy"], two["advantage"])


def test_equal_groups_alone_teach_nothing(toy_model, tmp_path):
    listening = Listening()
    trainer = start(
        toy_model, tmp_path / "run", [listening], env__options={"reward": 0.0},
        algorithm={"name": "dapo", "loss": {"beta": 0.0}, "advantage": {"invalid_penalty": 0.0}},
        optim__weight_decay=0.0,
    )  # fmt: skip
    before = {k: v.clone() for k, v in trainer.policy.model.state_dict().items()}
    row = trainer.iterate(1)
    assert row["sampling"] == {"rounds": 10, "kept_groups": 0, "dropped_groups": 40}
    assert row["advantage"]["zero"] == 1
    assert row["update"]["grad_norm"] == 0
    assert all((v == before[k]).all() for k, v in trainer.policy.model.state_dict().items())
    assert [text for text in listening.said if "attempts scored the same" in text]


def test_the_preflight_looks_at_all_tasks_that_may_come(toy_model):
    changes = {"algorithm": "dapo", "rollout__groups": 1, "optim__iterations": 1, "eval__episodes": 1}
    env = ToyEnv()
    many = tasks_of_run(from_data(RunConfig, toy_settings(toy_model, **changes)), env)
    few = tasks_of_run(from_data(RunConfig, toy_settings(toy_model, **{**changes, "algorithm": "grpo"})), env)
    assert (len(few), len(many)) == (2, 7)
