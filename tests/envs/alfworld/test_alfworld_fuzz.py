"""Damaged files and arbitrary model text never cause anything but the documented errors."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_games import kitchen, look_at, put_two, record

from stapo.envs.alfworld.compact import CompactGames
from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.expert import shortest_plan
from stapo.envs.alfworld.game import Game
from stapo.envs.alfworld.goals import compile_goal
from stapo.envs.alfworld.text import GRAMMARS
from stapo.envs.alfworld.world import compile_world
from stapo.errors import GameFileError

PROBLEMS = [
    kitchen().game().pddl_problem,
    kitchen(goal=put_two("mug", "drawer")).game().pddl_problem,
    kitchen(goal=look_at("mug", "desklamp")).at("shelf 1", 7, "desklamp 1").game().pddl_problem,
]
TOKENS = sorted({token for text in PROBLEMS for token in re.findall(r"[()]|[^\s()]+", text)})


def play(problem):
    """Compile, plan and play; whether the problem was accepted."""
    game = Game("train/fuzz", "train", "pick_and_place_simple", "do it.", problem)
    try:
        world = compile_world(game)
        goal = compile_goal(world)
    except GameFileError:
        return False
    state = State(world, GRAMMARS["move"])
    plan = shortest_plan(state, goal)
    for command in plan or []:
        assert command in state.admissible()
        state.step(command)
    assert goal.holds(state) == (plan is not None)
    return True


def test_the_undamaged_problems_are_sound():
    assert all(map(play, PROBLEMS))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PROBLEMS), st.data())
def test_a_problem_with_a_piece_missing(problem, data):
    start = data.draw(st.integers(0, len(problem)))
    end = data.draw(st.integers(start, min(len(problem), start + 400)))
    assert isinstance(play(problem[:start] + problem[end:]), bool)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PROBLEMS), st.data())
def test_a_problem_with_tokens_replaced(problem, data):
    tokens = re.findall(r"[()]|[^\s()]+", problem)
    goal = tokens.index(":goal")
    for _ in range(data.draw(st.integers(1, 4))):
        low = data.draw(st.sampled_from([0, goal]))
        tokens[data.draw(st.integers(low, len(tokens) - 1))] = data.draw(st.sampled_from(TOKENS))
    assert isinstance(play(" ".join(tokens)), bool)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_line(tmp_path_factory, data):
    line = json.dumps(record(kitchen().game("train/1"))).encode()
    cut = data.draw(st.integers(0, len(line)))
    junk = data.draw(st.binary(max_size=20))
    path = tmp_path_factory.mktemp("fuzz") / "games.jsonl"
    path.write_bytes(line[:cut] + junk + line[cut + len(junk) :])
    problem = ""
    try:
        read = len(CompactGames([path]).splits())
    except GameFileError as err:
        read, problem = 0, str(err)
    assert read == 1 or "games.jsonl" in problem


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=60), st.integers(0, 40)), max_size=30))
def test_any_text_between_commands(actions):
    """Text that is not offered leaves the state alone, wherever the episode is."""
    state = State(compile_world(kitchen().game()), GRAMMARS["put"])
    for action in actions:
        offered = state.admissible()
        before = state.facts()
        command = offered[action % len(offered)] if isinstance(action, int) else action
        text, effect = state.step(command)
        assert effect == (state.facts() != before)
        if command.strip() not in offered:
            assert (text, effect) == ("Nothing happens.", False)
        else:
            assert text != "Nothing happens."
