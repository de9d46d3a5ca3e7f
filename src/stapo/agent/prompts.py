"""Prompts, full and trajectory-blind, rendered from structured fields.

The blind prompt is never cut out of the finished string: the same renderer is called with fields removed
(STAPO section 4; which fields, is `BlindMask`). Removed: the task sentence, the number of steps taken, the history.
Kept: role, current step index, current observation, admissible actions, format rules. The first observation of
ALFWorld contains the task sentence, so the masked renderer uses the goal-free wording of every observation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol

from stapo.agent.config import AgentConfig
from stapo.agent.marking import mark_shared
from stapo.agent.memory import Turn
from stapo.agent.pages import NO_SHAPES, CommandShapes, number_links
from stapo.agent.registries import PROMPT_STYLES, RESPONSE_FORMATS
from stapo.agent.tools import ACT, tools_text
from stapo.documents import shown
from stapo.errors import ConfigError
from stapo.registry import trait, traits

ANY_COMMAND = "Answer with exactly one command and nothing else."

BlindMask = Literal["goal_history", "goal", "history", "none"]

RESPONSE_BEGINS = "\x1f"
"""Where a prompt is shown as one text, stands before what the response has begun with. Nothing reads it."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A past turn of a conversation.

    Attributes:
        text: the user's message.
        said: the agent's response.
        ids: its tokens, as they were sampled; None where it was not, or has been changed since.
    """

    text: str
    said: str
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a response that has begun in earlier turns.

    Attributes:
        text: what it says.
        ids: tokens that were sampled, of which the first ones say it; None where it was shown or not sampled.
    """

    text: str
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is given at one step.

    Attributes:
        text: the user's message, the last one of a conversation.
        begun: what the agent wrote, and was shown, in earlier turns: the beginning of its response. A chat template
            puts it into the agent's own message; without a template it follows the text.
        rewritten: writes the same prompt with another version of every text that it was given (`PromptFields`); None
            where nobody knows which part of the prompt came from where.
        system: the first message of a conversation: role, goal and rules.
        turns: of a conversation, before `text`.
        pieces: what `begun` is put together from: a response and what it led to, in turn. A response then keeps the
            tokens that were sampled, and tokens end at the borders of pieces.
        tools: that the model may call, as a JSON list of their schemas; "" for none. The chat template writes them.
    """

    text: str
    begun: str = ""
    system: str = ""
    turns: tuple[Exchange, ...] = ()
    pieces: tuple[Piece, ...] = ()
    tools: str = ""
    rewritten: Callable[[Callable[[str], str]], Prompt] | None = field(default=None, compare=False, repr=False)

    @property
    def shown(self) -> str:
        """All of it as one text, for people and logs."""
        text, begun = _plain(self.text), _plain(self.begun)
        before = [_plain(self.system)] if self.system else []
        before += [part for turn in self.turns for part in (_plain(turn.text), _said(turn.said))]
        return "\n".join([*before, f"{text}{RESPONSE_BEGINS}{begun}" if begun else text])


def added_text(shown: str, last: str, said: str) -> str | None:
    """The message that a conversation's prompt adds to the last prompt and its response; None where it is another.

    Args:
        shown: the prompt (`Prompt.shown`).
        last: the last prompt.
        said: the response to it.
    """
    before = f"{last}\n{_said(said)}\n"
    return shown.removeprefix(before) if shown.startswith(before) else None


def _plain(text: str) -> str:
    return text.replace(RESPONSE_BEGINS, " ")


def _said(response: str) -> str:
    return f"> {_plain(response)}"


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
        shapes: how the commands and pages of the environment look.
    """

    goal: str
    step: int
    steps_taken: int
    history: tuple[Turn, ...]
    observation: str
    blind_observation: str
    admissible: tuple[str, ...] | None
    earlier: tuple[str, ...] = ()
    shapes: CommandShapes = NO_SHAPES


