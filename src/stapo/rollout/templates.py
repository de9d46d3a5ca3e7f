"""The pieces of a chat template, found by rendering conversations whose contents are known.

A prompt that grows with its episode is put together from them: what the template writes before, between and after the
messages. What a template does besides is named: no place for a system message, thoughts of earlier turns that
disappear.

As token ids, a conversation only ever grows: past pieces are never tokenized again. A response stands in later prompts
as the ids that were sampled; what the template puts around it, and what the world showed, are encoded piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from stapo.agent import Prompt
from stapo.documents import shown
from stapo.errors import ModelError, first_line


@dataclass(frozen=True)
class Frame:
    """What stands between the messages of a conversation; control tokens in it are meant.

    Attributes:
        before_system: before a system message; None where it has no place of its own, and the first user message begins
            with it.
        system_to_user: between a system message and the first user message; "" where there is no place for one.
        before_user: before the first user message of a conversation without a system message.
        to_response: between a user message and the response: the generation prompt.
        to_user: between a response without its end token and the next user message; begins with the mark that ends a
            turn.
    """

    before_system: str | None
    system_to_user: str
    before_user: str
    to_response: str
    to_user: str


def plain_frame(end: str) -> Frame:
    """The frame of models without a chat template: lines, a mark before each response, and `end` behind it."""
    return Frame("", "\n", "", "\n>", f"{end}\n")


def conversation_ids(
    prompt: Prompt, frame: Frame, piece: Callable[[str], Sequence[int]], response: Callable[[str], Sequence[int]]
) -> list[int]:
    """The ids of a conversation whose next part is a response, or what one has begun with.

    Args:
        prompt: with the foreign texts in it marked.
        frame: what stands between its messages.
        piece: ids of a text of the frame, or of a message.
        response: ids of a response that was not sampled, its end included.
    """
    texts = [*(turn.text for turn in prompt.turns), prompt.text]
    if frame.before_system is None:
        ids = list(piece(frame.before_user))
        texts[0] = f"{prompt.system}\n\n{texts[0]}" if prompt.system else texts[0]
    elif prompt.system:
        ids = [*piece(frame.before_system), *piece(prompt.system), *piece(frame.system_to_user)]
    else:
        ids = list(piece(frame.before_user))
    after = piece(frame.to_user)
    for turn, text in zip(prompt.turns, texts, strict=False):
        said = response(turn.said) if turn.ids is None else turn.ids
        ids += [*piece(text), *piece(frame.to_response), *said]
        ids += after[1:] if said and after and said[-1] == after[0] else after
    return [*ids, *piece(texts[-1]), *piece(frame.to_response)]


Clock = Callable[[], datetime]
"""Tells the date and time that prompts are written at."""


def utc_now() -> datetime:
    """The present date and time in UTC."""
    return datetime.now(UTC)


def date_for(template: object, clock: Clock) -> dict[str, Callable[[str], str]]:
    """What a chat template that writes a date is called with; {} for others.

    Templates that name no date are called as ever: some tokenizers refuse arguments that they do not know.
    """
    if "strftime_now" not in str(template):
        return {}
    # Without its zone, as transformers hands it to templates.
    return {"strftime_now": clock().astimezone(UTC).replace(tzinfo=None).strftime}


System = Literal["supported", "ignored", "raises", "moves"]
"""What becomes of a system message: it has a place before the first user message, is left out, makes the template fail,
or stands elsewhere in a longer conversation."""

_SYSTEM, _USER, _REPLY, _NEXT, _LATER, _THIRD = (f"Sentinel{n}mark" for n in range(71, 77))
_THOUGHT = "Sentinel77mark"
_HELP = "Repair it, or set model.chat_template to 'none' to train on bare prompts."


@dataclass(frozen=True, kw_only=True)
class TemplateParts(Frame):
    """What a chat template writes around the messages of a conversation, as text.

    Attributes:
        system: what becomes of a system message.
        rewrites: why the next prompt, rendered anew, does not begin with this prompt and its response; None where it
            does.
        opens_thought: the generation prompt ends with the opening tag of a thought.
    """

    system: System
    rewrites: str | None
    opens_thought: bool

    @classmethod
    def of(cls, tokenizer: Any, clock: Clock, tools: Sequence[Mapping[str, Any]] = ()) -> TemplateParts:
        """The pieces of a tokenizer's chat template.

        Args:
            tokenizer: has a chat template.
            clock: the date for templates that write one; asked once.
            tools: schemas of those that the template writes.

        Raises:
            ModelError: there is no template; or it fails, leaves out what the user or the assistant said, or says it
                twice.
        """
        template = _Template(tokenizer, clock, tools)
        before_user, to_response = _between(template.write(_USER), _USER)
        _, _, to_user, _ = _between(template.write(_USER, _REPLY, _NEXT), _USER, _REPLY, _NEXT)
        system, before_system, system_to_user = _system(template)
        opens = to_response.rstrip().lower().endswith("<think>")
        return cls(
            before_system=before_system,
            system_to_user=system_to_user,
            before_user=before_user,
            to_response=to_response,
            to_user=to_user,
            system=system,
            rewrites=_rewrites(template, to_response, to_user, opens=opens),
            opens_thought=opens,
        )


class _Template:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any, clock: Clock, tools: Sequence[Mapping[str, Any]]) -> None:
        text = getattr(tokenizer, "chat_template", None)
        if not text:
            raise ModelError(
                "the tokenizer has no chat template, so a conversation cannot be written. Take the model's "
                "instruction-tuned version, or set model.chat_template to 'none'."
            )
        self._tokenizer = tokenizer
        self._more: dict[str, Any] = {**date_for(text, clock), **({"tools": list(tools)} if tools else {})}

    def write(self, *said: str, system: str | None = None) -> str:
        """A conversation in which the user and the assistant speak in turns.

        Raises:
            ModelError: the template fails.
        """
        messages = [] if system is None else [_message("system", system)]
        messages += [_message("assistant" if n % 2 else "user", text) for n, text in enumerate(said)]
        try:
            return self._apply(messages)
        except Exception as err:  # a template can fail in any way
            reason = first_line(err, 300)
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(f"the chat template fails at a conversation of {roles}: {reason}. {_HELP}") from err

    def refuses(self, messages: list[dict[str, str]]) -> bool:
        """Whether it fails at these messages."""
        try:
            self._apply(messages)
        except Exception:  # in any way
            return True
        return False

    def _apply(self, messages: list[dict[str, str]]) -> str:
        return str(
            self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **self._more)
        )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _between(text: str, *contents: str) -> list[str]:
    """What stands before, between and after contents.

    Raises:
        ModelError: one is missing, is there twice, or stands in another place.
    """
    pieces, rest = [], text
    for number, content in enumerate(contents):
        if text.count(content) != 1 or content not in rest:
            who = "assistant's" if number % 2 else "user's"
            what = "leaves out" if content not in text else "repeats or moves"
            raise ModelError(f"the chat template {what} the {who} message: it writes {shown(text)}. {_HELP}")
        piece, _, rest = rest.partition(content)
        pieces.append(piece)
    return [*pieces, rest]


def _system(template: _Template) -> tuple[System, str | None, str]:
    """What becomes of a system message, and what stands before and after it."""
    if template.refuses([_message("system", _SYSTEM), _message("user", _USER)]):
        return "raises", None, ""
    text, longer = (template.write(*said, system=_SYSTEM) for said in ((_USER,), (_USER, _REPLY, _NEXT)))
    if _SYSTEM not in text:
        return "ignored", None, ""
    before, found, rest = text.partition(_SYSTEM)
    between, user, _ = rest.partition(_USER)
    if not user or not longer.startswith(before + found + between + user):
        return "moves", None, ""
    return "supported", before, between


def _rewrites(template: _Template, to_response: str, to_user: str, *, opens: bool) -> str | None:
    """Why the rendering of a longer conversation does not begin with that of a shorter one and its response."""
    one, two = template.write(_USER), template.write(_USER, _REPLY, _NEXT)
    if template.write(_USER) != one:
        return "it writes something else each time"
    before, gap, _, last = _between(two, _USER, _REPLY, _NEXT)
    if not one.startswith(before + _USER):
        return "what stands before the first message changes as the conversation grows"
    # A blank after the generation prompt is the response's own: it is sampled with it.
    blank = gap.removeprefix(to_response)
    if not opens and (blank.strip() or not gap.startswith(to_response)):
        return f"earlier responses come after {shown(gap)}, and the generation prompt is {shown(to_response)}"
    response = f"{_THOUGHT}\n</think>\n\n{_REPLY}"
    thought = template.write(_USER, f"<think>\n{response}", _NEXT)
    if _THOUGHT not in thought:
        return "thoughts of earlier responses are left out"
    if not thought.startswith(one + response if opens else f"{one}{blank}<think>\n{response}"):
        return "thoughts of earlier responses are written differently"
    opened, later = "<think>\n" * opens, f"</think>\n\n{_LATER}" if opens else _LATER
    three = template.write(_USER, _REPLY, _NEXT, opened + later, _THIRD)
    if last != to_response or three != f"{two}{'' if opens else blank}{later}{to_user}{_THIRD}{to_response}":
        return "later turns are written differently"
    return None
