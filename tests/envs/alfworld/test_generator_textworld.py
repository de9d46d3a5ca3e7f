"""Generated games in the original engine: TextWorld loads them and agrees with ours to the end."""

import sys
from pathlib import Path

import pytest

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.expert import shortest_plan
from stapo.envs.alfworld.game import TASK_TYPES
from stapo.envs.alfworld.generator import GeneratedGames
from stapo.envs.alfworld.goals import compile_goal
from stapo.envs.alfworld.text import grammar_named
from stapo.envs.alfworld.world import compile_world

pytest.importorskip("textworld", reason="needs the alfworld extra (Python 3.11 or 3.12)")
pytest.importorskip("alfworld", reason="needs the alfworld extra (Python 3.11 or 3.12)")
sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
referee = pytest.importorskip("textworld_referee")


@pytest.fixture(scope="module")
def original():
    return referee.Original()


@pytest.mark.slow
@pytest.mark.parametrize("scenes", ["tiny", "small", "standard", "search"])
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_textworld_plays_a_generated_game_alike(original, scenes, task_type):
    game = GeneratedGames(scenes).load(f"generated-{scenes}/heldout/{task_type}/000001")
    walk = list(referee.random_actions(game, steps=10, seed=0))
    world = compile_world(game)
    goal, state = compile_goal(world), State(world, grammar_named("move"))
    for action in walk:
        state.step(action)
    plan = shortest_plan(state, goal)
    for action in plan:
        state.step(action)
    assert goal.holds(state)
    assert referee.compare(game, walk + plan, original=original) == []