class PromptStyle(Protocol):
    """How a prompt is written: what `agent.prompt` names.

    A pure function. It returns the user's message; or role messages, ``{"role": …, "content": …}`` each: one of the
    system or none, then the user and the assistant in turn, the user last; or a `Prompt`. With a part hidden it writes
    the prompt of one who does not know it: never cut the finished text.
    Traits (`stapo.registry.traits`): ``for_chat_models=False`` says that no instruction-tuned model is addressed;
    ``grows=True`` that each prompt extends the last one and its response, token for token; ``keeps_turns=True`` that it
    shows every turn of the episode, and that one that is too long loses half of them at once; ``marks=False`` that
    words of the goal have no marks here; ``hide_query(action)`` returns a past action without the words that the agent
    chose itself.
    """

    def __call__(
        self, fields: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool, /
    ) -> Prompt | str | Sequence[Mapping[str, str]]:
        """Write the prompt of one step."""
        ...


def render_prompt(fields: PromptFields, config: AgentConfig, mask: BlindMask = "none") -> Prompt:
    """Render the prompt of one step.

    Args:
        fields: what is known at this step.
        config: style, response format.
        mask: `none` for the full prompt c, otherwise which part of the trajectory is hidden (the blind prompt).
    """
    hide_goal = mask in ("goal_history", "goal")
    hide_history = mask in ("goal_history", "history")
    limit = None if config.keeps_turns else config.max_prompt_characters
    name = config.prompt if mask == "none" or config.blind_prompt is None else config.blind_prompt
    with PROMPT_STYLES.calling(name) as style:
        if limit is not None and len(_prompt(style(fields, config, False, False), config).shown) > limit:
            # Decided by the full prompt under every mask: both prompts of a row know the same history.
            fields = replace(fields, history=(), earlier=())
        if config.mark_goal_words and not hide_goal:
            fields = _with_marks(fields)
        if config.mask_own_queries and hide_goal:
            without: Callable[[str], str] = trait(style, "hide_query", fields.shapes.without_query)
            fields = replace(
                fields,
                history=tuple(_without_query(t, without) for t in fields.history),
                earlier=tuple(without(action) for action in fields.earlier),
            )
        written = _written(style(fields, config, hide_goal, hide_history), fields, config)
        return replace(written, rewritten=partial(_rewritten, written, fields, config, name, hide_goal, hide_history))


def _rewritten(
    written: Prompt,
    f: PromptFields,
    config: AgentConfig,
    name: str,
    hide_goal: bool,
    hide_history: bool,
    change: Callable[[str], str],
) -> Prompt:
    other = replace(
        f,
        goal=change(f.goal),
        observation=change(f.observation),
        blind_observation=change(f.blind_observation),
        history=tuple(_changed(turn, change, config) for turn in f.history),
        admissible=None if f.admissible is None else tuple(map(change, f.admissible)),
        earlier=tuple(change(action) for action in f.earlier),
    )
    if other == f:
        return written
    with PROMPT_STYLES.calling(name) as style:
        return _written(style(other, config, hide_goal, hide_history), other, config)


def _changed(turn: Turn, change: Callable[[str], str], config: AgentConfig) -> Turn:
    action = change(turn.action)
    # The tags around a command that a demonstrator gave are the format's; of what was sampled there are the tokens.
    others = turn.action and turn.response_ids is None and not config.keeps_thought
    return replace(
        turn,
        observation=change(turn.observation),
        blind_observation=change(turn.blind_observation),
        action=action,
        response=turn.response.replace(turn.action, action) if others else turn.response,
        listed=None if turn.listed is None else tuple(map(change, turn.listed)),
    )


def _without_query(turn: Turn, without: Callable[[str], str]) -> Turn:
    hidden = without(turn.action)
    return turn if hidden == turn.action else replace(turn, action=hidden, response=hidden, response_ids=None)


def _written(rendered: object, f: PromptFields, config: AgentConfig) -> Prompt:
    """What a style has written, with what the settings add to every style's prompts."""
    prompt = _prompt(rendered, config)
    if config.system_prompt:
        if config.for_chat_models or config.keeps_turns:
            system = "\n\n".join(filter(None, (config.system_prompt, prompt.system)))
            prompt = replace(prompt, system=system)
        else:
            prompt = replace(prompt, text=f"{config.system_prompt}\n{prompt.text}")
    return replace(prompt, tools=tools_text(f.shapes.tools or (ACT,))) if config.calls_tools else prompt


