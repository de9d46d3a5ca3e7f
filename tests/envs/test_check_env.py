"""The conformance check accepts a sound environment and names what is wrong with others."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

import stapo
from stapo.envs import Observation, StepResult, check_env
from stapo.envs.alfworld.env import AlfworldEnv
from stapo.errors import EnvError, unknown_name


class Counter:
    """Count to three: the smallest environment that keeps the protocol."""

    name = "counter"
    max_steps = 6

    def __init__(self):
        self.value = None
        self.over = False

    @property
    def tasks(self):
        return ["from 0", "from 1"]

    @property
    def splits(self):
        return ["train"]

    def tasks_of(self, split):
        if split != "train":
            raise unknown_name("split", split, self.splits)
        return self.tasks

    def task_type(self, task_id):
        return "counting"

    def reset(self, task_id):
        if task_id not in self.tasks:
            raise unknown_name("task", task_id, self.tasks)
        self.value, self.steps, self.over = int(task_id[-1]), 0, False
        return Observation(f"At {self.value}. Task: reach three.", "reach three", ["up"], f"At {self.value}.")

    def step(self, action):
        if self.value is None or self.over:
            raise EnvError("reset first")
        self.steps += 1
        effect = action == "up"
        self.value += effect
        won = self.value == 3
        truncated = not won and self.steps >= self.max_steps
        self.over = won or truncated
        info = {"truncated": truncated, "effect": effect}
        return StepResult(f"At {self.value}.", ["up"], float(won), self.over, won, info)

    def close(self):
        self.value = None


def test_a_sound_environment_passes_every_check():
    passed = check_env(Counter())
    assert len(passed) == len(set(passed)) == 11
    assert passed[-1] == "closing twice"


def test_the_built_in_environment_passes():
    assert len(check_env(AlfworldEnv(games_per_type=2))) == 12


class Lazy(Counter):
    def step(self, action):
        if self.value is None:
            return StepResult("", None, 0.0, False, False)
        return super().step(action)


class Unsorted(Counter):
    tasks = ("from 1", "from 0")


class Leaky(Counter):
    def reset(self, task_id):
        seen = super().reset(task_id)
        return Observation(seen.text, seen.goal, seen.admissible, seen.text)


class LeakyLater(Counter):
    def step(self, action):
        return replace(super().step(action), blind_text="Remember: reach three.")


class Endless(Counter):
    def step(self, action):
        result = super().step(action)
        self.over = False
        return StepResult(result.text, ["up"], 0.0, result.won, result.won, {})


class Reopened(Counter):
    def step(self, action):
        self.over = False
        return super().step(action)


class Moody(Counter):
    def step(self, action):
        result = super().step(action)
        mood = f"{result.text} {random.random()}"
        return StepResult(mood, ["up"], result.reward, result.done, result.won, result.info)


class Touchy(Counter):
    def step(self, action):
        if len(action) > 1000 or not action.isprintable():
            raise ValueError("not a command")
        return super().step(action)


class Vague(Counter):
    def step(self, action):
        result = super().step(action)
        return StepResult(result.text, ["up", "down"], float("nan"), result.done, 1, result.info)


class Mute(Counter):
    def reset(self, task_id):
        super().reset(task_id)
        return Observation("At 0.", "", None)


class Once(Counter):
    closed = False

    def close(self):
        if self.closed:
            raise OSError("closed already")
        self.closed = True


class Trusting(Counter):
    def tasks_of(self, split):
        return self.tasks

    def reset(self, task_id):
        return super().reset(task_id if task_id in self.tasks else "from 0")


class Broken(Counter):
    @property
    def splits(self):
        raise ZeroDivisionError("no splits")


class Fair:
    def __init__(self, env):
        self.env = env
        self.faults = {"slow": "it could have counted faster"}

    def before(self, action):
        self.value = self.env.value

    def after(self, result):
        return frozenset({"slow"} if self.env.value == self.value else ())


class Judged(Counter):
    def judge(self):
        return Fair(self)


class Meddling(Counter):
    def judge(self):
        judge = Fair(self)
        judge.before = lambda action: setattr(self, "value", self.value + 1)
        judge.after = lambda result: set()
        return judge


class Unexplained(Counter):
    def judge(self):
        judge = Fair(self)
        judge.after = lambda result: {"slwo"}
        return judge


class Talkative(Counter):
    def judge(self):
        judge = Fair(self)
        judge.after = lambda result: "slow"
        return judge


class Nameless(Counter):
    def judge(self):
        judge = Fair(self)
        judge.faults = ["slow"]
        judge.after = lambda result: set()
        return judge


def test_a_judge_is_welcome():
    assert "judging" in check_env(Judged())


@pytest.mark.parametrize(
    "kind, expected",
    [
        (Meddling, "judging: found another episode of 'from 0' while judge() looked on; expected the same"),
        (Unexplained, "judging: found fault 'slwo' that judge().faults does not explain; add it there"),
        (Talkative, "judging: found 'slow' from judge().after(); expected a set of names"),
        (Nameless, "judging: found faults ['slow'] of judge(); expected names with sentences"),
    ],
)
def test_what_is_wrong_with_a_judge(kind, expected):
    with pytest.raises(EnvError) as caught:
        check_env(kind())
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "kind, expected",
    [
        (Lazy, "step before reset raises: found no exception from step() before reset()"),
        (Unsorted, "found tasks out of order; expected them sorted"),
        (LeakyLater, "found the goal inside blind_text of a later step of 'from 0'"),
        (Leaky, "found the goal inside blind_text of 'from 0'"),
        (Endless, "found no end after max_steps = 6 actions; expected done"),
        (Reopened, "found no exception from step() after the end; expected EnvError"),
        (Moody, "found a different episode of 'from 0' for the same actions from step 1 on"),
        (Touchy, "found ValueError from step('\\n\\t'); expected a result"),
        (Vague, "found reward nan; expected a finite number"),
        (Vague, "found won 1; expected True or False"),
        (Vague, "found admissible unsorted or repeated after step()"),
        (Mute, "found goal '' of 'from 0'; expected a text"),
        (Once, "found OSError from the second close(); expected no exception"),
        (Trusting, "found no exception from tasks_of() of an unknown name"),
        (Trusting, "found no exception from reset() of an unknown name"),
        (Broken, "task ids and splits: found ZeroDivisionError: no splits; expected no exception"),
    ],
)
def test_each_violation_is_named(kind, expected):
    with pytest.raises(EnvError) as caught:
        check_env(kind())
    assert expected in str(caught.value)
    assert "environment 'counter' breaks the protocol" in str(caught.value)


class Forgetful(Counter):
    """Says the task in every text and has no blind text; each task has a goal of its own."""

    words = "reach three from {}"

    def reset(self, task_id):
        seen = super().reset(task_id)
        self.goal = self.words.format(("nought", "one")[int(task_id[-1])])
        return replace(seen, text=f"TASK:  {self.goal.upper()}!\n{seen.text}", goal=f"{self.goal}.", blind_text=None)

    def step(self, action):
        out = super().step(action)
        return replace(out, text=f"{out.text} (Task: {self.goal})")


class ForgetfulLater(Forgetful):
    def reset(self, task_id):
        return replace(super().reset(task_id), blind_text="At a number.")


class OneWord(Forgetful):
    words = "{}"


class Hinting(Counter):
    def __init__(self):
        super().__init__()
        self.goal = ""

    def reset(self, task_id):
        super().reset(task_id)
        self.goal = f"count from {task_id[-1]}"
        return Observation("At a number.", self.goal, [f"finish: {self.goal}", "up"])

    def step(self, action):
        return replace(super().step(action), admissible=[f"finish: {self.goal}", "up"])


class Fixed(Hinting):
    """The goals are commands of every task."""

    def reset(self, task_id):
        return replace(super().reset(task_id), admissible=["count from 0", "count from 1", "up"])

    def step(self, action):
        return replace(super().step(action), admissible=["count from 0", "count from 1", "up"])


class Reminding(ForgetfulLater):
    """Says the task again to who writes nonsense, and only then."""

    def step(self, action):
        out = Counter.step(self, action)
        return (
            out if action in ("up", "down", "stay") else replace(out, text=f"No such command. You have to {self.goal}.")
        )


def disguised(goal, told):
    """An environment whose goal and texts differ in what makes no difference to a reader."""

    class Disguised(ForgetfulLater):
        def reset(self, task_id):
            seen = super().reset(task_id)
            self.number = ("nought", "one")[int(task_id[-1])]
            return replace(seen, goal=goal.format(self.number))

        def step(self, action):
            return replace(Counter.step(self, action), text=told.format(self.number))

    return Disguised


DISGUISES = {
    "width": ("reach three from {}", "Ｒｅａｃｈ three from {}"),
    "underscores": ("reach_three_from_{}", "now: reach three from {}"),
    "hyphens": ("reach three from {}", "reach-three-from-{}"),
    "an opening": ("Your task is to: reach three from {}.", "Please reach three from {}!"),
    "no width": ("reach three from {}", "re\u200bach three from {}\u200d"),
    "soft hyphens": ("reach three from {}", "re\u00adach three from {}"),
    "line ends": ("reach three from {}", "reach\nthree\r\nfrom\t{}"),
    "marks": ("reach three from {}", "**reach** 'three' from <{}>"),
}


@pytest.mark.parametrize("goal, told", DISGUISES.values(), ids=DISGUISES)
def test_a_goal_in_disguise_is_found(goal, told):
    with pytest.raises(EnvError, match="the goal is hidden: found the goal of 'from 0' in an observation"):
        check_env(disguised(goal, told)())


@pytest.mark.parametrize("goal, told", DISGUISES.values(), ids=DISGUISES)
def test_a_goal_in_disguise_is_found_in_blind_texts(goal, told):
    class Blind(Counter):
        def reset(self, task_id):
            number = ("nought", "one")[int(task_id[-1])]
            return replace(super().reset(task_id), goal=goal.format(number), blind_text=told.format(number))

    with pytest.raises(EnvError, match="found the goal inside blind_text of 'from 0'"):
        check_env(Blind())


@pytest.mark.parametrize(
    "kind, where",
    [
        (Reminding, "an observation"),
        (Forgetful, "an observation"),
        (ForgetfulLater, "an observation"),
        (OneWord, "an observation"),
        (Hinting, "an offered command"),
    ],
)
def test_a_goal_that_the_blind_prompt_shows_is_named(kind, where):
    with pytest.raises(EnvError) as caught:
        check_env(kind())
    assert f"the goal is hidden: found the goal of 'from 0' in {where}" in str(caught.value)


def test_a_goal_that_every_task_shows_gives_nothing_away():
    assert "the goal is hidden" in check_env(Fixed())


@pytest.mark.parametrize(
    "options", [{"name": "webshop"}, {"name": "search"}, {"name": "search", "protocol": "stepwise"}]
)
def test_the_other_built_in_environments_pass(options):
    assert "the goal is hidden" in check_env(stapo.make(**options, size="tiny"))


def test_all_violations_are_listed_at_once():
    class Worst(Unsorted, Once):
        pass

    with pytest.raises(EnvError) as caught:
        check_env(Worst())
    assert str(caught.value).count("\n- ") >= 2
