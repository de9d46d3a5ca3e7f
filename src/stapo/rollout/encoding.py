"""Between prompt text and token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from stapo.agent import RESPONSE_BEGINS, AgentConfig, ParsedResponse, parse_response
from stapo.texts import replace_surrogates


class Encoder(Protocol):
    """What an episode needs to have its prompts answered."""

    def encode(self, prompt: str) -> list[int]:
        """The ids that stand for a prompt."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response."""
        ...

    def parse(self, ids: Sequence[int], agent: AgentConfig, listed: tuple[str, ...]) -> ParsedResponse:
        """Read a response; `listed` are the commands to choose from, where a number is the answer."""
        ...

    def length(self, ids: Sequence[int]) -> int:
        """How many tokens of the model a prompt takes."""
        ...


class PromptEncoder:
    """Encodes prompts with the tokenizer's chat template where it has one, and decodes responses."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.uses_chat_template = bool(getattr(tokenizer, "chat_template", None))
        # Siblings of a group share their first prompts, and loops show the same prompt again and again.
        self._encode = lru_cache(maxsize=4096)(self._encode_uncached)

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids that the model is given for `prompt`."""
        return list(self._encode(prompt))

    def _encode_uncached(self, prompt: str) -> tuple[int, ...]:
        prompt, _, begun = replace_surrogates(prompt).partition(RESPONSE_BEGINS)
        if self.uses_chat_template:
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
            return tuple(self.tokenizer.encode(text + begun, add_special_tokens=False))
        return tuple(self.tokenizer.encode(prompt + begun))

    def length(self, ids: Sequence[int]) -> int:
        """Tokens of a prompt."""
        return len(ids)

    def parse(self, ids: Sequence[int], agent: AgentConfig, listed: tuple[str, ...]) -> ParsedResponse:
        """Read a response as its text stands."""
        return parse_response(self.decode(ids), agent.response, agent.fallback_characters, listed)

    def encode_response(self, text: str) -> list[int]:
        """Return the ids of a demonstrated response, end token included."""
        return [*self.tokenizer.encode(replace_surrogates(text), add_special_tokens=False), self.tokenizer.eos_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the response text, special tokens dropped."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
