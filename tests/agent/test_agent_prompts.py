"""Prompts, full and trajectory-blind, in every style.

1. The full prompt shows goal, observation, offered commands and the remembered history.
2. Every mask hides its part and nothing else; `none` is the full prompt.
3. The goal cannot leak: over games that differ in nothing but their task sentence, the blind prompt is one and the
   same text at every step, whatever was done before.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from stapo.agent import AgentConfig, Memory, PromptFields, Turn, render_prompt
from stapo.envs import make
from stapo.envs.alfworld.generator import GeneratedGames
from stapo.errors import ConfigError

STYLES = ("standard", "compact", "webshop")
GOAL = "put a clean mug in shelf."
TURNS = (
    Turn(f"A kitchen. Your task is to: {GOAL}", "A kitchen.", "go to sinkbasin 1"),
    Turn("You arrive at sinkbasin 1.", "You arrive at sinkbasin 1.", "take mug 2 from sinkbasin 1"),
)
FIELDS = PromptFields(
    goal=GOAL, step=5, steps_taken=5, history=TURNS, observation="You pick up the mug 2.",
    blind_observation="You pick up the mug 2.", admissible=("clean mug 2 with sinkbasin 1", "look"),
)  # fmt: skip
FIRST = replace(
    FIELDS, step=0, steps_taken=0, history=(), observation=TURNS[0].observation, blind_observation="A kitchen."
)


def config(style, **changes):
    return AgentConfig(prompt=style, **changes)


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_choices_are_numbered_under_every_mask(style):
    for mask in ("none", "goal_history", "goal", "history"):
        text = render_prompt(FIELDS, config(style, response="choice"), mask).shown
        first, second = text.index("1. "), text.index("2. ")
        assert first < text.index("clean mug 2 with sinkbasin 1", first) < second < text.index("look", second)
        assert style == "compact" or "the number of" in text.rpartition("\n\n")[2]


@pytest.mark.parametrize("style", STYLES)
def test_the_full_prompt_shows_everything(style):
    text = render_prompt(FIELDS, config(style)).shown
    for shown in (
        GOAL, "You pick up the mug 2.", "clean mug 2 with sinkbasin 1", "look", "go to sinkbasin 1",
        "take mug 2 from sinkbasin 1", "A kitchen.", "You arrive at sinkbasin 1.",
    ):  # fmt: skip
        assert shown in text
    assert text.index("go to sinkbasin 1") < text.index("take mug 2 from") < text.index("You pick up the mug 2.")


@pytest.mark.parametrize("style", STYLES)
def test_the_first_prompt_has_no_history(style):
    text = render_prompt(FIRST, config(style)).shown
    assert text.count(GOAL) >= 1
    assert "A kitchen." in text
    assert "You have taken" not in text


@pytest.mark.parametrize("style", STYLES)
def test_every_offered_command_is_listed(style):
    commands = ("close drawer 1", "examine mug 1", "go to shelf 1", "inventory", "put mug 1 in/on desk 1")
    text = render_prompt(replace(FIELDS, admissible=commands), config(style)).shown
    assert all(word in text for command in commands for word in command.split())
    assert all(command in text for command in commands if not command.startswith("go to"))


@pytest.mark.parametrize("style", STYLES)
def test_free_text_worlds_list_no_commands(style):
    text = render_prompt(replace(FIELDS, admissible=None), config(style)).shown
    assert "clean mug 2 with" not in text
    assert "Commands" not in text


@pytest.mark.parametrize("style", STYLES)
def test_the_format_rules_name_the_tags_where_tags_are_expected(style):
    for mask in ("none", "goal_history"):
        tagged = render_prompt(FIELDS, config(style, response="think_action"), mask).shown
        bare = render_prompt(FIELDS, config(style, response="action"), mask).shown
        assert "<action>" in tagged
        assert "<think>" in tagged
        assert "<" not in bare


def test_the_standard_prompt_counts_steps():
    text = render_prompt(FIELDS, config("standard")).shown
    assert "You have taken 5 steps. The last 2, oldest first:" in text
    assert "[4] You did: go to sinkbasin 1" in text
    assert "[5] You did: take mug 2 from sinkbasin 1" in text
    assert "This is step 6." in text


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("fields", [FIELDS, FIRST], ids=["late", "first"])
@pytest.mark.parametrize("mask", ["goal_history", "goal", "history", "none"])
def test_masks_hide_their_part_and_nothing_else(style, fields, mask):
    text = render_prompt(fields, config(style), mask).shown
    full = render_prompt(fields, config(style)).shown
    assert (GOAL in text) == (mask in ("history", "none"))
    assert ("Your task is to" in text) <= ("Your task is to" in full)
    has_history = bool(fields.history)
    assert ("go to sinkbasin 1" in text) == (has_history and mask in ("goal", "none"))
    assert ("You have taken" in text) == ("You have taken" in full and mask in ("goal", "none"))
    # Kept: current step index, observation, commands, format rules.
    for kept in (fields.blind_observation, "clean mug 2 with sinkbasin 1", "look", str(fields.step + 1), "<think>"):
        assert kept in text
    if mask == "none" or (mask == "history" and not has_history):
        assert text == full
    else:
        assert text != full


# -- 3 -----------------------------------------------------------------------------------------------------------------

OTHER_GOALS = ("heat some apple and put it in fridge.", "look at pen under the desklamp.")


def twins(folder, scenes, count):
    """Generated games, each under its own and two other task sentences."""
    source = GeneratedGames(scenes, count)
    games = [source.load(i) for i in source.ids("train")]
    rows = []
    for game in games:
        for n, goal in enumerate((game.goal, *OTHER_GOALS)):
            rows.append({**{k: getattr(game, k) for k in ("split", "task_type", "pddl_problem")}})
            rows[-1] |= {"id": f"{game.id}/{n}", "goal": goal}
    path = folder / "games.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, [game.id for game in games]


def walk(env, task, agent, rng, steps=8):
    """Fields of every step of a random walk."""
    first = env.reset(task)
    memory, seen, blind = Memory(agent.history_length), first.text, first.blind_text
    admissible = first.admissible
    for step in range(steps):
        yield PromptFields(first.goal, step, memory.steps_taken, memory.recall(), seen, blind, tuple(admissible))
        action = rng.choice([*admissible, "look", "sing", "examine everything"])
        out = env.step(action)
        memory.add(Turn(seen, blind, action))
        seen = blind = out.text
        admissible = out.admissible
        if out.done:
            return


@pytest.mark.parametrize("scenes, count", [("tiny", 4), ("small", 3), ("search", 1)])
@pytest.mark.parametrize("style", STYLES)
def test_games_that_differ_in_the_goal_alone_have_one_blind_prompt(tmp_path, scenes, count, style):
    path, ids = twins(tmp_path, scenes, count)
    env = make("alfworld", games=str(path))
    for response in ("action", "think_action"):
        agent = config(style, response=response, history_length=3)
        for task in ids:
            walks = [list(walk(env, f"{task}/{n}", agent, random.Random(task))) for n in range(3)]
            for steps in zip(*walks, strict=True):
                assert len({f.goal for f in steps}) == 3
                for mask in ("goal_history", "goal"):
                    texts = {render_prompt(f, agent, mask).shown for f in steps}
                    assert len(texts) == 1
                    text = texts.pop().lower()
                    assert not any(f.goal.rstrip(".") in text for f in steps)
                    assert "your task is to" not in text
                assert len({render_prompt(f, agent).shown for f in steps}) == 3
                assert len({render_prompt(f, agent, "history").shown for f in steps}) == 3


@pytest.mark.parametrize("style", STYLES)
def test_goals_of_recorded_games_do_not_leak(shared, style):
    env = make("alfworld", games=str(shared / "data" / "alfworld" / "games_valid_seen.jsonl.xz"))
    agent = config(style, history_length=3)
    for task in list(env.tasks)[::7]:
        for fields in walk(env, task, agent, random.Random(task), steps=5):
            assert fields.goal in render_prompt(fields, agent).shown
            for mask in ("goal_history", "goal"):
                text = render_prompt(fields, agent, mask).shown.lower()
                assert fields.goal.rstrip(".") not in text
                assert "your task is to" not in text


# -- memory and settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_memory_keeps_the_last_turns_and_counts_all(length):
    memory = Memory(length)
    turns = [Turn(f"o{i}", f"b{i}", f"a{i}") for i in range(4)]
    for number, turn in enumerate(turns, start=1):
        memory.add(turn)
        assert memory.steps_taken == number
        assert memory.recall() == tuple(turns[max(0, number - length) : number] if length else ())


def test_what_was_recalled_does_not_change_later():
    memory = Memory(2)
    memory.add(TURNS[0])
    before = memory.recall()
    memory.add(TURNS[1])
    memory.add(TURNS[0])
    assert before == (TURNS[0],)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"prompt": "compat"}, "Did you mean 'compact'"),
        ({"response": "actions"}, "Did you mean 'action'"),
        ({"history_length": -1}, "of 0 or more"),
        ({"max_prompt_tokens": 7}, "of 8 or more"),
        ({"max_response_tokens": 0}, "of 1 or more"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ConfigError, match=said):
        AgentConfig(**settings)
