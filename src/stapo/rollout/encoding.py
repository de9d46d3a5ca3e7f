"""Between prompt text and token ids."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any, Protocol

from stapo.agent import AgentConfig, ParsedResponse, Piece, Prompt
from stapo.agent.thoughts import held_thought, opening_of, read_response, without_held
from stapo.agent.tools import Tool
from stapo.rollout.foreign_text import (
    ControlTokens,
    MarkerCounts,
    Markers,
    TextTokenizer,
    broken_up,
    fenced,
    released,
    torn,
)
from stapo.rollout.native_calls import native_calls, with_tools_told
from stapo.rollout.templates import Clock, Frame, TemplateParts, conversation_ids, date_for, plain_frame, utc_now
from stapo.texts import replace_surrogates


class Encoder(Protocol):
    """What an episode needs to have its prompts answered."""

    def encode(self, prompt: Prompt | str) -> list[int]:
        """The ids that stand for a prompt."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response."""
        ...

    def parse(
        self, ids: Sequence[int], agent: AgentConfig, listed: tuple[str, ...], tools: tuple[Tool, ...] = ()
    ) -> ParsedResponse:
        """Read a response.

        Args:
            ids: of the response.
            agent: response format.
            listed: the commands to choose from, where a number is the answer.
            tools: of the environment, where a call of one is.
        """
        ...

    def opening(self, ids: Sequence[int]) -> str:
        """What the chat template has written of a response, and it is read with: the tags of a thought, or ""."""
        ...

    def length(self, ids: Sequence[int]) -> int:
        """How many tokens of the model a prompt takes."""
        ...

    def markers(self, prompt: Prompt) -> MarkerCounts:
        """How many control tokens others have spelled out in what a prompt shows, and how many were broken up."""
        ...


def _tools(prompt: Prompt | str) -> str:
    return prompt.tools if isinstance(prompt, Prompt) else ""


