"""Between prompt text and token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, Protocol

from stapo.agent import AgentConfig, ParsedResponse, Prompt, parse_response
from stapo.rollout.control import ControlTokens, break_up_surfaces
from stapo.rollout.thoughts import with_opening_tag
from stapo.texts import replace_surrogates

Clock = Callable[[], datetime]
"""Tells the date and time that prompts are written at."""


def utc_now() -> datetime:
    """The present date and time in UTC."""
    return datetime.now(UTC)


class Encoder(Protocol):
    """What an episode needs to have its prompts answered."""

    def encode(self, prompt: Prompt | str) -> list[int]:
        """The ids that stand for a prompt."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response."""
        ...

    def parse(self, ids: Sequence[int], agent: AgentConfig, listed: tuple[str, ...]) -> ParsedResponse:
        """Read a response; `listed` are the commands to choose from, where a number is the answer."""
        ...

    def opening(self, ids: Sequence[int]) -> str:
        """What a response is read with before it: the tag of a thought that the chat template has opened, or ""."""
        ...

    def length(self, ids: Sequence[int]) -> int:
        """How many tokens of the model a prompt takes."""
        ...


class PromptEncoder:
    """Encodes prompts with the tokenizer's chat template where it has one, and decodes responses.

    No text of a prompt or of a demonstrated response becomes a control token, whatever it holds. A chat template that
    writes today's date writes the same one into every prompt of an encoder.

    Args:
        tokenizer: of the model.
        clock: the date and time for chat templates, asked once and at once, and only where the template wants one. That
            of a run's start makes all prompts of a run those of one day.
    """

    def __init__(self, tokenizer: Any, clock: Clock = utc_now) -> None:
        self.tokenizer = tokenizer
        template = getattr(tokenizer, "chat_template", None)
        self.uses_chat_template = bool(template)
        # Templates that name no date are called as ever: some tokenizers refuse arguments that they do not know.
        self._dated: dict[str, Callable[[str], str]] = {}
        if "strftime_now" in str(template):
            # Without its zone, as transformers hands it to templates.
            self._dated["strftime_now"] = clock().astimezone(UTC).replace(tzinfo=None).strftime
        self.control = ControlTokens(tokenizer)
        # Siblings of a group share their first prompts, and loops show the same prompt again and again.
        self._encode = lru_cache(maxsize=4096)(self._encode_uncached)

    def encode(self, prompt: Prompt | str) -> list[int]:
        """Return the token ids that the model is given for `prompt`."""
        return list(self._encode(Prompt(prompt) if isinstance(prompt, str) else prompt))

    @cached_property
    def opens_thought(self) -> bool:
        """Whether the chat template ends with the opening tag of a thought, so that responses begin inside it."""
        return self.uses_chat_template and self._chat("x").rstrip().lower().endswith("<think>")

    @cached_property
    def _own_control(self) -> dict[int, int]:
        """Control tokens of a prompt that come from the chat template and the tokenizer."""
        return self.control.count(self._ids(Prompt("x")))

    def _encode_uncached(self, prompt: Prompt) -> tuple[int, ...]:
        text, begun = (self.control.break_up(replace_surrogates(part)) for part in (prompt.text, prompt.begun))
        prompt = Prompt(text, begun)
        ids = self._ids(prompt)
        for _ in range(3):
            foreign = self._foreign(ids)
            if not foreign:
                break
            # A normalizer made one of them of another spelling; where each came from tells which.
            surfaces = list(self._surfaces(prompt, foreign))
            prompt = Prompt(*(break_up_surfaces(part, iter(surfaces)) for part in (prompt.text, prompt.begun)))
            ids = self._ids(prompt)
        return tuple(ids)

    def _foreign(self, ids: Sequence[int]) -> set[int]:
        counts = self.control.count(ids)
        return {i for i, n in counts.items() if n > self._own_control.get(i, 0)} if counts else set()

    def _surfaces(self, prompt: Prompt, tokens: set[int]) -> Iterator[str]:
        """The strings of a prompt that became these tokens; none where the tokenizer does not know."""
        if not getattr(self.tokenizer, "is_fast", False):
            return
        text = self._whole(prompt)
        read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for token, (start, end) in zip(read["input_ids"], read["offset_mapping"], strict=True):
            if token in tokens:
                yield text[start:end]

    def _chat(self, text: str) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False, **self._dated
            )
        )

    def _whole(self, prompt: Prompt) -> str:
        return (self._chat(prompt.text) if self.uses_chat_template else prompt.text) + prompt.begun

    def _ids(self, prompt: Prompt) -> list[int]:
        if self.uses_chat_template:
            return list(self.tokenizer.encode(self._whole(prompt), add_special_tokens=False))
        return list(self.tokenizer.encode(self._whole(prompt)))

    def length(self, ids: Sequence[int]) -> int:
        """Tokens of a prompt."""
        return len(ids)

    def parse(self, ids: Sequence[int], agent: AgentConfig, listed: tuple[str, ...]) -> ParsedResponse:
        """Read a response as its text stands, with the opening tag of a thought that the chat template has opened."""
        return parse_response(self.opening(ids) + self.decode(ids), agent.response, agent.fallback_characters, listed)

    def encode_response(self, text: str) -> list[int]:
        """Return the ids of a demonstrated response, end token included."""
        text = self.control.break_up(replace_surrogates(text))
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return [*(i for i in ids if i not in self.control.ids), self.tokenizer.eos_token_id]

    def opening(self, ids: Sequence[int]) -> str:
        """The tag that the chat template has opened a thought with, where the response closes it; else ""."""
        if not self.opens_thought:
            return ""
        text = self.decode(ids)
        return with_opening_tag(text).removesuffix(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the response text, control tokens dropped; tags of a response format are text."""
        if self.control.formats:
            kept = [i for i in ids if i not in self.control.dropped]
            return str(self.tokenizer.decode(kept, skip_special_tokens=False))
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
