"""From the commands that an environment offers to the token sequences that give them (`agent.decode: constrained`).

A command is spelled as a demonstration spells it: the ids of its text, then the end token. One that cannot be given by
a response is left out: a text that the tokenizer does not give back, several lines, more tokens than a response has.

In a command with a placeholder, what stands before and behind it is spelled in the same way, and the text between is
free, token by token. The text ends with the first token of what stands behind it; no token whose text holds the first
character of that is part of the text, so that in ``search[<your query>]`` the closing bracket is always a token of its
own, however a tokenizer merges it elsewhere. Nor are control tokens part of it, parts of characters, line breaks and
``<``, with which tags begin: no text with them makes a valid command. It begins with a token that is not blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from stapo.agent import AgentConfig, write_response
from stapo.documents import shown
from stapo.envs.offers import cut_template, is_template, offers
from stapo.errors import ConfigError
from stapo.policy.sequences import FreeTokens
from stapo.rollout.encoding import Encoder, PromptEncoder
from stapo.rollout.trie import Grammar, Template
from stapo.texts import counted

_LONGEST_TOKEN = 100
_PART_OF_A_CHARACTER = "\ufffd"


class Grammars:
    """The grammars of lists of commands, each built once for as long as it is in use.

    Args:
        encoder: spells them.
        agent: response format and length.

    Raises:
        ConfigError: the encoder has no tokens of a model: a server draws from what it likes.
    """

    def __init__(self, encoder: Encoder, agent: AgentConfig) -> None:
        if not isinstance(encoder, PromptEncoder):
            raise ConfigError(
                "agent.decode is 'constrained', and a model behind a server decides itself which tokens it draws from. "
                "Set agent.decode to 'free', or evaluate the model on this machine."
            )
        self.encoder = encoder
        self.agent = agent
        # Lists come back from step to step, and within a group; their commands do so across lists.
        self.of = lru_cache(maxsize=256)(self._of)
        self._spell = lru_cache(maxsize=16_384)(lambda text: tuple(encoder.encode_response(text, text)))
        self._free = lru_cache(maxsize=64)(self._free_tokens)

    def _of(self, offered: tuple[str, ...]) -> Grammar:
        """The responses that give one of these commands.

        Raises:
            ConfigError: no response can give any of them.
        """
        limit, numbered = self.agent.max_response_tokens, self.agent.numbered
        open_ones = [] if numbered else [command for command in dict.fromkeys(offered) if is_template(command)]
        ends = frozenset(cut_template(command)[2][:1] for command in open_ones)
        filled_in = (self._template(command, ends) for command in open_ones)
        templates = [t for t in filled_in if t is not None]
        whole = [command for command in dict.fromkeys(offered) if command not in open_ones]
        spelled = (self._spell(write_response(command, self.agent.response, offered)) for command in whole)
        paths = [
            ids
            for command, ids in zip(whole, spelled, strict=True)
            if len(ids) <= limit and self._reads(ids, offered) == command
        ]
        if not (paths or templates):
            raise ConfigError(
                f"agent.decode is 'constrained', but none of {counted(len(offered), 'offered command')}, such as "
                f"{shown(offered[0])}, can be given in agent.max_response_tokens ({limit}). "
                "Raise it, or set agent.decode to 'free'."
            )
        return Grammar(paths, templates, limit=limit)

    def _reads(self, ids: Sequence[int], offered: tuple[str, ...]) -> str | None:
        """The command that a response gives, None where it is not valid."""
        parsed = self.encoder.parse(ids, self.agent, offered)
        return parsed.action if parsed.valid else None

    def _template(self, command: str, ends: frozenset[str]) -> Template | None:
        start, _, end = cut_template(command)
        template = Template(self._spell(start)[:-1], *self._free(ends), self._spell(end))
        if not template.first.characters or template.length > self.agent.max_response_tokens:
            return None
        read = self._reads([*template.before, int(template.first.ids[0]), *template.after], (command,))
        return template if read is not None and offers((command,), read) else None

    def _free_tokens(self, ends: frozenset[str]) -> tuple[FreeTokens, FreeTokens]:
        """Tokens that a text may begin with, and those that may follow; `ends` are what templates have behind it."""
        allowed = {i: text for i, text in self._texts.items() if not any(end and end in text for end in ends)}
        first = {i: len(text) for i, text in allowed.items() if text.strip()}
        return FreeTokens(first), FreeTokens({i: len(text) for i, text in allowed.items()})

    @cached_property
    def _texts(self) -> dict[int, str]:
        """Every token that may be part of a text of the agent's own."""
        tokenizer, control = self.encoder.tokenizer, self.encoder.control
        ids = sorted(set(range(len(tokenizer))) - control.ids - control.dropped - {tokenizer.eos_token_id})
        texts = tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=False)
        return {i: text for i, text in zip(ids, texts, strict=True) if _fits(text)}


def _fits(text: str) -> bool:
    wrong = "<" in text or _PART_OF_A_CHARACTER in text or len(f"{text}.".splitlines()) > 1
    return 0 < len(text) <= _LONGEST_TOKEN and not wrong
