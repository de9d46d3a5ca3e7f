"""Goals are parsed as formulas and checked exactly; the unplayable is refused with a reason."""

from __future__ import annotations

import pytest
from tiny_games import Tiny, kitchen, look_at, put, put_two, write_jsonl

from stapo.envs.alfworld.env import AlfworldEnv
from stapo.envs.alfworld.pddl import parse_problem
from stapo.errors import GameFileError


def reached_after(tiny, *commands):
    """Whether the goal holds after each command."""
    state, goal = tiny.play(), tiny.compiled_goal()
    reached = []
    for command in commands:
        assert command in state.admissible()
        state.step(command)
        reached.append(goal.holds(state))
    return reached


def test_putting_any_object_of_the_type_into_any_receptacle_of_the_type():
    tiny = kitchen(goal=put("spoon", "desk"))
    steps = (
        "go to drawer 2",
        "take spoon 1 from drawer 2",
        "go to desk 1",
        "move spoon 1 to desk 1",
    )
    assert reached_after(tiny, *steps) == [False, False, False, True]


def test_a_treated_object_counts_when_the_same_object_arrives():
    tiny = kitchen(goal=put("mug", "microwave", "isCool")).at("shelf 1", 6, "mug 3")
    steps = ("go to desk 1", "take mug 1 from desk 1", "go to fridge 1", "cool mug 1 with fridge 1")
    steps += (
        "go to shelf 1",
        "move mug 1 to shelf 1",
        "take mug 3 from shelf 1",
        "go to microwave 1",
    )
    steps += ("open microwave 1", "move mug 3 to microwave 1", "take mug 3 from microwave 1")
    steps += (
        "go to shelf 1",
        "move mug 3 to shelf 1",
        "take mug 1 from shelf 1",
        "go to microwave 1",
    )
    reached = reached_after(tiny, *steps, "move mug 1 to microwave 1")
    assert reached == [False] * (len(steps)) + [True]


def test_heating_undoes_cooling_for_the_goal():
    tiny = kitchen(goal=put("mug", "desk", "isCool"))
    steps = ("go to desk 1", "take mug 1 from desk 1", "go to fridge 1", "cool mug 1 with fridge 1")
    steps += (
        "go to microwave 1",
        "heat mug 1 with microwave 1",
        "go to desk 1",
        "move mug 1 to desk 1",
    )
    assert not any(reached_after(tiny, *steps))


def test_two_objects_have_to_be_different_and_share_a_receptacle():
    tiny = Tiny(goal=put_two("mug", "shelf")).at("desk 1", 1, "mug 1", "mug 2")
    tiny.at("shelf 1", 2).at("shelf 2", 3)
    steps = ("go to desk 1", "take mug 1 from desk 1", "go to shelf 1", "move mug 1 to shelf 1")
    steps += ("go to desk 1", "take mug 2 from desk 1", "go to shelf 2", "move mug 2 to shelf 2")
    steps += ("take mug 2 from shelf 2", "go to shelf 1", "move mug 2 to shelf 1")
    assert reached_after(tiny, *steps) == [False] * 10 + [True]


def test_looking_at_something_needs_the_lit_lamp_here_and_the_object_in_hand():
    tiny = Tiny(goal=look_at("mug", "desklamp")).at("desk 1", 1, "desklamp 1", "mug 1").at("bed 1", 2)
    steps = (
        "go to desk 1",
        "use desklamp 1",
        "take mug 1 from desk 1",
        "go to bed 1",
        "go to desk 1",
    )
    assert reached_after(tiny, *steps) == [False, False, True, False, True]
    steps = ("go to desk 1", "take mug 1 from desk 1", "use desklamp 1")
    assert reached_after(tiny, *steps) == [False, False, True]


def test_disjunctions_and_fixed_facts_are_understood():
    goal = (
        "(or (exists (?o - object ?r - receptacle) (and (inReceptacle ?o ?r) "
        "(objectType ?o mugType) (openable ?r) (not (receptacleType ?r drawerType)))) "
        "(exists (?o - object ?a - agent) (and (holds ?a ?o) (sliceable ?o))))"
    )
    tiny = kitchen(goal=goal)
    assert reached_after(tiny, "go to fridge 1", "open fridge 1", "take egg 1 from fridge 1")[-1]
    steps = ("go to desk 1", "take mug 1 from desk 1", "go to microwave 1", "open microwave 1")
    assert reached_after(tiny, *steps, "move mug 1 to microwave 1") == [False] * 4 + [True]


