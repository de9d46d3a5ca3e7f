"""The prompt of the published Sokoban protocol, in our words."""

from __future__ import annotations

from stapo.agent.config import AgentConfig
from stapo.agent.prompts import ANY_COMMAND, PromptFields, list_commands, role_of, rules_of
from stapo.agent.registries import RESPONSE_FORMATS
from stapo.envs.sokoban.board import SYMBOLS
from stapo.registry import trait

_LEGEND = "What the symbols of the room mean: " + ", ".join(f"{sign} {what}" for sign, what in SYMBOLS.items()) + "."
_RULES = (
    "You can push one box at a time, and never pull. Nothing goes through walls, and a box is not pushed into another "
    "box. A box in a corner cannot be moved any more, so plan ahead."
)
_THINK_ACTION = (
    "Reason step by step about the room first, within <think> </think> tags. Then give one action within <action> "
    "</action> tags."
)


def sokoban(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> str:
    """The published Sokoban protocol: legend, goal and rules, the last rooms and what was done there, the room now."""
    lines = [*role_of(config, "You play Sokoban, one move at a time."), _LEGEND]
    if not hide_goal:
        lines.append(f"Your goal: {f.goal}")
    lines.append(_RULES)
    if f.history and not hide_history:
        first = f.steps_taken - len(f.history) + 1
        lines.append(f"You have taken {f.steps_taken} steps. The last {len(f.history)}, oldest first:")
        lines += [
            f"[Step {n}, the room:\n{turn.observation}\nyour action: '{turn.action}']"
            for n, turn in enumerate(f.history, start=first)
        ]
    if f.earlier and not hide_history:
        lines.append(f"Before that you did, oldest first: {', '.join(f.earlier)}.")
    lines.append(f"This is step {f.step + 1}. The room now:\n{f.observation}")
    if f.admissible is not None:
        lines.append("Actions:\n" + "\n".join(list_commands(f.admissible, config)))
    ask = trait(RESPONSE_FORMATS.get(config.response), "instruction", ANY_COMMAND)
    return "\n\n".join([*lines, *rules_of(config, _THINK_ACTION if config.response == "think_action" else ask)])
