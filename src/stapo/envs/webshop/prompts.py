"""The prompt of the published WebShop protocol."""

from __future__ import annotations

from stapo.agent.config import AgentConfig
from stapo.agent.prompts import PromptFields, list_commands, role_of, rules_of
from stapo.agent.registries import RESPONSE_FORMATS
from stapo.envs.webshop.pages import PAGE_SEPARATOR
from stapo.registry import trait

_ANY_ACTION = "Answer with the action of your choice for this step and nothing else."
_ASKS = {
    "think_action": "Decide on one action for this step. Reason step by step about the situation first, within <think> "
    "</think> tags. Then give the action of your choice within <action> </action> tags.",
    "choice": "Answer with the number of the action of your choice for this step and nothing else.",
}


def webshop(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> str:
    """What the published WebShop prompt tells, in our words.

    Pages are shown without the instruction they repeat.
    """
    lines = role_of(config, "You are a shopper who uses the text version of an online store.")
    if not hide_goal:
        lines.append(f"Your task: {f.goal}")
    if f.history and not hide_history:
        first = f.steps_taken - len(f.history) + 1
        lines.append(
            f"Steps taken before this one: {f.steps_taken}. The last {len(f.history)} pages you saw, and what you did:"
        )
        lines += [
            f"[Page {n}: {_quoted(turn.blind_observation)}; action {n}: '{turn.action}']"
            for n, turn in enumerate(f.history, start=first)
        ]
    if f.earlier and not hide_history:
        lines.append(f"Before that you did, oldest first: {'; '.join(f.earlier)}.")
    lines.append(f"This is step {f.step + 1}. The page now shows: {_quoted(f.blind_observation)}.")
    if f.admissible is not None:
        lines.append(
            "The store takes these actions now:\n"
            + ",\n".join(list_commands([f"'{command}'" for command in f.admissible], config))
            + "."
        )
    ask = trait(RESPONSE_FORMATS.get(config.response), "instruction", _ANY_ACTION)
    lines += rules_of(config, _ASKS.get(config.response, ask))
    return "\n\n".join(lines)


def _quoted(page: str) -> str:
    """Every part of a page in quotation marks, since parts may hold commas and brackets."""
    if page.startswith("'") and page.endswith("'"):
        return page  # an environment that quotes by itself
    return PAGE_SEPARATOR.join(f"'{part}'" for part in page.split(PAGE_SEPARATOR))
