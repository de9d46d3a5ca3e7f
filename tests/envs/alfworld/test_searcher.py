"""The demonstrator that looks for things: it knows no more than what it has seen."""

from __future__ import annotations

import random

import stapo


def played(env, task, seed):
    """Let the searcher play one task; returns its commands and the last result."""
    env.reset(task)
    searcher = env.demonstrator(random.Random(seed))
    commands, out = [], None
    while (action := searcher.action()) is not None:
        out = env.step(action)
        searcher.played(action, out.info["effect"])
        commands.append(action)
        if out.done:
            break
    return commands, out


def test_wins_and_never_beats_the_expert():
    env = stapo.make("alfworld", scenes="tiny", max_steps=30)
    longer = 0
    for task in list(env.tasks_of("heldout"))[::40]:
        env.reset(task)
        best = len(env.expert_plan())
        commands, out = played(env, task, 3)
        assert out.won, task
        assert len(commands) >= best
        longer += len(commands) > best
    assert longer > 10, "a player that has to look must often need more steps than one that knows"


def test_looks_before_it_takes():
    """It takes or uses a thing only where it has been told that the thing is there."""
    env = stapo.make("alfworld", scenes="search", max_steps=60)
    for task in list(env.tasks_of("train"))[::60]:
        env.reset(task)
        searcher = env.demonstrator(random.Random(1))
        told = ""
        while (action := searcher.action()) is not None:
            if action.startswith("take "):
                assert action.split(" from ")[0].removeprefix("take ") in told, (task, action)
            out = env.step(action)
            searcher.played(action, out.info["effect"])
            told += out.text
            if out.done:
                break


def test_order_of_looking_depends_on_the_seed_alone():
    env = stapo.make("alfworld", scenes="search", max_steps=60)
    task = env.tasks_of("train")[0]
    assert played(env, task, 5)[0] == played(env, task, 5)[0]
    assert len({tuple(played(env, task, seed)[0]) for seed in range(8)}) > 1
