"""Which steps were bad.

1. Without a judge, invalid actions and repetition without effect are counted, and nothing else.
2. An environment that does not say whether an action had an effect has no count of repetition.
3. A judge sees the episode again and has the last word on repetition.
4. What cannot be judged is left out and said.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from stapo.diagnosis.judging import judge_steps
from stapo.envs import StepResult
from stapo.rollout import Step, Trajectory
from toy_world import ToyEnv

HEARD = ["A judge listens. Your task is to: please the red judge.", "The judge heard something even."]


def step(observation, action, **changes):
    base = Step([1], [1], [2], [0.0], [0.0], "", "", action, action, True, "", observation, observation)
    return replace(base, **changes)


def episode(*steps):
    return Trajectory("toy/train/red", "warm", "please the red judge.", 0, 0, list(steps))


EPISODE = episode(
    step(HEARD[0], "go", effect=True),
    step(HEARD[1], "stay", effect=False),
    step(HEARD[1], "stay", effect=False, repeated=True, valid=False),
)


class Judge:
    def __init__(self, env):
        self.faults = {"loud": "it shouted", "repeated": "said before, in the same mood"}
        self.env = env
        self.story = []

    def before(self, action):
        self.story.append((action, len(self.env.said)))

    def after(self, result):
        assert isinstance(result, StepResult)
        action, said = self.story[-1]
        assert len(self.env.said) == said + 1
        return {"loud"} if action.isupper() else set()


class JudgedEnv(ToyEnv):
    def judge(self):
        return Judge(self)


# -- 1, 2 --------------------------------------------------------------------------------------------------------------


def test_what_every_environment_tells():
    found = judge_steps(ToyEnv, [EPISODE])
    assert found.faults == [[frozenset(), frozenset(), {"invalid", "repeated"}]]
    assert list(found.names) == ["invalid", "repeated"]
    assert not found.judge
    assert "no judge" in found.remarks[0]


def test_an_effect_rules_repetition_out():
    again = episode(step(HEARD[0], "go", effect=True), step(HEARD[1], "go", effect=True, repeated=True))
    assert judge_steps(ToyEnv, [again]).faults == [[frozenset(), frozenset()]]


def test_unknown_effects():
    silent = episode(step(HEARD[0], "go"), step(HEARD[1], "go", repeated=True, valid=False))
    found = judge_steps(ToyEnv, [silent])
    assert list(found.names) == ["invalid"]
    assert found.faults == [[frozenset(), {"invalid"}]]
    assert "repetition is not counted" in found.remarks[1]


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_the_judge_looks_on():
    shouted = episode(*EPISODE.steps[:2], replace(EPISODE.steps[2], action="GO"))
    done = []
    found = judge_steps(JudgedEnv, [shouted, EPISODE], lambda *at: done.append(at))
    assert found.judge
    assert found.names["loud"] == "it shouted"
    # The judge did not call it repeated; that the response was invalid stands.
    assert found.faults == [[frozenset(), frozenset(), {"loud", "invalid"}], [frozenset(), frozenset(), {"invalid"}]]
    assert done == [(1, 2), (2, 2)]
    assert found.remarks == []


# -- 4 -----------------------------------------------------------------------------------------------------------------


class Broken(JudgedEnv):
    def judge(self):
        judge = Judge(self)
        judge.after = lambda result: 1 / 0
        return judge


@pytest.mark.parametrize(
    "env, played, expected, said",
    [
        (Broken, EPISODE, [None] * 3, "judging raised ZeroDivisionError"),
        (
            JudgedEnv,
            episode(EPISODE.steps[0], step("Another room.", "stay")),
            [frozenset(), None],
            "went another way",
        ),
        (JudgedEnv, replace(EPISODE, task_id="toy/train/red"), [frozenset(), frozenset(), {"invalid"}], ""),
    ],
)
def test_what_cannot_be_judged(env, played, expected, said):
    found = judge_steps(env, [played])
    assert found.faults == [expected]
    assert (said in found.remarks[0]) if said else found.remarks == []
