"""Prompts, full and trajectory-blind, rendered from structured fields.

The blind prompt is never cut out of the finished string: the same renderer is called with fields removed
(STAPO section 4; which fields, is `BlindMask`). Removed: the task sentence, the number of steps taken, the history.
Kept: role, current step index, current observation, admissible actions, format rules. The first observation of
ALFWorld contains the task sentence, so the masked renderer uses the goal-free wording of every observation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from stapo.agent.config import AgentConfig
from stapo.agent.marking import mark_shared
from stapo.agent.memory import Turn
from stapo.agent.pages import SEPARATOR, number_links
from stapo.agent.prompt import Prompt
from stapo.agent.search_prompts import render_compact, render_growing, render_stepwise
from stapo.tags import first_block

_OWN_WORDS = re.compile(r"\Asearch\[.*\]\Z", re.DOTALL)

BlindMask = Literal["goal_history", "goal", "history", "none"]


@dataclass(frozen=True, slots=True)
class PromptFields:
    """Everything a prompt may show.

    Attributes:
        goal: the task sentence.
        step: index of the current step, from 0.
        steps_taken: length of the whole history, of which `history` is the remembered end.
        history: remembered turns, oldest first.
        observation: the current observation.
        blind_observation: the current observation without any trace of the goal.
        admissible: commands offered now, or None where actions are free text.
        earlier: commands of the steps before `history`, oldest first.
    """

    goal: str
    step: int
    steps_taken: int
    history: tuple[Turn, ...]
    observation: str
    blind_observation: str
    admissible: tuple[str, ...] | None
    earlier: tuple[str, ...] = ()


def render_prompt(fields: PromptFields, config: AgentConfig, mask: BlindMask = "none") -> Prompt:
    """Render the prompt of one step.

    Args:
        fields: what is known at this step.
        config: style, response format.
        mask: `none` for the full prompt c, otherwise which part of the trajectory is hidden (the blind prompt).
    """
    hide_goal = mask in ("goal_history", "goal")
    hide_history = mask in ("goal_history", "history")
    style, limit = _STYLES[config.prompt], config.max_prompt_characters
    if limit is not None and len(_prompt(style(fields, config, False, False)).shown) > limit:
        # Decided by the full prompt under every mask: both prompts of a row know the same history.
        fields = replace(fields, history=(), earlier=())
    if config.mark_goal_words and not hide_goal:
        fields = _with_marks(fields)
    if config.mask_own_queries and hide_goal:
        fields = replace(
            fields,
            history=tuple(replace(t, action=without_query(t.action, config)) for t in fields.history),
            earlier=tuple(without_query(action, config) for action in fields.earlier),
        )
    return _prompt(style(fields, config, hide_goal, hide_history))


def without_query(action: str, config: AgentConfig) -> str:
    """A past action without the words that the agent chose itself: they repeat the goal that it was given."""
    if config.prompt.startswith("search-"):
        block = first_block(action, ("search", "answer"), ignore_case=True)
        return f"<{block.kind}> … </{block.kind}>" if block else ""
    return _OWN_WORDS.sub("search[…]", action)


def _prompt(rendered: Prompt | str) -> Prompt:
    return Prompt(rendered) if isinstance(rendered, str) else rendered


def _with_marks(f: PromptFields) -> PromptFields:
    return replace(
        f,
        observation=mark_shared(f.observation, f.goal),
        blind_observation=mark_shared(f.blind_observation, f.goal),
    )


def _standard(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> str:
    lines = ["You act in a text world and reach a goal by giving one command at a time."]
    if not hide_goal:
        lines.append(f"Your goal: {f.goal}")
    if f.history and not hide_history:
        lines.append(f"You have taken {f.steps_taken} steps. The last {len(f.history)}, oldest first:")
        first = f.steps_taken - len(f.history)
        for offset, turn in enumerate(f.history):
            seen = turn.blind_observation if hide_goal else turn.observation
            lines.append(f"[{first + offset + 1}] You saw: {seen}\n[{first + offset + 1}] You did: {turn.action}")
    if f.earlier and not hide_history:
        lines.append(f"Before that you did, oldest first: {'; '.join(f.earlier)}.")
    seen_now = f.blind_observation if hide_goal else f.observation
    lines.append(f"This is step {f.step + 1}. You see: {seen_now}")
    if f.admissible is not None:
        lines.append("Commands that work now:\n" + "\n".join(_marked(f.admissible, config, "- ")))
    if config.response == "think_action":
        lines.append(
            "First reason about the situation inside <think> </think>, then give exactly one command inside "
            "<action> </action>."
        )
    elif config.response == "choice":
        lines.append("Answer with the number of exactly one command and nothing else.")
    else:
        lines.append("Answer with exactly one command and nothing else.")
    return "\n\n".join(lines)


def _compact(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> str:
    lines = []
    if not hide_history:
        lines += [f"did {action}" for action in f.earlier]
        lines += [f"saw {_flat(turn.blind_observation)}\ndid {turn.action}" for turn in f.history]
    now, offers, asked = _flat(f.blind_observation), f.admissible, list[int]()
    if offers is None:
        lines.append(f"now {now}")
    elif config.response != "choice":
        lines += [f"now {now}", "can", *_grouped(offers)]
    else:
        now, found, asked = number_links(now, offers, f.goal if config.mark_goal_words and not hide_goal else None)
        listed = [line for index, line in enumerate(_marked(offers, config)) if index not in found]
        lines += [f"now {now}", *(["can", *listed] if listed else [])]
    lines.append(f"step {f.step + 1}")
    if not hide_goal:
        lines.append(f"goal {f.goal}")
    if asked:
        lines.append("asked " + " ".join(map(str, asked)))
    if config.response == "think_action":
        lines.append("answer <think> </think><action> </action>")
    return "\n".join(lines) + "\n>"


def _webshop(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> str:
    """What the published WebShop prompt tells, in our words; pages are shown without the instruction they repeat."""
    lines = ["You are a shopper who uses the text version of an online store."]
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
            + ",\n".join(_marked([f"'{command}'" for command in f.admissible], config))
            + "."
        )
    if config.response == "think_action":
        lines.append(
            "Decide on one action for this step. Reason step by step about the situation first, within <think> "
            "</think> tags. Then give the action of your choice within <action> </action> tags."
        )
    elif config.response == "choice":
        lines.append("Answer with the number of the action of your choice for this step and nothing else.")
    else:
        lines.append("Answer with the action of your choice for this step and nothing else.")
    return "\n\n".join(lines)


def _marked(commands: Sequence[str], config: AgentConfig, mark: str = "") -> list[str]:
    """Commands behind their numbers, where a number is asked for, else behind a mark."""
    if config.response != "choice":
        return [f"{mark}{command}" for command in commands]
    return [f"{number}. {command}" for number, command in enumerate(commands, start=1)]


def _quoted(page: str) -> str:
    """Every part of a page in quotation marks, since parts may hold commas and brackets."""
    if page.startswith("'") and page.endswith("'"):
        return page  # an environment that quotes by itself
    return SEPARATOR.join(f"'{part}'" for part in page.split(SEPARATOR))


def _flat(text: str) -> str:
    return " ".join(text.split())


def _grouped(admissible: tuple[str, ...]) -> list[str]:
    """One command a line, but the verbs "go to" and "click" once: the long list of places is most of a prompt."""
    places = [command[6:] for command in admissible if command.startswith("go to ")]
    buttons = [command[5:] for command in admissible if command.startswith("click[")]
    others = [command for command in admissible if not command.startswith(("go to ", "click["))]
    return (
        others + (["go to " + " ".join(places)] if places else []) + (["click" + " ".join(buttons)] if buttons else [])
    )


_STYLES: dict[str, Callable[[PromptFields, AgentConfig, bool, bool], Prompt | str]] = {
    "standard": _standard,
    "compact": _compact,
    "webshop": _webshop,
    "search-r1": render_growing,
    "search-stepwise": render_stepwise,
    "search-compact": render_compact,
}