def test_comments_and_capitals_do_not_matter():
    problem = kitchen().game().pddl_problem
    noisy = problem.replace("(:goal", "; a remark (with brackets\n(:GOAL").replace("Mug_bar", "MUG_BAR")
    assert parse_problem(noisy) == parse_problem(problem)


# -- refusals ------------------------------------------------------------------------------------


def refusal(tmp_path, tiny=None, change=None):
    """The message on resetting a game after a change to its PDDL text."""
    game = (tiny or kitchen()).game("train/bad")
    if change is not None:
        object.__setattr__(game, "pddl_problem", change(game.pddl_problem))
    env = AlfworldEnv(games=write_jsonl(tmp_path / "games.jsonl", [game]))
    with pytest.raises(GameFileError) as caught:
        env.reset("train/bad")
    assert "game 'train/bad': " in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "goal, reason",
    [
        (put("pillow", "desk"), "needs a 'pillowtype' and this world has none"),
        (put("mug", "sofa"), "needs a 'sofatype' and this world has none"),
        (put("spoon", "desk", "isHot"), "no object of the wanted type can reach"),
        (put_two("spoon", "desk"), "no object of the wanted type can reach"),
        (look_at("mug", "mug"), "no object of the wanted type can reach"),
        ("(and (= 1 1))", "holds whatever is done"),
        ("(exists (?o - object) (flying ?o))", "the goal uses (flying …) with 1 argument;"),
        ("(exists (?o - object) (isClean ?x))", "variable '?x' of the goal is not bound"),
        (
            "(exists (?o - object) (objectType ?x mugType))",
            "variable '?x' of the goal is not bound",
        ),
        (
            "(exists (?o - unicorn) (isClean ?o))",
            "quantifies over 'unicorn'; expected one of agent",
        ),
        ("(exists (?o) (isClean ?o))", "variables ?o of the goal have no kind"),
        ("(exists (?o - object) (not (isClean ?o)))", "negates something that actions change"),
        ("(exists ?o (isClean ?o))", "expected (exists (variables) formula)"),
        ("(exists (?o - object) (objectType ?o))", "wrong number of arguments"),
        ("isClean", "expected a goal formula"),
    ],
)
def test_goals_that_cannot_be_played(tmp_path, goal, reason):
    assert reason in refusal(tmp_path, kitchen(goal=goal))


def test_a_place_that_refuses_the_object(tmp_path):
    tiny = kitchen(goal=put("spoon", "desk"))
    tiny.refuses.add(("desk", "spoon"))
    assert "canContain" in refusal(tmp_path, tiny)


def test_a_missing_tool(tmp_path):
    tiny = Tiny(goal=put("mug", "desk", "isClean")).at("desk 1", 1, "mug 1")
    assert "the tools" in refusal(tmp_path, tiny)


@pytest.mark.parametrize(
    "change, reason",
    [
        (
            lambda text: text[: text.index("(:goal") + 40],
            "open parentheses; the PDDL problem is truncated",
        ),
        (lambda text: text[: text.index("(:goal")], "no (:goal …) section"),
        (lambda text: "(define)", "no (:init …) section"),
        (lambda text: "(:goal (a)) (:init )", "(:goal …) before (:init …)"),
        (lambda text: text.replace("(:goal ", "(:goal (and) "), "one formula after :goal, found 2"),
        (lambda text: text.replace("(openable ", "(openabel "), "Did you mean 'openable'"),
        (lambda text: text.replace("(atLocation agent1 loc_bar_0)", ""), "found 0 agents"),
        (
            lambda text: text.replace("(objectType Mug_bar_98 mugType)", ""),
            "names an id without a type",
        ),
        (
            lambda text: text.replace("(:init", "(:init (objectType Mug_bar_98 cupType)"),
            "has two types, 'cuptype' and 'mugtype'",
        ),
        (
            lambda text: text.replace("(:init", "(:init (receptacleAtLocation Desk_bar_98)"),
            "has 1 argument; expected 2",
        ),
    ],
)
def test_damaged_problems(tmp_path, change, reason):
    assert reason in refusal(tmp_path, change=change)
