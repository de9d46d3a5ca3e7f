"""What an agent remembers of its older steps: their commands, in order, and nothing of it in a blind prompt."""

from __future__ import annotations

import pytest

from stapo.agent import AgentConfig, Memory, PromptFields, Turn, render_prompt


def turn(number):
    return Turn(f"You arrive at desk {number}.", f"You arrive at desk {number}.", f"go to desk {number}")


@pytest.mark.parametrize("length, commands", [(0, 0), (0, 3), (2, 0), (2, 3), (3, 100)])
def test_the_last_turns_whole_and_the_commands_before_them(length, commands):
    memory = Memory(length, commands)
    for number in range(1, 9):
        memory.add(turn(number))
        whole = list(range(max(1, number - length + 1), number + 1))
        before = list(range(1, number + 1))[: number - len(whole)] if length else list(range(1, number + 1))
        whole = whole if length else []
        assert memory.recall() == tuple(map(turn, whole))
        assert memory.recall_commands() == tuple(f"go to desk {n}" for n in (before[-commands:] if commands else []))


FIELDS = PromptFields(
    goal="put a mug in desk.", step=4, steps_taken=4, history=(turn(3), turn(4)), observation="A desk.",
    blind_observation="A desk.", admissible=("look",), earlier=("go to bed 1", "open safe 1"),
)  # fmt: skip


def test_compact():
    text = render_prompt(FIELDS, AgentConfig(prompt="compact", response="action")).shown
    assert text.startswith("did go to bed 1\ndid open safe 1\nsaw You arrive at desk 3.\ndid go to desk 3\n")


def test_standard():
    text = render_prompt(FIELDS, AgentConfig()).shown
    assert "\n\nBefore that you did, oldest first: go to bed 1; open safe 1.\n\n" in text
    assert text.index("You saw: You arrive at desk 3.") < text.index("Before that") < text.index("You see: A desk.")


@pytest.mark.parametrize("prompt", ["compact", "standard"])
@pytest.mark.parametrize("mask", ["goal_history", "history", "goal", "none"])
def test_a_history_that_is_hidden_is_hidden_whole(prompt, mask):
    text = render_prompt(FIELDS, AgentConfig(prompt=prompt), mask).shown
    assert ("open safe 1" in text) == (mask in ("goal", "none"))


def test_without_the_setting_prompts_are_as_they_were():
    memory = Memory(AgentConfig().history_length, AgentConfig().command_history)
    for number in range(5):
        memory.add(turn(number))
    assert memory.recall_commands() == ()
