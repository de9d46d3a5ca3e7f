"""The demonstrator that looks for things: it knows no more than what it has seen."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import stapo
from stapo.agent import parse_response
from stapo.config import load_config
from stapo.training.demonstrations import demonstrate
from stapo.training.factories import RunEnv


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


def places(commands):
    return [c.removeprefix("go to ") for c in commands if c.startswith("go to ")]


def test_one_who_forgets_looks_into_places_again():
    """With all its memory it never looks twice before it has found the thing; with none of it it does."""

    def again(memory):
        env = stapo.make(
            "alfworld", scenes="search", max_steps=60, task_types=["pick_and_place_simple"], demonstrator_memory=memory
        )
        repeats = 0
        for task in list(env.tasks_of("train"))[::20]:
            commands, _ = played(env, task, 2)
            search = next((i for i, c in enumerate(commands) if c.startswith("take ")), len(commands))
            looked = places(commands[:search])
            repeats += len(looked) - len(set(looked))
        return repeats

    # A place where it has just found the thing is entered once: only the way back to it would repeat.
    assert again(None) == 0
    assert again(3) > 0
    assert again(1) > again(3)


def test_habits_prefer_what_is_offered_first():
    """With a habit of one half, the first place offered is chosen half of the time, the second a quarter."""

    def first_choices(habit):
        env = stapo.make("alfworld", scenes="search", max_steps=60, demonstrator_habit=habit)
        env.reset(env.tasks_of("train")[0])
        offered = [c for c in env.state.admissible() if c.startswith("go to ")]
        chosen = [env.demonstrator(random.Random(seed)).action() for seed in range(400)]
        return [chosen.count(c) / len(chosen) for c in offered]

    even, habitual = first_choices(0.0), first_choices(0.5)
    assert max(even) < 0.2
    assert abs(habitual[0] - 0.5) < 0.08
    assert abs(habitual[1] - 0.25) < 0.07


def test_one_that_forgets_says_so_and_goes_back_and_else_goes_through_the_places_in_order():
    """Lost: back to one of three places that it has looked into, all equally likely. Not lost: the next of the list."""
    env = stapo.make("alfworld", scenes="search", max_steps=60, demonstrator_forgets=0.5)
    lost, orderly, back = 0, 0, []
    for task in list(env.tasks_of("train"))[::20]:
        env.reset(task)
        player, order = env.demonstrator(random.Random(task)), []
        while (action := player.action()) is not None:
            assert (action, player.thought()) == (player.action(), player.thought())
            places = [c for c in env.state.admissible() if c.startswith("go to ")]
            again = [place for place in order if place != player.here]
            if "I forgot where I looked" in player.thought():
                lost += 1
                maybe = player.thought().split("Maybe ")[1].removesuffix(".").split(" or ")
                assert len(set(maybe)) == len(maybe) == min(3, len(again))
                assert {action[6:]} <= set(maybe) <= set(again)
                assert len(again) >= 2
                back.append(again.index(action[6:]) / (len(again) - 1))
            elif player.thought().startswith("I need") and action in places:
                orderly += len(again) >= 2
                assert action == next(c for c in places if c[6:] not in order)
                assert player.thought().endswith(f"I looked up to {order[-1]}." if order else "nowhere yet.")
            out = env.step(action)
            player.played(action, out.info["effect"])
            order += [place for place in player.looked if place not in order]
            if out.done:
                break
    assert lost > 100
    assert 0.4 < lost / (lost + orderly) < 0.6
    assert 0.4 < sum(back) / len(back) < 0.6


def test_its_thoughts_name_the_thing_and_no_place_that_it_has_not_seen():
    """'I need the mug. I looked in desk 1.': what it wants and remembers. A hidden place is never given away."""
    env = stapo.make("alfworld", scenes="search", max_steps=60, demonstrator_memory=1)
    said = set()
    for task in list(env.tasks_of("train"))[::60]:
        told = env.reset(task).text
        searcher = env.demonstrator(random.Random(1))
        while (action := searcher.action()) is not None:
            thought = searcher.thought()
            assert thought == searcher.thought()
            for name in re.findall(r"\b[a-z]+ \d+", thought):
                assert name in told, (task, thought)
            said.add(" ".join(thought.split()[:2]))
            out = env.step(action)
            searcher.played(action, out.info["effect"])
            told += out.text
            if out.done:
                break
    assert {"I need", "I have"} <= said


def test_a_response_with_a_thought_is_demonstrated_with_it():
    config = load_config("smollm2/alfworld-tiny-think")
    env = RunEnv(config)
    try:
        demos = demonstrate(env.pool, config.agent, replace(config.sft, episodes=4), "train", "goal_history", 0)
    finally:
        env.close()
    thoughts = [parse_response(demo.action, "think_action").thought for demo in demos]
    assert thoughts[0].startswith(("I need the ", "The ")), thoughts[0]
    assert all(parse_response(demo.action, "think_action").valid for demo in demos)
    later = demos[1].prompt.turns
    assert later[-1].said == demos[0].action, "the conversation holds the response as it was demonstrated"
