"""Text for models whose tokens are not ours: a server that takes text and gives text.

Episodes hand token ids to a sampler and get token ids back. Here an id is the code point of a character, so that the
same episodes are played, and what is asked and answered is the text itself, character by character. Such ids are never
trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stapo.agent import AgentConfig, Exchange, ParsedResponse, Prompt
from stapo.agent.thoughts import opening_of, parse_spoken, read_response
from stapo.agent.tools import Tool
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.foreign_text import MarkerCounts, broken_up, known_markers

END = 0x110000
"""Stands for the end token of a response: the first number that is not a character."""

THOUGHT, THOUGHT_APART = END + 1, END + 2
"""Stand where the thought of a response ends: one that was written into it, one that the server handed over apart."""

BEGUN = END + 3
"""Stands where a prompt's beginning of the response begins."""

SYSTEM_ENDS, MESSAGE_ENDS, SAID_ENDS = END + 4, END + 5, END + 6
"""Stand behind the first message of a conversation, each message of a past turn, and each response."""

TOOLS_END = END + 7
"""Stands behind the tools that a prompt begins with."""

_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"

CHARACTERS_PER_TOKEN = 4.0
"""Of English text under the vocabularies in use, about."""


def spell(text: str) -> list[int]:
    """The ids of a text."""
    return [ord(character) for character in text]


def unspell(ids: Sequence[int]) -> str:
    """The text of ids; marks are dropped."""
    return "".join(chr(i) for i in ids if i < END)


def prompt_of(ids: Sequence[int]) -> Prompt:
    """The prompt that was spelled by `TextCodec.encode`."""
    part: list[int] = []
    texts: dict[int, list[str]] = {TOOLS_END: [], SYSTEM_ENDS: [], MESSAGE_ENDS: [], SAID_ENDS: [], BEGUN: []}
    for i in ids:
        if i in texts:
            texts[i].append(unspell(part))
            part = []
        else:
            part.append(i)
    turns = tuple(Exchange(*turn) for turn in zip(texts[MESSAGE_ENDS], texts[SAID_ENDS], strict=True))
    last = unspell(part)
    text, begun = (texts[BEGUN][0], last) if texts[BEGUN] else (last, "")
    return Prompt(text, begun, "".join(texts[SYSTEM_ENDS]), turns, tools="".join(texts[TOOLS_END]))


def _harmless(text: str) -> str:
    return broken_up(text, known_markers(text))


def told_of_server(codec: TextCodec) -> str:
    """What a user should know of how the server's chat template begins responses; "" for nothing."""
    if codec.opens_thought is None:
        return (
            "whether the server's chat template opens a thought is not known here; --tokenizer NAME tells. Where it "
            "does, a response that is cut off within its thought is read as an answer"
        )
    if codec.opens_thought:
        return "the server's chat template opens a thought before each response: a response begins within it"
    return "the server's chat template closes a thought at once: responses are read behind it" if codec.closes else ""


def _said(turn: Exchange) -> str:
    return turn.said if turn.ids is None else unspell(turn.ids)


class TextCodec:
    """Does for plain text what `PromptEncoder` does for tokens.

    Args:
        tokenizer: counts the tokens of a prompt, its chat template included, where it is at hand, and tells whether the
            template closes a thought at once. Without it a token counts `CHARACTERS_PER_TOKEN` characters.
        thinks: False where the server is told not to let its model think: without a tokenizer, its template is then
            taken to close a thought at once.

    Attributes:
        opens_thought: the server's chat template opens a thought before each response; None where nobody can know.
    """

    def __init__(self, tokenizer: Any | None = None, *, thinks: bool = True) -> None:
        self._counting = None if tokenizer is None else PromptEncoder(tokenizer)
        held = ("" if thinks else _EMPTY_THOUGHT) if self._counting is None else self._counting.held
        # A tag that was opened is put back with the thought behind it; a server may also have hidden both.
        self._held = held if "</" in held else ""
        self.opens_thought = None if self._counting is None and thinks else bool(held) and not self._held

    @property
    def closes(self) -> bool:
        """The chat template has an empty thought before each response."""
        return bool(self._held)

    def encode(self, prompt: Prompt | str) -> list[int]:
        """The prompt's characters, with a blank in each marker of a common chat template.

        The server reads markers in what it is sent. Those of its model are not known, the usual ones are.
        """
        prompt = Prompt(prompt) if isinstance(prompt, str) else prompt
        text, begun, system = (spell(_harmless(part)) for part in (prompt.text, prompt.begun, prompt.system))
        before = [*spell(_harmless(prompt.tools)), TOOLS_END] if prompt.tools else []
        before += [*system, SYSTEM_ENDS] if system else []
        for turn in prompt.turns:
            before += [*spell(_harmless(turn.text)), MESSAGE_ENDS]
            before += [*spell(_harmless(_said(turn))), SAID_ENDS]
        return [*before, *text, BEGUN, *begun] if begun else [*before, *text]

    def markers(self, prompt: Prompt) -> MarkerCounts:
        """How many markers of common chat templates `prompt` shows; all are broken up."""
        past = [part for turn in prompt.turns for part in (turn.text, _said(turn))]
        parts = (prompt.system, *past, prompt.text, prompt.begun)
        found = sum(len(known_markers(part)) for part in parts)
        return MarkerCounts(found, found)

    def opening(self, ids: Sequence[int]) -> str:
        """What the server's chat template has written of this response, where that is an empty thought."""
        return "" if THOUGHT in ids or THOUGHT_APART in ids else opening_of(self._held, unspell(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text that the characters make."""
        return unspell(ids)

    def parse(
        self, ids: Sequence[int], agent: AgentConfig, listed: tuple[str, ...], tools: tuple[Tool, ...] = ()
    ) -> ParsedResponse:
        """Read a response; its thought takes no part."""
        for mark in (THOUGHT, THOUGHT_APART):
            if mark in ids:
                at = list(ids).index(mark)
                return parse_spoken(unspell(ids[:at]), unspell(ids[at:]), agent, listed, mark == THOUGHT_APART, tools)
        return read_response(self._held, unspell(ids), agent, listed, tools)

    def length(self, ids: Sequence[int]) -> int:
        """Tokens of a prompt: counted, or estimated from its characters."""
        if self._counting is not None:
            return len(self._counting.encode(prompt_of(ids)))
        return -int(-len(ids) // CHARACTERS_PER_TOKEN)