def _prompt(rendered: object, config: AgentConfig) -> Prompt:
    if isinstance(rendered, str):
        return Prompt(rendered)
    if isinstance(rendered, Prompt):
        return rendered
    messages = list(rendered) if isinstance(rendered, list | tuple) else []
    said = [(m.get("role"), m.get("content")) if isinstance(m, Mapping) else (None, None) for m in messages]
    if not said or not all(isinstance(text, str) for _, text in said):
        raise ConfigError(
            f"prompt style '{config.prompt}' returned {shown(rendered)}; expected a text, role messages, or a Prompt."
        )
    texts = [str(text) for _, text in said]
    system = texts.pop(0) if said[0][0] == "system" else ""
    roles = [role for role, _ in said][bool(system or len(texts) < len(said)) :]
    if roles != ["assistant" if n % 2 else "user" for n in range(len(roles))] or not len(roles) % 2:
        raise ConfigError(
            f"prompt style '{config.prompt}' returned messages of {', '.join(str(role) for role, _ in said)}; expected "
            "one of the system or none, then the user and the assistant in turn, the user last."
        )
    turns = tuple(Exchange(text, answer) for text, answer in zip(texts[:-1:2], texts[1::2], strict=True))
    return Prompt(texts[-1], system=system, turns=turns)


def role_of(config: AgentConfig, told: str) -> list[str]:
    """The sentence that tells an agent its role: that of the settings, or else the style's; no line where it is ""."""
    return [line for line in (told if config.role is None else config.role,) if line]


def rules_of(config: AgentConfig, told: str) -> list[str]:
    """What a response is asked for with: the rules of the settings, or else the style's; no line where they are ""."""
    return [line for line in (told if config.rules is None else config.rules,) if line]


def _with_marks(f: PromptFields) -> PromptFields:
    return replace(
        f,
        observation=mark_shared(f.observation, f.goal),
        blind_observation=mark_shared(f.blind_observation, f.goal),
    )


def standard(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> str:
    """Task and rules in sentences, for instruction-tuned models."""
    acts = f"act {f.shapes.place} and " if f.shapes.place else ""
    lines = role_of(config, f"You {acts}reach a goal by giving one command at a time.")
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
        lines.append("Commands that work now:\n" + "\n".join(list_commands(f.admissible, config, "- ")))
    lines += rules_of(config, trait(RESPONSE_FORMATS.get(config.response), "instruction", ANY_COMMAND))
    return "\n\n".join(lines)


@traits(for_chat_models=False)
def compact(f: PromptFields, config: AgentConfig, hide_goal: bool, hide_history: bool) -> str:
    """A few short lines with the goal last, for tiny models that are trained from scratch."""
    lines = role_of(config, "")
    if not hide_history:
        lines += [f"did {action}" for action in f.earlier]
        lines += [f"saw {_flat(turn.blind_observation)}\ndid {turn.action}" for turn in f.history]
    now, offers, asked = _flat(f.blind_observation), f.admissible, list[int]()
    if offers is None:
        lines.append(f"now {now}")
    elif not config.numbered:
        lines += [f"now {now}", "can", *f.shapes.in_groups(offers)]
    else:
        goal = f.goal if config.mark_goal_words and not hide_goal else None
        now, found, asked = number_links(now, offers, goal, f.shapes)
        listed = [line for index, line in enumerate(list_commands(offers, config)) if index not in found]
        lines += [f"now {now}", *(["can", *listed] if listed else [])]
    lines.append(f"step {f.step + 1}")
    if not hide_goal:
        lines.append(f"goal {f.goal}")
    if asked:
        lines.append("asked " + " ".join(map(str, asked)))
    lines += rules_of(config, trait(RESPONSE_FORMATS.get(config.response), "reminder", ""))
    return "\n".join(lines) + "\n>"


def list_commands(commands: Sequence[str], config: AgentConfig, mark: str = "") -> list[str]:
    """Commands behind their numbers, where a number is asked for, else behind a mark."""
    if not config.numbered:
        return [f"{mark}{command}" for command in commands]
    return [f"{number}. {command}" for number, command in enumerate(commands, start=1)]


def _flat(text: str) -> str:
    return " ".join(text.split())