class PromptEncoder:
    """Encodes prompts with the tokenizer's chat template where it has one, and decodes responses.

    Control tokens are the chat template's alone. Other added tokens, such as one for ``<think>``, are the template's or
    the prompt style's. What others wrote (`PromptFields`, demonstrated commands) has the ids of its characters and
    stays what it is; its markers are broken up with a blank only where the tokenizer has no fast version. A chat
    template that writes today's date writes the same one into every prompt of an encoder.

    Args:
        tokenizer: of the model.
        clock: the date and time for chat templates, asked once and at once, and only where the template wants one. That
            of a run's start makes all prompts of a run those of one day.
    """

    def __init__(self, tokenizer: Any, clock: Clock = utc_now) -> None:
        self.tokenizer = tokenizer
        template = getattr(tokenizer, "chat_template", None)
        self.uses_chat_template = bool(template)
        if self.uses_chat_template and date_for(template, clock):
            now = clock()
            clock = partial(lambda date: date, now)
        self._clock, self._dated = clock, date_for(template, clock)
        self.control = ControlTokens(tokenizer)
        self._markers = Markers(self.control.markers)
        self._marker_ids = frozenset(self.control.markers.values()) - {getattr(tokenizer, "unk_token_id", None)}
        # Siblings of a group share their first prompts, and loops show the same prompt again and again.
        self._encode = lru_cache(maxsize=4096)(self._encode_uncached)
        # Of a conversation it is the messages that come again.
        self._piece, self._said = (lru_cache(maxsize=4096)(f) for f in (self.template_ids, self._response))
        self._frame = lru_cache(maxsize=64)(self._frame_for)

    def encode(self, prompt: Prompt | str) -> list[int]:
        """Return the token ids that the model is given for `prompt`."""
        prompt = self._with_tools(prompt)
        if isinstance(prompt, Prompt) and (prompt.system or prompt.turns):
            return self._conversation(prompt)
        if isinstance(prompt, Prompt):
            sampled = [self._as_sampled(piece) for piece in prompt.pieces]
            if any(sampled):
                return self._in_pieces(prompt, sampled)
        return list(self._encode(*self._held(prompt), _tools(prompt))[0])

    def markers(self, prompt: Prompt) -> MarkerCounts:
        """How many markers others wrote into what `prompt` shows, and how many of them were broken up."""
        told = self._with_tools(prompt)
        held = self._held(told)
        if prompt.system or prompt.turns:  # past turns were counted when they were new
            found = sum(len(self._markers.read(part)[2]) for part in held)
            return MarkerCounts(found, found if self._plain is None else 0)
        return MarkerCounts(
            sum(len(self._markers.read(part)[2]) for part in held), self._encode(*held, _tools(prompt))[1]
        )

    def hold(self, text: str) -> str:
        """A text of others, marked so that a template can be written around it; for `template_ids` and nobody else."""
        return self._markers.hold(text)

    def template_ids(self, text: str) -> list[int]:
        """The ids of a template's own text with its control tokens, and of texts in it that were marked by `hold`.

        No bos token is added. A text has the ids of one reading: where a template is given in several parts, tokens end
        at their borders, and a tokenizer that begins texts with a blank does so in every part.
        """
        return list(self._read(replace_surrogates(text), whole=False)[0])

    @cached_property
    def held(self) -> str:
        """What the chat template's generation prompt holds of each response: see `held_thought`."""
        return held_thought(self._chat("x")) if self.uses_chat_template else ""

    @cached_property
    def _plain(self) -> TextTokenizer | None:
        try:
            return TextTokenizer(self.tokenizer, self.control.markers)
        except Exception:  # slow and foreign tokenizers lack various things, and tokenizers raises plain exceptions
            return None

    @cached_property
    def _around(self) -> Counter[int]:
        """The tokens that the tokenizer puts around a text."""
        return Counter(self.tokenizer.encode(""))

    @cached_property
    def template(self) -> TemplateParts | None:
        """What the chat template writes around the messages of a conversation; None without a template.

        Raises:
            ModelError: it cannot write one.
        """
        if not self.uses_chat_template:
            return None
        return TemplateParts.of(self.tokenizer, self._clock)

    @cached_property
    def writes_tools(self) -> bool:
        """Whether the chat template writes the tools that it is given."""
        mark = "sentinel81mark"
        try:
            return self.uses_chat_template and mark in self._chat("x", json.dumps([Tool(mark).schema]))
        except Exception:  # a template can fail in any way
            return False

    def _with_tools(self, prompt: Prompt | str) -> Prompt | str:
        """A prompt whose tools the template will write: no control token stands in them; or they are text of it."""
        if not isinstance(prompt, Prompt) or not prompt.tools:
            return prompt
        tools = broken_up(prompt.tools, self._markers.spans(prompt.tools))
        return replace(prompt, tools=tools) if self.writes_tools else with_tools_told(replace(prompt, tools=tools))

    def _frame_for(self, tools: str) -> Frame:
        """What the chat template, or plain text, puts between the messages of a conversation."""
        if self.template is None:
            return plain_frame(self.tokenizer.eos_token)
        if not tools:
            return self.template
        return TemplateParts.of(self.tokenizer, self._clock, tools=json.loads(tools))

    def _conversation(self, prompt: Prompt) -> list[int]:
        parts = [prompt.system, prompt.text, prompt.begun]
        parts += [part for turn in prompt.turns for part in (turn.text, turn.said)]
        held = self._with_marks(prompt, parts)
        checked = replace(
            held,
            system=self._checked(held.system, prompt.system),
            turns=tuple(
                replace(turn, text=self._checked(turn.text, plain.text), said=self._checked(turn.said, plain.said))
                for turn, plain in zip(held.turns, prompt.turns, strict=True)
            ),
            text=self._checked(held.text, prompt.text),
            begun=self._checked(held.begun, prompt.begun),
        )
        sampled = [self._as_sampled(piece) for piece in prompt.pieces]
        begun = self._begun(held, prompt, sampled) if any(sampled) else self._piece(checked.begun)
        return [*conversation_ids(checked, self._frame(prompt.tools), self._piece, self._said), *begun]

    def _in_pieces(self, prompt: Prompt, sampled: Sequence[Sequence[int]]) -> list[int]:
        held = self._with_marks(prompt, (prompt.text, prompt.begun))
        ids = self._encode(self._checked(held.text, prompt.text), "", prompt.tools)[0]
        return [*ids, *self._begun(held, prompt, sampled)]

    def _begun(self, held: Prompt, prompt: Prompt, sampled: Sequence[Sequence[int]]) -> list[int]:
        """The ids of what a response has begun with, as they were sampled where they were."""
        ids: list[int] = []
        for said, piece, plain in zip(sampled, held.pieces, prompt.pieces, strict=True):
            ids += said or self._piece(self._checked(piece.text, plain.text))
        return ids

    def _as_sampled(self, piece: Piece) -> Sequence[int]:
        """The sampled tokens that say a piece, from the first on; none where a token ends behind it."""
        ids, length = piece.ids or (), len(piece.text)
        if not ids or not self.decode(ids).startswith(piece.text):
            return ()
        count = bisect_left(range(len(ids)), length, key=lambda n: len(self.decode(ids[:n])))
        return ids[:count] if self.decode(ids[:count]) == piece.text else ()

    def _with_marks(self, prompt: Prompt, parts: Iterable[str]) -> Prompt:
        """The prompt with texts of others marked as such, where any of its parts spells a control token."""
        if prompt.rewritten is None or not any(self._markers.spans(part) for part in parts):
            return prompt
        return prompt.rewritten(self.hold)

    def _held(self, prompt: Prompt | str) -> tuple[str, str]:
        prompt = Prompt(prompt) if isinstance(prompt, str) else prompt
        held = self._with_marks(prompt, (prompt.text, prompt.begun))
        return self._checked(held.text, prompt.text), self._checked(held.begun, prompt.begun)

    def _checked(self, held: str, text: str) -> str:
        """The text with fences around markers of others, and around all control tokens."""
        found, own, foreign = self._markers.read(held)
        if found != text:
            # A prompt style has read something else in a text with fences, so nobody knows whose its markers are.
            own, foreign = [], self._markers.spans(text)
        control = [(a, b) for a, b in own if self.control.markers[text[a:b]] in self.control.ids]
        return fenced(replace_surrogates(text), sorted([*foreign, *control]))

    def _encode_uncached(self, text: str, begun: str, tools: str) -> tuple[tuple[int, ...], int]:
        whole = self._chat(text, tools) if self.uses_chat_template else text
        if text != released(text) and torn(whole, text):
            # A template that changes texts has changed a fence.
            found, _, foreign = self._markers.read(text)
            ids, broken = self._encode(broken_up(found, foreign), begun, tools)
            return ids, broken + len(foreign)
        return self._read(whole + begun, whole=not self.uses_chat_template)

    def _read(self, held: str, *, whole: bool) -> tuple[tuple[int, ...], int]:
        """The ids of a text with fences, and how many markers were broken up."""
        text, own, foreign = self._markers.read(held)
        if foreign and self._plain is None:
            text = broken_up(text, foreign)
        if not foreign or self._plain is None:
            ids = tuple(self.tokenizer.encode(text) if whole else self.tokenizer.encode(text, add_special_tokens=False))
            if self._plain is None or not self._more(ids, [text[a:b] for a, b in own], whole):
                return ids, len(foreign)
        return tuple(self._plain.encode(text, own, whole=whole)), 0

    def _more(self, ids: Sequence[int], own: Sequence[str], whole: bool) -> bool:
        """Whether ids have more added tokens than there are markers: a normalizer made one of another spelling."""
        found = Counter(i for i in ids if i in self._marker_ids)
        found.subtract(self.control.markers[surface] for surface in own)
        if whole:
            found.subtract(self._around)
        return any(n > 0 for n in found.values())

    def _chat(self, text: str, tools: str = "") -> str:
        messages, more = [{"role": "user", "content": text}], {"tools": json.loads(tools)} if tools else {}
        return str(
            self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, **self._dated, **more
            )
        )

    def length(self, ids: Sequence[int]) -> int:
        """Tokens of a prompt."""
        return len(ids)

    def parse(
        self, ids: Sequence[int], agent: AgentConfig, listed: tuple[str, ...], tools: tuple[Tool, ...] = ()
    ) -> ParsedResponse:
        """Read a response as its text stands, with what the chat template has written of it before it.

        A call of a tool is first looked for as the tokenizer says it is written, where it does.
        """
        if agent.calls_tools:
            found = native_calls(self.tokenizer, ids, self._chat("x") if self.uses_chat_template else "", tools)
            if found is not None:
                return read_response("", found, agent, listed, tools)
        return read_response(self.held, self.decode(ids), agent, listed, tools)

    def encode_response(self, text: str, foreign: str = "", ended: bool = True) -> list[int]:
        """Return the ids of a demonstrated response, end token included, without what the chat template writes of it.

        Args:
            text: the response.
            foreign: the part of it that a demonstrator gave: no added token, whereas tags around it are.
            ended: False for a response that was cut off, which has no end token.
        """
        ids = self._response(self._checked(text.replace(foreign, self.hold(foreign)) if foreign else text, text))
        return ids if ended else ids[:-1]

    def _response(self, held: str) -> list[int]:
        ids = self._read(without_held(self.held, held), whole=False)[0]
        return [*(i for i in ids if i not in self.control.ids), self.tokenizer.eos_token_id]

    def opening(self, ids: Sequence[int]) -> str:
        """What the chat template has written of this response; "" where it opens a thought itself."""
        return opening_of(self.held, self.decode(ids)) if self.held else ""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the response text, control tokens dropped; tags of a response format are text."""
        if self.control.formats:
            kept = [i for i in ids if i not in self.control.dropped]
            return str(self.tokenizer.decode(kept, skip_special_tokens=False))
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def told_of_template(agent: AgentConfig, encoder: PromptEncoder) -> list[str]:
    """What a user should know of a chat template: that it writes a part of each response, or rewrites the past.

    Raises:
        ModelError: it cannot write a conversation, and the prompts are one.
    """
    told = []
    if encoder.held:
        what = "closes a thought at once" if "</" in encoder.held else "opens a thought"
        told.append(f"the chat template {what} before each response: responses are read behind {encoder.held!r}")
    if agent.calls_tools and not encoder.writes_tools:
        told.append("the chat template writes no tools: they are told in the prompt, with the form of Hermes' calls")
    parts = encoder.template if agent.keeps_turns else None
    if parts is not None and parts.rewrites is not None:
        kept = (
            "prompts are put together from its pieces, with every response as it was sampled (agent.earlier_thoughts: "
            "keep)"
            if agent.earlier_thoughts == "keep"
            else "the thoughts of earlier turns are left out, and steps with a thought are sequences of their own "
            "(agent.earlier_thoughts: drop)"
        )
        told.append(f"the chat template rewrites a conversation as it grows: {parts.rewrites}; {kept}")
    return told
