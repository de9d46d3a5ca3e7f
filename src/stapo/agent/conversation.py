"""An episode as one conversation: each prompt is the last prompt, what the agent said, and what it saw then.

The first message holds role, goal and rules; every turn adds an observation and takes a response. Nothing in a past
turn changes, so that the prompt of a step extends the prompt and response of the step before it.
"""

from __future__ import annotations

from stapo.agent.config import AgentConfig
from stapo.agent.memory import Turn
from stapo.agent.pages import CommandShapes
from stapo.agent.parsing import part_spans
from stapo.agent.prompts import ANY_COMMAND, Exchange, Prompt, PromptFields, list_commands, role_of, rules_of
from stapo.agent.registries import RESPONSE_FORMATS
from stapo.agent.thoughts import thought_length
from stapo.registry import trait, traits


@traits(grows=True, keeps_turns=True, marks=False, for_chat_models=False)
def conversation(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> Prompt:
    """Role, goal and rules first, then the turns of the episode.

    The goal stands in the first message alone: turns show the wording of observations that does not repeat it.
    """
    place = f.shapes.place
    rules = role_of(config, f"You act {place}, one command at a time." if place else "You give one command at a time.")
    if not hide_goal:
        rules.append(f"Goal: {f.goal}")
    form = RESPONSE_FORMATS.get(config.response)
    rules += rules_of(config, trait(form, "rules", trait(form, "instruction", ANY_COMMAND)))
    history = () if hide_history else f.history
    if not hide_history and len(history) < f.steps_taken:
        rules.append(f"Steps taken before what follows: {f.steps_taken - len(history)}.")
    turns = tuple(
        Exchange(_message(turn, f.shapes, config, first=not number), *_said(turn, config))
        for number, turn in enumerate(history)
    )
    now = Turn(f.observation, f.blind_observation, "", listed=f.admissible)
    return Prompt(_message(now, f.shapes, config, first=not turns), system="\n".join(rules), turns=turns)


def _message(turn: Turn, shapes: CommandShapes, config: AgentConfig, *, first: bool) -> str:
    """What one turn shows; commands are listed where the agent has to see them."""
    lines, when = [turn.blind_observation], config.lists_commands
    if turn.listed is not None and (when == "every_turn" or (when == "once" and first)):
        listed = list_commands(turn.listed, config) if config.numbered else shapes.in_groups(turn.listed)
        lines.append("Commands: " + "; ".join(listed))
    return "\n".join(lines)


def _said(turn: Turn, config: AgentConfig) -> tuple[str, tuple[int, ...] | None]:
    """The response of a turn: as it was sampled, or without its thought."""
    if config.earlier_thoughts == "keep":
        return turn.response, turn.response_ids
    thought = part_spans(turn.response, config.response).get("think")
    # Of a thought that a chat template has opened, the response has the end alone.
    start, end = (
        (thought[0] - len("<think>"), thought[1] + len("</think>")) if thought else (0, thought_length(turn.response))
    )
    if not end:
        return turn.response, turn.response_ids
    return (turn.response[: max(0, start)] + turn.response[end:]).strip(), None
