"""Plans are executable, reach the goal, and no shorter plan exists."""

from __future__ import annotations

import random

import pytest
from tiny_games import Tiny, kitchen, look_at, put, put_two

from stapo.envs.alfworld import subproblem
from stapo.envs.alfworld.env import AlfworldEnv
from stapo.envs.alfworld.expert import shortest_plan

IDLE = ("look", "inventory", "help", "examine")


def shortest_by_brute_force(state, goal):
    """Breadth-first search over every command of the engine; None if the goal is out of reach."""
    if goal.holds(state):
        return 0
    frontier, seen, depth = [state], {state.facts()}, 0
    while frontier:
        depth += 1
        reached = []
        for here in frontier:
            for command in here.admissible():
                if command.startswith(IDLE):
                    continue
                there = here.fork()
                there.step(command)
                if there.facts() not in seen:
                    if goal.holds(there):
                        return depth
                    seen.add(there.facts())
                    reached.append(there)
        frontier = reached
    return None


def shuffled(state, rng, steps):
    """A state reached by random commands that change something."""
    for _ in range(steps):
        state.step(rng.choice([c for c in state.admissible() if not c.startswith(IDLE)]))
    return state


def cupboard(goal):
    tiny = Tiny(goal=goal).at("desk 1", 1, "mug 1").at("drawer 1", 2, "mug 2", door="closed")
    return tiny.at("sinkbasin 1", 3).at("microwave 1", 4, door="closed")


def bedroom(goal):
    tiny = Tiny(goal=goal).at("desk 1", 1, "desklamp 1").at("shelf 1", 1).at("bed 1", 2, "pillow 1")
    return tiny.at("drawer 1", 3, "mug 1", door="closed")


def burners(goal):
    """A mug in two receptacles at once, and another one that fits nowhere but on the desk."""
    tiny = Tiny(goal=goal).at("burner 1", 1, "mug 1").at("burner 2", 1, "mug 1").at("desk 1", 2, "pan 1")
    tiny.refuses |= {("burner", "pan")}
    return tiny.at("fridge 1", 3, door="open").at("sinkbasin 1", 3)


def dead_ends(goal):
    """Whoever takes the roll keeps it for ever."""
    tiny = Tiny(goal=goal).at("desk 1", 1, "roll 1", "mug 1").at("shelf 1", 2)
    tiny.refuses |= {("desk", "roll"), ("shelf", "roll")}
    return tiny


WORLDS = {
    "put": cupboard(put("mug", "microwave")),
    "clean and put back": cupboard(put("mug", "drawer", "isClean")),
    "clean": cupboard(put("mug", "desk", "isClean")),
    "heat and keep": cupboard(put("mug", "microwave", "isHot")),
    "two": cupboard(put_two("mug", "sinkbasin")),
    "two in a closed place": cupboard(put_two("mug", "microwave")),
    "lamp": bedroom(look_at("mug", "desklamp")),
    "lamp beside": bedroom(look_at("pillow", "desklamp")),
    "cool from two burners": burners(put("mug", "burner", "isCool")),
    "clean onto the desk": burners(put("mug", "desk", "isClean")),
    "pan": burners(put("pan", "fridge")),
    "dead end": dead_ends(put("mug", "shelf")),
}


@pytest.mark.parametrize("name", WORLDS)
def test_no_shorter_plan_exists_from_any_tried_state(name):
    rng = random.Random(name)
    goal = WORLDS[name].compiled_goal()
    lengths = set()
    for trial in range(25):
        state = shuffled(WORLDS[name].play(), rng, 0 if trial == 0 else rng.randrange(1, 15))
        plan = shortest_plan(state, goal)
        shortest = shortest_by_brute_force(state, goal)
        assert (None if plan is None else len(plan)) == shortest
        for command in plan or []:
            assert command in state.admissible()
            state.step(command)
        assert plan is None or goal.holds(state)
        lengths.add(shortest)
    assert len(lengths) > 1


def test_a_dead_end_has_no_plan():
    state = WORLDS["dead end"].play()
    state.step("go to desk 1")
    state.step("take roll 1 from desk 1")
    assert shortest_plan(state, WORLDS["dead end"].compiled_goal()) is None


def test_a_reached_goal_needs_nothing():
    tiny = kitchen(goal=put("mug", "desk"))
    assert shortest_plan(tiny.play(), tiny.compiled_goal()) == []


def test_plans_use_the_wording_in_play():
    tiny = kitchen(goal=put("spoon", "desk"))
    steps = ["go to drawer 2", "take spoon 1 from drawer 2", "go to desk 1"]
    for grammar, last in (("move", "move spoon 1 to desk 1"), ("put", "put spoon 1 in/on desk 1")):
        assert shortest_plan(tiny.play(grammar), tiny.compiled_goal()) == [*steps, last]


@pytest.mark.slow  # The small worlds above are held against a search without any bound.
def test_the_lower_bound_never_hides_a_shorter_plan(shared, monkeypatch):
    """With the bound switched off the search is plain breadth-first; lengths must not change."""
    env = AlfworldEnv(games=shared / "data" / "alfworld")
    rng = random.Random(5)
    states = []
    for task in rng.sample(list(env.tasks), 60):
        env.reset(task)
        states.append((task, shuffled(env.state.fork(), rng, rng.choice([0, 6, 30])), env.goal))
    guided = [shortest_plan(state, goal) for _, state, goal in states]
    monkeypatch.setattr(subproblem.Subproblem, "estimate", lambda self, node: 0)
    for (task, state, goal), plan in zip(states, guided, strict=True):
        plain = shortest_plan(state, goal)
        assert (plan and len(plan)) == (plain and len(plain)), task


@pytest.mark.slow
def test_every_recorded_game_is_solved(shared):
    env = AlfworldEnv(games=shared / "data" / "alfworld")
    failed = []
    for task in env.tasks:
        env.reset(task)
        plan = env.expert_plan()
        results = [env.step(command) for command in plan or []]
        if not results or not results[-1].won or not all(r.info["effect"] for r in results):
            failed.append(task)
    assert len(env.tasks) == 3827
    assert not failed
