"""An environment that raises, exits, hangs or returns garbage costs one episode, and never the run.

1. Whatever goes wrong, that episode is recorded under its boundary, and all others are what they would have been.
2. A fault that passes is cured by a retry, and leaves no trace in the numbers.
3. What training sees after a failure is what the settings ask for; an evaluation counts the episode as lost.
4. Too many failures in a row stop the run, with the last error shown.
5. Ctrl-C is never swallowed, nor a number that is not finite; what is not an `Exception` is a failure like others.
   Demonstrations and preflight fail by the same rules, and settings of the process are put back.
6. Nothing depends on where environments run, or on which of them answers first.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from reliable import ENVIRONMENTS

from fragile_worlds import FRAGILE
from slow import slow_except
from stapo.agent import AgentConfig
from stapo.config.training import SFTConfig
from stapo.envs import make
from stapo.envs.pool import LocalPool
from stapo.envs.registry import ENVIRONMENTS as ENVIRONMENT_REGISTRY
from stapo.envs.worker_pool import build_pool
from stapo.errors import ConfigError, FailureLimitError, NonFiniteError
from stapo.rollout import Boundary, StopReason, drop_failed
from stapo.rollout.collect import Collector
from stapo.rollout.config import RolloutConfig
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.evaluate import EvalProtocol, evaluate, summarize
from stapo.rollout.faults import Attempts
from stapo.rollout.sampler import Sample
from stapo.training.demonstrations import demonstrate
from stapo.training.preflight import require_playable
from toy_world import small_policy
from unruly_world import FAULTS, HANGS, TASKS, UnrulyEnv

ENCODER = PromptEncoder(small_policy().tokenizer)
AGENT = AgentConfig(prompt="compact", response="action", history_length=2, max_prompt_tokens=300, max_response_tokens=8)
STRUCK = (1, 0)
"""Group and member of the episode that says "boom" in its second step."""


class Player:
    """Answers by group, member and step."""

    def __init__(self, say):
        self.say = say

    def sample(self, prompts, streams, temperature):
        return [self.answer(*stream[-3:]) for stream in streams]

    def answer(self, group, member, step):
        ids = [*ENCODER.tokenizer.encode(self.say(group, member, step)), ENCODER.tokenizer.eos_token_id]
        return Sample(ids, [-0.5 - k for k in range(len(ids))], [0.1 + group + member] * len(ids), True)


def sayings(group, member, step):
    return "go" * (group + 1) + "!" * ((member + step) % 3)


def with_boom(group, member, step):
    return "boom" if ((group, member), step) == (STRUCK, 1) else sayings(group, member, step)


def collector(options=None, say=with_boom, player=None, workers=0, deadline=600.0, name="unruly", **settings):
    options = options or {}
    rollout = RolloutConfig(workers=workers, env_deadline=deadline)
    return Collector(
        encoder=ENCODER,
        sampler=player or Player(say),
        agent=AGENT,
        envs=build_pool(name, options, rollout.workers, rollout.env_deadline),
        **{"retries": 0, **settings},
    )


def play(options=None, size=2, tasks=TASKS, first_group=0, **settings):
    """Trajectories, and the failures on the way."""
    c = collector(options, **settings)
    try:
        return c.collect(tasks, size, 1.0, (0, 1), first_group=first_group), c.take_failures()
    finally:
        c.close()


UNDISTURBED, NOTHING = play()


def test_the_undisturbed_run_has_no_failures():
    assert NOTHING == []
    assert {t.stop_reason for t in UNDISTURBED} == {StopReason.WON, StopReason.STEP_LIMIT}
    assert len({tuple(s.action for s in t.steps) for t in UNDISTURBED}) == 6


def others(trajectories):
    return [t for t in trajectories if (t.group, t.member) != STRUCK]


def struck(trajectories):
    return next(t for t in trajectories if (t.group, t.member) == STRUCK)


# -- 1 -----------------------------------------------------------------------------------------------------------------

RAISED = {
    "raise": (Boundary.ENVIRONMENT, "step('boom') raised ValueError: the world broke"),
    "exit": (Boundary.ENVIRONMENT, "step('boom') raised SystemExit: 3"),
    "assert": (Boundary.ENVIRONMENT, "step('boom') raised AssertionError"),
    "retriever": (Boundary.RETRIEVER, "raised RetrieverError: found no retriever at port 1; expected one."),
    "nothing": (Boundary.ENVIRONMENT, "step('boom') returned None, expected a StepResult"),
    "loud": (Boundary.ENVIRONMENT, "returned (an unprintable Loud), expected a StepResult"),
    "wrong_observation": (Boundary.ENVIRONMENT, "expected a StepResult"),
    "no_text": (Boundary.ENVIRONMENT, "returned text None, expected a text"),
    "done_in_words": (Boundary.ENVIRONMENT, "returned done 'yes', expected True or False"),
    "commands_as_text": (Boundary.ENVIRONMENT, "returned admissible 'look', expected a list of texts or None"),
    "commands_as_numbers": (Boundary.ENVIRONMENT, "returned admissible ['look', 1], expected a list"),
    "info_as_list": (Boundary.ENVIRONMENT, "returned info [], expected a dict"),
    "effect_in_words": (Boundary.ENVIRONMENT, "returned info['effect'] 'maybe', expected True or False"),
    "no_reward": (Boundary.REWARD, "returned reward None, expected a number"),
    "reward_in_words": (Boundary.REWARD, "returned reward '1.0', expected a number"),
    "complex_reward": (Boundary.REWARD, "returned reward 1j, expected a number"),
    "huge_reward": (Boundary.REWARD, "a reward that is too large for a number"),
}
IN_WORKERS_ONLY = {
    "os_exit": (Boundary.ENVIRONMENT, "its worker exited with code 3"),
    "kill": (Boundary.ENVIRONMENT, "its worker was killed by SIGKILL"),
    "last_words": (Boundary.ENVIRONMENT, "the last on its standard error: 'out of cheese'"),
    "hang": (Boundary.ENVIRONMENT, "slot 2: step('boom') gave no answer within 3 s"),
    "spin": (Boundary.ENVIRONMENT, "slot 2: step('boom') gave no answer within 3 s"),
    "interrupt": (Boundary.ENVIRONMENT, "raised KeyboardInterrupt"),
}


def test_every_fault_is_tried():
    tried = {*RAISED, *IN_WORKERS_ONLY, "nan", "infinite", "hang_with_a_child"}
    assert tried == set(FAULTS)


CASES = [(0, fault) for fault in RAISED] + [(2, fault) for fault in (RAISED | IN_WORKERS_ONLY)]
# What is raised or returned is judged by the same code in a worker.
ENOUGH = [case for case in CASES if case[0] == 0 or case[1] in {"raise", "retriever", "no_reward", *IN_WORKERS_ONLY}]


@pytest.mark.parametrize("workers, fault", slow_except(CASES, *ENOUGH))
def test_a_step_that_fails_costs_its_episode(workers, fault):
    boundary, error = (RAISED | IN_WORKERS_ONLY)[fault]
    trajectories, failures = play(
        {"fault": fault}, workers=workers, deadline=HANGS if fault in ("hang", "spin") else 600
    )
    assert others(trajectories) == others(UNDISTURBED)
    one, twin = struck(trajectories), struck(UNDISTURBED)
    assert (one.stop_reason, one.won, one.attempts, one.steps) == (StopReason.ERROR, False, 1, twin.steps[:1])
    assert failures == [one.failure]
    assert error in one.failure.error
    assert asdict(replace(one.failure, error="")) == {
        "boundary": boundary,
        "error": "",
        "task_id": TASKS[1],
        "group": 1,
        "member": 0,
        "step": 1,
        "attempt": 1,
        "outcome": "left out",
    }
    assert json.loads(json.dumps(asdict(one.failure)))["boundary"] == boundary.value


RESET_FAULTS = ["raise", "exit", "retriever", "nothing", "loud", "wrong_observation", "no_text"]


@pytest.mark.parametrize(
    "workers, fault",
    slow_except(
        [(w, f) for w in (0, 2) for f in RESET_FAULTS] + [(2, f) for f in ("os_exit", "kill", "hang")],
        *((0, fault) for fault in RESET_FAULTS),
        (2, "raise"),
        (2, "os_exit"),
    ),
)
def test_a_reset_that_fails_costs_its_episode(workers, fault):
    """Groups of one: the second task cannot be reset."""
    trajectories, failures = play(
        {"fault": fault, "call": "reset"}, size=1, workers=workers, deadline=HANGS if fault == "hang" else 600.0
    )
    alone, _ = play(size=1, say=sayings)
    assert [trajectories[0], trajectories[2]] == [alone[0], alone[2]]
    failed = trajectories[1]
    assert (failed.stop_reason, failed.steps, failed.goal, failed.task_type) == (StopReason.ERROR, [], "", "unknown")
    assert failures == [failed.failure]
    assert failed.failure.boundary is (Boundary.RETRIEVER if fault == "retriever" else Boundary.ENVIRONMENT)
    assert failed.failure.step == 0
    assert "reset('unruly/b')" in failed.failure.error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_cannot_be_built_costs_its_episode(workers, tmp_path):
    options = {"fault": "raise", "call": "build", "marks": str(tmp_path), "times": 1}
    trajectories, failures = play(options, workers=workers)
    assert trajectories[1:] == UNDISTURBED[1:]
    assert trajectories[0].failure.error == "building the environment raised ValueError: the world broke"
    assert trajectories[0].task_type == UNDISTURBED[0].task_type
    assert len(failures) == 1


def test_every_environment_has_a_fragile_form():
    assert set(FRAGILE) == set(ENVIRONMENTS)


@pytest.mark.parametrize("workers, fault", slow_except([(0, "raise"), (1, "raise"), (1, "os_exit")], (0, "raise")))
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_in_every_environment_of_this_package(name, workers, fault, tmp_path):
    """One of four episodes breaks its environment; the others end as without."""
    options = dict(ENVIRONMENTS[name]["env"]["options"], broke=str(tmp_path / "broke"), fault=fault)
    tasks = make(name, **ENVIRONMENTS[name]["env"]["options"]).tasks_of("train")[:2]

    def run(say):
        c = collector(options, say=say, workers=workers, name=f"fragile-{name}")
        try:
            return c.collect(tasks, 2, 1.0, (0, 1)), c.take_failures()
        finally:
            c.close()

    def said(trajectories):
        return [[(s.action, s.observation, s.prompt) for s in t.steps] for t in trajectories]

    whole, nothing = run(sayings)
    assert nothing == []
    trajectories, (failure,) = run(with_boom)
    assert failure.boundary is Boundary.ENVIRONMENT
    assert ("exited with code 3" if fault == "os_exit" else "ValueError: the world broke") in failure.error
    assert struck(trajectories).stop_reason is StopReason.ERROR
    assert said(others(trajectories)) == said(others(whole))


def test_long_errors_are_cut_and_lines_dropped():
    class Env(UnrulyEnv):
        def step(self, action):
            raise ValueError("\n\n" + "x" * 5_000 + "\nsecond")

    c = Collector(Env, ENCODER, Player(sayings), AGENT, retries=0)
    c.collect(TASKS[:1], 1, 1.0, (0,))
    (failure,) = c.take_failures()
    assert len(failure.error) <= 500
    assert "\n" not in failure.error
    assert failure.error.startswith("step('go') raised ValueError")


class Broken(Player):
    """Answers the struck episode with something that is not a response."""

    def __init__(self, spoil):
        super().__init__(with_boom)
        self.spoil = spoil

    def answer(self, group, member, step):
        sample = super().answer(group, member, step)
        return self.spoil(sample) if ((group, member), step) == (STRUCK, 1) else sample


@pytest.mark.parametrize(
    "spoil, boundary, error",
    [
        (lambda s: replace(s, ids=[], logprobs=[], entropies=[]), "model", "answered with no tokens"),
        (lambda s: replace(s, logprobs=s.logprobs[:-1]), "model", "5 tokens, 4 log-probabilities and 5 entropies"),
        (lambda s: replace(s, entropies=[*s.entropies, 0.0]), "model", "expected one of each per token"),
        (lambda s: replace(s, ids=None), "model", "expected a Sample"),
        (lambda s: None, "model", "answered with None"),
        (lambda s: replace(s, ids=["word"] * len(s.ids)), "parser", "reading the response"),
        (lambda s: replace(s, ids=[-5] * len(s.ids)), "parser", "OverflowError"),
    ],
)
def test_a_response_that_is_none_costs_its_episode(spoil, boundary, error):
    trajectories, failures = play(player=Broken(spoil))
    assert others(trajectories) == others(UNDISTURBED)
    assert struck(trajectories).steps == struck(UNDISTURBED).steps[:1]
    assert [f.boundary for f in failures] == [boundary]
    assert error in failures[0].error


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "workers, fault",
    slow_except(
        [(w, f) for w in (0, 2) for f in ("raise", "no_reward")] + [(2, "os_exit"), (2, "hang")],
        (0, "raise"),
        (2, "os_exit"),
    ),
)
def test_a_fault_that_passes_is_cured_by_a_retry(workers, fault, tmp_path):
    options = {"fault": fault, "marks": str(tmp_path), "times": 1}
    trajectories, failures = play(options, workers=workers, deadline=HANGS if fault == "hang" else 600.0, retries=1)
    assert struck(trajectories).attempts == 2
    struck(trajectories).attempts = 1
    assert trajectories == UNDISTURBED
    assert [(f.attempt, f.outcome, f.step) for f in failures] == [(1, "retried", 1)]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_are_used_up(retries, tmp_path):
    trajectories, failures = play({"fault": "raise", "marks": str(tmp_path)}, retries=retries)
    assert others(trajectories) == others(UNDISTURBED)
    assert [f.attempt for f in failures] == list(range(1, retries + 2))
    assert [f.outcome for f in failures] == ["retried"] * retries + ["left out"]
    assert struck(trajectories).attempts == retries + 1
    assert len(list(tmp_path.iterdir())) == retries + 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reset_is_retried_too(workers, tmp_path):
    options = {"fault": "raise", "call": "reset", "marks": str(tmp_path), "times": 1}
    trajectories, failures = play(options, size=1, workers=workers, retries=1, say=sayings)
    assert [t.attempts for t in trajectories] == [1, 2, 1]
    assert [f.outcome for f in failures] == ["retried"]
    trajectories[1].attempts = 1
    assert trajectories == play(size=1, say=sayings)[0]


def test_failures_are_handed_out_once():
    c = collector({"fault": "raise"})
    c.collect(TASKS, 2, 1.0, (0, 1))
    assert len(c.take_failures()) == 1
    assert c.take_failures() == []


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_groups_shrink_or_are_dropped():
    trajectories, _ = play({"fault": "raise"})
    kept, failures = drop_failed(trajectories, "shrink")
    assert [(t.group, t.member) for t in kept] == [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
    assert failures == [struck(trajectories).failure]
    kept, failures = drop_failed(trajectories, "drop")
    assert [(t.group, t.member) for t in kept] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert failures == [struck(trajectories).failure]
    for policy in ("shrink", "drop"):
        assert drop_failed(UNDISTURBED, policy) == (UNDISTURBED, [])
    with pytest.raises(ValueError, match="on_failure is 'keep', expected one of shrink, drop"):
        drop_failed(trajectories, "keep")


def test_an_evaluation_counts_failures_as_lost():
    say = lambda g, m, s: "boom" if g == 1 else "go"  # noqa: E731
    for fault, errors, success in (("", 0, 1.0), ("raise", 2, 4 / 6)):
        c = collector({"fault": fault}, say=say)
        found = summarize(evaluate(c, TASKS, EvalProtocol("train", 0, 1.0, (0, 1))))
        assert found["errors"] == errors
        assert found["success"] == pytest.approx(success)
        assert found["episodes"] == 6


@pytest.mark.parametrize(
    "field, value", [("workers", -1), ("retries", -1), ("max_failures", 0), ("env_deadline", 0.0), ("on_failure", "x")]
)
def test_settings_are_checked(field, value):
    with pytest.raises(ConfigError, match=rf"rollout.{field} is '?{value}'?, expected"):
        RolloutConfig(**{field: value})


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_too_many_failures_in_a_row_stop_the_run():
    c = collector({"fault": "raise"}, say=lambda g, m, s: "boom", max_failures=5, retries=1)
    with pytest.raises(FailureLimitError) as caught:
        c.collect(TASKS, 2, 1.0, (0, 1))
    said = str(caught.value)
    assert said.startswith("5 episodes in a row failed for reasons that are not the policy's; expected fewer than 5.")
    assert (
        "task 'unruly/c', group 2, member 0, step 0, attempt 2, boundary environment: step('boom') raised ValueError: "
        "the world broke\nand a second line."
    ) in said
    # Where to look: the environment's own stack trace.
    assert "unruly_world.py" in said
    assert len(c.take_failures()) == 6 + 5


def test_a_dead_worker_s_last_words_are_shown():
    with pytest.raises(FailureLimitError, match=r"(?s)exited with code 5.*out of cheese"):
        play({"fault": "last_words"}, say=lambda g, m, s: "boom", workers=1, max_failures=1)


def test_an_episode_that_ends_normally_starts_the_count_anew():
    """Two of three groups fail in the first step; the third ends later."""
    say = lambda g, m, s: "boom" if g < 2 else "go"  # noqa: E731
    c = collector({"fault": "raise"}, say=say, max_failures=5)
    for _ in range(3):
        c.collect(TASKS, 2, 1.0, (0, 1))
        assert c.attempts.in_a_row == 0
    c.sampler.say = lambda g, m, s: "boom"
    c.collect(TASKS[:2], 2, 1.0, (0, 1))
    assert c.attempts.in_a_row == 4
    resumed = collector({"fault": "raise"}, say=c.sampler.say, max_failures=5)
    resumed.attempts.in_a_row = c.attempts.in_a_row
    with pytest.raises(FailureLimitError, match="5 episodes in a row"):
        resumed.collect(TASKS, 2, 1.0, (0, 1))


# -- 5 -----------------------------------------------------------------------------------------------------------------


class Odd(BaseException):
    """No `Exception`."""


def raising_env(error, call):
    def raising(self, *_):
        raise error

    return type("Env", (UnrulyEnv,), {call: raising})


@pytest.mark.parametrize("call", ["step", "reset", "task_type", "__init__"])
def test_ctrl_c_passes_through_an_environment(call):
    with pytest.raises(KeyboardInterrupt):
        Collector(raising_env(KeyboardInterrupt, call), ENCODER, Player(sayings), AGENT).collect(TASKS, 2, 1.0, (0, 1))


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, SystemExit, Odd])
@pytest.mark.parametrize("call", ["step", "reset", "task_type", "__init__"])
def test_everything_else_is_a_failure_of_the_environment(error, call):
    c = Collector(raising_env(error, call), ENCODER, Player(sayings), AGENT, retries=0)
    (episode,) = c.collect(TASKS[:1], 1, 1.0, (0, 1))
    assert episode.stop_reason is StopReason.ERROR
    assert f"raised {error.__name__}" in episode.failure.error


DEMOS = SFTConfig(steps=1, episodes=6)


class Shown(UnrulyEnv):
    """Its demonstrator says the action that breaks it, in the second task."""

    name = "shown"

    def reset(self, task_id):
        self.task = task_id
        return super().reset(task_id)

    def demonstrator(self, rng):
        env = self

        class Expert:
            def action(self):
                return "boom" if env.task == TASKS[1] else "say"

            def played(self, action, effect):
                pass

        return Expert()


ENVIRONMENT_REGISTRY.register("shown", Shown)


@pytest.mark.parametrize(
    "workers, fault", slow_except([(0, "raise"), (0, "exit"), (1, "raise"), (1, "os_exit")], (0, "raise"), (0, "exit"))
)
def test_a_demonstration_that_fails_is_left_out(workers, fault):
    pool = build_pool("shown", {"fault": fault}, workers, RolloutConfig().env_deadline)
    attempts = Attempts(retries=1, limit=4)
    try:
        demos = demonstrate(pool, AGENT, DEMOS, "train", "goal_history", 0, attempts=attempts)
    finally:
        pool.close()
    assert demos
    assert not any(TASKS[1] in demo.goal for demo in demos)
    assert {f.task_id for f in attempts.failures} == {TASKS[1]}
    assert [f.outcome for f in attempts.failures][:2] == ["retried", "left out"]


def test_demonstrations_that_fail_in_a_row_are_one_error():
    pool = LocalPool(type("Env", (Shown,), {"reset": raising_env(ValueError("no"), "reset").reset}))
    with pytest.raises(FailureLimitError, match="3 episodes in a row failed"):
        demonstrate(pool, AGENT, DEMOS, "train", "goal_history", 0, attempts=Attempts(0, 3))


def test_games_that_break_their_environment_are_counted_in_preflight():
    attempts = Attempts(0, 4)
    require_playable(LocalPool(raising_env(ValueError("no"), "reset")), TASKS, attempts=attempts)
    assert [f.task_id for f in attempts.failures] == TASKS
    with pytest.raises(FailureLimitError, match="3 episodes in a row failed"):
        require_playable(LocalPool(raising_env(ValueError("no"), "reset")), TASKS, attempts=Attempts(0, 3))


class Meddler(UnrulyEnv):
    """Changes settings of the whole process."""

    def step(self, action):
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
        np.seterr(all="raise")
        return super().step(action)


def test_settings_of_the_process_are_put_back_and_said_once(caplog):
    def now():
        return torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), np.geterr()

    before = now()
    c = Collector(LocalPool(Meddler, "meddler"), ENCODER, Player(with_boom), AGENT)
    assert c.collect(TASKS, 2, 1.0, (0, 1)) == UNDISTURBED
    assert now() == before
    said = [record.getMessage() for record in caplog.records if "environment 'meddler'" in record.getMessage()]
    assert len(said) == 4
    assert sum("torch's default dtype" in line for line in said) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, NonFiniteError, ZeroDivisionError])
def test_what_the_sampler_raises_passes_through(error):
    class Raising(Player):
        def answer(self, group, member, step):
            raise error

    with pytest.raises(error):
        play(player=Raising(sayings))


def test_ctrl_c_passes_while_a_worker_is_awaited_and_the_pool_lives_on(tmp_path):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    def strike():
        """Once an environment hangs."""
        while not list(tmp_path.iterdir()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGALRM)

    c = collector({"fault": "hang", "marks": str(tmp_path), "times": 1}, workers=2)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        threading.Thread(target=strike, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            c.collect(TASKS, 2, 1.0, (0, 1))
        # The late answer must not be taken for one to the next question.
        assert c.collect(TASKS, 2, 1.0, (0, 1)) == UNDISTURBED
    finally:
        signal.signal(signal.SIGALRM, before)
        c.close()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault, test", [("nan", math.isnan), ("infinite", math.isinf)])
def test_rewards_that_are_not_finite_reach_the_trainer(workers, fault, test):
    trajectories, failures = play({"fault": fault}, workers=workers)
    assert failures == []
    assert test(struck(trajectories).steps[1].reward)


# -- 6 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", slow_except([0, 1, 2, 3], 0, 2))
def test_neither_workers_nor_the_order_of_answers_matter(workers):
    for _ in range(2):
        assert play({"delay": 0.02}, workers=workers) == (UNDISTURBED, [])


def test_failures_do_not_depend_on_the_number_of_workers():
    expected = play({"fault": "raise"}, retries=1)
    for workers in (1, 2, 3):
        assert play({"fault": "raise", "delay": 0.01}, retries=1, workers=workers) == expected


def test_a_pool_is_used_again_after_failures():
    c = collector({"fault": "os_exit"}, workers=2)
    for _ in range(2):
        trajectories = c.collect(TASKS, 2, 1.0, (0, 1))
        assert others(trajectories) == others(UNDISTURBED)
        c.sampler.say = sayings
        assert not any(t.failure for t in c.collect(TASKS, 2, 1.0, (0, 1)))
        c.sampler.say = with_boom
    c.close()
