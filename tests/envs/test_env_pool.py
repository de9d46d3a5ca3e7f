"""Pools of environments, in this process and in workers.

1. Answers come in the order of the requests, whatever happens in between.
2. Both pools give the same.
3. A worker that hangs or dies costs the slot to blame; the other slots know that they are lost.
4. What crosses the pipe arrives as it was sent.
5. State that an environment carries from one episode to the next can be taken and given back.
6. What cannot work is said at once.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from slow import slow_except
from stapo.envs import ENVIRONMENTS
from stapo.envs.guard import EnvFailure, EpisodeLost, Started
from stapo.envs.pool import LocalPool
from stapo.envs.protocol import StepResult
from stapo.envs.registry import build
from stapo.envs.wire import dump, load
from stapo.envs.worker_pool import WorkerPool
from stapo.errors import ConfigError, EnvError, GameFileError, UnknownNameError
from unruly_world import HANGS, TASKS, UnrulyEnv, running


def pool_of(workers, name="unruly", deadline=600.0, slots=6, **options):
    pool = WorkerPool(name, options, workers, deadline) if workers else LocalPool(partial(build, name, options))
    pool.grow(slots)
    return closing(pool)


def begin(pool, slots=range(6)):
    outs = pool.reset([(slot, TASKS[slot % 3]) for slot in slots])
    assert all(isinstance(out, Started) for out in outs), outs
    return outs


# -- 1 and 2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", slow_except([0, 1, 2, 4], 0, 2))
def test_answers_come_in_the_order_of_the_requests(workers):
    with pool_of(workers, delay=0.01) as pool:
        outs = begin(pool, [4, 1, 5, 0])
        assert [(o.observation.text, o.task_type) for o in outs] == [
            (f"A judge of {TASKS[slot % 3]}.", "odd" if slot % 3 == 1 else "even") for slot in (4, 1, 5, 0)
        ]
        for turn in range(3):
            slots = [0, 5, 4, 1] if turn % 2 else [1, 4, 0, 5]
            outs = pool.step([(slot, f"say {slot}") for slot in slots])
            assert [o.text for o in outs] == [f"It heard say {slot}." for slot in slots]
        assert all(o.done for o in outs)
        assert pool.step([]) == pool.reset([]) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_slot_that_was_not_reset_has_no_episode(workers):
    with pool_of(workers) as pool:
        assert [type(o) for o in pool.step([(0, "hi")])] == [EpisodeLost]
        begin(pool)
        pool.discard(3)
        assert [type(o) for o in pool.step([(2, "hi"), (3, "hi"), (4, "hi")])] == [StepResult, EpisodeLost, StepResult]
        begin(pool, [3])
        assert [type(o) for o in pool.step([(3, "hi")])] == [StepResult]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_discarded_environment_is_closed_and_replaced(workers, tmp_path):
    with pool_of(workers, "carrying", fault="nothing", call="close", marks=str(tmp_path)) as pool:
        first = [o.observation.text for o in pool.reset([(0, TASKS[0]), (1, TASKS[0])])]
        pool.discard(0)
        second = [o.observation.text for o in pool.reset([(0, TASKS[0]), (1, TASKS[0])])]
        assert second[0] == first[0]
        assert second[1] != first[1]
        assert len(list(tmp_path.iterdir())) == 1
        pool.discard(1)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_closed_pool_can_be_closed_and_used_again(workers):
    with pool_of(workers) as pool:
        for _ in range(2):
            pool.grow(6)
            first = begin(pool)
            pool.close()
            pool.close()
        pool.grow(6)
        assert begin(pool) == first


@pytest.mark.parametrize("workers", [0, 1])
def test_trouble_in_closing_is_nobodys(workers):
    with pool_of(workers, fault="exit", call="close") as pool:
        begin(pool)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unknown_task_is_trouble_of_its_episode(workers):
    with pool_of(workers) as pool:
        out, fine = pool.reset([(0, "nowhere"), (1, TASKS[1])])
        assert isinstance(fine, Started)
        assert out.boundary == "environment"
        assert out.error.startswith("reset('nowhere') raised UnknownNameError: unknown task 'nowhere'")


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_the_slot_whose_answer_was_due_is_to_blame():
    """Slots 0, 2 and 4 share a worker: 0 has answered, 2 hangs, 4 was not asked yet."""
    with pool_of(2, deadline=HANGS, fault="hang") as pool:
        begin(pool)
        outs = pool.step([(slot, "boom" if slot == 2 else "hi") for slot in range(6)])
        assert [type(o) for o in outs] == [StepResult, StepResult, EnvFailure, StepResult, EpisodeLost, StepResult]
        assert outs[2].error == (
            "environment 'unruly', slot 2: step('boom') gave no answer within 3 s (rollout.env_deadline)"
        )
        # What slot 0 had begun is gone with the worker, though its last answer came.
        assert [type(o) for o in pool.step([(s, "hi") for s in range(6) if s != 2])] == [
            EpisodeLost,
            StepResult,
            StepResult,
            EpisodeLost,
            StepResult,
        ]
        begin(pool, [0, 2, 4])
        assert [type(o) for o in pool.step([(s, "hi") for s in (0, 2, 4)])] == [StepResult] * 3


def test_the_deadline_is_one_call_long():
    """Forty calls of up to 0.3 s each go through one worker that has 3 s for each."""
    with pool_of(1, deadline=HANGS, delay=0.3, slots=40) as pool:
        started = time.monotonic()
        begin(pool, range(40))
        assert time.monotonic() - started > HANGS


DEATHS = [
    ("os_exit", "got no answer: its worker exited with code 3"),
    ("kill", "got no answer: its worker was killed by SIGKILL"),
    ("last_words", "its worker exited with code 5; the last on its standard error: 'out of cheese'"),
]


@pytest.mark.parametrize("fault, said", slow_except(DEATHS, *DEATHS[1:]))
def test_a_dead_worker_says_how_it_ended(fault, said):
    with pool_of(2, fault=fault) as pool:
        begin(pool)
        outs = pool.step([(slot, "boom" if slot == 3 else "hi") for slot in range(6)])
        assert [type(o) for o in outs] == [StepResult] * 3 + [EnvFailure, StepResult, EpisodeLost]
        assert "environment 'unruly', slot 3: step('boom') " in outs[3].error
        assert outs[3].error.endswith(said)


def test_a_worker_that_was_killed_between_two_batches_is_replaced():
    with pool_of(2) as pool:
        begin(pool)
        os.kill(pool._workers[1].pid, signal.SIGKILL)
        outs = pool.step([(slot, "hi") for slot in range(6)])
        assert [type(o) for o in outs] == [StepResult, EnvFailure, StepResult, EpisodeLost, StepResult, EpisodeLost]
        begin(pool)


def test_what_a_hanging_environment_started_goes_with_it():
    with pool_of(1, deadline=HANGS, fault="hang_with_a_child") as pool:
        begin(pool)
        assert isinstance(pool.step([(0, "boom")])[0], EnvFailure)
        assert running("left behind by unruly_world") == []


def test_ctrl_c_is_not_the_workers_business():
    with pool_of(2) as pool:
        pool.reset([(0, TASKS[0])])
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pool._workers[0].pid, number)
        time.sleep(0.1)
        assert isinstance(pool.step([(0, "hi")])[0], StepResult)


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_texts_and_facts_arrive_as_they_were_sent(workers, monkeypatch, tmp_path):
    if not workers:
        # A worker's environment reads from nothing; here that would be the terminal.
        monkeypatch.setattr("sys.stdin", (tmp_path / "nothing").open("w+"))
    with pool_of(workers, "odd") as pool:
        begin(pool)
        said = "\ud83d\ude00 é\u2028\r\n\udfff"
        heard, odd, long, huge = pool.step([(0, said), (1, "surrogates"), (2, "long"), (3, "y" * 2_000_000)])
        assert heard.text == said + "|"
        assert odd.text == "\ud83d\ude00 \ud800\n\x00"
        assert (len(long.text), len(huge.text)) == (300_000, 2_000_001)
        assert (heard.reward, heard.done, heard.info["effect"]) == (0.25, False, True)
        assert [type(x) for x in (heard.reward, heard.done, heard.info["effect"])] == [float, bool, bool]
    if workers:
        info = heard.info
        assert [info["n"], info["x"], info["b"], info["o"], info["1"]] == [3, 0.5, True, "<class 'object'>", [1, 2]]
        json.dumps(info)


def test_many_long_requests_do_not_jam():
    """Far more than pipes hold, both ways, through one worker."""
    with pool_of(1, slots=40) as pool:
        begin(pool, range(40))
        outs = pool.step([(slot, "z" * 200_000) for slot in range(40)])
        assert {len(o.text) for o in outs} == {200_010}


def test_numbers_survive_the_pipe():
    values = [math.nan, math.inf, -math.inf, -0.0, 0.1, 1e-320, 2**70]
    assert repr(load(dump(values))) == repr(values)


# -- 5 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers, later_workers", slow_except(product([0, 2], [0, 1, 3]), (0, 1), (2, 0), (2, 3)))
def test_carried_state_travels(workers, later_workers):
    def texts(pool):
        return [o.observation.text for o in pool.reset([(slot, TASKS[0]) for slot in (0, 1, 3)])]

    with pool_of(workers, "carrying") as pool:
        assert pool.state() == [None] * 6
        texts(pool)
        pool.reset([(1, TASKS[0])])
        state = json.loads(json.dumps(pool.state()))
        assert [s is None for s in state] == [False, False, True, False, True, True]
        expected = texts(pool)
    with pool_of(later_workers, "carrying", slots=0) as pool:
        pool.restore(state)
        assert json.loads(json.dumps(pool.state())) == state
        assert texts(pool) == expected
    with pool_of(later_workers, "carrying") as pool:
        assert texts(pool) != expected


@pytest.mark.parametrize("workers", [0, 1])
def test_environments_without_state_have_none(workers):
    with pool_of(workers) as pool:
        begin(pool)
        assert pool.state() == [None] * 6
        pool.restore([None] * 6)
        with pytest.raises(EnvError, match="slot 2 could not travel: load_state_dict"):
            pool.restore([None, None, {}])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("broken", ["save", "load"])
def test_state_that_cannot_travel_is_an_error(workers, broken):
    with pool_of(workers, "carrying", broken=broken) as pool:
        pool.reset([(0, TASKS[0])])
        with pytest.raises(EnvError, match=r"slot 0 could not travel: .* raised ValueError: cannot"):
            pool.restore(pool.state())


@pytest.mark.parametrize("broken, said", [("object", "not JSON serializable"), ("hang", "no answer within 3 s")])
def test_state_that_a_worker_cannot_hand_over_is_an_error(broken, said):
    with pool_of(1, "carrying", deadline=HANGS, broken=broken) as pool:
        pool.reset([(0, TASKS[0])])
        with pytest.raises(EnvError, match=said):
            pool.state()


# -- 6 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_settings_that_cannot_work_are_said_at_once(workers):
    with pool_of(workers, settings=True) as pool, pytest.raises(ConfigError, match="found settings, expected none"):
        begin(pool)
    with pool_of(workers, "alfworld", games="/nowhere") as pool, pytest.raises(GameFileError, match="nowhere"):
        begin(pool)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_cannot_be_built_is_trouble(workers):
    with pool_of(workers, fault="raise", call="build") as pool:
        outs = pool.reset([(0, TASKS[0]), (1, TASKS[0])])
        assert [o.error for o in outs] == [
            "building the environment raised ValueError: the world broke\nand a second line"
        ] * 2


def test_environments_that_cannot_go_to_a_worker_are_refused():
    class Here(UnrulyEnv):
        name = "here"

    try:
        ENVIRONMENTS.register("here", Here)
        with pytest.raises(ConfigError, match=r"another process cannot import.*rollout.workers to 0"):
            WorkerPool("here", {}, 1, 1.0)
    finally:
        del ENVIRONMENTS._objects["here"]
    with pytest.raises(UnknownNameError, match="unknown environment 'unrly'"):
        WorkerPool("unrly", {}, 1, 1.0)
    with pytest.raises(ConfigError, match="cannot be handed to a worker"):
        WorkerPool("unruly", {"marks": object()}, 1, 1.0)
    with pytest.raises(ConfigError, match="workers for environment 'unruly' is 0, expected a whole number of 1"):
        WorkerPool("unruly", {}, 0, 1.0)
    with closing(WorkerPool("unruly", {"marks": Path("x")}, 1, 1.0)) as pool:
        assert pool._workers[0].setup["options"] == {"marks": "x"}


def test_a_worker_that_cannot_import_its_environment_says_so():
    with pool_of(1) as pool:
        pool._workers[0].setup["target"] = "no_such_module:Env"
        with pytest.raises(ConfigError, match="importing 'no_such_module:Env' raised ModuleNotFoundError"):
            begin(pool)


def test_starting_has_a_deadline_of_its_own():
    with closing(WorkerPool("unruly", {}, 1, deadline=1e-4, start_deadline=1e-3)) as pool:
        pool.grow(2)
        first, second = pool.reset([(0, TASKS[0]), (1, TASKS[0])])
        assert "waited in vain for its worker to start and to import the environment within 0.001 s" in first.error
        assert isinstance(second, EpisodeLost)


def test_workers_start_only_when_needed_and_without_torch():
    with pool_of(3) as pool:
        assert [w.process for w in pool._workers] == [None] * 3
        pool.reset([(1, TASKS[0])])
        assert [w.process is None for w in pool._workers] == [True, False, True]
    code = "import sys, stapo.envs.worker; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0


def test_results_cross_the_wire_whole():
    from stapo.envs import StepResult
    from stapo.envs.wire import dump, load, pack, unpack

    result = StepResult("seen", ["go"], 0.5, True, False, {"task_score": 0.25, "truncated": False}, "blind")
    assert unpack(load(dump(pack(result)))) == result


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan"), "much"])
def test_a_task_score_is_a_number_from_0_to_1(score):
    from stapo.envs import StepResult
    from stapo.envs.guard import EnvFailure, advance

    class Env:
        def step(self, action):
            return StepResult("seen", None, 0.0, True, False, {"task_score": score})

    found = advance(Env(), "x")
    assert isinstance(found, EnvFailure)
    assert "task_score" in found.error
